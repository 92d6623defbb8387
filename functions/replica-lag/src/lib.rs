//! Whether the standby could take over, and why not.
//!
//! Once a minute the function watches the replica for a minute ([`watch`]): it asks both ledgers,
//! RDS and CloudWatch at once (`eyes`), and what they say is one [`sample`]. A window of samples
//! and what is known of the last weeks ([`window`]) is judged by a pure function ([`verdict`], with
//! `broken` and `size`). What a look changes in what is remembered ([`memory`]), and what
//! people are told ([`notice`]), is pure, too; `store` and `post` carry it out.
//!
//! It restarts and changes nothing.

mod broken;
mod eyes;
mod figures;
mod instances;
pub mod memory;
pub mod notice;
mod post;
pub mod report;
pub mod sample;
mod size;
mod store;
pub mod trigger;
pub mod verdict;
pub mod watch;
pub mod window;

use eyes::{Eyes, Recent};
use ledger::Ledger;
use memory::Settings;
use post::Post;
use shared::config::{self, ConfigError, Source};
use std::sync::Mutex;
use std::time::Duration;
use store::{Kept, Store};
use versioned::Place;

/// How long a run takes at most, where the invocation has no usable deadline.
pub const RUN_LIMIT: Duration = Duration::from_secs(85);

/// When it is looked.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// From one look to the next.
    pub sample_every: Duration,
    /// A scheduled run begins no look after this.
    pub watch: Duration,
}

/// What one process of the function keeps between runs.
#[derive(Debug)]
pub struct App {
    settings: Settings,
    timing: Timing,
    eyes: Eyes,
    store: Store,
    post: Post,
    /// What ARNs of this stack's alarms begin with.
    own_alarms: String,
    /// What this process has seen last, for when the table does not answer.
    last: Mutex<Kept>,
}

impl App {
    /// Reads the configuration of a function in `region`. Nothing is connected yet.
    pub async fn from_config(source: Source<'_>, region: &str) -> Result<Self, ConfigError> {
        let replica = config::required(source, "FAIRDROP_REPLICA_INSTANCE")?;
        let main = config::required(source, "FAIRDROP_MAIN_INSTANCE")?;
        let main_region = config::required(source, "FAIRDROP_MAIN_REGION")?;
        let topic_arn = config::optional(source, "FAIRDROP_NOTICE_TOPIC_ARN");
        let sample_seconds = config::number(source, "FAIRDROP_SAMPLE_SECONDS", 10, 1, 60)?;
        let watch_seconds = config::number(source, "FAIRDROP_WATCH_SECONDS", 55, 1, 60)?;
        let repeat_minutes: i64 = config::number(source, "FAIRDROP_REPEAT_MINUTES", 15, 1, 1_440)?;
        let behind_seconds: u32 = config::number(source, "FAIRDROP_BEHIND_SECONDS", 10, 4, 600)?;
        let settings = Settings {
            replica: replica.clone(),
            region: region.to_owned(),
            behind_seconds: f64::from(behind_seconds),
            repeat_ms: repeat_minutes * 60_000,
            runbook: config::optional(source, "FAIRDROP_RUNBOOK_URL")
                .unwrap_or_else(|| "docs/runbook/replica-lag.md".into()),
            has_topic: topic_arn.is_some(),
        };
        let (aws, aws_of_main) = (rds::sdk_config(region).await, rds::sdk_config(&main_region).await);
        let eyes = Eyes {
            replica: Ledger::of_replica(source)?,
            main: Ledger::of_main(source, &main_region)?,
            rds: rds::client(&aws, region),
            main_rds: rds::client(&aws_of_main, &main_region),
            cloudwatch: aws_sdk_cloudwatch::Client::new(&aws),
            main_cloudwatch: aws_sdk_cloudwatch::Client::new(&aws_of_main),
            replica_id: replica.clone(),
            main_id: main,
            redis_group: config::optional(source, "FAIRDROP_REDIS_GROUP"),
            recent: Recent::default(),
        };
        Ok(Self {
            settings,
            timing: Timing {
                sample_every: Duration::from_secs(sample_seconds),
                watch: Duration::from_secs(watch_seconds),
            },
            eyes,
            store: Store(Place {
                client: aws_sdk_dynamodb::Client::new(&aws),
                table: config::required(source, "FAIRDROP_WATCH_TABLE")?,
                id: format!("replica-lag/{replica}"),
            }),
            post: Post {
                topics: aws_sdk_sns::Client::new(&aws),
                events: aws_sdk_eventbridge::Client::new(&aws),
                topic_arn,
            },
            own_alarms: config::required(source, "FAIRDROP_ALARM_ARN_PREFIX")?,
            last: Mutex::default(),
        })
    }

    /// What ARNs of this stack's alarms begin with.
    pub fn own_alarms(&self) -> &str {
        &self.own_alarms
    }
}
