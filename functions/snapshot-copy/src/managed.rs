//! The databases that the policy selects, each with its snapshots and recovery points.

use crate::action::SnapshotNotice;
use crate::policy::Policy;
use crate::retention::DatedSnapshot;
use crate::snapshot::{Database, Inventory, RegionInventory};
use rds::{Snapshot, SnapshotState, Timestamp};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// The point in time that a restore of a database in a region would bring back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecoveryPoint {
    pub database: String,
    /// The region of the restore.
    pub region: String,
    /// Whether the region answered.
    pub is_known: bool,
    /// The snapshot to restore, if there is a usable one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<i64>,
    /// The number of usable snapshots in the region.
    pub usable: usize,
    /// The number of snapshots that RDS is making.
    pub in_progress: usize,
}

/// A database that the policy selects, with fairdrop's snapshots of it.
pub(crate) struct ManagedDatabase<'a> {
    pub(crate) id: &'a str,
    /// `None` if the DB instance does not exist any more.
    pub(crate) database: Option<&'a Database>,
    pub(crate) in_source: Vec<&'a Snapshot>,
    /// Copies, by target region. A region that does not answer is missing. An original there is of another instance
    /// with the same identifier, and stays.
    pub(crate) in_targets: BTreeMap<&'a str, Vec<&'a Snapshot>>,
}

impl<'a> ManagedDatabase<'a> {
    /// Originals that can be copied, the newest first.
    pub(crate) fn originals(&self) -> Vec<DatedSnapshot<'a>> {
        let originals = self.in_source.iter().filter(|snapshot| !snapshot.is_copy);
        let mut originals: Vec<_> = originals.filter_map(|snapshot| dated(snapshot)).collect();
        originals.sort_unstable_by(|one, other| other.cmp(one));
        originals
    }
}

/// A usable snapshot in the form that retention works on.
pub(crate) fn dated(snapshot: &Snapshot) -> Option<DatedSnapshot<'_>> {
    snapshot.recovery_point()?;
    Some(DatedSnapshot { taken_at: snapshot.taken_at?, id: &snapshot.id })
}

/// The databases of the policy, and a notice for each that cannot be managed.
pub(crate) fn managed_databases<'a>(
    policy: &'a Policy,
    inventory: &'a Inventory,
) -> (Vec<ManagedDatabase<'a>>, BTreeSet<SnapshotNotice>) {
    let ids = selected_ids(policy, inventory);
    let mut notices = BTreeSet::new();
    if ids.is_empty() {
        let text = "no DB instance has the tag of the policy";
        notices.insert(SnapshotNotice::new("no-databases", &inventory.source_region, text));
    }
    let mut managed = Vec::new();
    for id in ids {
        let database = inventory.databases.iter().find(|database| database.id == id);
        if let Some(text) = cluster_refusal(id, database, inventory) {
            notices.insert(SnapshotNotice::new("cluster-refused", id, text));
            continue;
        }
        if database.is_none() {
            let text =
                "the DB instance does not exist; fairdrop goes on copying its snapshots and deletes none";
            notices.insert(SnapshotNotice::new("no-such-database", id, text));
        }
        let own = |region: &'a RegionInventory| -> Vec<&'a Snapshot> {
            let snapshots = region.snapshots.iter();
            snapshots.filter(|one| one.database == id && one.is_own(&policy.id_prefix)).collect()
        };
        let copies =
            |region: &'a RegionInventory| own(region).into_iter().filter(|one| one.is_copy).collect();
        let targets = inventory.targets.iter();
        let in_targets =
            targets.filter_map(|(region, found)| Some((region.as_str(), copies(found.as_ref()?)))).collect();
        managed.push(ManagedDatabase { id, database, in_source: own(&inventory.source), in_targets });
    }
    (managed, notices)
}

fn selected_ids<'a>(policy: &'a Policy, inventory: &'a Inventory) -> BTreeSet<&'a str> {
    let has_tag = |database: &&Database| {
        policy.databases.tag.as_ref().is_some_and(|tag| database.tags.get(&tag.key) == Some(&tag.value))
    };
    let tagged = inventory.databases.iter().filter(has_tag).map(|database| database.id.as_str());
    policy.databases.ids.iter().map(String::as_str).chain(tagged).collect()
}

/// Why `id` is not managed if it is a cluster or belongs to one.
fn cluster_refusal(id: &str, database: Option<&Database>, inventory: &Inventory) -> Option<String> {
    if let Some(cluster) = database.and_then(|database| database.cluster.as_deref()) {
        return Some(format!(
            "the DB instance belongs to the cluster {cluster}; cluster snapshots need another API and are not supported"
        ));
    }
    let is_cluster = inventory.databases.iter().any(|database| database.cluster.as_deref() == Some(id));
    is_cluster
        .then(|| "this is a cluster; cluster snapshots need another API and are not supported".to_owned())
}

/// The recovery point of each database in each region.
pub(crate) fn recovery_points(inventory: &Inventory, managed: &[ManagedDatabase<'_>]) -> Vec<RecoveryPoint> {
    let point = |database: &str, region: &str, own: Option<&Vec<&Snapshot>>| {
        let snapshots = own.map(Vec::as_slice).unwrap_or_default();
        let newest = snapshots.iter().filter_map(|one| Some((one.recovery_point()?, &one.id))).max();
        let in_progress = snapshots.iter().filter(|one| one.state == SnapshotState::InProgress);
        RecoveryPoint {
            database: database.to_owned(),
            region: region.to_owned(),
            is_known: own.is_some(),
            id: newest.map(|(_, id)| id.clone()),
            at: newest.map(|(at, _)| at),
            age_seconds: newest.map(|(at, _)| inventory.now.seconds_since(at).max(0)),
            usable: snapshots.iter().filter(|one| one.recovery_point().is_some()).count(),
            in_progress: in_progress.count(),
        }
    };
    let of_database = |one: &ManagedDatabase<'_>| -> Vec<RecoveryPoint> {
        let source = point(one.id, &inventory.source_region, Some(&one.in_source));
        let targets = inventory.targets.keys();
        let targets = targets.map(|region| point(one.id, region, one.in_targets.get(region.as_str())));
        std::iter::once(source).chain(targets).collect()
    };
    managed.iter().flat_map(of_database).collect()
}
