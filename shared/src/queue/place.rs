//! Placing an order: one round trip to main, repeated with the same stamp until main answers or [`MAX_WINDOW`] ends.

mod batch;

pub use batch::{BatchOrder, MAX_PLACED, PLACE_BATCH_SCRIPT};

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
pub(super) static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(PLACE_SCRIPT));
pub(super) use batch::SCRIPT as BATCH_SCRIPT;

/// Main refuses an order that is older, and the drain's delay is never longer. An order is decided by then.
pub const MAX_WINDOW: Duration = Duration::from_secs(10);

/// The pause before the first repetition; it doubles up to [`MAX_PAUSE`].
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(25);
/// The longest pause.
pub(crate) const MAX_PAUSE: Duration = Duration::from_millis(200);

/// One buyer's request for one unit of one item.
#[derive(Clone, Debug)]
pub struct Order {
    pub item_id: ItemId,
    pub user_token: UserToken,
    /// The arrival in the buyer's region, by that region's clock.
    pub placed_at: Stamp,
}

/// Main's answer to an order, with the clock offset that it proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placing {
    pub placement: Placement,
    /// Main's clock at placement minus the stamp, in microseconds.
    pub transit_micros: i64,
    /// Main's clock minus this region's clock.
    pub clock_offset: OffsetBounds,
}

/// The state of an order after it was placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    Queued,
    /// The buyer already had an order in the queue.
    AlreadyQueued {
        /// The stamp of the order in the queue.
        placed_at: Stamp,
    },
    /// The buyer has a reservation or has bought.
    AlreadyTaken {
        sold: bool,
    },
    /// An order that was served may be younger, or the order is older than [`MAX_WINDOW`]; it is not queued.
    TooLate,
    /// It is too late, and a unit of the buyer was released after the stamp. It may be the order that was served; it is
    /// not queued again. In a batch also: the buyer has withdrawn it.
    Released,
    /// The stamp is ahead of main's clock by more than the tolerance; the order is not queued.
    ClockAhead,
    /// The item was finished; the order is not queued.
    Closed,
}

/// Why there is no answer of main about an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// The order is not queued.
    #[error("could not reach main within the longest window of an order")]
    Unreachable,
    /// The order was sent, but no answer came in time, or only the refusal of a retry. Such a refusal does not say what
    /// happened to the first attempt.
    #[error("main did not answer within the longest window of an order; the order may be queued")]
    Unknown,
    /// The order is not queued, and a repetition does not help.
    #[error(
        "main cannot process the keys of the item: one is missing, has a wrong type or a malformed value"
    )]
    BadKeys,
}

impl Placing {
    /// The meaning of an answer about an order stamped `placed_at`, if an earlier attempt has `maybe_sent` it.
    fn after(mut self, maybe_sent: bool, placed_at: Stamp) -> Result<Self, PlaceError> {
        match self.placement {
            // The earlier attempt was executed, and only its answer was lost.
            Placement::AlreadyQueued { placed_at: known } if maybe_sent && known == placed_at => {
                self.placement = Placement::Queued;
            }
            // The earlier attempt may have been queued and served in between, or may still arrive.
            Placement::TooLate | Placement::Released | Placement::ClockAhead | Placement::Closed
                if maybe_sent =>
            {
                return Err(PlaceError::Unknown);
            }
            _ => {}
        }
        Ok(self)
    }
}

impl Queue {
    /// Places `order`, with retries until [`MAX_WINDOW`] after its stamp. Only main decides that it is too late: there
    /// is at least one attempt.
    ///
    /// Each attempt sends the same stamp, and the script adds a buyer only once. So a retry neither loses nor improves a
    /// place. The `settle_window` says to main which ages are long.
    pub async fn place(
        &self,
        order: &Order,
        settle_window: Duration,
        clock: &Clock,
    ) -> Result<Placing, PlaceError> {
        let mut attempts = Attempts::begin(self, order.placed_at, clock);
        loop {
            match self.try_place(order, settle_window, attempts.left(), clock).await {
                Ok(placing) => return placing.after(attempts.maybe_sent, order.placed_at),
                Err(error) => {
                    tracing::warn!(%error, item_id = %order.item_id, "could not place an order in main's queue; trying again until its longest window ends");
                    attempts.failed(&error).await?;
                }
            }
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
                    .key(&keys.item)
                    .arg(order.placed_at.as_micros())
                    .arg(order.user_token.as_str())
                    .arg(settle_window.as_micros());
                let reply: Value = script.invoke_async(&mut connection).await?;
                Ok((sent, reply))
            })
            .await?;
        let received = clock.now();
        let (placement, age_micros) = parse(&reply)
            .ok_or_else(|| LinkError::Refused("the place script returned a malformed answer".into()))?;
        let main = order.placed_at.saturating_add_micros(age_micros);
        let clock_offset = OffsetBounds::from_exchange(sent, main, received);
        Ok(Placing { placement, transit_micros: age_micros, clock_offset })
    }
}

/// The attempts to get one answer from main.
#[derive(Debug)]
struct Attempts {
    deadline: Instant,
    pause: Duration,
    /// Whether main may have executed an earlier attempt.
    maybe_sent: bool,
}

