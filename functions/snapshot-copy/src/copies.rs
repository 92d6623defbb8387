//! Which snapshots are copied to which region, and which originals must stay until they are copied.

use crate::action::{ActionKind, DueActions, SnapshotAction, SnapshotNotice};
use crate::managed::{ManagedDatabase, dated};
use crate::policy::{Policy, TargetRegion};
use crate::retention::DatedSnapshot;
use crate::snapshot::{Inventory, RegionInventory};
use rds::{Snapshot, SnapshotState, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// Copies that RDS allows in progress to one region at the same time, for the whole account.
pub const IN_PROGRESS_LIMIT: usize = 20;
/// RDS makes the copies of one database to one region one after the other, so a second one would only wait and
/// grow old. A copy whose original is this old is stuck, or it fills a gap; then the newest is copied as well.
const STUCK_AFTER_SECONDS: i64 = 12 * 3_600;
/// Copies of one database in progress to one region, including those that are stuck.
const MAX_IN_PROGRESS_PER_DATABASE: usize = 4;
/// A concurrent run may not have listed the newest snapshots yet. What that run would copy stays. Two newest
/// are enough: RDS takes the snapshots of a database one after the other, so no three appear within a run.
const MAX_UNLISTED: usize = 2;
/// A run takes at most 100 s. So this long after a copy was begun, every run that had not listed its original
/// has ended, and lists show what it did.
const LISTED_AFTER_SECONDS: i64 = 600;
/// A region that does not answer may be copying any original. All originals stay as long as the source region
/// has room for this many snapshots ...
const MIN_QUOTA_REMAINING: u32 = 20;
/// ... and with less room, those that are younger than a day, and what the region would keep.
const OUTAGE_RETENTION_SECONDS: i64 = 24 * 3_600;
/// The default quota of an account, if RDS does not report one.
const DEFAULT_QUOTA: u32 = 100;

/// The copies that are due to `target`: first the newest snapshot of each database, then older ones that the
/// region's retention would have kept.
pub(crate) fn due_copies(
    policy: &Policy,
    target: &TargetRegion,
    now: Timestamp,
    region: &RegionInventory,
    managed: &[ManagedDatabase<'_>],
) -> DueActions {
    let mut due = Vec::new();
    let mut notices = BTreeSet::new();
    for database in managed {
        let Some(copies) = database.in_targets.get(target.region.as_str()) else { continue };
        let originals = database.originals();
        let wanted = wanted(policy, target, &originals, copies);
        let in_progress = in_progress(copies);
        let is_stuck =
            |original: &DatedSnapshot<'_>| now.seconds_since(original.taken_at) >= STUCK_AFTER_SECONDS;
        let stuck = originals.iter().filter(|one| in_progress.contains(one.id) && is_stuck(one)).count();
        let newest_copy = copies.iter().filter_map(|copy| copy.recovery_point()).max();
        let mut begun = 0;
        for (place, original) in originals.iter().enumerate() {
            let existing = region.snapshots.iter().find(|other| other.id == original.id);
            let is_copied = copies.iter().any(|copy| copy.id == original.id);
            if !wanted.contains(original.id) || is_copied {
                continue;
            }
            if existing.is_some() {
                let subject = format!("{} in {}", original.id, target.region);
                let text = "a snapshot that is no copy of fairdrop's has the identifier of the copy; rename it, or \
                            the DB instance of that region";
                notices.insert(SnapshotNotice::new("id-taken", subject, text));
                continue;
            }
            let Some(source) = database.in_source.iter().find(|source| source.id == original.id) else {
                continue;
            };
            if source.is_encrypted && target.kms_key_id.is_none() {
                let subject = format!("{} in {}", database.id, target.region);
                let text = "the snapshots are encrypted; copying them needs the target's kms_key_id";
                notices.insert(SnapshotNotice::new("key-needed", subject, text));
                break;
            }
            let waits_for = if place == 0 { in_progress.len() - stuck } else { in_progress.len() + begun };
            if waits_for > 0 || in_progress.len() >= MAX_IN_PROGRESS_PER_DATABASE {
                continue;
            }
            begun += 1;
            due.push((place > 0, newest_copy, database.id, source));
        }
    }
    due.sort_unstable_by_key(|(is_older, newest_copy, id, _)| (*is_older, *newest_copy, *id));
    let actions = due.into_iter().map(|(is_older, _, database, source)| SnapshotAction {
        kind: ActionKind::Copy { source_arn: source.arn.clone(), kms_key_id: target.kms_key_id.clone() },
        region: target.region.clone(),
        database: database.to_owned(),
        id: source.id.clone(),
        reason: if is_older {
            "the region's retention keeps it, and the region lacks it"
        } else {
            "the region lacks the newest snapshot"
        },
    });
    DueActions::limited(actions, copies_remaining(policy, region), notices)
}

/// Originals of `database` that a target region copies, may be copying, or will copy. RDS fails a copy whose
/// original is deleted.
pub(crate) fn originals_to_keep<'a>(
    policy: &Policy,
    inventory: &Inventory,
    database: &ManagedDatabase<'a>,
) -> BTreeSet<&'a str> {
    let originals = database.originals();
    let mut needed = BTreeSet::new();
    for target in &policy.targets {
        let copies = database.in_targets.get(target.region.as_str());
        if copies.is_none() && quota_remaining(&inventory.source) >= MIN_QUOTA_REMAINING {
            return originals.into_iter().map(|one| one.id).collect();
        }
        let own = copies.map(Vec::as_slice).unwrap_or_default();
        let copy_of = |id: &str| own.iter().find(|copy| copy.id == id);
        let may_be_unlisted = |one: &DatedSnapshot<'_>| match (copies, copy_of(one.id)) {
            (None, _) => inventory.now.seconds_since(one.taken_at) < OUTAGE_RETENTION_SECONDS,
            (_, None) => true,
            (_, Some(copy)) => {
                copy.created_at.is_none_or(|at| inventory.now.seconds_since(at) < LISTED_AFTER_SECONDS)
            }
        };
        let unlisted = originals.iter().take_while(|one| may_be_unlisted(one)).count();
        let unlisted = if copies.is_some() { unlisted.min(MAX_UNLISTED) } else { unlisted.max(MAX_UNLISTED) };
        for unlisted in 0..=unlisted {
            let listed = originals.get(unlisted..).unwrap_or_default();
            let wanted = wanted(policy, target, listed, own);
            let is_copied = |id: &str| copy_of(id).is_some_and(|copy| copy.recovery_point().is_some());
            let missing = listed.iter().map(|one| one.id).filter(|id| wanted.contains(id) && !is_copied(id));
            needed.extend(missing);
        }
        let in_progress = in_progress(own);
        needed.extend(originals.iter().map(|one| one.id).filter(|id| in_progress.contains(id)));
    }
    needed
}

