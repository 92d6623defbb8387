//! Lease, snapshots, replica and failover, on real servers and emulators of AWS.

mod control_plane;
mod failover_drill;
mod lease;
mod readiness;
mod replica_lag;
mod restore_drill;
mod snapshots_wire;
mod try_aws;
