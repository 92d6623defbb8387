//! What a drill acts on: RDS, the restored ledger and a clock. The simulation is another implementation.

use crate::step::DrillInstance;
use crate::{LedgerCheck, SavedCheck};
use rds::{RdsError, Snapshot, Timestamp};
use std::time::Duration;

pub(crate) trait Platform {
    fn now(&self) -> Timestamp;
    /// A clock that is never set.
    fn uptime(&self) -> Duration;
    async fn pause(&self, time: Duration);
    /// The snapshots of the database in this region that fairdrop made.
    async fn own_snapshots(&self) -> Result<Vec<Snapshot>, RdsError>;
    /// The temporary instance; `None` if it does not exist.
    async fn instance(&self) -> Result<Option<DrillInstance>, RdsError>;
    /// Begins to restore `snapshot` as the temporary instance.
    async fn restore(&self, snapshot: &Snapshot, now: Timestamp) -> Result<(), RdsError>;
    /// Checks the ledger at `host`, for `limit` at most.
    async fn check(
        &self,
        host: &str,
        port: u16,
        recovery_point: Option<Timestamp>,
        limit: Duration,
    ) -> LedgerCheck;
    /// Saves the result of a check with its snapshot.
    async fn save(&self, snapshot: &Snapshot, saved: &SavedCheck) -> Result<(), RdsError>;
    /// Deletes the instance and its automated backups, without a final snapshot.
    async fn delete(&self) -> Result<(), RdsError>;
}
