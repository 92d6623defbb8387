//! A copy of each item at the edge, at most a second old.
//!
//! It comes from the region's own replica where one is configured, otherwise from
//! main. The gates checked against it are a courtesy to the buyer; the law is in
//! the drain script.

use crate::item::{Item, ItemId};
use crate::queue::{ItemError, Queue};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Mutex as AsyncMutex;

/// The oldest that a copy may be.
pub const MAX_AGE: Duration = Duration::from_secs(1);
/// The most copies kept, those of ids that do not exist included.
pub const MAX_COPIES: usize = 2_000;

/// What the latest reading said, and when it began. `Ok(None)`: there is no such item.
type Copy = Option<(Instant, Result<Option<Arc<Item>>, ItemError>)>;

/// Copies of items.
#[derive(Debug)]
pub struct ItemCache {
    replica: Option<Queue>,
    main: Queue,
    copies: Mutex<HashMap<ItemId, Arc<AsyncMutex<Copy>>>>,
}

impl ItemCache {
    /// Copies read from `replica`, or from `main` where there is none or it fails.
    pub fn new(replica: Option<Queue>, main: Queue) -> Self {
        Self { replica, main, copies: Mutex::default() }
    }

    /// Starts connecting in the background.
    pub fn open(&self) {
        self.replica.as_ref().unwrap_or(&self.main).open();
    }

    /// The item as it was at most [`MAX_AGE`] ago; `None` where there is none.
    ///
    /// However many ask at once, one of them reads, and the others wait for its
    /// outcome, be it a failure.
    pub async fn get(&self, item_id: &ItemId) -> Result<Option<Arc<Item>>, ItemError> {
        let asked_at = Instant::now();
        let place = self.place(item_id);
        let mut copy = place.lock().await;
        if let Some((read_at, outcome)) = copy.as_ref()
            && (*read_at >= asked_at || outcome.is_ok() && read_at.elapsed() < MAX_AGE)
        {
            return outcome.clone();
        }
        let mut read_at = Instant::now();
        let outcome = match self.read(item_id).await {
            Ok(item) => Ok(Some(Arc::new(item))),
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

    async fn read(&self, item_id: &ItemId) -> Result<Item, ItemError> {
        if let Some(replica) = &self.replica {
            match replica.item(item_id).await {
                Err(ItemError::Link(error)) => {
                    tracing::warn!(%error, "the replica failed; reading from main")
                }
                outcome => return outcome,
            }
        }
        self.main.item(item_id).await
    }

    fn place(&self, item_id: &ItemId) -> Arc<AsyncMutex<Copy>> {
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = copies.get(item_id) {
            return place.clone();
        }
        if copies.len() >= MAX_COPIES {
            // A flood of ids that do not exist; those that do are read again.
            copies.clear();
        }
        copies.entry(item_id.clone()).or_default().clone()
    }
}
