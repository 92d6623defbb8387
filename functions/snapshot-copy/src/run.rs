//! One run: take an inventory, plan, and execute the plan. A region that fails does not stop the others.

use crate::action::{ActionKind, SnapshotAction};
use crate::api::{CopyRequest, Rds};
use crate::plan::{SnapshotPlan, plan};
use crate::policy::Policy;
use crate::report::{ActionOutcome, ActionReport, RegionSummary, SnapshotReport};
use crate::snapshot::{Inventory, RegionInventory, SnapshotQuota, own_tag};
use futures::future::join_all;
use rds::{RdsError, Snapshot, SnapshotState, Timestamp};
use std::collections::BTreeMap;
use tokio::time::{Instant, timeout_at};

/// The regions of a policy.
#[derive(Debug)]
pub struct Regions<R> {
    /// The region of the databases.
    pub source_region: String,
    pub source: R,
    /// By target region.
    pub targets: BTreeMap<String, R>,
}

/// The source region could not be listed, so there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "could not list {what} of RDS in {region}; this run ends without a plan, the next run tries again: {source}"
)]
pub struct InventoryError {
    pub region: String,
    pub what: &'static str,
    pub source: RdsError,
}

impl<R: Rds> Regions<R> {
    /// A run at `now` that makes no call after `deadline`. With `dry_run` it only plans.
    pub async fn run(
        &self,
        policy: &Policy,
        now: Timestamp,
        deadline: Instant,
        dry_run: bool,
    ) -> Result<SnapshotReport, InventoryError> {
        let inventory = self.inventory(now, deadline).await?;
        let plan = plan(policy, &inventory);
        let actions = if dry_run {
            let planned = |action| ActionReport { action, outcome: ActionOutcome::Planned };
            plan.actions.iter().cloned().map(planned).collect()
        } else {
            self.execute(policy, &plan, deadline).await
        };
        Ok(report(inventory, plan, actions, dry_run))
    }

    async fn inventory(&self, now: Timestamp, deadline: Instant) -> Result<Inventory, InventoryError> {
        let failed = |what| move |source| InventoryError { region: self.source_region.clone(), what, source };
        let targets = async {
            let requests = self.targets.iter().map(async |(region, rds)| {
                let found = region_inventory(region, rds, deadline).await;
                if let Err(error) = &found {
                    tracing::warn!(
                        region = %region, %error,
                        "could not list snapshots in a target region; this run changes nothing there"
                    );
                }
                (region.clone(), found.ok())
            });
            join_all(requests).await.into_iter().collect()
        };
        let (databases, source, targets) = tokio::join!(
            with_deadline(deadline, self.source.databases()),
            region_inventory(&self.source_region, &self.source, deadline),
            targets
        );
        Ok(Inventory {
            now,
            source_region: self.source_region.clone(),
            databases: databases.map_err(failed("DB instances"))?,
            source: source.map_err(failed("snapshots"))?,
            targets,
        })
    }

    /// Executes the actions of a region one after the other, and the regions concurrently.
    async fn execute(&self, policy: &Policy, plan: &SnapshotPlan, deadline: Instant) -> Vec<ActionReport> {
        let regions = std::iter::once((&self.source_region, &self.source)).chain(&self.targets);
        let reports = regions.map(async |(region, rds)| {
            let mut reports = Vec::new();
            let mut stop = None;
            for action in plan.actions.iter().filter(|action| action.region == *region) {
                let outcome = match stop {
                    Some(why) => ActionOutcome::Deferred { why },
                    None => execute_action(rds, policy, action, deadline).await,
                };
                if let ActionOutcome::Failed { error } = &outcome {
                    tracing::error!(
                        action = action.kind.name(), region, id = %action.id, error,
                        "RDS refused an action on a snapshot; the next run tries again"
                    );
                }
                // More calls would be throttled or unanswered, too. The next run continues.
                if let ActionOutcome::Deferred {
                    why: why @ ("throttled" | "no time remaining" | "no answer"),
                } = outcome
                {
                    stop = Some(why);
                }
                reports.push(ActionReport { action: action.clone(), outcome });
            }
            reports
        });
        join_all(reports).await.into_iter().flatten().collect()
    }
}

