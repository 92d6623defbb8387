//! Snapshots, as far as fairdrop cares.

use crate::Moment;
use aws_sdk_rds::types::DbSnapshot;

/// The tag that makes a snapshot fairdrop's, if its value is the policy's prefix.
pub const TAG_KEY: &str = "fairdrop:snapshots";

/// What can be done with a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It can be restored and copied.
    Available,
    /// It is being made; a copy that waits for its turn, too.
    InProgress,
    /// It will never be usable.
    Failed,
    /// Something else: it is being deleted, for example, or in a state that is not known here.
    Other,
}

impl State {
    /// What RDS's word for it means.
    pub fn of(status: &str) -> Self {
        match status {
            "available" => Self::Available,
            "creating" | "copying" | "pending" => Self::InProgress,
            "failed" => Self::Failed,
            _ => Self::Other,
        }
    }
}

/// A snapshot that somebody made by hand or by program; RDS's own automated ones are not listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its identifier.
    pub id: String,
    /// Its ARN.
    pub arn: String,
    /// The DB instance that it is of.
    pub database: String,
    /// What can be done with it.
    pub state: State,
    /// When the data in it were written, which for a copy is when its original was taken.
    /// Nothing while it is being made.
    pub created: Option<Moment>,
    /// When it was made itself, which for a copy is when it was copied.
    pub made: Option<Moment>,
    /// What the snapshot restores to: of one taken from a read replica that lagged, this is
    /// earlier than `created`.
    pub database_time: Option<Moment>,
    /// Whether it is encrypted.
    pub is_encrypted: bool,
    /// Whether it is a copy of another snapshot.
    pub is_copy: bool,
    /// The value of its [`TAG_KEY`].
    pub tag: Option<String>,
}

impl Snapshot {
    /// Whether it is fairdrop's: by tag *and* by prefix.
    pub fn is_own(&self, prefix: &str) -> bool {
        let rest = self.id.strip_prefix(prefix);
        self.tag.as_deref() == Some(prefix) && rest.is_some_and(|rest| rest.starts_with('-'))
    }

    /// The moment whose data a restore would bring back, where it can be restored.
    pub fn usable(&self) -> Option<Moment> {
        let created = self.created.filter(|_| self.state == State::Available)?;
        Some(self.database_time.map_or(created, |time| time.min(created)))
    }
}

/// What RDS says of a snapshot.
pub(crate) fn snapshot(found: &DbSnapshot) -> Option<Snapshot> {
    let tag = found.tag_list().iter().find(|tag| tag.key() == Some(TAG_KEY));
    Some(Snapshot {
        id: found.db_snapshot_identifier()?.to_owned(),
        arn: found.db_snapshot_arn()?.to_owned(),
        database: found.db_instance_identifier()?.to_owned(),
        state: State::of(found.status().unwrap_or_default()),
        // A copy's own time of creation is when it was copied.
        created: moment(found.original_snapshot_create_time().or(found.snapshot_create_time())),
        made: moment(found.snapshot_create_time()),
        database_time: moment(found.snapshot_database_time()),
        is_encrypted: found.encrypted().unwrap_or(false),
        is_copy: found.source_db_snapshot_identifier().is_some_and(|source| !source.is_empty()),
        tag: tag.and_then(|tag| tag.value()).map(str::to_owned),
    })
}

fn moment(at: Option<&aws_sdk_rds::primitives::DateTime>) -> Option<Moment> {
    at.map(|at| Moment::from_unix_seconds(at.secs()))
}
