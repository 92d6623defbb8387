//! The checkout drain, in the main region.
//!
//! One run drains every open item about 20 times a second for three minutes, and a run starts every minute: a start
//! that comes late, or never, costs nothing. Runs at the same time are harmless: each step is one atomic script,
//! which takes an order out of the queue only once.

mod item_drain;

use item_drain::Drained;
use lease::Lease;
use shared::config::{self, ConfigError, RedisConfig, Source};
use shared::item_runs::{self, Summary};
use shared::queue::{CHECKOUT_SCRIPTS, HEARTBEAT_INTERVAL, Link, Queue};
use shared::schedule;
use shared::telemetry::Telemetry;
use std::time::{Duration, Instant};

/// State that one process of the function keeps between runs.
#[derive(Debug)]
pub struct App {
    queue: Queue,
    lease: Lease,
    telemetry: Telemetry,
    longest_run: Duration,
}

impl App {
    /// Reads the configuration. Opens no connection.
    pub async fn from_config(source: Source<'_>, telemetry: Telemetry) -> Result<Self, ConfigError> {
        let queue = Queue::new(Link::with_scripts(RedisConfig::main(source)?, CHECKOUT_SCRIPTS));
        Ok(Self {
            // Only whether there are logs counts here: the worker reads them.
            queue: queue.with_order_logs(config::optional(source, "FAIRDROP_ORDER_LOGS").is_some()),
            lease: Lease::from_config(source).await?,
            telemetry,
            longest_run: schedule::loop_run(source, "FAIRDROP_DRAIN_RUN_SECONDS")?,
        })
    }

    /// Starts connecting in the background.
    pub fn open(&self) {
        self.queue.open();
    }

    /// The longest run, also used if the invocation has no usable deadline.
    pub fn longest_run(&self) -> Duration {
        self.longest_run
    }
}

/// Drains all items that are not idle for `time`.
pub async fn run(app: &App, time: Duration) -> Summary<Drained> {
    let until = Instant::now() + time;
    app.lease.begin().await;
    let work =
        |item_id, listed| item_drain::run(app.queue.clone(), app.lease.clone(), item_id, listed, until);
    let list = || app.queue.active_item_ids(Duration::ZERO);
    let items = item_runs::run(list, &app.telemetry, until, work);
    let heartbeats = app.lease.write_heartbeats(&app.queue, HEARTBEAT_INTERVAL, until);
    tokio::join!(items, app.lease.keep_until(until), heartbeats).0
}