async fn execute_action<R: Rds>(
    rds: &R,
    policy: &Policy,
    action: &SnapshotAction,
    deadline: Instant,
) -> ActionOutcome {
    if Instant::now() >= deadline {
        return ActionOutcome::Deferred { why: "no time remaining" };
    }
    let tag = own_tag(policy);
    let done = match &action.kind {
        ActionKind::Create => with_deadline(deadline, rds.create(&action.database, &action.id, tag)).await,
        ActionKind::Copy { source_arn, kms_key_id } => {
            let request = CopyRequest { source_arn, id: &action.id, kms_key_id: kms_key_id.as_deref(), tag };
            with_deadline(deadline, rds.copy(request)).await
        }
        ActionKind::Delete => with_deadline(deadline, rds.delete(&action.id)).await,
    };
    let deferred = |why| ActionOutcome::Deferred { why };
    match (&action.kind, done) {
        (_, Ok(())) => ActionOutcome::Done,
        // A concurrent run has deleted it.
        (ActionKind::Delete, Err(RdsError::NotFound)) => ActionOutcome::Done,
        (ActionKind::Create | ActionKind::Copy { .. }, Err(RdsError::Exists)) => {
            existing_snapshot_outcome(policy, with_deadline(deadline, rds.snapshot(&action.id)).await)
        }
        (_, Err(RdsError::TooManyCopies)) => deferred("too many copies are in progress"),
        (_, Err(RdsError::TooManySnapshots)) => deferred("the snapshot quota is used up"),
        (_, Err(RdsError::Throttled)) => deferred("throttled"),
        (_, Err(RdsError::Unreachable(_))) => deferred("no answer"),
        (_, Err(RdsError::NotInState)) => deferred("the state of the database or snapshot does not allow it"),
        (_, Err(RdsError::NotFound)) => deferred("the database or the original does not exist any more"),
        (_, Err(error)) => ActionOutcome::Failed { error: error.to_string() },
    }
}

/// A snapshot that exists already counts as success if fairdrop made it: in a concurrent run, or in an earlier
/// run that died.
fn existing_snapshot_outcome(policy: &Policy, existing: Result<Snapshot, RdsError>) -> ActionOutcome {
    match existing {
        Ok(existing) if !existing.is_own(&policy.id_prefix) => ActionOutcome::Failed {
            error: "a snapshot that fairdrop did not make has the identifier; rename it".into(),
        },
        Ok(existing) if existing.state == SnapshotState::Failed => {
            ActionOutcome::Deferred { why: "a failed snapshot has the identifier" }
        }
        Ok(_) => ActionOutcome::Existed,
        Err(_) => {
            ActionOutcome::Deferred { why: "the identifier is taken, and its snapshot could not be read" }
        }
    }
}

async fn region_inventory<R: Rds>(
    region: &str,
    rds: &R,
    deadline: Instant,
) -> Result<RegionInventory, RdsError> {
    let (snapshots, quota) =
        tokio::join!(with_deadline(deadline, rds.snapshots()), with_deadline(deadline, rds.quota()));
    // A run works without the quota.
    let quota = quota.unwrap_or_else(|error| {
        tracing::warn!(region, %error, "could not read the snapshot quota; this run assumes the default quota");
        None
    });
    Ok(RegionInventory { snapshots: snapshots?, quota })
}

async fn with_deadline<T>(
    deadline: Instant,
    call: impl Future<Output = Result<T, RdsError>>,
) -> Result<T, RdsError> {
    let late = || RdsError::Unreachable("the run reached its time limit".into());
    timeout_at(deadline, call).await.unwrap_or_else(|_| Err(late()))
}

fn report(
    inventory: Inventory,
    plan: SnapshotPlan,
    actions: Vec<ActionReport>,
    dry_run: bool,
) -> SnapshotReport {
    let summary = |region: Option<&RegionInventory>| RegionSummary {
        answers: region.is_some(),
        snapshots: region.map(|region| region.snapshots.len()),
        quota_remaining: region.and_then(|region| region.quota).map(SnapshotQuota::remaining),
    };
    let source = (inventory.source_region.clone(), summary(Some(&inventory.source)));
    let targets = inventory.targets.iter().map(|(region, found)| (region.clone(), summary(found.as_ref())));
    SnapshotReport {
        dry_run,
        now: inventory.now,
        regions: std::iter::once(source).chain(targets).collect(),
        recovery_points: plan.recovery_points,
        actions,
        deferred: plan.deferred,
        notices: plan.notices,
    }
}
