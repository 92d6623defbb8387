//! The checkout drain, in the main region.
//!
//! One run drains every open item about 20 times a second until shortly before its
//! deadline, and the next run takes over. Two runs at once are harmless: what a run
//! does is done by one script at a time, and done once.

mod item_drain;

use item_drain::Drained;
use lease::Lease;
use shared::config::{self, ConfigError, RedisConfig, Source};
use shared::item_runs::{self, Summary};
use shared::queue::{BEAT_INTERVAL, Link, Queue};
use shared::telemetry::Telemetry;
use std::time::{Duration, Instant};

/// What one process of the function keeps between runs.
#[derive(Debug)]
pub struct App {
    queue: Queue,
    lease: Lease,
    telemetry: Telemetry,
    run_seconds: u64,
}

impl App {
    /// Reads the configuration. Nothing is connected yet.
    pub async fn from_config(source: Source<'_>, telemetry: Telemetry) -> Result<Self, ConfigError> {
        Ok(Self {
            queue: Queue::new(Link::new(RedisConfig::main(source)?)),
            lease: Lease::from_config(source).await?,
            telemetry,
            run_seconds: config::number(source, "FAIRDROP_DRAIN_RUN_SECONDS", 62, 1, 890)?,
        })
    }

    /// Starts connecting in the background.
    pub fn open(&self) {
        self.queue.open();
    }

    /// How long a run takes at most, and where the invocation has no usable deadline.
    pub fn longest_run(&self) -> Duration {
        Duration::from_secs(self.run_seconds)
    }
}

/// Drains all items for `time`.
pub async fn run(app: &App, time: Duration) -> Summary<Drained> {
    let until = Instant::now() + time;
    app.lease.begin().await;
    let work = |item_id| item_drain::run(app.queue.clone(), app.lease.clone(), item_id, until);
    let items = item_runs::run(|| app.queue.item_ids(), &app.telemetry, until, work);
    tokio::join!(items, app.lease.keep_until(until), beat_until(app, until)).0
}

/// Tells those who read a replica what time it is on main; while another may be main, nobody.
async fn beat_until(app: &App, until: Instant) {
    while Instant::now() < until {
        if app.lease.permit().is_ok()
            && let Err(error) = app.queue.beat().await
        {
            tracing::debug!(%error, "Redis takes no heartbeat");
        }
        let left = until.saturating_duration_since(Instant::now());
        tokio::time::sleep(BEAT_INTERVAL.min(left)).await;
    }
}
