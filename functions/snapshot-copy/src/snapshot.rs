//! What exists: DB instances and snapshots.

use crate::policy::Policy;
use rds::{Snapshot, TAG_KEY, Timestamp};
use std::collections::BTreeMap;

/// A DB instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Database {
    pub id: String,
    /// As RDS reports it.
    pub status: String,
    /// The cluster that the instance belongs to. Cluster snapshots are not supported.
    pub cluster: Option<String>,
    pub tags: BTreeMap<String, String>,
}

/// The quota of manual snapshots of one region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotQuota {
    pub used: u32,
    pub max: u32,
}

impl SnapshotQuota {
    pub fn remaining(self) -> u32 {
        self.max.saturating_sub(self.used)
    }
}

/// What exists in one region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionInventory {
    /// All manual snapshots, including those that fairdrop did not make.
    pub snapshots: Vec<Snapshot>,
    /// `None` if RDS does not report it.
    pub quota: Option<SnapshotQuota>,
}

/// What exists in all regions of the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// The time of the run.
    pub now: Timestamp,
    /// The region of the databases.
    pub source_region: String,
    /// All DB instances of the source region.
    pub databases: Vec<Database>,
    pub source: RegionInventory,
    /// By target region. `None` if the region does not answer.
    pub targets: BTreeMap<String, Option<RegionInventory>>,
}

/// The identifier of the snapshot of `database` for the slot that begins at `slot`. A concurrent run finds it
/// taken, so that two runs make one snapshot. The age of a snapshot is never read from its identifier.
pub fn snapshot_id(policy: &Policy, database: &str, slot: Timestamp) -> String {
    format!("{}-{database}-{}", policy.id_prefix, slot.compact())
}

/// The tag that every snapshot of the policy gets.
pub fn own_tag(policy: &Policy) -> (&'static str, &str) {
    (TAG_KEY, &policy.id_prefix)
}
