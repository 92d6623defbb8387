//! Whether the standby could take over and, if not, why.
//!
//! Once a minute the function samples the replica for a minute ([`run`]). The `collector` asks both ledgers, RDS and
//! CloudWatch at the same time, and their answers are one [`sample`]. A pure function ([`judge`], with `broken` and
//! `size`) reaches a [`verdict`] from a [`window`] of two minutes and from earlier lags. How a sample changes the saved
//! [`state`], and which notice is due by what a destination was last [`notified`] of, is pure, too. The `store` saves
//! the state and the `publisher` sends the [`notice`].
//!
//! The function restarts and changes nothing.

mod broken;
mod collector;
mod figures;
mod instances;
pub mod judge;
pub mod notice;
pub mod notified;
mod publisher;
pub mod report;
pub mod run;
pub mod sample;
mod size;
pub mod state;
mod store;
pub mod trigger;
pub mod verdict;
pub mod window;

use collector::Collector;
use ledger::Ledger;
use publisher::Publisher;
use shared::config::{self, ConfigError, Source};
use state::LagSettings;
use std::sync::Mutex;
use std::time::Duration;
use store::StateStore;
use versioned::TableItem;

/// How long a run takes at most if the invocation has no usable deadline.
pub const RUN_LIMIT: Duration = Duration::from_secs(85);

#[derive(Clone, Copy, Debug)]
struct SampleTiming {
    interval: Duration,
    /// A scheduled run begins no sample after this.
    run: Duration,
}

/// What one process of the function keeps between runs.
#[derive(Debug)]
pub struct App {
    settings: LagSettings,
    timing: SampleTiming,
    collector: Collector,
    store: StateStore,
    publisher: Publisher,
    alarm_arn_prefix: String,
}

impl App {
    /// Reads the configuration of a function in `region`. Nothing is connected yet.
    pub async fn from_config(source: Source<'_>, region: &str) -> Result<Self, ConfigError> {
        let replica = config::required(source, "FAIRDROP_REPLICA_INSTANCE")?;
        let main = config::required(source, "FAIRDROP_MAIN_INSTANCE")?;
        let main_region = config::required(source, "FAIRDROP_MAIN_REGION")?;
        let topic_arn = config::optional(source, "FAIRDROP_NOTICE_TOPIC_ARN");
        let sample_seconds = config::number(source, "FAIRDROP_SAMPLE_SECONDS", 10, 1, 60)?;
        let run_seconds = config::number(source, "FAIRDROP_LAG_RUN_SECONDS", 55, 1, 60)?;
        let repeat_minutes: i64 = config::number(source, "FAIRDROP_REPEAT_MINUTES", 15, 15, 1_440)?;
        let lag_limit_seconds: u32 = config::number(source, "FAIRDROP_LAG_LIMIT_SECONDS", 10, 4, 600)?;
        let settings = LagSettings {
            replica: replica.clone(),
            region: region.to_owned(),
            lag_limit_seconds: f64::from(lag_limit_seconds),
            repeat_ms: repeat_minutes * 60_000,
            runbook: config::optional(source, "FAIRDROP_RUNBOOK_URL")
                .unwrap_or_else(|| "docs/runbook/replica-lag.md".into()),
            has_topic: topic_arn.is_some(),
        };
        let (aws, aws_of_main) = (sdk::config(region), sdk::config(&main_region));
        let collector = Collector {
            replica: Ledger::of_replica(source)?,
            main: Ledger::of_main(source, &main_region)?,
            rds: rds::client(&aws, region),
            main_rds: rds::client(&aws_of_main, &main_region),
            cloudwatch: aws_sdk_cloudwatch::Client::new(&aws),
            replica_id: replica.clone(),
            main_id: main,
            redis_group: config::optional(source, "FAIRDROP_REDIS_GROUP"),
            recent: Mutex::default(),
        };
        Ok(Self {
            settings,
            timing: SampleTiming {
                interval: Duration::from_secs(sample_seconds),
                run: Duration::from_secs(run_seconds),
            },
            collector,
            store: StateStore::new(TableItem {
                client: aws_sdk_dynamodb::Client::new(&aws),
                table: config::required(source, "FAIRDROP_STATE_TABLE")?,
                id: format!("replica-lag/{replica}"),
            }),
            publisher: Publisher {
                sns: aws_sdk_sns::Client::new(&aws),
                eventbridge: aws_sdk_eventbridge::Client::new(&aws),
                topic_arn,
            },
            alarm_arn_prefix: config::required(source, "FAIRDROP_ALARM_ARN_PREFIX")?,
        })
    }

    /// The prefix of the ARNs of this stack's alarms.
    pub fn alarm_arn_prefix(&self) -> &str {
        &self.alarm_arn_prefix
    }
}
