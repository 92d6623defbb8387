//! Manual snapshots of DB instances.

use crate::Timestamp;
use aws_sdk_rds::types::DbSnapshot;

/// The tag of every snapshot that fairdrop makes. Its value is the prefix of the policy.
pub const TAG_KEY: &str = "fairdrop:snapshots";
/// The tag with the result of the last restore drill of a snapshot.
pub const DRILL_TAG_KEY: &str = "fairdrop:last-drill";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotState {
    /// It can be restored and copied.
    Available,
    /// RDS is making it. A copy that waits for an earlier copy counts, too.
    InProgress,
    /// It will never be usable.
    Failed,
    /// Any other state: being deleted, for example, or unknown here.
    Other,
}

impl SnapshotState {
    /// Reads the `Status` that RDS reports.
    pub fn of(status: &str) -> Self {
        match status {
            "available" => Self::Available,
            "creating" | "copying" | "pending" => Self::InProgress,
            "failed" => Self::Failed,
            _ => Self::Other,
        }
    }
}

/// A manual snapshot, made by fairdrop, by an operator or by another program. RDS's automated snapshots are
/// not listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub id: String,
    pub arn: String,
    /// Identifier of the DB instance that it was taken of.
    pub database: String,
    pub state: SnapshotState,
    /// When the data was read. A copy has the time of its original. `None` while RDS is making it.
    pub taken_at: Option<Timestamp>,
    /// When this snapshot was created. For a copy this is when it was copied.
    pub created_at: Option<Timestamp>,
    /// The database time that the snapshot restores to. It is earlier than `taken_at` if the snapshot was
    /// taken from a read replica that lagged.
    pub database_time: Option<Timestamp>,
    pub is_encrypted: bool,
    /// Whether it is a copy of another snapshot.
    pub is_copy: bool,
    /// The value of its [`TAG_KEY`].
    pub tag: Option<String>,
    /// The value of its [`DRILL_TAG_KEY`].
    pub last_drill: Option<String>,
}

impl Snapshot {
    /// Whether fairdrop made it: it has the tag *and* the prefix.
    pub fn is_own(&self, prefix: &str) -> bool {
        let rest = self.id.strip_prefix(prefix);
        self.tag.as_deref() == Some(prefix) && rest.is_some_and(|rest| rest.starts_with('-'))
    }

    /// The point in time that a restore brings back. `None` if the snapshot cannot be restored.
    pub fn recovery_point(&self) -> Option<Timestamp> {
        let taken_at = self.taken_at.filter(|_| self.state == SnapshotState::Available)?;
        Some(self.database_time.map_or(taken_at, |time| time.min(taken_at)))
    }
}

/// Reads a snapshot as RDS lists it. `None` if it lacks an identifier.
pub(crate) fn snapshot(found: &DbSnapshot) -> Option<Snapshot> {
    let tag = |key: &str| {
        let tag = found.tag_list().iter().find(|tag| tag.key() == Some(key));
        tag.and_then(|tag| tag.value()).map(str::to_owned)
    };
    Some(Snapshot {
        id: found.db_snapshot_identifier()?.to_owned(),
        arn: found.db_snapshot_arn()?.to_owned(),
        database: found.db_instance_identifier()?.to_owned(),
        state: SnapshotState::of(found.status().unwrap_or_default()),
        // For a copy, SnapshotCreateTime is when it was copied.
        taken_at: timestamp(found.original_snapshot_create_time().or(found.snapshot_create_time())),
        created_at: timestamp(found.snapshot_create_time()),
        database_time: timestamp(found.snapshot_database_time()),
        is_encrypted: found.encrypted().unwrap_or(false),
        is_copy: found.source_db_snapshot_identifier().is_some_and(|source| !source.is_empty()),
        tag: tag(TAG_KEY),
        last_drill: tag(DRILL_TAG_KEY),
    })
}

fn timestamp(at: Option<&aws_sdk_rds::primitives::DateTime>) -> Option<Timestamp> {
    at.map(|at| Timestamp::from_unix_seconds(at.secs()))
}
