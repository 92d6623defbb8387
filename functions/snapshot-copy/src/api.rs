//! RDS in one region, as far as this function speaks to it. `aws` is the real one; the
//! tests have a simulator that is stricter.

use crate::snapshot::{Database, Quota};
use rds::{RdsError, Snapshot};

/// A copy to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyOrder<'a> {
    /// The region of the original.
    pub source_region: &'a str,
    /// The original.
    pub source_arn: &'a str,
    /// The copy's identifier.
    pub id: &'a str,
    /// The key of the copy's region that encrypts it.
    pub kms_key_id: Option<&'a str>,
    /// The copy's tag.
    pub tag: (&'a str, &'a str),
}

/// RDS in one region.
// A run is driven by the one thread of its function: its futures need not be Send.
#[allow(async_fn_in_trait)]
pub trait Rds {
    /// All DB instances.
    async fn databases(&self) -> Result<Vec<Database>, RdsError>;
    /// All manual snapshots, others' too.
    async fn snapshots(&self) -> Result<Vec<Snapshot>, RdsError>;
    /// One snapshot.
    async fn snapshot(&self, id: &str) -> Result<Snapshot, RdsError>;
    /// The quota of manual snapshots; nothing where RDS does not tell.
    async fn quota(&self) -> Result<Option<Quota>, RdsError>;
    /// Begins to take a snapshot.
    async fn create(&self, database: &str, id: &str, tag: (&str, &str)) -> Result<(), RdsError>;
    /// Begins to copy a snapshot of another region to this one.
    async fn copy(&self, order: CopyOrder<'_>) -> Result<(), RdsError>;
    /// Deletes a snapshot.
    async fn delete(&self, id: &str) -> Result<(), RdsError>;
}