impl Attempts {
    /// Attempts for an order stamped `placed_at`. The first one has the time of a call, however old the order is.
    fn begin(queue: &Queue, placed_at: Stamp, clock: &Clock) -> Self {
        let left = MAX_WINDOW.saturating_sub(clock.now().saturating_since(placed_at));
        let deadline = Instant::now() + left.max(queue.call_limit().min(MAX_WINDOW));
        Self { deadline, pause: FIRST_PAUSE, maybe_sent: false }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Waits after a failed attempt. The error is what is known about the order if there is no time for another.
    async fn failed(&mut self, error: &LinkError) -> Result<(), PlaceError> {
        self.maybe_sent |= matches!(error, LinkError::Unanswered(_));
        if error.is_of_the_keys() && !self.maybe_sent {
            return Err(PlaceError::BadKeys);
        }
        if self.left() <= self.pause || matches!(error, LinkError::BreakerOpen) {
            return Err(if self.maybe_sent { PlaceError::Unknown } else { PlaceError::Unreachable });
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        Ok(())
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
    Some((placement(what, figure)?, *age_micros))
}

/// The placement that a script calls `state`, with the number that belongs to it.
fn placement(state: &[u8], figure: &[u8]) -> Option<Placement> {
    Some(match state {
        b"queued" => Placement::AlreadyQueued { placed_at: super::order::parse_stamp(figure)? },
        b"taken" => Placement::AlreadyTaken { sold: figure == b"inf" },
        b"too_late" => Placement::TooLate,
        b"released" => Placement::Released,
        b"clock_ahead" => Placement::ClockAhead,
        b"closed" => Placement::Closed,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock_check::CLOCK_TOLERANCE_MICROS;
    use crate::queue::DRAIN_SCRIPT;

    #[test]
    fn script_and_clock_check_agree_on_the_tolerance() {
        assert!(PLACE_SCRIPT.contains(&format!("age >= -{CLOCK_TOLERANCE_MICROS}\n")));
        assert!(PLACE_BATCH_SCRIPT.contains(&format!("now + {CLOCK_TOLERANCE_MICROS}\n")));
        assert!(DRAIN_SCRIPT.contains(&format!("ARGV[4] + {CLOCK_TOLERANCE_MICROS})")));
    }

    #[test]
    fn scripts_agree_on_the_longest_window() {
        let micros = MAX_WINDOW.as_micros();
        assert!(PLACE_SCRIPT.contains(&format!("age > {micros} ")));
        assert!(PLACE_SCRIPT.contains(&format!("age <= {micros} ")));
        assert!(PLACE_BATCH_SCRIPT.contains(&format!("now - {micros} - 1")));
        assert!(PLACE_BATCH_SCRIPT.contains(&format!("stamp >= now - {micros} ")));
        assert!(PLACE_BATCH_SCRIPT.contains(&format!("now - ARGV[2] <= {micros} ")));
        assert!(PLACE_BATCH_SCRIPT.contains(&format!("stamp < now - {micros} and")));
        assert!(DRAIN_SCRIPT.contains(&format!("2 * before), {micros})")));
    }

    fn at(micros: u64) -> Stamp {
        Stamp::from_micros(micros).unwrap()
    }

    #[test]
    fn a_refusal_after_an_attempt_that_may_have_been_executed_is_unknown() {
        let clock_offset = OffsetBounds { low: 0, high: 0 };
        let meaning = |placement, maybe_sent| {
            let placing = Placing { placement, transit_micros: 7, clock_offset };
            placing.after(maybe_sent, at(5)).map(|placing| placing.placement)
        };
        let ours = Placement::AlreadyQueued { placed_at: at(5) };
        let earlier = Placement::AlreadyQueued { placed_at: at(4) };
        let taken = Placement::AlreadyTaken { sold: false };
        let refusals = [Placement::TooLate, Placement::Released, Placement::ClockAhead, Placement::Closed];
        for placement in [Placement::Queued, ours, earlier, taken].into_iter().chain(refusals) {
            assert_eq!(meaning(placement, false), Ok(placement));
        }
        assert_eq!(meaning(ours, true), Ok(Placement::Queued));
        assert_eq!(meaning(earlier, true), Ok(earlier));
        assert_eq!(meaning(taken, true), Ok(taken));
        for refusal in refusals {
            assert_eq!(meaning(refusal, true), Err(PlaceError::Unknown));
        }
    }

    #[test]
    fn a_malformed_answer_is_refused() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        assert_eq!(parse(&Value::Int(7)), Some((Placement::Queued, 7)));
        for malformed in [
            Value::Nil,
            text("queued"),
            Value::Array(vec![]),
            Value::Array(vec![text("queued"), text("soon"), Value::Int(1)]),
            Value::Array(vec![text("sold"), text(""), Value::Int(1)]),
            Value::Array(vec![text("too_late"), text(""), text("1")]),
        ] {
            assert_eq!(parse(&malformed), None, "{malformed:?}");
        }
    }
}
