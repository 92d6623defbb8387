//! The state that every function for buyers keeps between requests.

use crate::clock::Clock;
use crate::config::{ConfigError, RedisConfig, Source};
use crate::item::ItemId;
use crate::item_cache::ItemCache;
use crate::problem::Problem;
use crate::queue::{FIRST_PAUSE, ItemCopy, ItemError, Link, MAX_PAUSE, MAX_WINDOW, ORDER_SCRIPTS, Queue};
use crate::stamp::Stamp;
use crate::token::Proof;
use crate::token_keys::{TokenKeys, Unproven};
use crate::user_token::UserToken;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// A region's connection to main, its own clock, and the keys of its buyers' tokens.
#[derive(Debug)]
pub struct Edge {
    pub clock: Clock,
    tokens: TokenKeys,
    /// The queue on main.
    pub queue: Queue,
    items: Arc<ItemCache>,
    /// For reads that go on after their request.
    reads: Arc<Semaphore>,
}

/// Reads of items that may go on after their requests.
const MAX_READS: usize = 100;

impl Edge {
    /// Reads the configuration. Nothing is connected yet.
    pub fn from_config(source: Source) -> Result<Self, ConfigError> {
        let queue = Queue::new(Link::with_scripts(RedisConfig::main(source)?, ORDER_SCRIPTS));
        let replica = RedisConfig::replica(source)?.map(|config| Queue::new(Link::new(config)));
        Ok(Self {
            clock: Clock::machine(),
            tokens: TokenKeys::from_config(source, replica.clone(), queue.clone())?,
            items: Arc::new(ItemCache::new(replica, queue.clone())),
            reads: Arc::new(Semaphore::new(MAX_READS)),
            queue,
        })
    }

    /// Starts to connect in the background, so that the first request finds a connection. A stamp never waits for it.
    pub fn open(&self) {
        self.queue.open();
        self.items.open();
        self.tokens.refresh();
    }

    /// The buyer in `token`, or `unreachable` if this process has no keys yet.
    pub async fn buyer(&self, token: &str, unreachable: Problem) -> Result<UserToken, Problem> {
        self.prove(token, unreachable).await.map(|proof| proof.buyer)
    }

    /// The buyer in `token` and the end of its lifetime, or `unreachable` if this process has no keys yet.
    pub async fn prove(&self, token: &str, unreachable: Problem) -> Result<Proof, Problem> {
        self.tokens.prove(token).await.map_err(|error| match error {
            Unproven::Refused(error) => Problem::BadToken(error),
            Unproven::NoKeys => unreachable,
        })
    }

    /// The item as it was at most a second ago, or `unreachable` if neither replica nor main answers.
    pub async fn item(&self, item_id: &ItemId, unreachable: Problem) -> Result<Arc<ItemCopy>, Problem> {
        resolve(self.items.get(item_id, self.read_limit()).await, unreachable)
    }

    /// The item as it was at most a second ago, if that is known within `wait`; otherwise the read goes on, and a later
    /// request finds its result. The error is [`NoSuchItem`](Problem::NoSuchItem).
    pub async fn item_within(
        &self,
        item_id: &ItemId,
        wait: Duration,
    ) -> Result<Option<Arc<ItemCopy>>, Problem> {
        let Ok(permit) = self.reads.clone().try_acquire_owned() else { return Ok(None) };
        let (items, item_id, limit) = (self.items.clone(), item_id.clone(), self.read_limit());
        let read = tokio::spawn(async move {
            let copy = items.get(&item_id, limit).await;
            drop(permit);
            copy
        });
        match timeout(wait, read).await {
            Ok(Ok(Ok(copy))) => copy.map(Some).ok_or(Problem::NoSuchItem),
            Ok(Ok(Err(ItemError::NoSuchItem(_)))) => Err(Problem::NoSuchItem),
            _ => Ok(None),
        }
    }

    /// The item for an order stamped `placed_at`. If neither replica nor main answers, the read is repeated until the
    /// order's longest window ends, as [placing](Queue::place) is.
    pub async fn item_for_order(&self, item_id: &ItemId, placed_at: Stamp) -> Result<Arc<ItemCopy>, Problem> {
        let age = self.clock.now().saturating_since(placed_at);
        let deadline = Instant::now() + MAX_WINDOW.saturating_sub(age);
        let left = || deadline.saturating_duration_since(Instant::now());
        // The first read gets its full time even if the order is too late: the item may give a better reason.
        let mut limit = self.read_limit();
        let mut pause = FIRST_PAUSE;
        loop {
            let outcome = self.items.get(item_id, limit).await;
            if !matches!(outcome, Err(ItemError::Link(_))) || left() <= pause {
                return resolve(outcome, Problem::MainUnreachable);
            }
            tokio::time::sleep(pause).await;
            limit = left();
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// The time for a read that another request has started, and then for an own one.
    fn read_limit(&self) -> Duration {
        self.queue.call_limit() * 2
    }
}

fn resolve(
    outcome: Result<Option<Arc<ItemCopy>>, ItemError>,
    unreachable: Problem,
) -> Result<Arc<ItemCopy>, Problem> {
    match outcome {
        Ok(Some(item)) => Ok(item),
        Ok(None) | Err(ItemError::NoSuchItem(_)) => Err(Problem::NoSuchItem),
        Err(ItemError::Link(_)) => Err(unreachable),
        Err(error) => {
            tracing::error!(%error, "could not use an item from Redis; the request gets the problem `internal`");
            Err(Problem::Internal)
        }
    }
}
