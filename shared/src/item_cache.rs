//! A copy of each item at the edge, at most a second old.
//!
//! It comes from the region's own replica where one is configured, otherwise from
//! main. The gates checked against it are a courtesy to the buyer; the law is in
//! the drain script.

use crate::item::{Item, ItemId};
use crate::queue::{ItemError, LinkError, Queue};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;

/// The oldest that a copy may be.
pub const MAX_AGE: Duration = Duration::from_secs(1);
/// The most copies kept, those of ids that do not exist included.
pub const MAX_COPIES: usize = 2_000;
/// How long the replica is waited for, connecting included. It is near, and an order waits meanwhile.
pub const REPLICA_LIMIT: Duration = Duration::from_millis(250);
/// How long a replica that failed is left alone; everything is read from main in that time.
pub const REPLICA_REST: Duration = Duration::from_secs(5);

/// What the latest reading said, and when it began. `Ok(None)`: there is no such item.
type Copy = Option<(Instant, Result<Option<Arc<Item>>, ItemError>)>;

/// What is known of one id.
#[derive(Debug, Default)]
struct CacheEntry {
    copy: AsyncMutex<Copy>,
    /// It never changes, and is known also while nobody can be asked; 0 where the item was never read.
    settle_window_ms: AtomicU32,
}

/// Copies of items.
#[derive(Debug)]
pub struct ItemCache {
    replica: Option<Queue>,
    replica_failed_at: Mutex<Option<Instant>>,
    main: Queue,
    entries: Mutex<HashMap<ItemId, Arc<CacheEntry>>>,
}

impl ItemCache {
    /// Copies read from `replica`, or from `main` where there is none or it fails.
    pub fn new(replica: Option<Queue>, main: Queue) -> Self {
        Self { replica, replica_failed_at: Mutex::default(), main, entries: Mutex::default() }
    }

    /// Starts connecting in the background.
    pub fn open(&self) {
        self.replica.as_ref().unwrap_or(&self.main).open();
    }

    /// The item as it was at most [`MAX_AGE`] ago, where that can be said within `limit`; `None` where
    /// there is none.
    ///
    /// However many ask at once, one of them reads, and the others wait for its
    /// outcome, be it a failure.
    pub async fn get(&self, item_id: &ItemId, limit: Duration) -> Result<Option<Arc<Item>>, ItemError> {
        let asked_at = Instant::now();
        let entry = self.entry(item_id);
        let Ok(mut copy) = timeout(limit, entry.copy.lock()).await else {
            return Err(LinkError::NotSent("another reading has not ended in time".into()).into());
        };
        if let Some((read_at, outcome)) = copy.as_ref()
            && (*read_at >= asked_at || outcome.is_ok() && read_at.elapsed() < MAX_AGE)
        {
            return outcome.clone();
        }
        let mut read_at = Instant::now();
        let outcome = match self.read(item_id, limit.saturating_sub(asked_at.elapsed())).await {
            Ok(item) => {
                entry.settle_window_ms.store(item.settle_window_ms, Ordering::Relaxed);
                Ok(Some(Arc::new(item)))
            }
            Err(ItemError::NoSuchItem(_)) => Ok(None),
            Err(error) => {
                // Whoever asked while it failed has their answer; who asks now reads again.
                read_at = Instant::now();
                Err(error)
            }
        };
        *copy = Some((read_at, outcome.clone()));
        outcome
    }

    /// The item's settle window, where the item was read before, however long ago.
    pub fn settle_window(&self, item_id: &ItemId) -> Option<Duration> {
        match self.entry(item_id).settle_window_ms.load(Ordering::Relaxed) {
            0 => None,
            milliseconds => Some(Duration::from_millis(milliseconds.into())),
        }
    }

    async fn read(&self, item_id: &ItemId, limit: Duration) -> Result<Item, ItemError> {
        let began = Instant::now();
        if let Some(replica) = self.replica.as_ref().filter(|_| !self.replica_rests()) {
            match replica.item_within(item_id, limit.min(REPLICA_LIMIT)).await {
                Err(ItemError::Link(error)) => {
                    tracing::warn!(%error, "the replica failed; reading from main");
                    // Unless it had no time.
                    if limit >= REPLICA_LIMIT {
                        *self.replica_failed_at() = Some(Instant::now());
                    }
                }
                outcome => return outcome,
            }
        }
        self.main.item_within(item_id, limit.saturating_sub(began.elapsed())).await
    }

    fn replica_rests(&self) -> bool {
        self.replica_failed_at().is_some_and(|failed_at| failed_at.elapsed() < REPLICA_REST)
    }

    fn replica_failed_at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.replica_failed_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, item_id: &ItemId) -> Arc<CacheEntry> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(item_id) {
            return entry.clone();
        }
        if entries.len() >= MAX_COPIES {
            // A flood of ids that do not exist; those that do are read again.
            entries.clear();
        }
        entries.entry(item_id.clone()).or_default().clone()
    }
}
