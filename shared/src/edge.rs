//! The state that every function for buyers keeps between requests.

use crate::clock::Clock;
use crate::config::{ConfigError, RedisConfig, Source};
use crate::item::{Item, ItemId};
use crate::item_cache::{ItemCache, NoSuchItem};
use crate::main_use::MainUse;
use crate::problem::Problem;
use crate::queue::{
    FIRST_PAUSE, ItemCopy, ItemError, Link, LinkError, MAX_PAUSE, MAX_WINDOW, ORDER_SCRIPTS, OrderState,
    Queue,
};
use crate::stamp::Stamp;
use crate::token::Proof;
use crate::token_keys::{TokenKeys, Unproven};
use crate::user_token::UserToken;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest read of an item, with the wait for another one. With a call to main after it, it ends within the 10 s after
/// which Lambda stops order-status.
const MAX_READ: Duration = Duration::from_millis(4_500);

/// A region's connection to main, its own clock, and the keys of its buyers' tokens.
#[derive(Debug)]
pub struct Edge {
    pub clock: Clock,
    tokens: TokenKeys,
    /// The queue on main.
    pub queue: Queue,
    items: ItemCache,
    main_use: MainUse,
}

impl Edge {
    /// Reads the configuration. Nothing is connected yet.
    pub fn from_config(source: Source, main_use: MainUse) -> Result<Self, ConfigError> {
        let queue = Queue::new(Link::with_breaker(RedisConfig::main(source)?, ORDER_SCRIPTS));
        let replica = RedisConfig::replica(source)?.map(|config| Queue::new(Link::new(config)));
        Ok(Self {
            clock: Clock::machine(),
            tokens: TokenKeys::from_config(source, replica.clone(), queue.clone(), main_use)?,
            items: ItemCache::new(replica, queue.clone()),
            main_use,
            queue,
        })
    }

    /// Starts to connect in the background, so that the first request finds a connection. A stamp never waits for it.
    pub fn open(&self) {
        if self.main_use == MainUse::Always {
            self.queue.open();
        }
        self.items.open_replica();
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

    /// The item as the region's own replica had it at most a second ago, if that is known within `wait`. The error is
    /// [`NoSuchItem`](Problem::NoSuchItem), which main has confirmed.
    pub async fn nearby_item(
        &self,
        item_id: &ItemId,
        wait: Duration,
    ) -> Result<Option<Arc<ItemCopy>>, Problem> {
        self.items.nearby(item_id, wait).await.map_err(|NoSuchItem| Problem::NoSuchItem)
    }

    /// The item and the state of `buyer`'s order as the region's own replica has them, if it answers soon.
    pub async fn nearby_order(&self, item_id: &ItemId, buyer: &UserToken) -> Option<(Item, OrderState)> {
        self.items.nearby_order(item_id, buyer).await
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
            let may_pass =
                matches!(&outcome, Err(ItemError::Link(error)) if !matches!(error, LinkError::BreakerOpen));
            if !may_pass || left() <= pause {
                return resolve(outcome, Problem::MainUnreachable);
            }
            tokio::time::sleep(pause).await;
            limit = left();
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// The time for a read that another request has started, and then for an own one.
    fn read_limit(&self) -> Duration {
        (self.queue.call_limit() * 2).min(MAX_READ)
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
