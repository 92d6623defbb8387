//! What the queue has, and what it has to have.

use super::Drop;
use anyhow::Result;
use order_log::{LogRecord, RecordKind, WITHDRAWAL_SKEW};
use redis::AsyncCommands;
use shared::queue::{Keys, OrderState};
use std::collections::{BTreeMap, HashMap, HashSet};

impl Drop<'_> {
    pub(super) async fn queued(&self) -> Result<BTreeMap<String, u64>> {
        let mut connection = self.world.redis.redis.connect().await?;
        let found: Vec<(String, f64)> =
            connection.zrange_withscores(Keys::of(&self.item_id).orders, 0, -1).await?;
        Ok(found.into_iter().map(|(buyer, stamp)| (buyer, stamp as u64)).collect())
    }

    /// The stamp and buyer of each reservation of this life of Redis, in their order.
    pub(super) async fn reserved(&self) -> Result<Vec<(u64, String)>> {
        let mut connection = self.world.redis.redis.connect().await?;
        let tasks: redis::streams::StreamRangeReply =
            connection.xrange_all(Keys::of(&self.item_id).tasks).await?;
        let of = |task: &redis::streams::StreamId| Some((task.get("placed_at")?, task.get("user_token")?));
        Ok(tasks.ids.iter().filter_map(of).collect())
    }

    /// What has to wait after the replay, the model; and buyers whose order may wait or not: they have ordered while the
    /// replay released their unit.
    pub(super) async fn expected(&self) -> Result<(BTreeMap<String, u64>, HashSet<String>)> {
        let records: Vec<LogRecord> = self
            .logs
            .iter()
            .flat_map(|log| log.records.lock().unwrap().values().cloned().collect::<Vec<_>>())
            .collect();
        let (mut expected, mut either) = (BTreeMap::new(), HashSet::new());
        let sales = self.world.ledger.ledger.sales(&self.item_id, None, 1_000).await?;
        // What was ordered before the release does not count: the buyer had the unit.
        let skew = WITHDRAWAL_SKEW.as_micros() as u64;
        let decided = |sale: &ledger::Sale| {
            let released = sale.released_at.map_or(0, |at| at.as_micros() - skew);
            released.max(sale.placed_at.as_micros())
        };
        // Units that were released during the replay. The ledger still has them.
        let mut redis = self.world.redis.redis.connect().await?;
        let units: Vec<(String, f64)> =
            redis.zrange_withscores(Keys::of(&self.item_id).reservations, 0, -1).await?;
        let released: HashMap<&str, u64> = units
            .iter()
            .filter(|(_, score)| *score < 0.0)
            .map(|(buyer, score)| (buyer.as_str(), -score as u64 - skew))
            .collect();
        let known: HashMap<&str, u64> =
            sales.iter().map(|sale| (sale.user_token.as_str(), decided(sale))).collect();
        let opens_at: u64 = redis.hget(Keys::of(&self.item_id).item, "opens_at").await?;
        for buyer in records.iter().map(|record| &record.user_token).collect::<HashSet<_>>() {
            let of_buyer = records.iter().filter(|record| record.user_token == *buyer);
            let left_at = of_buyer
                .clone()
                .filter(|record| record.kind == RecordKind::Leave)
                .map(|record| record.placed_at.as_micros())
                .max()
                .unwrap_or_default();
            let of = |known: &HashMap<&str, u64>| known.get(buyer.as_str()).copied().unwrap_or_default();
            let (decided, released) = (of(&known), of(&released));
            let oldest = of_buyer
                .filter(|record| record.kind == RecordKind::Order && record.refusal.is_none())
                .map(|record| record.placed_at.as_micros())
                .filter(|stamp| *stamp > left_at && *stamp > decided && *stamp >= opens_at)
                .min();
            let state = self.world.queue.order_state(&self.item_id, buyer).await?;
            let has_unit = matches!(state, OrderState::Reserved(_) | OrderState::Sold);
            if let (Some(oldest), false) = (oldest, has_unit) {
                expected.insert(buyer.as_str().to_owned(), oldest);
                if oldest <= released {
                    either.insert(buyer.as_str().to_owned());
                }
            }
        }
        Ok((expected, either))
    }
}
