//! Buyers who get no unit of an item.

use super::{Keys, LinkError, MAX_BATCH, Queue};
use crate::item::ItemId;
use crate::user_token::UserToken;
use redis::Script;
use std::sync::LazyLock;

static EXCLUDE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("exclude.lua")));

impl Queue {
    /// Excludes buyers of an item, in calls of at most [`MAX_BATCH`]: their orders leave the queue, and the drain reserves
    /// nothing for them. Those with a unit keep it. Returns how many are excluded now and were not before.
    pub async fn exclude(&self, item_id: &ItemId, buyers: &[UserToken]) -> Result<u64, LinkError> {
        let keys = Keys::of(item_id);
        let mut changed = 0;
        for batch in buyers.chunks(MAX_BATCH as usize) {
            let mut script = EXCLUDE.key(&keys.item);
            script.key(&keys.orders).key(&keys.reservations);
            for buyer in batch {
                script.arg(buyer.as_str());
            }
            changed += self
                .link
                .call(async |mut connection| script.invoke_async::<u64>(&mut connection).await)
                .await?;
        }
        Ok(changed)
    }
}
