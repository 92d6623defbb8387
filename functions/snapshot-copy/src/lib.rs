//! Snapshots of the ledger in more than one region, as a reconciler.
//!
//! Each run looks at what there is ([`snapshot`]), plans what is due under the policy
//! ([`policy`], [`plan`], [`retention`]), and carries it out as far as RDS lets it
//! ([`round`]). It never waits for a snapshot or a copy: the next run sees what has become
//! of it. What the plan knows of RDS, [`aws`] has asked; the tests ask a simulator.

pub mod api;
pub mod aws;
mod copies;
pub mod managed;
pub mod plan;
pub mod policy;
mod presign;
pub mod report;
pub mod retention;
pub mod round;
pub mod snapshot;

use aws::AwsRds;
use policy::Policy;
use rds::Moment;
use report::Report;
use round::{Blind, Regions};
use serde::Deserialize;
use serde_json::Value;
use shared::config::{ConfigError, Source};
use shared::schedule::ScheduledEvent;
use std::time::Duration;
use tokio::time::Instant;

pub use copies::IN_PROGRESS_LIMIT;

/// How long a run takes at most, where the invocation has no usable deadline.
pub const RUN_LIMIT: Duration = Duration::from_secs(100);

/// What one process of the function keeps between runs.
#[derive(Debug)]
pub struct App {
    policy: Policy,
    regions: Regions<AwsRds>,
}

impl App {
    /// Reads the policy of a function in `own_region`. Nothing is connected yet.
    pub async fn from_config(source: Source<'_>, own_region: &str) -> Result<Self, ConfigError> {
        let policy = Policy::from_config(source, own_region)?;
        let names = policy.targets.iter().map(|target| target.region.clone());
        Ok(Self { regions: aws::regions(own_region, names).await, policy })
    }
}

/// What starts a run: the schedule, or a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// Whether only the plan is wanted.
    pub dry_run: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ByHand {
    dry_run: bool,
}

impl TryFrom<Value> for Trigger {
    type Error = &'static str;

    fn try_from(event: Value) -> Result<Self, Self::Error> {
        if let Ok(ByHand { dry_run }) = serde_json::from_value(event.clone()) {
            return Ok(Self { dry_run });
        }
        match serde_json::from_value::<ScheduledEvent>(event) {
            Ok(_) => Ok(Self { dry_run: false }),
            Err(_) => Err(
                "this function expects an EventBridge schedule's event, or {\"dry_run\": true} or {\"dry_run\": false}",
            ),
        }
    }
}

/// Carries out a run that ends within `time`.
pub async fn run(app: &App, trigger: Trigger, time: Duration) -> Result<Report, Blind> {
    let deadline = Instant::now() + time;
    // Boxed: an SDK's futures are deep.
    let report = Box::pin(app.regions.run(&app.policy, Moment::now(), deadline, trigger.dry_run)).await?;
    report.measure();
    for notice in &report.notices {
        tracing::warn!(notice = notice.notice, of = %notice.of, "{}", notice.text);
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_meant_starts_a_run() {
        let schedule = json!({ "detail-type": "Scheduled Event", "source": "aws.scheduler", "detail": "{}" });
        assert_eq!(Trigger::try_from(schedule), Ok(Trigger { dry_run: false }));
        assert_eq!(Trigger::try_from(json!({ "dry_run": true })), Ok(Trigger { dry_run: true }));
        for other in [
            json!(null),
            json!({}),
            json!({ "dry_run": "yes" }),
            json!({ "dry_run": true, "x": 1 }),
            json!([]),
        ] {
            assert!(Trigger::try_from(other.clone()).is_err(), "{other}");
        }
    }
}
