//! What there is: databases and snapshots, as far as the plan cares.

use crate::calendar::Moment;
use crate::policy::{Policy, TAG_KEY};
use std::collections::BTreeMap;

/// A DB instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Database {
    /// Its identifier.
    pub id: String,
    /// As RDS says it; a snapshot can be taken of one that is `available`.
    pub status: String,
    /// The cluster that it belongs to, whose snapshots are another matter.
    pub cluster: Option<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

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
    pub fn is_own(&self, policy: &Policy) -> bool {
        let rest = self.id.strip_prefix(policy.id_prefix.as_str());
        self.tag.as_deref() == Some(policy.id_prefix.as_str())
            && rest.is_some_and(|rest| rest.starts_with('-'))
    }

    /// The moment whose data a restore would bring back, where it can be restored.
    pub fn usable(&self) -> Option<Moment> {
        let created = self.created.filter(|_| self.state == State::Available)?;
        Some(self.database_time.map_or(created, |time| time.min(created)))
    }
}

/// How many snapshots a region holds, and may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Manual snapshots that there are.
    pub used: u32,
    /// Manual snapshots that there may be.
    pub most: u32,
}

/// What there is in one region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionView {
    /// All manual snapshots, those of others too.
    pub snapshots: Vec<Snapshot>,
    /// Where RDS tells it.
    pub quota: Option<Quota>,
}

/// What there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// The moment of the run.
    pub now: Moment,
    /// The databases' own region.
    pub own_region: String,
    /// All DB instances there.
    pub databases: Vec<Database>,
    /// The snapshots there.
    pub source: RegionView,
    /// The policy's target regions; nothing where a region does not answer.
    pub targets: BTreeMap<String, Option<RegionView>>,
}

/// The identifier of the snapshot of `database` for the slot that begins at `slot`. A second
/// run finds it taken, which is how two runs at once make one snapshot. Its age is never
/// read from it.
pub fn snapshot_id(policy: &Policy, database: &str, slot: Moment) -> String {
    format!("{}-{database}-{}", policy.id_prefix, slot.compact())
}

/// The tag that every snapshot of the policy gets.
pub fn own_tag(policy: &Policy) -> (&'static str, &str) {
    (TAG_KEY, &policy.id_prefix)
}
