//! Tells a region's watchers how their items and orders stand, as it changes.
//!
//! One run watches every item that somebody watches until shortly before its deadline, and the next run
//! takes over; one publisher tells at a time. It compares what each watcher was last told with what is:
//! a task in the item's stream says whom to look at *now*, and everybody is looked at again and again, so
//! that an event that was missed, or a message that was lost, is only late.
//!
//! ```text
//! registry: who watches ─┐                                 ┌─▶ order messages, at once
//! tasks: who to look at ─┼─▶ looks (replica) ─▶ board ─────┤
//! the ring: everybody ───┘    how it stands      who must  └─▶ item messages, a few times a second
//!                                                be told
//! ```
//!
//! `board` decides and talks to nobody; [`outlet`] is where messages go out, and the place for a fan-out
//! service.

pub mod api_gateway;
mod board;
mod endings;
mod item_watch;
pub mod outlet;
mod pace;

pub use item_watch::Published;

use api_gateway::ApiGateway;
use live::registry::Registry;
use shared::clock::Clock;
use shared::config::{self, ConfigError, RedisConfig, Source};
use shared::item_runs::{self, Summary};
use shared::queue::{Link, Queue, Reader};
use shared::telemetry::Telemetry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// For how long a publisher has the word; it is renewed three times in that.
const HOLD: Duration = Duration::from_secs(3);
/// How often a publisher that waits for its turn asks.
const TURN_PAUSE: Duration = Duration::from_millis(100);

/// What one process of the function keeps between runs.
#[derive(Debug)]
pub struct App {
    desk: Desk<ApiGateway>,
    telemetry: Telemetry,
    run_seconds: u64,
}

/// What the work on every item shares.
#[derive(Clone, Debug)]
pub(crate) struct Desk<O> {
    pub(crate) queue: Queue,
    pub(crate) reader: Reader,
    pub(crate) registry: Registry,
    pub(crate) outlet: O,
    pub(crate) clock: Arc<Clock>,
    /// Whether it is this publisher's turn.
    pub(crate) is_on: Arc<AtomicBool>,
}

impl App {
    /// Reads the configuration. Nothing is connected yet.
    pub async fn from_config(source: Source<'_>, telemetry: Telemetry) -> Result<Self, ConfigError> {
        let main = RedisConfig::main(source)?;
        let (config, reader) = match RedisConfig::replica(source)? {
            Some(replica) => (replica, Reader::Replica),
            None => (main, Reader::Main),
        };
        let desk = Desk {
            queue: Queue::new(Link::new(config)),
            reader,
            registry: Registry::new(Link::new(RedisConfig::live(source)?)),
            outlet: ApiGateway::from_config(source).await?,
            clock: Arc::new(Clock::machine()),
            is_on: Arc::default(),
        };
        let run_seconds = config::number(source, "FAIRDROP_PUBLISH_RUN_SECONDS", 62, 1, 890)?;
        Ok(Self { desk, telemetry, run_seconds })
    }

    /// Starts connecting in the background.
    pub fn open(&self) {
        self.desk.queue.open();
        self.desk.registry.open();
    }

    /// How long a run takes at most, and where the invocation has no usable deadline.
    pub fn longest_run(&self) -> Duration {
        Duration::from_secs(self.run_seconds)
    }
}

/// Tells all watchers of the region for `time`.
pub async fn run(app: &App, time: Duration) -> Summary<Published> {
    let until = Instant::now() + time;
    let name = format!("{}-{}", std::process::id(), app.desk.clock.now().as_micros());
    let turn = keep_the_word(&app.desk, &name, until);
    let work = |item_id| item_watch::run(app.desk.clone(), item_id, until);
    let watched = || app.desk.registry.watched();
    let items = item_runs::run(watched, &app.telemetry, until, work);
    let endings = endings::run(&app.desk, until);
    let (summary, (), ()) = tokio::join!(items, endings, turn);
    summary
}

/// Sees to it that one publisher tells at a time. Where the registry cannot be asked, whoever has the word
/// goes on: a message that is told twice does no harm.
async fn keep_the_word<O>(desk: &Desk<O>, name: &str, until: Instant) {
    while Instant::now() < until {
        let is_on = desk.is_on.load(Ordering::Relaxed);
        match desk.registry.hold(name, HOLD).await {
            Ok(held) => desk.is_on.store(held, Ordering::Relaxed),
            Err(error) => tracing::warn!(%error, "the registry does not say whose turn it is"),
        }
        let pause = if is_on { HOLD / 4 } else { TURN_PAUSE };
        tokio::time::sleep(pause.min(until.saturating_duration_since(Instant::now()))).await;
    }
    if desk.is_on.swap(false, Ordering::Relaxed)
        && let Err(error) = desk.registry.hold(name, Duration::ZERO).await
    {
        tracing::warn!(%error, "the next publisher has to wait for its turn");
    }
}
