//! The state of a buyer's order.

use super::primary::on_primary;
use super::{CANCELLED_OFFSET_MICROS, ItemError, Keys, LinkError, NO_HOLD_MICROS, Queue, items};
use crate::item::{Item, ItemId};
use crate::stamp::Stamp;
use crate::user_token::UserToken;
use std::collections::HashMap;

/// The state of a buyer's order for an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderState {
    /// There is no order.
    None,
    /// The order is in the queue.
    Queued {
        placed_at: Stamp,
        /// The number of orders before it.
        ahead: u64,
    },
    /// A unit is reserved.
    Reserved(Hold),
    /// The buyer has bought the unit.
    Sold,
    /// The reservation ended without a sale.
    Released,
    /// An operator has taken the reserved or sold unit back.
    Voided,
    /// The buyer gets no unit of the item.
    Excluded,
}

impl OrderState {
    /// Whether the buyer's last reservation is over, or the buyer gets none.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Released | Self::Voided | Self::Excluded)
    }
}

impl OrderState {
    /// Whether the buyer has no unit, and could get one as long as the item is not finished.
    pub fn could_be_served(self) -> bool {
        matches!(self, Self::None | Self::Queued { .. } | Self::Released)
    }
}

/// The event that a reservation waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Payment, until this moment.
    Until(Stamp),
    /// The ledger: the unit is sold when the worker records the reservation.
    Sale,
    /// The worker: it releases the reservation, which the buyer has cancelled.
    Release,
}

impl Queue {
    /// The state of `buyer`'s order on main, at one moment, in one round trip. A server that does not take writes
    /// refuses: a demoted main answers reads for as long as it lives.
    pub async fn order_state(&self, item_id: &ItemId, buyer: &UserToken) -> Result<OrderState, LinkError> {
        let keys = Keys::of(item_id);
        let (placed_at, ahead, hold): (Option<f64>, Option<u64>, Option<f64>) = self
            .link
            .call(async |mut connection| {
                on_primary(&keys)
                    .zscore(&keys.orders, buyer.as_str())
                    .zrank(&keys.orders, buyer.as_str())
                    .zscore(&keys.reservations, buyer.as_str())
                    .query_async(&mut connection)
                    .await
            })
            .await?;
        Ok(state_of(placed_at, ahead, hold))
    }

    /// The item and the state of `buyer`'s order for it on main, as [`order_state`](Self::order_state), and when a unit of
    /// the buyer was released, if that is what main knows of the buyer.
    pub async fn item_and_order(
        &self,
        item_id: &ItemId,
        buyer: &UserToken,
    ) -> Result<(Item, OrderState, Option<Stamp>), ItemError> {
        let keys = Keys::of(item_id);
        let (fields, placed_at, ahead, hold): (
            HashMap<String, String>,
            Option<f64>,
            Option<u64>,
            Option<f64>,
        ) = self
            .link
            .call(async |mut connection| {
                on_primary(&keys)
                    .hgetall(&keys.item)
                    .zscore(&keys.orders, buyer.as_str())
                    .zrank(&keys.orders, buyer.as_str())
                    .zscore(&keys.reservations, buyer.as_str())
                    .query_async(&mut connection)
                    .await
            })
            .await?;
        let item = items::parse(item_id, &fields)?;
        Ok((item, state_of(placed_at, ahead, hold), hold.and_then(released_at)))
    }
}

impl Queue {
    /// For each of at most [`MAX_BATCH`](super::MAX_BATCH) `buyers`: the stamp of the order that waits, and whether the buyer
    /// has a unit.
    pub async fn stamps_and_units(
        &self,
        item_id: &ItemId,
        buyers: &[&UserToken],
    ) -> Result<Vec<(Option<Stamp>, bool)>, LinkError> {
        let keys = Keys::of(item_id);
        let names: Vec<&str> = buyers.iter().map(|buyer| buyer.as_str()).collect();
        let (stamps, holds): (Vec<Option<f64>>, Vec<Option<f64>>) = self
            .link
            .call(async |mut connection| {
                let mut pipe = on_primary(&keys);
                pipe.cmd("ZMSCORE").arg(&keys.orders).arg(&names);
                pipe.cmd("ZMSCORE").arg(&keys.reservations).arg(&names);
                pipe.query_async(&mut connection).await
            })
            .await?;
        let of = |(stamp, hold): (Option<f64>, Option<f64>)| {
            (stamp.and_then(stamp_of_score), hold.is_some_and(|hold| hold >= 0.0))
        };
        Ok(stamps.into_iter().zip(holds).map(of).collect())
    }
}

impl Queue {
    /// The orders that wait, first come first: at most `most` of them, from the `from`th on. The queue must not
    /// change in the meantime.
    pub async fn waiting(
        &self,
        item_id: &ItemId,
        from: u64,
        most: u32,
    ) -> Result<Vec<(UserToken, Stamp)>, LinkError> {
        let page = self.page(&Keys::of(item_id).orders, from, most).await?;
        let order =
            |(buyer, score): (String, f64)| Some((UserToken::parse(buyer).ok()?, stamp_of_score(score)?));
        page.into_iter().map(order).collect::<Option<_>>().ok_or_else(malformed)
    }

