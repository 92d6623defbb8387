//! The calls to RDS in one region. `aws` makes them; tests use a simulator that is stricter than RDS.

use crate::snapshot::{Database, SnapshotQuota};
use rds::{RdsError, Snapshot};

/// A copy of a snapshot to another region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyRequest<'a> {
    /// The ARN of the original.
    pub source_arn: &'a str,
    /// The identifier of the copy.
    pub id: &'a str,
    /// The key of the copy's region that encrypts it.
    pub kms_key_id: Option<&'a str>,
    /// Key and value of the copy's tag.
    pub tag: (&'a str, &'a str),
}

// The one thread of the function drives a run, so its futures need not be Send.
#[allow(async_fn_in_trait)]
pub trait Rds {
    /// All DB instances.
    async fn databases(&self) -> Result<Vec<Database>, RdsError>;
    /// All manual snapshots, including those that fairdrop did not make.
    async fn snapshots(&self) -> Result<Vec<Snapshot>, RdsError>;
    async fn snapshot(&self, id: &str) -> Result<Snapshot, RdsError>;
    /// The quota of manual snapshots. `None` if RDS does not report it.
    async fn quota(&self) -> Result<Option<SnapshotQuota>, RdsError>;
    /// Begins to take a snapshot.
    async fn create(&self, database: &str, id: &str, tag: (&str, &str)) -> Result<(), RdsError>;
    /// Begins to copy a snapshot of another region to this one.
    async fn copy(&self, request: CopyRequest<'_>) -> Result<(), RdsError>;
    async fn delete(&self, id: &str) -> Result<(), RdsError>;
}
