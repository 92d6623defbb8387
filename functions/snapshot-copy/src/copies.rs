//! Which snapshots go to which region, and which originals must stay until they have.

use crate::managed::{Managed, dated};
use crate::plan::{Action, Plan, Step};
use crate::policy::{Policy, Target};
use crate::retention::Dated;
use crate::snapshot::{RegionView, World};
use rds::{Moment, Snapshot, State};
use std::collections::{BTreeMap, BTreeSet};

/// Copies that RDS lets be in progress at once in a region, all of the account's counted.
pub const IN_PROGRESS_LIMIT: usize = 20;
/// Copies of one database to one region wait for each other: a second one would only stand in
/// line, and grow old there. Where the first is of an original this old, it hangs, or it is an
/// older one that was missing, and the newest is begun all the same.
const HANGS_AFTER_SECONDS: i64 = 12 * 3_600;
/// Copies of one database in progress to one region, those that hang counted.
const IN_PROGRESS_OF_ONE: usize = 4;
/// Another run that is still under way may have seen none of the newest snapshots. What it
/// would copy then stays, for so many of the newest: RDS takes one after the other, so that
/// three do not come within a run.
const UNSEEN: usize = 2;
/// A run that has not seen a snapshot has ended, and what it did can be seen, this long after
/// the snapshot's copy was begun. A run takes 100 s at most.
const SEEN_AFTER_SECONDS: i64 = 600;
/// A region that does not answer may be copying anything: all originals stay, until the quota
/// leaves room for fewer than this ...
const ROOM_TO_WAIT: u32 = 20;
/// ... and then those that are younger than a day, and what the region would keep.
const OUTAGE_PATIENCE_SECONDS: i64 = 24 * 3_600;
/// The quota where RDS does not tell it: what an account has at first.
const USUAL_QUOTA: u32 = 100;