    /// The buyers with a reservation, also a released one, and their states, likewise.
    pub async fn taken(
        &self,
        item_id: &ItemId,
        from: u64,
        most: u32,
    ) -> Result<Vec<(UserToken, OrderState)>, LinkError> {
        let page = self.page(&Keys::of(item_id).reservations, from, most).await?;
        let state = |(buyer, hold): (String, f64)| {
            Some((UserToken::parse(buyer).ok()?, state_of(None, None, Some(hold))))
        };
        page.into_iter().map(state).collect::<Option<_>>().ok_or_else(malformed)
    }

    async fn page(&self, key: &str, from: u64, most: u32) -> Result<Vec<(String, f64)>, LinkError> {
        let to = from.saturating_add(u64::from(most)).saturating_sub(1);
        self.link
            .call(async |mut connection| {
                redis::cmd("ZRANGE")
                    .arg(key)
                    .arg(from)
                    .arg(to)
                    .arg("WITHSCORES")
                    .query_async(&mut connection)
                    .await
            })
            .await
    }
}

fn malformed() -> LinkError {
    LinkError::Refused("an order or reservation in Redis has a malformed buyer or score".into())
}

/// An active reservation takes precedence over an order of the same buyer, which is never served. An order in the
/// queue takes precedence over a released reservation: the buyer has ordered again. But not over the mark of an excluded
/// buyer: the drain reserves nothing for the order.
pub(super) fn state_of(placed_at: Option<f64>, ahead: Option<u64>, hold: Option<f64>) -> OrderState {
    if hold == Some(f64::INFINITY) {
        return OrderState::Sold;
    }
    if let Some(until) = hold.and_then(stamp_of_score) {
        return OrderState::Reserved(match until.as_micros() {
            NO_HOLD_MICROS.. => Hold::Sale,
            ..CANCELLED_OFFSET_MICROS => Hold::Release,
            _ => Hold::Until(until),
        });
    }
    if let Some(hold) = hold.filter(|hold| *hold < 0.0 && hold % 0.5 != 0.0) {
        return ended(hold);
    }
    match placed_at.and_then(stamp_of_score) {
        Some(placed_at) => OrderState::Queued { placed_at, ahead: ahead.unwrap_or(0) },
        None => hold.map_or(OrderState::None, ended),
    }
}

/// When the unit of a buyer with this score was released; `None` if it was not.
pub(super) fn released_at(hold: f64) -> Option<Stamp> {
    (hold < 0.0).then(|| stamp_of_score(-hold)).flatten()
}

/// The state of a reservation with a negative score. No moment has a fraction: settle.lua adds a half to a void, and
/// exclude.lua a quarter to the score of an excluded buyer.
fn ended(score: f64) -> OrderState {
    match score.fract() {
        0.0 => OrderState::Released,
        -0.25 => OrderState::Excluded,
        _ => OrderState::Voided,
    }
}

/// The moment of a score; `None` if the score is not a moment.
fn stamp_of_score(score: f64) -> Option<Stamp> {
    // The cast is exact: every stamp is a whole number below 2^53.
    (0.0..Stamp::LIMIT as f64).contains(&score).then(|| Stamp::from_micros(score as u64).ok()).flatten()
}

/// The moment in a text of Redis.
pub(super) fn parse_stamp(text: &[u8]) -> Option<Stamp> {
    stamp_of_score(std::str::from_utf8(text).ok()?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_scores_has_one_meaning() {
        let stamp = |micros| Stamp::from_micros(micros).unwrap();
        let now = 1_795_000_000_123_457_u64;
        let queued = OrderState::Queued { placed_at: stamp(now), ahead: 3 };
        let cases = [
            (None, None, None, OrderState::None),
            (Some(now as f64), Some(3), None, queued),
            (Some(now as f64), Some(3), Some(-(now as f64)), queued),
            (None, None, Some(f64::INFINITY), OrderState::Sold),
            (None, None, Some(now as f64), OrderState::Reserved(Hold::Until(stamp(now)))),
            (None, None, Some((now - CANCELLED_OFFSET_MICROS) as f64), OrderState::Reserved(Hold::Release)),
            (None, None, Some((now + NO_HOLD_MICROS) as f64), OrderState::Reserved(Hold::Sale)),
            (None, None, Some(-(now as f64)), OrderState::Released),
            (None, None, Some(-(now as f64) - 0.5), OrderState::Voided),
            (Some(now as f64), Some(3), Some(-(now as f64) - 0.5), queued),
            (None, None, Some(-(now as f64) - 0.25), OrderState::Excluded),
            (None, None, Some(-(now as f64) - 0.75), OrderState::Voided),
            (Some(now as f64), Some(3), Some(-(now as f64) - 0.75), OrderState::Voided),
        ];
        for (placed_at, ahead, hold, state) in cases {
            assert_eq!(state_of(placed_at, ahead, hold), state);
            // An order in addition to a unit changes nothing, and neither does one of an excluded buyer.
            if matches!(state, OrderState::Sold | OrderState::Reserved(_) | OrderState::Excluded) {
                assert_eq!(state_of(Some(now as f64), Some(3), hold), state);
            }
        }
    }

    #[test]
    fn only_a_negative_score_has_a_moment_of_release() {
        assert_eq!(released_at(-5.0).map(Stamp::as_micros), Some(5));
        for hold in [5.0, 0.0, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(released_at(hold), None, "{hold}");
        }
    }

    #[test]
    fn stamps_are_read_exactly() {
        assert_eq!(parse_stamp(b"1795411246335419").unwrap().as_micros(), 1_795_411_246_335_419);
        for text in [&b"inf"[..], b"-1", b"", b"9007199254740992", b"\xff"] {
            assert_eq!(parse_stamp(text), None);
        }
    }
}
