//! Draining: settled orders become reservations, in order.

use super::{Keys, LinkError, Queue};
use crate::clock::Clock;
use crate::item::ItemId;
use crate::permit::Permit;
use redis::Script;
use std::sync::LazyLock;
use std::time::Duration;

/// The drain script's text.
pub const DRAIN_SCRIPT: &str = include_str!("drain.lua");
pub(super) static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(DRAIN_SCRIPT));

/// The maximum number of orders that one call of a script reads: it blocks Redis in the meantime.
pub const MAX_BATCH: u32 = 500;

/// The result of one call of the drain script.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainBatch {
    /// Orders taken out of the queue.
    pub taken: u64,
    /// Of `taken`, orders that became reservations.
    pub reserved: u64,
    /// Of `taken`, orders stamped before the item opened.
    pub dropped_before_opening: u64,
    /// Of `taken`, orders stamped after the item closed.
    pub dropped_after_closing: u64,
    /// Of `taken`, orders of buyers who already had a unit.
    pub dropped_already_taken: u64,
    /// Of `taken`, orders of excluded buyers.
    pub dropped_excluded: u64,
    /// Units without a reservation after the call.
    pub stock_left: i64,
    /// Orders in the queue after the call, settled or not.
    pub waiting: u64,
    /// By main's clock: how long the last order taken out, or else the oldest that waits, could have been served, in
    /// microseconds; `None` if none is due.
    pub lag_micros: Option<u64>,
    /// The delay in force: how long an order waits before it is served.
    pub settle_delay: Duration,
    /// Whether the item is being restored, or waits for it. Then no order was taken.
    pub is_restoring: bool,
}

impl Queue {
    /// Moves up to `most` settled orders of `item_id` into reservations, unless it is being restored. With order
    /// logs, the item waits to be restored from now on if another server is the primary than before. Redis refuses it as `LEASE` if `permit` has
    /// expired by main's clock, and as `EPOCH` if the item is under another epoch.
    pub async fn drain(&self, item_id: &ItemId, most: u32, permit: Permit) -> Result<DrainBatch, LinkError> {
        let (epoch, until) = match permit {
            Permit::Unleased => (String::new(), String::new()),
            Permit::Leased { epoch, until } => (epoch.to_string(), until.to_string()),
        };
        let keys = Keys::of(item_id);
        let reply: Vec<i64> = self
            .link
            .call(async |mut connection| {
                SCRIPT
                    .key(&keys.item)
                    .key(&keys.orders)
                    .key(&keys.reservations)
                    .key(&keys.tasks)
                    .key(&keys.served)
                    .arg(most.min(MAX_BATCH))
                    .arg(&epoch)
                    .arg(&until)
                    .arg(Clock::machine().now().as_micros())
                    .arg(u8::from(self.has_order_logs))
                    .invoke_async(&mut connection)
                    .await
            })
            .await?;
        parse(&reply).ok_or_else(|| LinkError::Refused("the drain script returned a malformed answer".into()))
    }
}

fn parse(reply: &[i64]) -> Option<DrainBatch> {
    let &[
        taken,
        reserved,
        before_opening,
        after_closing,
        already_taken,
        stock_left,
        waiting,
        lag,
        delay,
        restoring,
        ref excluded @ ..,
    ] = reply
    else {
        return None;
    };
    Some(DrainBatch {
        taken: taken.try_into().ok()?,
        reserved: reserved.try_into().ok()?,
        dropped_before_opening: before_opening.try_into().ok()?,
        dropped_after_closing: after_closing.try_into().ok()?,
        dropped_already_taken: already_taken.try_into().ok()?,
        dropped_excluded: excluded.first().map_or(Some(0), |orders| (*orders).try_into().ok())?,
        stock_left,
        waiting: waiting.try_into().ok()?,
        lag_micros: lag.try_into().ok(),
        settle_delay: Duration::from_micros(delay.try_into().ok()?),
        is_restoring: restoring != 0,
    })
}
