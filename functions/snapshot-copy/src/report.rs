//! The invocation's answer, and the metrics of a run.

use crate::action::{SnapshotAction, SnapshotNotice};
use crate::managed::RecoveryPoint;
use rds::Timestamp;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// The answer to an invocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SnapshotReport {
    /// Whether the run only planned.
    pub dry_run: bool,
    /// The time of the run.
    pub now: Timestamp,
    pub regions: BTreeMap<String, RegionSummary>,
    /// The recovery points before the run's actions.
    pub recovery_points: Vec<RecoveryPoint>,
    pub actions: Vec<ActionReport>,
    /// The number of due actions that a limit leaves to the next run.
    pub deferred: usize,
    pub notices: BTreeSet<SnapshotNotice>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RegionSummary {
    pub answers: bool,
    /// The number of manual snapshots, including those that fairdrop did not make.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<usize>,
    /// The number of manual snapshots that the region still accepts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota_remaining: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ActionReport {
    #[serde(flatten)]
    pub action: SnapshotAction,
    #[serde(flatten)]
    pub outcome: ActionOutcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum ActionOutcome {
    /// A dry run: the action would be executed.
    Planned,
    /// RDS has accepted the call.
    Done,
    /// Another run has done it.
    Existed,
    /// The next run tries again.
    Deferred { why: &'static str },
    /// RDS refused the call for a reason that does not pass by itself.
    Failed { error: String },
}

impl ActionOutcome {
    /// Its name in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Done => "done",
            Self::Existed => "existed",
            Self::Deferred { .. } => "deferred",
            Self::Failed { .. } => "failed",
        }
    }
}

impl SnapshotReport {
    /// The age of the oldest recovery point of any database in any region, in seconds. `None` if one is
    /// unknown or missing.
    pub fn oldest_recovery_point_seconds(&self) -> Option<i64> {
        let ages = self.recovery_points.iter().map(|point| point.age_seconds);
        ages.collect::<Option<Vec<i64>>>()?.into_iter().max()
    }

    /// The lowest remaining quota of the regions that report one.
    pub fn lowest_quota_remaining(&self) -> Option<u32> {
        self.regions.values().filter_map(|region| region.quota_remaining).min()
    }

    pub fn write_metrics(&self) {
        for point in &self.recovery_points {
            if let Some(age) = point.age_seconds {
                let (database, region) = (point.database.clone(), point.region.clone());
                metrics::gauge!("snapshot_age_seconds", "Database" => database, "SnapshotRegion" => region)
                    .set(age as f64);
            }
        }
        // Not written if it is unknown: the alarm treats missing data as breaching.
        if let Some(age) = self.oldest_recovery_point_seconds() {
            metrics::gauge!("oldest_recovery_point_seconds").set(age as f64);
        }
        for (name, region) in &self.regions {
            if let Some(remaining) = region.quota_remaining {
                metrics::gauge!("snapshot_quota_remaining", "SnapshotRegion" => name.clone())
                    .set(f64::from(remaining));
            }
        }
        if let Some(remaining) = self.lowest_quota_remaining() {
            metrics::gauge!("lowest_snapshot_quota_remaining").set(f64::from(remaining));
        }
        let mut failed = 0;
        for one in &self.actions {
            let (action, outcome) = (one.action.kind.name(), one.outcome.name());
            metrics::counter!("snapshot_actions", "Action" => action, "Outcome" => outcome).increment(1);
            failed += u64::from(matches!(one.outcome, ActionOutcome::Failed { .. }));
        }
        metrics::counter!("snapshot_actions_failed").increment(failed);
        metrics::counter!("snapshot_actions_deferred").increment(self.deferred as u64);
    }
}
