//! One run: look, plan, and carry out, each region for itself.

use crate::api::{CopyOrder, Rds};
use crate::plan::{Action, Plan, Step, plan};
use crate::policy::Policy;
use crate::report::{Carried, Outcome, RegionReport, Report};
use crate::snapshot::{Quota, RegionView, World, own_tag};
use futures::future::join_all;
use rds::{Moment, RdsError, State};
use std::collections::BTreeMap;
use tokio::time::{Instant, timeout_at};

/// The regions of a policy.
#[derive(Debug)]
pub struct Regions<R> {
    /// The databases' own region.
    pub own: String,
    /// RDS there.
    pub source: R,
    /// RDS in each target region.
    pub targets: BTreeMap<String, R>,
}

/// Nothing could be planned: what there is could not be seen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("RDS in {region} could not be asked for its {what}: {why}")]
pub struct Blind {
    /// Where.
    pub region: String,
    /// What was asked for.
    pub what: &'static str,
    /// What came instead.
    pub why: RdsError,
}

impl<R: Rds> Regions<R> {
    /// A run at `now` that makes no call after `deadline`. With `dry_run` nothing is changed.
    pub async fn run(
        &self,
        policy: &Policy,
        now: Moment,
        deadline: Instant,
        dry_run: bool,
    ) -> Result<Report, Blind> {
        let world = self.look(now, deadline).await?;
        let plan = plan(policy, &world);
        let carried = if dry_run {
            let planned = |action| Carried { action, outcome: Outcome::Planned };
            plan.actions.iter().cloned().map(planned).collect()
        } else {
            self.carry_out(policy, &world, &plan, deadline).await
        };
        Ok(report(world, plan, carried, dry_run))
    }

    async fn look(&self, now: Moment, deadline: Instant) -> Result<World, Blind> {
        let blind = |what| move |why| Blind { region: self.own.clone(), what, why };
        let targets = async {
            let asked = self.targets.iter().map(async |(name, rds)| {
                let view = view(rds, deadline).await;
                if let Err(error) = &view {
                    tracing::warn!(region = %name, %error, "a target region does not answer; the others go on");
                }
                (name.clone(), view.ok())
            });
            join_all(asked).await.into_iter().collect()
        };
        let (databases, source, targets) =
            tokio::join!(in_time(deadline, self.source.databases()), view(&self.source, deadline), targets);
        Ok(World {
            now,
            own_region: self.own.clone(),
            databases: databases.map_err(blind("databases"))?,
            source: source.map_err(blind("snapshots"))?,
            targets,
        })
    }

    /// Each region's actions one after the other, the regions side by side.
    async fn carry_out(
        &self,
        policy: &Policy,
        world: &World,
        plan: &Plan,
        deadline: Instant,
    ) -> Vec<Carried> {
        let regions = std::iter::once((&self.own, &self.source)).chain(&self.targets);
        let carried = regions.map(async |(region, rds)| {
            let mut carried = Vec::new();
            let mut stop = None;
            for action in plan.actions.iter().filter(|action| action.region == *region) {
                let outcome = match stop {
                    Some(why) => Outcome::Deferred { why },
                    None => self.carry(rds, policy, world, action, deadline).await,
                };
                if let Outcome::Failed { error } = &outcome {
                    tracing::error!(action = action.step.name(), region, id = %action.id, error, "an action failed");
                }
                // The region wants to be left alone; the next run goes on.
                if let Outcome::Deferred { why: why @ ("throttled" | "no time left" | "no answer") } = outcome {
                    stop = Some(why);
                }
                carried.push(Carried { action: action.clone(), outcome });
            }
            carried
        });
        join_all(carried).await.into_iter().flatten().collect()
    }

