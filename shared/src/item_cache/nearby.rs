//! Items for requests that need no answer of main: as the region's own replica has them, or not at all.

use super::{ItemCache, MAX_AGE, REPLICA_LIMIT};
use crate::item::{Item, ItemId};
use crate::main_use::REFUSAL_LIMIT;
use crate::queue::{ItemCopy, ItemError, OrderState, ReadFrom};
use crate::user_token::UserToken;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Main has no such item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSuchItem;

impl ItemCache {
    /// The item as the replica had it at most [`MAX_AGE`] ago. `None`: nothing that can be trusted is known within `limit`.
    ///
    /// Main is asked only if the replica lacks the item, because that is a refusal; if main does not answer, nothing is
    /// known.
    pub async fn nearby(
        &self,
        item_id: &ItemId,
        limit: Duration,
    ) -> Result<Option<Arc<ItemCopy>>, NoSuchItem> {
        let Some(replica) = self.replica.as_ref().filter(|_| !self.replica_backs_off()) else {
            return Ok(None);
        };
        let asked_at = Instant::now();
        let entry = self.entry(item_id);
        let Ok(mut cached) = timeout(limit, entry.lock()).await else { return Ok(None) };
        if let Some((read_at, Ok(Some(copy)))) = &*cached
            && read_at.elapsed() < MAX_AGE
        {
            return Ok(Some(copy.clone()));
        }
        let read_at = Instant::now();
        let left = limit.saturating_sub(asked_at.elapsed());
        match replica.item_copy(ReadFrom::Replica, item_id, left).await {
            Ok(copy) if !copy.is_stale() => {
                let copy = Arc::new(copy);
                *cached = Some((read_at, Ok(Some(copy.clone()))));
                return Ok(Some(copy));
            }
            Err(ItemError::NoSuchItem(_)) => {
                drop(cached);
                return match self.known_ids.exist(&self.main, item_id, REFUSAL_LIMIT).await {
                    Ok(false) => Err(NoSuchItem),
                    Ok(true) | Err(_) => Ok(None),
                };
            }
            Ok(_) => {
                tracing::warn!(%item_id, "the region's replica is too far behind main; requests go on without its copy of the item");
            }
            Err(error) => {
                tracing::warn!(%error, %item_id, "could not read an item from the region's replica; requests go on without it");
            }
        }
        self.replica_failed();
        Ok(None)
    }
    /// The item and the state of `buyer`'s order as the replica has them, if it answers within [`REPLICA_LIMIT`]. They may
    /// be [`MAX_REPLICA_LAG`](crate::queue::MAX_REPLICA_LAG) old, and [`MAX_AGE`] after the [copy](Self::nearby) that a
    /// process reads before.
    pub async fn nearby_order(&self, item_id: &ItemId, buyer: &UserToken) -> Option<(Item, OrderState)> {
        let replica = self.replica.as_ref().filter(|_| !self.replica_backs_off())?;
        match timeout(REPLICA_LIMIT, replica.status(ReadFrom::Replica, item_id, &[buyer])).await {
            Ok(Ok(status)) => Some((status.item, *status.orders.first()?)),
            Ok(Err(ItemError::NoSuchItem(_))) => None,
            Ok(Err(error)) => {
                tracing::warn!(%error, %item_id, "could not read a buyer's order from the region's replica; it is not refused");
                self.replica_failed();
                None
            }
            Err(_) => {
                tracing::warn!(%item_id, limit_ms = REPLICA_LIMIT.as_millis(), "the region's replica did not show a buyer's order in time; it is not refused");
                self.replica_failed();
                None
            }
        }
    }
}
