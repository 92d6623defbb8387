//! The checkout drain, in the main region.
//!
//! One run drains every open item about 20 times a second until shortly before its
//! deadline, and the next run takes over. Each item has a task of its own, so that
//! one that fails or hangs does not stop the others. Two runs at once are harmless:
//! what a run does is done by one script at a time, and done once.

mod item_drain;

use serde::Serialize;
use shared::config::{self, ConfigError, RedisConfig, Source};
use shared::item::ItemId;
use shared::queue::{Link, Queue};
use shared::telemetry::Telemetry;
use std::collections::HashSet;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How often the list of items is read again.
const LIST_INTERVAL: Duration = Duration::from_secs(1);
/// How often metrics are written during a run.
const FLUSH_INTERVAL: Duration = Duration::from_secs(10);

/// What one process of the function keeps between runs.
#[derive(Debug)]
pub struct App {
    queue: Queue,
    telemetry: Telemetry,
    wait_replicas: u32,
    run_seconds: u64,
}

/// What a run did, over all items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Items seen.
    pub items: u64,
    /// Orders that became reservations.
    pub reserved: u64,
    /// Orders dropped by the gates, or because their buyer had a unit.
    pub dropped: u64,
    /// Calls to Redis that failed.
    pub failures: u64,
}

impl App {
    /// Reads the configuration. Nothing is connected yet.
    pub fn from_config(source: Source, telemetry: Telemetry) -> Result<Self, ConfigError> {
        Ok(Self {
            queue: Queue::new(Link::new(RedisConfig::main(source)?)),
            telemetry,
            wait_replicas: config::number(source, "FAIRDROP_WAIT_REPLICAS", 0, 0, 5)?,
            run_seconds: config::number(source, "FAIRDROP_DRAIN_RUN_SECONDS", 62, 1, 890)?,
        })
    }

    /// Starts connecting in the background.
    pub fn open(&self) {
        self.queue.open();
    }

    /// How long a run takes at most, and where the invocation has no usable deadline.
    pub fn fallback_run_time(&self) -> Duration {
        Duration::from_secs(self.run_seconds)
    }
}

/// Drains all items for `time`.
pub async fn run(app: &App, time: Duration) -> Summary {
    let until = Instant::now() + time;
    let mut summary = Summary::default();
    let mut drained: HashSet<ItemId> = HashSet::new();
    let mut tasks = JoinSet::new();
    let mut flushed = Instant::now();
    while Instant::now() < until {
        match app.queue.item_ids().await {
            Ok(ids) => {
                for item_id in ids {
                    if drained.insert(item_id.clone()) {
                        summary.items += 1;
                        tasks.spawn(item_drain::run(app.queue.clone(), item_id, app.wait_replicas, until));
                    }
                }
            }
            Err(error) => {
                summary.failures += 1;
                tracing::warn!(%error, "the list of items cannot be read");
            }
        }
        // A task ends early where there is no item under its id; it is looked at again
        // with the next list.
        while let Some(ended) = tasks.try_join_next() {
            note(ended, &mut summary, &mut drained);
        }
        if flushed.elapsed() >= FLUSH_INTERVAL {
            app.telemetry.flush();
            flushed = Instant::now();
        }
        let left = until.saturating_duration_since(Instant::now());
        tokio::time::sleep(LIST_INTERVAL.min(left)).await;
    }
    while let Some(ended) = tasks.join_next().await {
        note(ended, &mut summary, &mut drained);
    }
    app.telemetry.invocation_done();
    tracing::info!(?summary, "drained");
    summary
}

fn note(
    ended: Result<item_drain::Ended, tokio::task::JoinError>,
    summary: &mut Summary,
    drained: &mut HashSet<ItemId>,
) {
    match ended {
        Ok(ended) => {
            summary.reserved += ended.reserved;
            summary.dropped += ended.dropped;
            summary.failures += ended.failures;
            if ended.look_again {
                drained.remove(&ended.item_id);
            }
        }
        Err(error) => {
            summary.failures += 1;
            tracing::error!(%error, "the drain of an item died");
        }
    }
}
