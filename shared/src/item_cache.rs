//! A copy of each item at the edge, at most a second old.
//!
//! The copy comes from the region's own replica if one is configured, otherwise from main. A refusal by the gates of
//! this copy spares the buyer a wait; the drain script decides.
//!
//! A replica that lags is read no more than one that is down. What would refuse buyers is asked of main: that the item
//! does not exist, and that main may not sell. Main answers only if it takes writes.

mod known_ids;
mod nearby;

pub use nearby::NoSuchItem;

use crate::item::ItemId;
use crate::queue::{ItemCopy, ItemError, LinkError, Queue, ReadFrom};
use known_ids::KnownIds;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;

/// The maximum age of a copy.
pub const MAX_AGE: Duration = Duration::from_secs(1);
/// The maximum number of copies, with those of ids whose first read failed.
pub const MAX_COPIES: usize = 2_000;
/// The time limit of a read from the replica, with the connect. The replica is near, and an order waits.
pub const REPLICA_LIMIT: Duration = Duration::from_millis(250);
/// How long all reads go to main after the replica has failed.
pub const REPLICA_BACKOFF: Duration = Duration::from_secs(5);

/// The result of the latest read, and when the read began. `Ok(None)`: the item does not exist.
type CachedItem = Option<(Instant, Result<Option<Arc<ItemCopy>>, ItemError>)>;

/// Copies of items.
#[derive(Debug)]
pub struct ItemCache {
    replica: Option<Queue>,
    replica_failed_at: Mutex<Option<Instant>>,
    main: Queue,
    known_ids: KnownIds,
    entries: Mutex<HashMap<ItemId, Arc<AsyncMutex<CachedItem>>>>,
}

impl ItemCache {
    /// Reads from `replica`, or from `main` if there is no replica or it fails.
    pub fn new(replica: Option<Queue>, main: Queue) -> Self {
        let known_ids = KnownIds::default();
        Self { replica, replica_failed_at: Mutex::default(), main, known_ids, entries: Mutex::default() }
    }

    /// Starts to connect to the replica in the background.
    pub fn open_replica(&self) {
        if let Some(replica) = &self.replica {
            replica.open();
        }
    }

    /// The item as it was at most [`MAX_AGE`] ago, if it can be read within `limit`; `None` if it does not exist.
    ///
    /// Of callers at the same time one reads, and the others wait for its result, also if that is an error.
    pub async fn get(&self, item_id: &ItemId, limit: Duration) -> Result<Option<Arc<ItemCopy>>, ItemError> {
        let asked_at = Instant::now();
        let left = || limit.saturating_sub(asked_at.elapsed());
        let entry = match self.known_entry(item_id) {
            Some(entry) => entry,
            None if self.may_exist(item_id, limit).await? => self.entry(item_id),
            None => return Ok(None),
        };
        let Ok(mut copy) = timeout(left(), entry.lock()).await else {
            return Err(LinkError::NotSent("another read of the item did not end in time".into()).into());
        };
        if let Some((read_at, outcome)) = copy.as_ref()
            && (*read_at >= asked_at || read_at.elapsed() < MAX_AGE && is_usable(outcome))
        {
            return outcome.clone();
        }
        let mut read_at = Instant::now();
        let outcome = match self.read(item_id, left()).await {
            Ok(copy) => Ok(Some(Arc::new(copy))),
            Err(ItemError::NoSuchItem(_)) => {
                // Those who wait for this read have its result; later ones ask the set of ids.
                self.entries().remove(item_id);
                Ok(None)
            }
            Err(error) => {
                // Callers that have waited get this error; later ones read again.
                read_at = Instant::now();
                Err(error)
            }
        };
        *copy = Some((read_at, outcome.clone()));
        outcome
    }

    async fn may_exist(&self, item_id: &ItemId, limit: Duration) -> Result<bool, LinkError> {
        // With a replica, the answer can do without the set, and a main that hangs must not use up an order's time.
        let limit = if self.replica.is_some() { limit.min(REPLICA_LIMIT) } else { limit };
        match self.known_ids.may_exist(&self.main, item_id, limit).await {
            // The replica may have the item. If it does not, the read asks main, and fails there.
            Err(_) if self.replica.is_some() => Ok(true),
            answer => answer,
        }
    }

    async fn read(&self, item_id: &ItemId, limit: Duration) -> Result<ItemCopy, ItemError> {
        let began = Instant::now();
        if let Some(replica) = self.replica.as_ref().filter(|_| !self.replica_backs_off()) {
            match replica.item_copy(ReadFrom::Replica, item_id, limit.min(REPLICA_LIMIT)).await {
                Ok(copy) if copy.is_stale() => {
                    tracing::warn!(%item_id, "the region's replica is too far behind main; reading items from main");
                    self.replica_failed();
                }
                Ok(copy) if copy.may_be_sold() => return Ok(copy),
                Ok(_) | Err(ItemError::NoSuchItem(_)) => {}
                Err(ItemError::Link(error)) => {
                    tracing::warn!(%error, %item_id, "could not read an item from the region's replica; reading it from main");
                    // With less time, the failure does not count against the replica.
                    if limit >= REPLICA_LIMIT {
                        self.replica_failed();
                    }
                }
                Err(error) => return Err(error),
            }
        }
        self.main.item_copy(ReadFrom::Main, item_id, limit.saturating_sub(began.elapsed())).await
    }

    fn replica_failed(&self) {
        *self.replica_failed_at() = Some(Instant::now());
    }

    fn replica_backs_off(&self) -> bool {
        self.replica_failed_at().is_some_and(|failed_at| failed_at.elapsed() < REPLICA_BACKOFF)
    }

    fn replica_failed_at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.replica_failed_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<ItemId, Arc<AsyncMutex<CachedItem>>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_entry(&self, item_id: &ItemId) -> Option<Arc<AsyncMutex<CachedItem>>> {
        self.entries().get(item_id).cloned()
    }

    fn entry(&self, item_id: &ItemId) -> Arc<AsyncMutex<CachedItem>> {
        let mut entries = self.entries();
        if entries.len() >= MAX_COPIES && !entries.contains_key(item_id) {
            // Ids whose read failed. Existing items are read again.
            entries.clear();
        }
        entries.entry(item_id.clone()).or_default().clone()
    }
}

/// Whether a result of at most [`MAX_AGE`] ago is returned again. A lease that has lapsed since is asked of main; one that
/// had lapsed before is main's own answer.
fn is_usable(outcome: &Result<Option<Arc<ItemCopy>>, ItemError>) -> bool {
    match outcome {
        Ok(Some(copy)) => copy.may_be_sold() || !copy.could_be_sold(),
        Ok(None) => true,
        Err(_) => false,
    }
}
