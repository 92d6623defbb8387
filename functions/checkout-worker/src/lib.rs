//! The checkout worker, in the main region: what the drain has promised becomes a sale.
//!
//! One run takes tasks from every item's stream until shortly before its deadline, and
//! the next run takes over. A batch is one transaction in the ledger, which decides; Redis
//! is told after the commit, and the tasks are acknowledged last. Whatever stops a worker
//! in between, another does it again, and the ledger makes that harmless. So are several
//! workers at once.
//!
//! While the ledger is away no task is taken; intake and drain go on within the stock.

mod due;
mod heartbeat;
mod item_work;
mod tasks;

pub use item_work::{Found, ItemWork, Unfinished, Worked};

use lease::Lease;
use ledger::Ledger;
use shared::config::{self, ConfigError, RedisConfig, Source};
use shared::item_runs::{self, Summary};
use shared::queue::{Link, Queue};
use shared::telemetry::Telemetry;
use std::time::{Duration, Instant};

/// What one process of the function keeps between runs.
#[derive(Debug)]
pub struct App {
    desk: Desk,
    telemetry: Telemetry,
    run_seconds: u64,
}

/// What the work on every item shares.
#[derive(Clone, Debug)]
pub struct Desk {
    queue: Queue,
    /// Over a connection of its own: it waits for replicas, and blocks meanwhile.
    taking: Queue,
    ledger: Ledger,
    lease: Lease,
    wait_replicas: u32,
    left_after: Duration,
}

impl Desk {
    /// Reads the configuration. Nothing is connected yet.
    pub async fn from_config(source: Source<'_>) -> Result<Self, ConfigError> {
        let redis = RedisConfig::main(source)?;
        let left_after_ms = config::number(source, "FAIRDROP_TASK_LEFT_AFTER_MS", 12_000, 100, 600_000)?;
        Ok(Self {
            queue: Queue::new(Link::new(redis.clone())),
            taking: Queue::new(Link::new(redis)),
            ledger: Ledger::from_config(source)?,
            lease: Lease::from_config(source).await?,
            wait_replicas: config::number(source, "FAIRDROP_WAIT_REPLICAS", 0, 0, 5)?,
            left_after: Duration::from_millis(left_after_ms),
        })
    }
}

impl App {
    /// Reads the configuration. Nothing is connected yet.
    pub async fn from_config(source: Source<'_>, telemetry: Telemetry) -> Result<Self, ConfigError> {
        Ok(Self {
            desk: Desk::from_config(source).await?,
            telemetry,
            run_seconds: config::number(source, "FAIRDROP_WORKER_RUN_SECONDS", 62, 1, 890)?,
        })
    }

    /// Starts connecting in the background.
    pub fn open(&self) {
        self.desk.queue.open();
        self.desk.taking.open();
    }

    /// How long a run takes at most, and where the invocation has no usable deadline.
    pub fn longest_run(&self) -> Duration {
        Duration::from_secs(self.run_seconds)
    }
}

/// Works on all items for `time`, and keeps the ledger's heartbeat.
pub async fn run(app: &App, time: Duration) -> Summary<Worked> {
    let until = Instant::now() + time;
    app.desk.lease.begin().await;
    let work = |item_id| item_work::run(app.desk.clone(), item_id, until);
    let items = item_runs::run(|| app.desk.queue.item_ids(), &app.telemetry, until, work);
    let heart = heartbeat::beat_until(&app.desk.ledger, until);
    let (summary, (), ()) = tokio::join!(items, heart, app.desk.lease.keep_until(until));
    summary
}