fn in_progress<'a>(copies: &[&'a Snapshot]) -> BTreeSet<&'a str> {
    let in_progress = copies.iter().filter(|copy| copy.state == SnapshotState::InProgress);
    in_progress.map(|copy| copy.id.as_str()).collect()
}

/// The number of manual snapshots that the region still accepts.
fn quota_remaining(region: &RegionInventory) -> u32 {
    let counted = u32::try_from(region.snapshots.len()).unwrap_or(u32::MAX);
    match region.quota {
        Some(quota) => quota.remaining(),
        None => DEFAULT_QUOTA.saturating_sub(counted),
    }
}

/// The number of copies that this run may begin in the region. RDS counts all copies of the account.
fn copies_remaining(policy: &Policy, region: &RegionInventory) -> usize {
    let in_progress = region
        .snapshots
        .iter()
        .filter(|snapshot| snapshot.is_copy && snapshot.state == SnapshotState::InProgress)
        .count();
    IN_PROGRESS_LIMIT.saturating_sub(in_progress).min(policy.limits.copies as usize)
}

/// What the target's retention keeps of its copies and of the originals that could be copied.
fn wanted<'a>(
    policy: &Policy,
    target: &TargetRegion,
    originals: &[DatedSnapshot<'a>],
    copies: &[&'a Snapshot],
) -> BTreeSet<&'a str> {
    let newest = originals.first().map(|one| one.taken_at);
    let copies = copies.iter().filter_map(|one| dated(one)).filter(|one| Some(one.taken_at) <= newest);
    let all: BTreeMap<&str, Timestamp> =
        copies.chain(originals.iter().copied()).map(|one| (one.id, one.taken_at)).collect();
    let all = all.into_iter().map(|(id, taken_at)| DatedSnapshot { taken_at, id });
    let rule = policy.retention_in(target);
    rule.retention.kept(rule.floor, all)
}
