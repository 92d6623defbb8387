//! The end of an item: nothing of it is reserved any more, and its queue is emptied in bounded steps. Then its keys can be
//! deleted.

use super::{ACTIVATED_ITEMS, IDLE_ITEMS, ITEMS, Keys, LinkError, MAX_BATCH, Queue};
use crate::item::ItemId;
use crate::stamp::Stamp;
use redis::{AsyncCommands, Script};
use std::sync::LazyLock;

static FINISH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("finish.lua")));

/// What one step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FinishStep {
    /// Orders that waited, and were removed.
    pub removed: u64,
    /// Orders that still wait to be removed.
    pub left: u64,
}

impl Queue {
    /// Finishes `item_id`, and removes at most [`MAX_BATCH`] of the orders that wait. Can be repeated. Does nothing if the
    /// item has opened again after it was finished at `finished_at`.
    pub async fn finish_step(&self, item_id: &ItemId, finished_at: Stamp) -> Result<FinishStep, LinkError> {
        let keys = Keys::of(item_id);
        let call = async |mut connection| {
            let mut script = FINISH.key(&keys.item);
            script.key(&keys.orders).arg(finished_at.as_micros()).arg(MAX_BATCH);
            script.invoke_async(&mut connection).await
        };
        let (removed, left) = self.link.call(call).await?;
        Ok(FinishStep { removed, left })
    }

    /// Deletes `item_id`: it leaves every list first, so that no loop takes it up again. Can be repeated.
    pub async fn delete_item(&self, item_id: &ItemId) -> Result<(), LinkError> {
        let (keys, id) = (Keys::of(item_id), item_id.as_str());
        self.link
            .call(async |mut connection| {
                redis::pipe()
                    .srem(ITEMS, id)
                    .zrem(IDLE_ITEMS, id)
                    .zrem(ACTIVATED_ITEMS, id)
                    .unlink(&keys.all())
                    .query_async::<()>(&mut connection)
                    .await
            })
            .await
    }

    /// Units that are reserved and not sold.
    pub async fn holds(&self, item_id: &ItemId) -> Result<u64, LinkError> {
        let key = Keys::of(item_id).reservations;
        self.link.call(async |mut connection| connection.zcount(&key, 0, "(inf").await).await
    }
}
