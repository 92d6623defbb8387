//! What every function that serves buyers keeps between requests.

use crate::clock::Clock;
use crate::config::{ConfigError, RedisConfig, Source};
use crate::item::{Item, ItemId, NewItem};
use crate::item_cache::ItemCache;
use crate::problem::Problem;
use crate::queue::{FIRST_PAUSE, ItemError, Link, MAX_PAUSE, Queue};
use crate::stamp::Stamp;
use crate::token::TokenVerifier;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A region's view of main, its own clock, and the keys of its buyers' tokens.
#[derive(Debug)]
pub struct Edge {
    /// The region's clock.
    pub clock: Clock,
    /// Who verifies buyers.
    pub tokens: TokenVerifier,
    /// The queue on main.
    pub queue: Queue,
    items: ItemCache,
}

impl Edge {
    /// Reads the configuration. Nothing is connected yet.
    pub fn from_config(source: Source) -> Result<Self, ConfigError> {
        let queue = Queue::new(Link::new(RedisConfig::main(source)?));
        let replica = RedisConfig::replica(source)?.map(|config| Queue::new(Link::new(config)));
        Ok(Self {
            clock: Clock::machine(),
            tokens: TokenVerifier::from_config(source)?,
            items: ItemCache::new(replica, queue.clone()),
            queue,
        })
    }

    /// Starts connecting in the background, so that the first request finds a
    /// connection. A stamp never waits for it.
    pub fn open(&self) {
        self.queue.open();
        self.items.open();
    }

    /// The item as it was at most a second ago, or `unreachable` where nobody can be asked.
    pub async fn item(&self, item_id: &ItemId, unreachable: Problem) -> Result<Arc<Item>, Problem> {
        told(self.items.get(item_id, self.patience()).await, unreachable)
    }

    /// The item for an order stamped `placed_at`. Where nobody can be asked, this is tried again for as long
    /// as the order's settle window lasts, as [placing](Queue::place) it is; the window of an item that this
    /// process has never read is taken to be the default.
    pub async fn item_for_order(&self, item_id: &ItemId, placed_at: Stamp) -> Result<Arc<Item>, Problem> {
        let default_window = Duration::from_millis(NewItem::DEFAULT_SETTLE_WINDOW_MS.into());
        let window = self.items.settle_window(item_id).unwrap_or(default_window);
        let age = self.clock.now().saturating_since(placed_at);
        let deadline = Instant::now() + window.saturating_sub(age);
        let left = || deadline.saturating_duration_since(Instant::now());
        // The first try has its time also where the order comes too late: it may be told a better reason.
        let mut limit = self.patience();
        let mut pause = FIRST_PAUSE;
        loop {
            let outcome = self.items.get(item_id, limit).await;
            if !matches!(outcome, Err(ItemError::Link(_))) || left() <= pause {
                return told(outcome, Problem::MainUnreachable);
            }
            tokio::time::sleep(pause).await;
            limit = left();
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Time for a reading that another request has begun, and for one of its own.
    fn patience(&self) -> Duration {
        self.queue.call_limit() * 2
    }
}

fn told(outcome: Result<Option<Arc<Item>>, ItemError>, unreachable: Problem) -> Result<Arc<Item>, Problem> {
    match outcome {
        Ok(Some(item)) => Ok(item),
        Ok(None) | Err(ItemError::NoSuchItem(_)) => Err(Problem::NoSuchItem),
        Err(ItemError::Link(_)) => Err(unreachable),
        Err(error) => {
            tracing::error!(%error, "an item cannot be used");
            Err(Problem::Internal)
        }
    }
}
