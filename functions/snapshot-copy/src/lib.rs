//! Snapshots of the ledger in more than one region, as a reconciler.
//!
//! Each run takes an inventory ([`snapshot`]), plans what is due under the policy ([`policy`], [`plan`],
//! [`retention`]), and executes the plan ([`mod@run`]). It never waits until RDS has made a snapshot or a copy: the
//! next run finds it in its inventory. [`aws`] makes the calls to RDS; tests replace it by a simulator.

pub mod action;
pub mod api;
pub mod aws;
mod copies;
pub mod managed;
pub mod plan;
pub mod policy;
pub mod report;
pub mod retention;
pub mod run;
pub mod snapshot;

use aws::AwsRds;
use policy::Policy;
use rds::Timestamp;
use report::SnapshotReport;
use run::{InventoryError, Regions};
use serde::Deserialize;
use serde_json::Value;
use shared::config::{ConfigError, Source};
use shared::schedule::ScheduledEvent;
use std::time::Duration;
use tokio::time::Instant;

pub use copies::IN_PROGRESS_LIMIT;

/// Limits a run if the invocation has no usable deadline.
pub const RUN_LIMIT: Duration = Duration::from_secs(100);

/// What one process of the function keeps between runs.
#[derive(Debug)]
pub struct App {
    policy: Policy,
    regions: Regions<AwsRds>,
}

impl App {
    /// Reads the policy of a function in `own_region`. Opens no connection.
    pub async fn from_config(source: Source<'_>, own_region: &str) -> Result<Self, ConfigError> {
        let policy = Policy::from_config(source, own_region)?;
        let names = policy.targets.iter().map(|target| target.region.clone());
        Ok(Self { regions: aws::regions(own_region, names).await, policy })
    }
}

/// What starts a run: the schedule, or an operator's command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunRequest {
    /// Whether the run only plans.
    pub dry_run: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OperatorCommand {
    dry_run: bool,
}

impl TryFrom<Value> for RunRequest {
    type Error = &'static str;

    fn try_from(event: Value) -> Result<Self, Self::Error> {
        if let Ok(OperatorCommand { dry_run }) = serde_json::from_value(event.clone()) {
            return Ok(Self { dry_run });
        }
        match serde_json::from_value::<ScheduledEvent>(event) {
            Ok(_) => Ok(Self { dry_run: false }),
            Err(_) => Err(
                "unknown event; send the event of an EventBridge schedule, {\"dry_run\": true} or {\"dry_run\": false}",
            ),
        }
    }
}

/// A run that ends within `time`.
pub async fn run(app: &App, request: RunRequest, time: Duration) -> Result<SnapshotReport, InventoryError> {
    let deadline = Instant::now() + time;
    // Boxed: an SDK's futures are deep.
    let run = app.regions.run(&app.policy, Timestamp::now(), deadline, request.dry_run);
    let report = Box::pin(run).await?;
    report.write_metrics();
    for notice in &report.notices {
        tracing::warn!(
            notice = notice.notice, subject = %notice.subject, text = notice.text,
            "snapshots need the operator's attention; docs/runbook/snapshots.md lists the notices"
        );
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_schedule_or_a_command_starts_a_run() {
        let schedule = json!({ "detail-type": "Scheduled Event", "source": "aws.scheduler", "detail": "{}" });
        assert_eq!(RunRequest::try_from(schedule), Ok(RunRequest { dry_run: false }));
        assert_eq!(RunRequest::try_from(json!({ "dry_run": true })), Ok(RunRequest { dry_run: true }));
        for other in [
            json!(null),
            json!({}),
            json!({ "dry_run": "yes" }),
            json!({ "dry_run": true, "x": 1 }),
            json!([]),
        ] {
            assert!(RunRequest::try_from(other.clone()).is_err(), "{other}");
        }
    }
}
