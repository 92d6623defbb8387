//! Sends a region's watchers the changes of their items and orders.
//!
//! One run lasts three minutes and a run starts every minute, so that a start that comes late, or never, costs nothing.
//! One of them holds the publisher lock and publishes every watched item; if it dies, another has the lock within
//! `LOCK_TIME`. It compares what each watcher last received with the current state. A task in
//! the item's stream names a buyer whose order to read *now*; a ring reads all watchers' orders in turn. So a
//! missed event or a lost message only causes a delay.
//!
//! ```text
//! registry: the watchers ────┐                                   ┌─▶ order messages, immediately
//! tasks: changed orders ─────┼─▶ reads (replica) ─▶ `watchers` ──┤
//! ring: all watchers' orders ┘   current state    due messages   └─▶ item messages, a few times a second
//! ```
//!
//! `watchers` decides and does no I/O. [`transport`] sends; a fan-out service would be added there.

pub mod api_gateway;
mod closing;
mod item_publisher;
mod order_log_reads;
mod send_rate;
pub mod transport;
mod watchers;

pub use item_publisher::Published;

use api_gateway::ApiGateway;
use live::registry::Registry;
use order_log::OrderLog;
use shared::clock::Clock;
use shared::config::{ConfigError, RedisConfig, Source};
use shared::item_runs::{self, Summary};
use shared::queue::{Link, Queue, ReadFrom};
use shared::schedule;
use shared::telemetry::Telemetry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long the publisher lock lasts; it is renewed three times in that.
const LOCK_TIME: Duration = Duration::from_secs(2);
/// The pause between two tries to get the lock. Two or three other runs wait for it all the time.
const LOCK_RETRY_PAUSE: Duration = Duration::from_millis(200);

/// State that one process of the function keeps between runs.
#[derive(Debug)]
pub struct App {
    context: PublisherContext<ApiGateway>,
    telemetry: Telemetry,
    longest_run: Duration,
}

/// What the tasks of all items share.
#[derive(Clone, Debug)]
pub(crate) struct PublisherContext<O> {
    pub(crate) queue: Queue,
    pub(crate) read_from: ReadFrom,
    pub(crate) registry: Registry,
    /// The region's order log, if orders go through it.
    pub(crate) log: Option<OrderLog>,
    pub(crate) transport: O,
    pub(crate) clock: Arc<Clock>,
    /// Whether this process holds the publisher lock.
    pub(crate) is_publisher: Arc<AtomicBool>,
}

impl App {
    /// Reads the configuration. Opens no connection.
    pub async fn from_config(source: Source<'_>, telemetry: Telemetry) -> Result<Self, ConfigError> {
        let main = RedisConfig::main(source)?;
        let (config, read_from) = match RedisConfig::replica(source)? {
            Some(replica) => (replica, ReadFrom::Replica),
            None => (main, ReadFrom::Main),
        };
        let context = PublisherContext {
            queue: Queue::new(Link::new(config)),
            read_from,
            registry: Registry::new(Link::new(RedisConfig::live(source)?)),
            log: OrderLog::from_config(source)?,
            transport: ApiGateway::from_config(source).await?,
            clock: Arc::new(Clock::machine()),
            is_publisher: Arc::default(),
        };
        let longest_run = schedule::loop_run(source, "FAIRDROP_PUBLISH_RUN_SECONDS")?;
        Ok(Self { context, telemetry, longest_run })
    }

    /// Starts connecting in the background.
    pub fn open(&self) {
        self.context.queue.open();
        self.context.registry.open();
    }

    /// The longest run, also used if the invocation has no usable deadline.
    pub fn longest_run(&self) -> Duration {
        self.longest_run
    }
}

/// Publishes to all watchers of the region for `time`.
pub async fn run(app: &App, time: Duration) -> Summary<Published> {
    let until = Instant::now() + time;
    let name = format!("{}-{}", std::process::id(), app.context.clock.now().as_micros());
    let lock = hold_publisher_lock(&app.context, &name, until);
    let work = |item_id, _| item_publisher::run(app.context.clone(), item_id, until);
    let watched = || app.context.registry.watched();
    let items = item_runs::run(watched, &app.telemetry, until, work);
    let closing = closing::run(&app.context, until);
    let (summary, (), ()) = tokio::join!(items, closing, lock);
    summary
}

/// Keeps one publisher active at a time. If the registry does not answer, the holder of the lock goes on:
/// a message that is sent twice does no harm.
async fn hold_publisher_lock<O>(context: &PublisherContext<O>, name: &str, until: Instant) {
    while Instant::now() < until {
        let is_publisher = context.is_publisher.load(Ordering::Relaxed);
        match context.registry.hold(name, LOCK_TIME).await {
            Ok(held) => context.is_publisher.store(held, Ordering::Relaxed),
            Err(error) => {
                tracing::warn!(%error, "could not renew or take the publisher lock in the registry; trying again")
            }
        }
        let pause = if is_publisher { LOCK_TIME / 4 } else { LOCK_RETRY_PAUSE };
        item_runs::pause(pause, until).await;
    }
    if context.is_publisher.swap(false, Ordering::Relaxed)
        && let Err(error) = context.registry.hold(name, Duration::ZERO).await
    {
        tracing::warn!(%error, "could not release the publisher lock; the next publisher waits until it expires");
    }
}
