//! What there is: databases and snapshots, as far as the plan cares.

use crate::policy::Policy;
use rds::{Moment, Snapshot, TAG_KEY};
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
