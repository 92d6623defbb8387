//! Placing a batch of orders of one item, as order by order, in one round trip and for less of main's time.

use super::{Attempts, Order, PlaceError, Placement, Placing, placement};
use crate::clock::Clock;
use crate::clock_check::OffsetBounds;
use crate::item::ItemId;
use crate::queue::{Keys, LinkError, Queue};
use crate::stamp::Stamp;
use crate::user_token::UserToken;
use redis::{Script, Value};
use std::sync::LazyLock;
use std::time::Duration;

/// The script's text.
pub const PLACE_BATCH_SCRIPT: &str = include_str!("batch.lua");
pub(in crate::queue) static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(PLACE_BATCH_SCRIPT));

/// The maximum number of orders in one call of the script: it blocks Redis in the meantime.
pub const MAX_PLACED: usize = 200;

/// An order of a batch, whose item the batch has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchOrder {
    pub user_token: UserToken,
    /// The arrival in the buyer's region, by that region's clock.
    pub placed_at: Stamp,
}

impl From<Order> for BatchOrder {
    fn from(order: Order) -> Self {
        Self { user_token: order.user_token, placed_at: order.placed_at }
    }
}

impl Queue {
    /// Places `orders` in their sequence, in calls of at most [`MAX_PLACED`], and returns a result for each. It is as if
    /// each was [placed](Queue::place) alone, but for one answer: an order that was in the queue with this very stamp is
    /// [`Queued`](Placement::Queued).
    ///
    /// A call without an answer is repeated with the same stamps until the longest window of its youngest order ends. Of an
    /// item that Redis does not have, the answer is [`BadKeys`](PlaceError::BadKeys) at once.
    pub async fn place_batch(
        &self,
        item_id: &ItemId,
        orders: &[BatchOrder],
        settle_window: Duration,
        clock: &Clock,
    ) -> Vec<Result<Placing, PlaceError>> {
        let mut placed = Vec::with_capacity(orders.len());
        for batch in orders.chunks(MAX_PLACED) {
            placed.extend(self.place_one_batch(item_id, batch, settle_window, clock).await);
        }
        placed
    }

    async fn place_one_batch(
        &self,
        item_id: &ItemId,
        batch: &[BatchOrder],
        settle_window: Duration,
        clock: &Clock,
    ) -> Vec<Result<Placing, PlaceError>> {
        let youngest = batch.iter().map(|order| order.placed_at).max().unwrap_or(Stamp::EPOCH);
        let mut attempts = Attempts::begin(self, youngest, clock);
        loop {
            let error = match self.try_batch(item_id, batch, settle_window, attempts.left(), clock).await {
                Ok(placings) => {
                    let known = |(placing, order): (Placing, &BatchOrder)| {
                        placing.after(attempts.maybe_sent, order.placed_at)
                    };
                    return placings.into_iter().zip(batch).map(known).collect();
                }
                Err(error) => error,
            };
            // No repetition helps before an operator has restored the item, and orders of other items wait behind these.
            if matches!(&error, LinkError::Refused(code) if code == "NOITEM") && !attempts.maybe_sent {
                return vec![Err(PlaceError::BadKeys); batch.len()];
            }
            tracing::warn!(%error, %item_id, orders = batch.len(), "could not place a batch of orders in main's queue; trying again until the longest window of its youngest order ends");
            if let Err(unplaced) = attempts.failed(&error).await {
                return vec![Err(unplaced); batch.len()];
            }
        }
    }

    async fn try_batch(
        &self,
        item_id: &ItemId,
        batch: &[BatchOrder],
        settle_window: Duration,
        limit: Duration,
        clock: &Clock,
    ) -> Result<Vec<Placing>, LinkError> {
        let keys = Keys::of(item_id);
        let stamps = || batch.iter().map(|order| order.placed_at);
        let oldest = stamps().min().unwrap_or(Stamp::EPOCH);
        let newest = stamps().max().unwrap_or(Stamp::EPOCH);
        let (sent, reply) = self
            .link
            .run(limit, async |mut connection| {
                let sent = clock.now();
                let mut script = SCRIPT.key(&keys.orders);
                script.key(&keys.reservations).key(&keys.item).key(&keys.left).arg(settle_window.as_micros());
                script.arg(oldest.as_micros()).arg(newest.as_micros());
                for order in batch {
                    script.arg(order.placed_at.as_micros()).arg(order.user_token.as_str());
                }
                let reply: Vec<Value> = script.invoke_async(&mut connection).await?;
                Ok((sent, reply))
            })
            .await?;
        let received = clock.now();
        let (main, placements) = parse(&reply, batch.len())
            .ok_or_else(|| LinkError::Refused("the place batch script returned a malformed answer".into()))?;
        let clock_offset = OffsetBounds::from_exchange(sent, main, received);
        let placing = |(placement, order): (Placement, &BatchOrder)| Placing {
            placement,
            transit_micros: main.micros_since(order.placed_at),
            clock_offset,
        };
        Ok(placements.into_iter().zip(batch).map(placing).collect())
    }
}

/// Main's clock, and the placement of each of `count` orders.
fn parse(reply: &[Value], count: usize) -> Option<(Stamp, Vec<Placement>)> {
    let (Value::BulkString(now), exceptions) = reply.split_first()? else { return None };
    let main = crate::queue::order::parse_stamp(now)?;
    let mut placements = vec![Placement::Queued; count];
    let exceptions = exceptions.chunks(3);
    for exception in exceptions {
        let [Value::Int(position), Value::BulkString(state), Value::BulkString(figure)] = exception else {
            return None;
        };
        let index = usize::try_from(*position).ok()?.checked_sub(1)?;
        *placements.get_mut(index)? = placement(state, figure)?;
    }
    Some((main, placements))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_without_an_exception_is_queued() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let exceptions =
            [Value::Int(2), text("taken"), text("inf"), Value::Int(3), text("queued"), text("5")];
        let reply: Vec<Value> = [text("7")].into_iter().chain(exceptions.clone()).collect();
        let (main, placements) = parse(&reply, 3).unwrap();
        assert_eq!(main.as_micros(), 7);
        let earlier = Placement::AlreadyQueued { placed_at: Stamp::from_micros(5).unwrap() };
        assert_eq!(placements, [Placement::Queued, Placement::AlreadyTaken { sold: true }, earlier]);
        let [_, second, third, ..] = &exceptions;
        for malformed in [
            vec![],
            vec![Value::Int(7)],
            vec![text("7"), second.clone(), third.clone()],
            vec![text("7"), Value::Int(4), text("too_late"), text("")],
            vec![text("7"), Value::Int(0), text("too_late"), text("")],
            vec![text("7"), Value::Int(1), text("soon"), text("")],
        ] {
            assert_eq!(parse(&malformed, 3), None, "{malformed:?}");
        }
    }
}
