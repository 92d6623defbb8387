//! Placing an order: one round trip to main, repeated with the same stamp until
//! the settle window ends.

use super::{Keys, LinkError, Queue};
use crate::clock::Clock;
use crate::clock_check::OffsetBounds;
use crate::item::ItemId;
use crate::stamp::Stamp;
use crate::user_token::UserToken;
use redis::{Script, Value};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// The place script's text.
pub const PLACE_SCRIPT: &str = include_str!("place.lua");
static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(PLACE_SCRIPT));

/// The pause before the first repetition; it doubles up to [`MAX_PAUSE`].
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(25);
/// The longest pause.
pub(crate) const MAX_PAUSE: Duration = Duration::from_millis(200);

/// One buyer's request for one unit of one item.
#[derive(Clone, Debug)]
pub struct Order {
    /// Which item.
    pub item_id: ItemId,
    /// Which buyer.
    pub user_token: UserToken,
    /// When the order reached the buyer's region, by that region's clock.
    pub placed_at: Stamp,
}

/// What main said, and what its answer proves about our clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placing {
    /// What has become of the order.
    pub placement: Placement,
    /// Main's clock at placement minus the stamp, in microseconds.
    pub transit_micros: i64,
    /// Main's clock minus ours.
    pub clock_offset: OffsetBounds,
}

/// What has become of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// It is in the queue.
    Queued,
    /// The buyer was in the queue already, since `placed_at`.
    AlreadyQueued {
        /// The stamp that counts.
        placed_at: Stamp,
    },
    /// The buyer has a reservation or has bought.
    AlreadyTaken {
        /// Whether it is sold.
        sold: bool,
    },
    /// It reached main after its settle window; nothing is queued.
    TooLate,
    /// It is stamped further ahead of main than clocks may differ; nothing is queued.
    ClockAhead,
}

/// Why main's word on an order is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// The window had passed before the order could be sent. Nothing is queued.
    #[error("the settle window had passed before the order could be sent")]
    TooLate,
    /// Main could not be reached within the window. Nothing is queued.
    #[error("main could not be reached")]
    Unreachable,
    /// The order was sent, and no answer came back within the window; or only to a repetition, which was
    /// refused and says nothing of what had become of the first.
    #[error("main did not answer; whether the order is queued is not known")]
    Unknown,
}

impl Placing {
    /// What an answer says of an order stamped `placed_at`, where an earlier try `maybe_sent` it.
    fn after(mut self, maybe_sent: bool, placed_at: Stamp) -> Result<Self, PlaceError> {
        match self.placement {
            // Our own earlier try got through, and only its answer was lost.
            Placement::AlreadyQueued { placed_at: known } if maybe_sent && known == placed_at => {
                self.placement = Placement::Queued;
            }
            // It may have been queued and served in between, or land yet.
            Placement::TooLate | Placement::ClockAhead if maybe_sent => return Err(PlaceError::Unknown),
            _ => {}
        }
        Ok(self)
    }
}

