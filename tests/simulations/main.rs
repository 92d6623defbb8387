//! Years of recovery in simulated time: no server runs.

mod failover_histories;
mod replica_verdict;
mod snapshots;