    async fn carry(
        &self,
        rds: &R,
        policy: &Policy,
        world: &World,
        action: &Action,
        deadline: Instant,
    ) -> Outcome {
        if Instant::now() >= deadline {
            return Outcome::Deferred { why: "no time left" };
        }
        let tag = own_tag(policy);
        let done = match &action.step {
            Step::Create => in_time(deadline, rds.create(&action.database, &action.id, tag)).await,
            Step::Copy { source_arn, kms_key_id } => {
                let order = CopyOrder {
                    source_region: &world.own_region,
                    source_arn,
                    id: &action.id,
                    kms_key_id: kms_key_id.as_deref(),
                    tag,
                };
                in_time(deadline, rds.copy(order)).await
            }
            Step::Delete => in_time(deadline, rds.delete(&action.id)).await,
        };
        match (&action.step, done) {
            (_, Ok(())) => Outcome::Done,
            // Another run was faster.
            (Step::Delete, Err(RdsError::NotFound)) => Outcome::Done,
            (Step::Create | Step::Copy { .. }, Err(RdsError::Exists)) => {
                whose(policy, in_time(deadline, rds.snapshot(&action.id)).await)
            }
            (_, Err(RdsError::TooManyCopies)) => Outcome::Deferred { why: "too many copies are in progress" },
            (_, Err(RdsError::TooManySnapshots)) => {
                Outcome::Deferred { why: "the snapshot quota is used up" }
            }
            (_, Err(RdsError::Throttled)) => Outcome::Deferred { why: "throttled" },
            (_, Err(RdsError::Unreachable(_))) => Outcome::Deferred { why: "no answer" },
            (_, Err(RdsError::NotInState)) => Outcome::Deferred { why: "not in a state for it" },
            // The original is gone, or the database.
            (_, Err(RdsError::NotFound)) => Outcome::Deferred { why: "it does not exist any more" },
            (_, Err(error)) => Outcome::Failed { error: error.to_string() },
        }
    }
}

/// A slot's snapshot that exists already is a success if it is ours: a run at the same time,
/// or an earlier one that died, has made it.
fn whose(policy: &Policy, known: Result<rds::Snapshot, RdsError>) -> Outcome {
    match known {
        Ok(known) if !known.is_own(&policy.id_prefix) => {
            Outcome::Failed { error: "the id is taken by a snapshot that is not fairdrop's".into() }
        }
        Ok(known) if known.state == State::Failed => Outcome::Deferred { why: "one that failed has the id" },
        Ok(_) => Outcome::Existed,
        Err(_) => Outcome::Deferred { why: "the id is taken, and its snapshot could not be looked at" },
    }
}

async fn view<R: Rds>(rds: &R, deadline: Instant) -> Result<RegionView, RdsError> {
    let (snapshots, quota) = tokio::join!(in_time(deadline, rds.snapshots()), in_time(deadline, rds.quota()));
    // The quota is worth knowing, and no reason to stop.
    let quota = quota.unwrap_or_else(|error| {
        tracing::warn!(%error, "the snapshot quota could not be asked for");
        None
    });
    Ok(RegionView { snapshots: snapshots?, quota })
}

async fn in_time<T>(
    deadline: Instant,
    call: impl Future<Output = Result<T, RdsError>>,
) -> Result<T, RdsError> {
    let late = || RdsError::Unreachable("the run's time is up".into());
    timeout_at(deadline, call).await.unwrap_or_else(|_| Err(late()))
}

fn report(world: World, plan: Plan, actions: Vec<Carried>, dry_run: bool) -> Report {
    let region = |view: Option<&RegionView>| RegionReport {
        answers: view.is_some(),
        snapshots: view.map(|view| view.snapshots.len()),
        quota_left: view.and_then(|view| view.quota).map(|Quota { used, most }| most.saturating_sub(used)),
    };
    let own = (world.own_region.clone(), region(Some(&world.source)));
    let others = world.targets.iter().map(|(name, view)| (name.clone(), region(view.as_ref())));
    Report {
        dry_run,
        now: world.now,
        regions: std::iter::once(own).chain(others).collect(),
        recovery_points: plan.recovery_points,
        actions,
        deferred: plan.deferred,
        notices: plan.notices,
    }
}
