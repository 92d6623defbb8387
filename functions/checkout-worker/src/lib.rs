//! The checkout worker, in the main region: records the drain's reservations in the ledger.
//!
//! One run takes tasks from every item's stream for three minutes, and a run starts every minute: a start that comes
//! late, or never, costs nothing. A batch is one transaction in the ledger, which decides. The
//! worker updates Redis after the commit and acknowledges the tasks last. If a worker stops
//! in between, another one repeats the batch: every ledger write is idempotent. For the
//! same reason several workers may run at the same time.
//!
//! While the ledger is unavailable, no task is taken; intake and drain go on within the stock.

mod due;
mod ending;
mod heartbeat;
mod item_work;
mod prune;
mod restore;
mod service;
mod tasks;
mod voids;

pub use item_work::{BatchFill, ItemWork, RoundError, Worked};

use lease::Lease;
use ledger::Ledger;
use order_log::RegionLog;
use reconcile::Stores;
use service::ServiceRecord;
use shared::config::{self, ConfigError, RedisConfig, Source};
use shared::item_runs::{self, Summary};
use shared::queue::{CHECKOUT_SCRIPTS, Link, MAX_HOLD_GRACE, Queue, SPARE_HEARTBEAT_INTERVAL};
use shared::schedule;
use shared::telemetry::Telemetry;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// State that one process of the function keeps between runs.
#[derive(Debug)]
pub struct App {
    context: WorkerContext,
    /// The order logs of all regions; none in direct mode.
    logs: Vec<RegionLog>,
    /// For what the queue does not have.
    link: Link,
    telemetry: Telemetry,
    longest_run: Duration,
}

/// What the tasks of all items share.
#[derive(Clone, Debug)]
pub struct WorkerContext {
    queue: Queue,
    /// Uses its own connection, since waiting for replicas blocks a connection.
    task_queue: Queue,
    ledger: Ledger,
    lease: Lease,
    wait_replicas: u32,
    idle_after: Duration,
    service: Arc<ServiceRecord>,
}

impl WorkerContext {
    /// Reads the configuration. Opens no connection.
    pub async fn from_config(source: Source<'_>) -> Result<Self, ConfigError> {
        let redis = RedisConfig::main(source)?;
        let idle_after_ms = config::number(source, "FAIRDROP_TASK_IDLE_AFTER_MS", 12_000, 100, 600_000)?;
        let hold_grace_seconds =
            config::number(source, "FAIRDROP_HOLD_GRACE_SECONDS", 600, 0, MAX_HOLD_GRACE.as_secs())?;
        Ok(Self {
            queue: Queue::new(Link::with_scripts(redis.clone(), CHECKOUT_SCRIPTS)),
            task_queue: Queue::new(Link::new(redis)),
            ledger: Ledger::from_config(source)?,
            lease: Lease::from_config(source).await?,
            wait_replicas: config::number(source, "FAIRDROP_WAIT_REPLICAS", 0, 0, 5)?,
            idle_after: Duration::from_millis(idle_after_ms),
            service: Arc::new(ServiceRecord::new(Duration::from_secs(hold_grace_seconds))),
        })
    }
}

impl App {
    /// Reads the configuration. Opens no connection.
    pub async fn from_config(source: Source<'_>, telemetry: Telemetry) -> Result<Self, ConfigError> {
        Ok(Self {
            context: WorkerContext::from_config(source).await?,
            logs: RegionLog::all_from_config(source)?,
            link: Link::new(RedisConfig::main(source)?),
            telemetry,
            longest_run: schedule::loop_run(source, "FAIRDROP_WORKER_RUN_SECONDS")?,
        })
    }

    /// Starts connecting in the background.
    pub fn open(&self) {
        self.context.queue.open();
        self.context.task_queue.open();
    }

    fn stores(&self) -> Stores {
        let WorkerContext { queue, ledger, .. } = &self.context;
        Stores { link: self.link.clone(), queue: queue.clone(), ledger: ledger.clone() }
    }

    /// The longest run, also used if the invocation has no usable deadline.
    pub fn longest_run(&self) -> Duration {
        self.longest_run
    }
}

/// Works on all items that are not idle for `time`, restores those that wait for it, goes on with the end of finished
/// ones, and writes the heartbeats of the ledger and of Redis.
pub async fn run(app: &App, time: Duration) -> Summary<Worked> {
    let until = Instant::now() + time;
    app.context.lease.begin().await;
    let work = |item_id, listed| item_work::run(app.context.clone(), item_id, listed, until);
    let list = || app.context.queue.active_item_ids(item_work::RECHECK_EARLIER);
    let items = item_runs::run(list, &app.telemetry, until, work);
    let of_ledger = heartbeat::write_until(&app.context.ledger, until);
    let WorkerContext { queue, lease, .. } = &app.context;
    let of_redis = lease.write_heartbeats(queue, SPARE_HEARTBEAT_INTERVAL, until);
    let of_service = app.context.record_service_until(until);
    let restores = Box::pin(restore::restore_until(app, until));
    let voids = voids::settle_until(&app.context, until);
    let pruned = tokio::time::timeout_at(until.into(), prune::prune(&app.context));
    let ends = Box::pin(ending::end_until(app, until));
    tokio::join!(
        items,
        of_ledger,
        lease.keep_until(until),
        of_redis,
        of_service,
        restores,
        voids,
        ends,
        pruned
    )
    .0
}
