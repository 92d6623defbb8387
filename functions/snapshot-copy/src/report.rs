//! What a run has found and done: the invocation's answer, and metrics.

use crate::managed::RecoveryPoint;
use crate::plan::{Action, Notice};
use rds::Moment;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// The answer to an invocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// The moment of the run.
    pub now: Moment,
    /// How each region stands.
    pub regions: BTreeMap<String, RegionReport>,
    /// How far a restore would throw one back, before the run's actions.
    pub recovery_points: Vec<RecoveryPoint>,
    /// What was due, and what came of it.
    pub actions: Vec<Carried>,
    /// Due, and left to the next run by a limit.
    pub deferred: usize,
    /// What a person should know.
    pub notices: BTreeSet<Notice>,
}

/// How a region stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RegionReport {
    /// Whether it could be asked.
    pub answers: bool,
    /// Manual snapshots there, others' too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<usize>,
    /// How many more there may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota_left: Option<u32>,
}

/// An action, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Carried {
    /// The action.
    #[serde(flatten)]
    pub action: Action,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What came of an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// It would be carried out.
    Planned,
    /// RDS has taken it on.
    Done,
    /// It had been done by another run.
    Existed,
    /// The next run sees to it.
    Deferred {
        /// Why.
        why: &'static str,
    },
    /// It was refused for a reason that does not pass by itself.
    Failed {
        /// What RDS said.
        error: String,
    },
}

impl Outcome {
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

impl Report {
    /// The age of the oldest recovery point of any database in any region, in seconds;
    /// nothing where one is not known or there is none.
    pub fn oldest_recovery_point_seconds(&self) -> Option<i64> {
        let ages = self.recovery_points.iter().map(|point| point.age_seconds);
        ages.collect::<Option<Vec<i64>>>()?.into_iter().max()
    }

    /// The smallest quota left in any region that tells.
    pub fn least_quota_left(&self) -> Option<u32> {
        self.regions.values().filter_map(|region| region.quota_left).min()
    }

    /// Writes the run's metrics.
    pub fn measure(&self) {
        for point in &self.recovery_points {
            if let Some(age) = point.age_seconds {
                let (database, region) = (point.database.clone(), point.region.clone());
                metrics::gauge!("snapshot_age_seconds", "Database" => database, "SnapshotRegion" => region)
                    .set(age as f64);
            }
        }
        // Not written where it is not known: the alarm on it takes silence for the worst.
        if let Some(age) = self.oldest_recovery_point_seconds() {
            metrics::gauge!("oldest_recovery_point_seconds").set(age as f64);
        }
        for (name, region) in &self.regions {
            if let Some(left) = region.quota_left {
                metrics::gauge!("snapshot_quota_left", "SnapshotRegion" => name.clone()).set(f64::from(left));
            }
        }
        if let Some(left) = self.least_quota_left() {
            metrics::gauge!("least_snapshot_quota_left").set(f64::from(left));
        }
        let mut failed = 0;
        for one in &self.actions {
            let (action, outcome) = (one.action.step.name(), one.outcome.name());
            metrics::counter!("snapshot_actions", "Action" => action, "Outcome" => outcome).increment(1);
            failed += u64::from(matches!(one.outcome, Outcome::Failed { .. }));
        }
        metrics::counter!("snapshot_actions_failed").increment(failed);
        metrics::counter!("snapshot_actions_deferred").increment(self.deferred as u64);
    }
}
