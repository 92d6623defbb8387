//! What every function that serves buyers keeps between requests.

use crate::clock::Clock;
use crate::config::{ConfigError, RedisConfig, Source};
use crate::item::{Item, ItemId};
use crate::item_cache::ItemCache;
use crate::problem::Problem;
use crate::queue::{ItemError, Link, Queue};
use crate::token::TokenVerifier;
use std::sync::Arc;

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
        match self.items.get(item_id).await {
            Ok(Some(item)) => Ok(item),
            Ok(None) | Err(ItemError::NoSuchItem(_)) => Err(Problem::NoSuchItem),
            Err(ItemError::Link(_)) => Err(unreachable),
            Err(error) => {
                tracing::error!(%error, "an item cannot be used");
                Err(Problem::Internal)
            }
        }
    }
}
