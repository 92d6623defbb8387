//! What is due: a pure function of the policy and of what exists.
//!
//! Each run plans from its own observation, and nothing is remembered between runs. A plan must be right for two
//! runs at the same time, after a run that died at any of its calls, and with lists that are slightly old.

use crate::action::{ActionKind, DueActions, SnapshotAction, SnapshotNotice};
use crate::copies::{due_copies, originals_to_keep};
use crate::managed::{ManagedDatabase, RecoveryPoint, dated, managed_databases, recovery_points};
use crate::policy::{Policy, RetentionRule};
use crate::snapshot::{Inventory, snapshot_id};
use rds::{Snapshot, SnapshotState};
use serde::Serialize;
use std::collections::BTreeSet;

/// A snapshot that is later than now by more than this shows that two clocks disagree.
const CLOCK_TOLERANCE_SECONDS: i64 = 300;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SnapshotPlan {
    /// In the order in which each region executes them.
    pub actions: Vec<SnapshotAction>,
    /// The number of due actions that the limits of the policy or of RDS leave to the next run.
    pub deferred: usize,
    pub notices: BTreeSet<SnapshotNotice>,
    /// The recovery points before the actions.
    pub recovery_points: Vec<RecoveryPoint>,
}

impl SnapshotPlan {
    fn add(&mut self, due: DueActions) {
        self.actions.extend(due.actions);
        self.deferred += due.deferred;
        self.notices.extend(due.notices);
    }
}

/// What is due under `policy`.
pub fn plan(policy: &Policy, inventory: &Inventory) -> SnapshotPlan {
    let (managed, mut notices) = managed_databases(policy, inventory);
    let unreachable = inventory.targets.iter().filter(|(_, region)| region.is_none());
    notices.extend(unreachable.map(|(region, _)| {
        let text = "RDS in this region does not answer; fairdrop changes nothing there";
        SnapshotNotice::new("region-unreachable", region, text)
    }));
    let recovery_points = recovery_points(inventory, &managed);
    let mut plan = SnapshotPlan { notices, recovery_points, ..SnapshotPlan::default() };
    if is_clock_wrong(policy, inventory) {
        let text = "a snapshot is later than now; fairdrop neither takes nor deletes snapshots until the clocks agree";
        plan.notices.insert(SnapshotNotice::new("clock-off", &inventory.source_region, text));
        return plan;
    }
    plan.add(due_creates(policy, inventory, &managed));
    for target in &policy.targets {
        if let Some(Some(region)) = inventory.targets.get(&target.region) {
            plan.add(due_copies(policy, target, inventory.now, region, &managed));
        }
    }
    due_deletes(policy, inventory, &managed).into_iter().for_each(|due| plan.add(due));
    plan
}

/// Ages are never negative unless a clock is wrong. Then the slot would be wrong, too.
fn is_clock_wrong(policy: &Policy, inventory: &Inventory) -> bool {
    let regions = inventory.targets.values().flatten().chain([&inventory.source]);
    let mut own = regions.flat_map(|region| &region.snapshots).filter(|one| one.is_own(&policy.id_prefix));
    own.any(|one| {
        one.taken_at.is_some_and(|taken_at| taken_at.seconds_since(inventory.now) > CLOCK_TOLERANCE_SECONDS)
    })
}