impl Queue {
    /// Places `order`, trying until `settle_window`, how long it may travel, after its stamp.
    ///
    /// Each try sends the same stamp, and the script adds a buyer only once, so
    /// that a repetition neither loses nor improves a place.
    pub async fn place(
        &self,
        order: &Order,
        settle_window: Duration,
        clock: &Clock,
    ) -> Result<Placing, PlaceError> {
        let settle_micros = i64::try_from(settle_window.as_micros()).unwrap_or(i64::MAX);
        let left_micros = settle_micros.saturating_sub(clock.now().micros_since(order.placed_at));
        if left_micros <= 0 {
            return Err(PlaceError::TooLate);
        }
        let deadline = Instant::now() + Duration::from_micros(left_micros.unsigned_abs());
        let mut maybe_sent = false;
        let mut pause = FIRST_PAUSE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.try_place(order, settle_window, left, clock).await {
                Ok(placing) => return placing.after(maybe_sent, order.placed_at),
                Err(error) => {
                    tracing::warn!(%error, item_id = %order.item_id, "main did not take an order yet");
                    maybe_sent |= matches!(error, LinkError::Unanswered(_));
                }
            }
            if deadline.saturating_duration_since(Instant::now()) <= pause {
                return Err(if maybe_sent { PlaceError::Unknown } else { PlaceError::Unreachable });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    async fn try_place(
        &self,
        order: &Order,
        settle_window: Duration,
        limit: Duration,
        clock: &Clock,
    ) -> Result<Placing, LinkError> {
        let keys = Keys::of(&order.item_id);
        let (sent, reply) = self
            .link
            .run(limit, async |mut connection| {
                let sent = clock.now();
                let mut script = SCRIPT.key(&keys.orders);
                script
                    .key(&keys.reservations)
                    .arg(order.placed_at.as_micros())
                    .arg(order.user_token.as_str())
                    .arg(settle_window.as_micros());
                let reply: Value = script.invoke_async(&mut connection).await?;
                Ok((sent, reply))
            })
            .await?;
        let received = clock.now();
        let (placement, age_micros) = parse(&reply)
            .ok_or_else(|| LinkError::Refused("the place script's answer makes no sense".into()))?;
        let main = order.placed_at.saturating_add_micros(age_micros);
        let clock_offset = OffsetBounds::from_exchange(sent, main, received);
        Ok(Placing { placement, transit_micros: age_micros, clock_offset })
    }
}

fn parse(reply: &Value) -> Option<(Placement, i64)> {
    let parts = match reply {
        Value::Int(age_micros) => return Some((Placement::Queued, *age_micros)),
        Value::Array(parts) => parts.as_slice(),
        _ => return None,
    };
    let [Value::BulkString(what), Value::BulkString(figure), Value::Int(age_micros)] = parts else {
        return None;
    };
    let placement = match what.as_slice() {
        b"queued" => Placement::AlreadyQueued { placed_at: super::order::parse_stamp(figure)? },
        b"taken" => Placement::AlreadyTaken { sold: figure == b"inf" },
        b"too_late" => Placement::TooLate,
        b"clock_ahead" => Placement::ClockAhead,
        _ => return None,
    };
    Some((placement, *age_micros))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock_check::CLOCK_TOLERANCE_MICROS;

    #[test]
    fn script_and_clock_check_agree_on_the_tolerance() {
        assert!(PLACE_SCRIPT.contains(&format!("age >= -{CLOCK_TOLERANCE_MICROS} ")));
    }

    fn at(micros: u64) -> Stamp {
        Stamp::from_micros(micros).unwrap()
    }

    #[test]
    fn a_refusal_after_a_try_that_may_have_come_through_is_no_last_word() {
        let clock_offset = OffsetBounds { low: 0, high: 0 };
        let told = |placement, maybe_sent| {
            let placing = Placing { placement, transit_micros: 7, clock_offset };
            placing.after(maybe_sent, at(5)).map(|placing| placing.placement)
        };
        let ours = Placement::AlreadyQueued { placed_at: at(5) };
        let earlier = Placement::AlreadyQueued { placed_at: at(4) };
        let taken = Placement::AlreadyTaken { sold: false };
        for placement in [Placement::Queued, ours, earlier, taken, Placement::TooLate, Placement::ClockAhead]
        {
            assert_eq!(told(placement, false), Ok(placement));
        }
        assert_eq!(told(ours, true), Ok(Placement::Queued));
        assert_eq!(told(earlier, true), Ok(earlier));
        assert_eq!(told(taken, true), Ok(taken));
        for refusal in [Placement::TooLate, Placement::ClockAhead] {
            assert_eq!(told(refusal, true), Err(PlaceError::Unknown));
        }
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_no_answer() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        assert_eq!(parse(&Value::Int(7)), Some((Placement::Queued, 7)));
        for nonsense in [
            Value::Nil,
            text("queued"),
            Value::Array(vec![]),
            Value::Array(vec![text("queued"), text("soon"), Value::Int(1)]),
            Value::Array(vec![text("sold"), text(""), Value::Int(1)]),
            Value::Array(vec![text("too_late"), text(""), text("1")]),
        ] {
            assert_eq!(parse(&nonsense), None, "{nonsense:?}");
        }
    }
}
