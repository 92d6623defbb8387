//! The smoke test: one real order for one real unit, through queue, drain, worker and ledger.

use super::{FailoverServers, obstacle};
use crate::observation::{Observation, Obstacle};
use crate::run::Run;
use shared::item::{ItemId, NewItem};
use shared::queue::{ItemError, Order, OrderState};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::time::Duration;

/// The canary item's settle window, in milliseconds.
const SETTLE_WINDOW_MS: u32 = 500;

impl FailoverServers {
    /// The state of the canary's order. Each epoch has a canary of its own, which stays in the ledger.
    pub(super) async fn observe_canary(&self, run: &Run) -> Result<Observation, Obstacle> {
        let (item_id, buyer) = canary(run)?;
        let state = self.standby.queue.order_state(&item_id, &buyer).await.map_err(obstacle)?;
        let sales = self.standby.ledger.sales(&item_id, None, 1).await.map_err(obstacle)?;
        let is_sold = sales.iter().any(|sale| sale.state == ledger::SaleState::Sold);
        let is_placed = state != OrderState::None && !state.is_over();
        Ok(Observation::Canary { is_placed, is_sold: is_sold && state == OrderState::Sold })
    }

    /// Creates the canary item if it does not exist, and orders it.
    pub(super) async fn place_canary(&self, run: &Run) -> Result<(), Obstacle> {
        let (item_id, buyer) = canary(run)?;
        let both = &self.standby;
        let now = both.queue.main_time().await.map_err(obstacle)?;
        let new = canary_item(&item_id, now.saturating_sub(Duration::from_secs(1)));
        both.ledger.create_item(&new).await.map_err(obstacle)?;
        match both.queue.create_item(&new, run.new_epoch()).await {
            Ok(()) | Err(ItemError::Exists(_)) => {}
            Err(error) => return Err(obstacle(error)),
        }
        let item = both.queue.item(&item_id).await.map_err(obstacle)?;
        // Stamped by main's clock: this test does not depend on how well clocks agree.
        let order = Order { item_id, user_token: buyer, placed_at: now };
        both.queue.place(&order, item.settle_window(), &self.clock).await.map(drop).map_err(obstacle)
    }
}

/// One unit, which is sold at once.
pub(super) fn canary_item(item_id: &ItemId, opens_at: Stamp) -> NewItem {
    NewItem {
        item_id: item_id.clone(),
        name: "Canary of a failover".into(),
        stock_total: 1,
        opens_at,
        closes_at: None,
        hold_seconds: 0,
        max_hold_seconds: 0,
        settle_window_ms: SETTLE_WINDOW_MS,
    }
}

pub(super) fn canary(run: &Run) -> Result<(ItemId, UserToken), Obstacle> {
    let item_id = format!("failover-canary.{}", run.new_epoch()).parse().map_err(obstacle)?;
    Ok((item_id, UserToken::parse("failover-canary").map_err(obstacle)?))
}
