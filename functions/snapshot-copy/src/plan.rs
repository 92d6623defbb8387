//! What is due: a pure function of what should exist and what does.
//!
//! The plan is made anew from what is seen at each run, and nothing is remembered between
//! runs. It must be right for two runs at once and for a run that died after any of its
//! calls, and where a list is a moment old.

use crate::copies;
use crate::managed::{Managed, RecoveryPoint, dated, managed, recovery_points};
use crate::policy::{Keeping, Policy};
use crate::snapshot::{World, snapshot_id};
use rds::{Snapshot, State};
use serde::Serialize;
use std::collections::BTreeSet;

/// A snapshot that is this much younger than now says that the clocks disagree.
const CLOCK_TOLERANCE_SECONDS: i64 = 300;

/// One step, and why it is due.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Action {
    /// What is done.
    #[serde(flatten)]
    pub step: Step,
    /// In which region.
    pub region: String,
    /// Whose snapshot.
    pub database: String,
    /// The snapshot's identifier.
    pub id: String,
    /// Why.
    pub reason: &'static str,
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Step {
    /// Take a snapshot.
    Create,
    /// Copy one to the action's region.
    Copy {
        /// The original.
        source_arn: String,
        /// The key of the action's region that encrypts the copy.
        #[serde(skip_serializing_if = "Option::is_none")]
        kms_key_id: Option<String>,
    },
    /// Delete one.
    Delete,
}

impl Step {
    /// Its name in the report and in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Copy { .. } => "copy",
            Self::Delete => "delete",
        }
    }
}

/// Something that a person should know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Notice {
    /// A stable name.
    pub notice: &'static str,
    /// Of what: a database, a region or both.
    pub of: String,
    /// What it means.
    pub text: String,
}

/// What is due, and how things stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// In the order in which they are carried out in each region.
    pub actions: Vec<Action>,
    /// Due, and left to the next run by the policy's limits or by RDS's.
    pub deferred: usize,
    /// What a person should know.
    pub notices: BTreeSet<Notice>,
    /// Before the actions.
    pub recovery_points: Vec<RecoveryPoint>,
}

impl Plan {
    pub(crate) fn notice(&mut self, notice: &'static str, of: impl Into<String>, text: impl Into<String>) {
        self.notices.insert(Notice { notice, of: of.into(), text: text.into() });
    }
}

/// What is due under `policy`, as `world` is.
pub fn plan(policy: &Policy, world: &World) -> Plan {
    let mut plan = Plan::default();
    let managed = managed(policy, world, &mut plan);
    for region in world.targets.iter().filter(|(_, view)| view.is_none()).map(|(region, _)| region) {
        plan.notice(
            "region-unreachable",
            region,
            "the region does not answer; its copies are left as they are",
        );
    }
    plan.recovery_points = recovery_points(world, &managed);
    if clock_is_wrong(policy, world) {
        plan.notice(
            "clock-off",
            &world.own_region,
            "a snapshot is younger than now: nothing is taken and nothing deleted until the clocks agree",
        );
        return plan;
    }
    create(policy, world, &managed, &mut plan);
    for target in &policy.targets {
        if let Some(Some(view)) = world.targets.get(&target.region) {
            copies::copy(policy, target, world.now, view, &managed, &mut plan);
        }
    }
    delete(policy, world, &managed, &mut plan);
    plan
}

/// Ages only look into the past. Where they do not, a slot would be judged wrongly.
fn clock_is_wrong(policy: &Policy, world: &World) -> bool {
    let views = world.targets.values().flatten().chain([&world.source]);
    let mut own = views.flat_map(|view| &view.snapshots).filter(|one| one.is_own(&policy.id_prefix));
    own.any(|one| {
        one.created.is_some_and(|created| created.seconds_since(world.now) > CLOCK_TOLERANCE_SECONDS)
    })
}

/// The slot's snapshot, of each database that has none yet; who has waited longest comes first.
fn create(policy: &Policy, world: &World, managed: &[Managed<'_>], plan: &mut Plan) {
    let slot = world.now.slot(policy.interval_minutes);
    let mut due = Vec::new();
    for one in managed {
        let Some(database) = one.database else { continue };
        let id = snapshot_id(policy, one.id, slot);
        match world.source.snapshots.iter().find(|snapshot| snapshot.id == id) {
            // One that failed is deleted first.
            Some(known) if known.is_own(&policy.id_prefix) => continue,
            Some(_) => {
                plan.notice("id-taken", id, "somebody else's snapshot has the id that the slot's would have");
                continue;
            }
            None => {}
        }
        // RDS takes one at a time of a database.
        if one.here.iter().any(|snapshot| snapshot.state == State::InProgress) {
            continue;
        }
        if database.status != "available" {
            let text = format!("it is {}: its snapshot waits until it is available", database.status);
            plan.notice("database-busy", one.id, text);
            continue;
        }
        let newest = one.here.iter().filter_map(|snapshot| snapshot.usable()).max();
        due.push((newest, one.id, id));
    }
    due.sort_unstable();
    let most = policy.limits.creates as usize;
    plan.deferred += due.len().saturating_sub(most);
    plan.actions.extend(due.into_iter().take(most).map(|(_, database, id)| Action {
        step: Step::Create,
        region: world.own_region.clone(),
        database: database.to_owned(),
        id,
        reason: "the slot has no snapshot yet",
    }));
}

/// What failed, and what retention gives up.
fn delete(policy: &Policy, world: &World, managed: &[Managed<'_>], plan: &mut Plan) {
    let here = managed.iter().map(|one| {
        let mut kept = one.originals_needed_elsewhere(policy, world);
        kept.extend(keep(policy.keeping(), &one.here));
        (one, one.here.as_slice(), kept)
    });
    let here: Vec<_> = here.collect();
    delete_in(policy, &world.own_region, here, plan);
    for target in &policy.targets {
        let there = managed.iter().filter_map(|one| {
            let own = one.there.get(target.region.as_str())?;
            Some((one, own.as_slice(), keep(policy.keeping_in(target), own)))
        });
        let there: Vec<_> = there.collect();
        delete_in(policy, &target.region, there, plan);
    }
}

fn keep<'a>(keeping: Keeping, own: &[&'a Snapshot]) -> BTreeSet<&'a str> {
    keeping.retention.kept(keeping.floor, own.iter().filter_map(|one| dated(one)))
}

type Kept<'p, 'a> = (&'p Managed<'a>, &'p [&'a Snapshot], BTreeSet<&'a str>);

fn delete_in(policy: &Policy, region: &str, databases: Vec<Kept<'_, '_>>, plan: &mut Plan) {
    let mut due = Vec::new();
    for (one, own, kept) in databases {
        for snapshot in own {
            let reason = match snapshot.state {
                State::Failed => "it failed",
                // Of a database that is gone nothing is given up.
                State::Available if one.database.is_none() => continue,
                State::Available if snapshot.created.is_some() && !kept.contains(snapshot.id.as_str()) => {
                    "no tier of retention keeps it"
                }
                _ => continue,
            };
            due.push((snapshot.state != State::Failed, snapshot.created, one.id, &snapshot.id, reason));
        }
    }
    due.sort_unstable();
    let most = policy.limits.deletes as usize;
    plan.deferred += due.len().saturating_sub(most);
    plan.actions.extend(due.into_iter().take(most).map(|(_, _, database, id, reason)| Action {
        step: Step::Delete,
        region: region.to_owned(),
        database: database.to_owned(),
        id: id.clone(),
        reason,
    }));
}