/// The copies that are due in `target`: the newest snapshot of each database first, and
/// where there is time, older ones that the region's retention would have kept.
pub(crate) fn copy(
    policy: &Policy,
    target: &Target,
    now: Moment,
    view: &RegionView,
    managed: &[Managed<'_>],
    plan: &mut Plan,
) {
    let mut due = Vec::new();
    for one in managed {
        let Some(there) = one.there.get(target.region.as_str()) else { continue };
        let originals = one.originals();
        let wanted = wanted(policy, target, &originals, there);
        let in_progress: Vec<&str> = there
            .iter()
            .filter(|copy| copy.state == State::InProgress)
            .map(|copy| copy.id.as_str())
            .collect();
        let hangs = |original: &Dated<'_>| now.seconds_since(original.created) >= HANGS_AFTER_SECONDS;
        let hanging = originals.iter().filter(|one| in_progress.contains(&one.id) && hangs(one)).count();
        let newest_there = there.iter().filter_map(|copy| copy.usable()).max();
        let mut begun = 0;
        for (place, original) in originals.iter().enumerate() {
            let is_known = view.snapshots.iter().find(|copy| copy.id == original.id);
            if !wanted.contains(original.id) || is_known.is_some_and(|copy| copy.is_own(&policy.id_prefix)) {
                continue;
            }
            if is_known.is_some() {
                let text = "somebody else's snapshot has the id that the copy would have";
                plan.notice("id-taken", format!("{} in {}", original.id, target.region), text);
                continue;
            }
            let Some(source) = one.here.iter().find(|source| source.id == original.id) else { continue };
            if source.is_encrypted && target.kms_key_id.is_none() {
                let text =
                    "its snapshots are encrypted; the target's kms_key_id is needed to copy them there";
                plan.notice("key-needed", format!("{} in {}", one.id, target.region), text);
                break;
            }
            let in_the_way = if place == 0 { in_progress.len() - hanging } else { in_progress.len() + begun };
            if in_the_way > 0 || in_progress.len() >= IN_PROGRESS_OF_ONE {
                continue;
            }
            begun += 1;
            due.push((place > 0, newest_there, one.id, source));
        }
    }
    due.sort_unstable_by_key(|(is_older, newest_there, id, _)| (*is_older, *newest_there, *id));
    let most = room_for_copies(policy, view);
    plan.deferred += due.len().saturating_sub(most);
    plan.actions.extend(due.into_iter().take(most).map(|(is_older, _, database, source)| Action {
        step: Step::Copy { source_arn: source.arn.clone(), kms_key_id: target.kms_key_id.clone() },
        region: target.region.clone(),
        database: database.to_owned(),
        id: source.id.clone(),
        reason: if is_older {
            "the region's retention keeps it, and has not got it"
        } else {
            "the newest is not in the region yet"
        },
    }));
}

impl<'a> Managed<'a> {
    /// Originals that are being copied, or may be, or will be: deleting one would end its copy.
    pub(crate) fn originals_needed_elsewhere(&self, policy: &Policy, world: &World) -> BTreeSet<&'a str> {
        let originals = self.originals();
        let mut needed = BTreeSet::new();
        for target in &policy.targets {
            let there = self.there.get(target.region.as_str());
            if there.is_none() && room(&world.source) >= ROOM_TO_WAIT {
                return originals.into_iter().map(|one| one.id).collect();
            }
            let own = there.map(Vec::as_slice).unwrap_or_default();
            let copy_of = |id: &str| own.iter().find(|copy| copy.id == id);
            let may_be_unseen = |one: &Dated<'_>| match (there, copy_of(one.id)) {
                (None, _) => world.now.seconds_since(one.created) < OUTAGE_PATIENCE_SECONDS,
                (_, None) => true,
                (_, Some(copy)) => {
                    copy.made.is_none_or(|made| world.now.seconds_since(made) < SEEN_AFTER_SECONDS)
                }
            };
            let unseen = originals.iter().take_while(|one| may_be_unseen(one)).count();
            let unseen = if there.is_some() { unseen.min(UNSEEN) } else { unseen.max(UNSEEN) };
            for unseen in 0..=unseen {
                let seen = originals.get(unseen..).unwrap_or_default();
                let wanted = wanted(policy, target, seen, own);
                let is_there = |id: &str| copy_of(id).is_some_and(|copy| copy.usable().is_some());
                needed
                    .extend(seen.iter().map(|one| one.id).filter(|id| wanted.contains(id) && !is_there(id)));
            }
            let in_progress = own.iter().filter(|copy| copy.state == State::InProgress);
            let in_progress: BTreeSet<&str> = in_progress.map(|copy| copy.id.as_str()).collect();
            needed.extend(originals.iter().map(|one| one.id).filter(|id| in_progress.contains(id)));
        }
        needed
    }
}

/// How many more manual snapshots the region takes.
fn room(view: &RegionView) -> u32 {
    let counted = u32::try_from(view.snapshots.len()).unwrap_or(u32::MAX);
    match view.quota {
        Some(quota) => quota.most.saturating_sub(quota.used),
        None => USUAL_QUOTA.saturating_sub(counted),
    }
}

/// How many copies may still be begun in a region: RDS counts everybody's.
fn room_for_copies(policy: &Policy, view: &RegionView) -> usize {
    let in_progress =
        view.snapshots.iter().filter(|one| one.is_copy && one.state == State::InProgress).count();
    IN_PROGRESS_LIMIT.saturating_sub(in_progress).min(policy.limits.copies as usize)
}

/// What a target keeps of what there is and would come.
fn wanted<'a>(
    policy: &Policy,
    target: &Target,
    originals: &[Dated<'a>],
    there: &[&'a Snapshot],
) -> BTreeSet<&'a str> {
    let newest = originals.first().map(|one| one.created);
    let held = there.iter().filter_map(|one| dated(one)).filter(|one| Some(one.created) <= newest);
    let all: BTreeMap<&str, Moment> =
        held.chain(originals.iter().copied()).map(|one| (one.id, one.created)).collect();
    let keeping = policy.keeping_in(target);
    keeping.retention.kept(keeping.floor, all.into_iter().map(|(id, created)| Dated { created, id }))
}