/// The snapshot of the current slot, for each database that has none yet. The database with the oldest recovery
/// point comes first.
fn due_creates(policy: &Policy, inventory: &Inventory, managed: &[ManagedDatabase<'_>]) -> DueActions {
    let slot = inventory.now.slot(policy.interval_minutes);
    let mut due = Vec::new();
    let mut notices = BTreeSet::new();
    for one in managed {
        let Some(database) = one.database else { continue };
        let id = snapshot_id(policy, one.id, slot);
        match inventory.source.snapshots.iter().find(|snapshot| snapshot.id == id) {
            // If it failed, it is deleted first.
            Some(existing) if existing.is_own(&policy.id_prefix) => continue,
            Some(_) => {
                let text = "a snapshot that fairdrop did not make has the identifier of this slot; rename it";
                notices.insert(SnapshotNotice::new("id-taken", id, text));
                continue;
            }
            None => {}
        }
        // RDS takes one snapshot of a database at a time.
        if one.in_source.iter().any(|snapshot| snapshot.state == SnapshotState::InProgress) {
            continue;
        }
        // RDS is asked in every state, since it decides: the states in which it takes snapshots are its own, and a
        // refusal leaves the snapshot to the next run.
        if !matches!(database.status.as_str(), "available" | "storage-optimization") {
            let text = format!(
                "the DB instance is {}; RDS may refuse the snapshot until that has ended, and each run asks again",
                database.status
            );
            notices.insert(SnapshotNotice::new("database-busy", one.id, text));
        }
        let newest = one.in_source.iter().filter_map(|snapshot| snapshot.recovery_point()).max();
        due.push((newest, one.id, id));
    }
    due.sort_unstable();
    let actions = due.into_iter().map(|(_, database, id)| SnapshotAction {
        kind: ActionKind::Create,
        region: inventory.source_region.clone(),
        database: database.to_owned(),
        id,
        reason: "the slot has no snapshot yet",
    });
    DueActions::limited(actions, policy.limits.creates as usize, notices)
}

/// Failed snapshots, and those that retention does not keep, region by region.
fn due_deletes(policy: &Policy, inventory: &Inventory, managed: &[ManagedDatabase<'_>]) -> Vec<DueActions> {
    let in_source = managed.iter().map(|database| {
        let mut kept = originals_to_keep(policy, inventory, database);
        kept.extend(kept_by(policy.source_retention(), &database.in_source));
        DeleteCandidates { database, snapshots: &database.in_source, kept }
    });
    let mut due = vec![due_deletes_in(policy, &inventory.source_region, in_source)];
    due.extend(policy.targets.iter().map(|target| {
        let in_target = managed.iter().filter_map(|database| {
            let snapshots = database.in_targets.get(target.region.as_str())?;
            let kept = kept_by(policy.retention_in(target), snapshots);
            Some(DeleteCandidates { database, snapshots, kept })
        });
        due_deletes_in(policy, &target.region, in_target)
    }));
    due
}

fn kept_by<'a>(rule: RetentionRule, snapshots: &[&'a Snapshot]) -> BTreeSet<&'a str> {
    rule.retention.kept(rule.floor, snapshots.iter().filter_map(|one| dated(one)))
}

/// The snapshots of one database in one region.
struct DeleteCandidates<'a> {
    database: &'a ManagedDatabase<'a>,
    snapshots: &'a [&'a Snapshot],
    /// Identifiers of those that stay.
    kept: BTreeSet<&'a str>,
}

fn due_deletes_in<'a>(
    policy: &Policy,
    region: &str,
    candidates: impl Iterator<Item = DeleteCandidates<'a>>,
) -> DueActions {
    let mut due = Vec::new();
    for DeleteCandidates { database, snapshots, kept } in candidates {
        for snapshot in snapshots {
            let reason = match snapshot.state {
                SnapshotState::Failed => "the snapshot failed",
                // The usable snapshots of a database that does not exist any more all stay.
                SnapshotState::Available if database.database.is_none() => continue,
                SnapshotState::Available
                    if snapshot.taken_at.is_some() && !kept.contains(snapshot.id.as_str()) =>
                {
                    "no tier of retention keeps it"
                }
                _ => continue,
            };
            let is_usable = snapshot.state != SnapshotState::Failed;
            due.push((is_usable, snapshot.taken_at, database.id, &snapshot.id, reason));
        }
    }
    due.sort_unstable();
    let actions = due.into_iter().map(|(_, _, database, id, reason)| SnapshotAction {
        kind: ActionKind::Delete,
        region: region.to_owned(),
        database: database.to_owned(),
        id: id.clone(),
        reason,
    });
    DueActions::limited(actions, policy.limits.deletes as usize, BTreeSet::new())
}
