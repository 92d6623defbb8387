//! What main decides about orders, and what is recorded of it.

use crate::App;
use crate::event::Entry;
use crate::undecided::Undecided;
use order_log::{LogRecord, Refusal, RefusalReason};
use shared::item::{Gate, Item, ItemId};
use shared::item_cache::ItemCache;
use shared::queue::{BatchOrder, ItemCopy, MAX_WINDOW, PlaceError, Placement, Placing, Queue};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A stamp may be ahead of another clock by this much; that clock is waited for. With a longer time, the stamp's clock is
/// wrong.
const MAX_AHEAD: Duration = Duration::from_secs(1);
/// DynamoDB rounds the time of a record down to the second.
const ROUNDING: Duration = Duration::from_secs(1);
/// The maximum number of items that a process remembers; above it, the process forgets all.
const MAX_ITEMS: usize = 2_000;

/// What main has decided about an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Queued; this is its age in microseconds.
    Placed {
        age_micros: i64,
    },
    /// The buyer has an order or a unit already, had a unit that was released after the stamp, or has withdrawn the order.
    /// Nothing is recorded.
    Superseded,
    Refused(RefusalReason),
}

impl Decision {
    /// Whether main's Redis, if it is lost at this moment, may queue the order in its next life.
    pub(crate) fn may_be_undone(self) -> bool {
        matches!(self, Self::Refused(reason) if reason != RefusalReason::NoSuchItem)
    }

    /// Whether main has an order that is so old that an earlier delivery may have found it refused, and may not have removed
    /// that from the record.
    pub(crate) fn may_have_been_refused(self) -> bool {
        matches!(self, Self::Placed { age_micros } if age_micros > MAX_WINDOW.as_micros() as i64)
    }
}

/// Main's items.
#[derive(Debug)]
pub(crate) struct Items {
    cache: ItemCache,
    /// Items that this process has read. None is deleted before it was finished.
    seen: Mutex<HashSet<ItemId>>,
}

impl Items {
    pub(crate) fn new(queue: Queue) -> Self {
        Self { cache: ItemCache::new(None, queue), seen: Mutex::default() }
    }

    /// The item; `None` if it never existed. That is final, so main's set of items must say so, and a set that is empty
    /// or lacks an item that this process has read is that of a Redis that was lost.
    async fn get(&self, queue: &Queue, item_id: &ItemId) -> Result<Option<Arc<ItemCopy>>, Undecided> {
        let limit = queue.call_limit() * 2;
        let copy = self.cache.get(item_id, limit).await?;
        let seen = || self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(copy) = copy {
            if seen().len() >= MAX_ITEMS {
                seen().clear();
            }
            if copy.item.is_finished() {
                seen().remove(item_id);
            } else {
                seen().insert(item_id.clone());
            }
            return Ok(Some(copy));
        }
        let known = ids_of_main(queue).await?;
        if known.contains(item_id) || seen().contains(item_id) {
            return Err(Undecided::Item("main has lost the item".into()));
        }
        Ok(None)
    }
}

/// All items of main. A Redis that was lost has none.
async fn ids_of_main(queue: &Queue) -> Result<HashSet<ItemId>, Undecided> {
    let known = queue.item_ids_on_primary(queue.call_limit() * 2).await?;
    if known.is_empty() {
        return Err(Undecided::Main("main has no item: its Redis may have been lost".into()));
    }
    Ok(known)
}

/// Main's decisions about orders of one item, in their order.
pub(crate) async fn decide(
    app: &App,
    item_id: &ItemId,
    orders: &[&Entry],
) -> Result<Vec<Result<Decision, Undecided>>, Undecided> {
    let Some(copy) = app.items.get(&app.queue, item_id).await? else {
        return Ok(orders.iter().map(|_| Ok(Decision::Refused(RefusalReason::NoSuchItem))).collect());
    };
    let outside = outside_the_gates(app, &copy.item, orders).await?;
    let decided: Vec<Option<Decision>> =
        orders.iter().map(|order| without_placing(order, &copy.item, &outside)).collect();
    let sent: Vec<BatchOrder> = orders
        .iter()
        .zip(&decided)
        .filter(|(_, decided)| decided.is_none())
        .map(|(Entry { record, .. }, _)| BatchOrder {
            user_token: record.user_token.clone(),
            placed_at: record.placed_at,
        })
        .collect();
    let placed = app.queue.place_batch(item_id, &sent, copy.item.settle_window(), &app.clock).await;
    if placed.iter().any(|answer| matches!(answer, Err(PlaceError::BadKeys))) {
        // The item's hash may be gone with all others, which is not a fault of the item.
        ids_of_main(&app.queue).await?;
    }
    check_clock(&placed);
    let mut placed = placed.into_iter();
    let decisions = decided.into_iter().map(|decided| match decided {
        Some(decision) => Ok(decision),
        None => {
            let placing = placed.next().ok_or_else(|| Undecided::Main("an order has no answer".into()))?;
            decision(placing?)
        }
    });
    Ok(decisions.collect())
}

/// An order of an item: a batch may have several of a buyer.
type OrderKey<'a> = (&'a UserToken, Stamp);

fn key(record: &LogRecord) -> OrderKey<'_> {
    (&record.user_token, record.placed_at)
}

/// The orders outside the gates, and whether main has the order or a unit of the buyer: an operator may have moved the
/// gates since.
async fn outside_the_gates<'a>(
    app: &App,
    item: &Item,
    orders: &[&'a Entry],
) -> Result<HashMap<OrderKey<'a>, bool>, Undecided> {
    let outside: Vec<&LogRecord> = orders
        .iter()
        .map(|entry| &entry.record)
        .filter(|record| item.gate(record.placed_at) != Gate::Open)
        .collect();
    if outside.is_empty() {
        return Ok(HashMap::new());
    }
    let buyers: Vec<&UserToken> = outside.iter().map(|record| &record.user_token).collect();
    let states = app.queue.stamps_and_units(&item.item_id, &buyers).await?;
    let is_known = |(record, (waiting, has_unit)): (&&'a LogRecord, (Option<Stamp>, bool))| {
        (key(record), has_unit || waiting == Some(record.placed_at))
    };
    Ok(outside.iter().zip(states).map(is_known).collect())
}

/// The decision about an order that is not sent to main. The drain would drop an order outside the gates, and leave no
/// trace of it.
fn without_placing(order: &Entry, item: &Item, outside: &HashMap<OrderKey<'_>, bool>) -> Option<Decision> {
    let Entry { record, written_at, .. } = order;
    if is_ahead_of_the_log(record.placed_at, *written_at) {
        return Some(Decision::Refused(RefusalReason::ClockAhead));
    }
    let is_in_main = *outside.get(&key(record))?;
    Some(match item.gate(record.placed_at) {
        _ if is_in_main => Decision::Superseded,
        Gate::NotOpenYet => Decision::Refused(RefusalReason::NotOpenYet),
        Gate::Closed => Decision::Refused(RefusalReason::Closed),
        Gate::Open => return None,
    })
}

/// Measures the region's clock: order-intake has no answer of main to compare it with.
fn check_clock(placed: &[Result<Placing, PlaceError>]) {
    let Some(Placing { clock_offset: bounds, .. }) = placed.iter().flatten().next() else { return };
    bounds.set_metrics();
    if !bounds.is_tolerable() {
        tracing::error!(
            offset_low_ms = bounds.low / 1000,
            offset_high_ms = bounds.high / 1000,
            "the clock of this machine differs from main's by more than the tolerance; the region's orders may have wrong stamps"
        );
    }
}

/// Whether the stamp is from a clock that is wrong by DynamoDB's clock. Each delivery of the record finds the same, so that
/// none queues an order that another one has refused.
fn is_ahead_of_the_log(placed_at: Stamp, written_at: Option<Stamp>) -> bool {
    written_at.is_some_and(|written_at| placed_at > written_at.saturating_add(ROUNDING + MAX_AHEAD))
}

/// What main's answer means for the record.
fn decision(placing: Placing) -> Result<Decision, Undecided> {
    Ok(match placing.placement {
        Placement::Queued => Decision::Placed { age_micros: placing.transit_micros },
        Placement::AlreadyQueued { .. } | Placement::AlreadyTaken { .. } => Decision::Superseded,
        // Perhaps this order itself was served, or the buyer has withdrawn it, and it is delivered again.
        Placement::Released => Decision::Superseded,
        Placement::TooLate => Decision::Refused(RefusalReason::TooLate),
        Placement::ClockAhead if placing.transit_micros >= -(MAX_AHEAD.as_micros() as i64) => {
            return Err(Undecided::Main("the stamp is ahead of main's clock".into()));
        }
        Placement::ClockAhead => Decision::Refused(RefusalReason::ClockAhead),
        Placement::Closed => Decision::Refused(RefusalReason::Closed),
    })
}

/// Records a decision, beginning no write after `until`. Returns whether that was possible.
pub(crate) async fn record_decision(
    app: &App,
    record: &LogRecord,
    decision: Decision,
    until: Instant,
) -> bool {
    if let Decision::Refused(reason) = decision {
        if Instant::now() >= until {
            return false;
        }
        let refusal = Refusal { reason, decided_at: app.clock.now() };
        if let Err(error) = app.log.refuse(record, refusal).await {
            tracing::warn!(%error, item_id = %record.item_id, reason = reason.slug(), "could not write a refusal to the order log; it is tried again");
            return false;
        }
    }
    // In one line, for the alarm.
    metrics::counter!("log_orders_decided").increment(1);
    metrics::counter!("log_orders_lost").increment(u64::from(is_lost(decision)));
    match decision {
        Decision::Placed { age_micros } => {
            metrics::counter!("orders_placed").increment(1);
            metrics::histogram!("placement_age_ms").record(age_micros as f64 / 1000.0);
        }
        Decision::Superseded => {}
        Decision::Refused(reason) => {
            metrics::counter!("log_orders_refused", "Reason" => reason.slug()).increment(1);
        }
    }
    true
}

/// Whether an order is refused for a reason that is not the buyer's.
fn is_lost(decision: Decision) -> bool {
    matches!(decision, Decision::Refused(RefusalReason::TooLate | RefusalReason::ClockAhead))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::clock_check::OffsetBounds;

    #[test]
    fn a_stamp_is_judged_by_the_clock_of_the_log_first() {
        let at = |micros| Stamp::from_micros(micros).unwrap();
        let written_at = Some(at(10_000_000));
        assert!(
            !is_ahead_of_the_log(at(12_000_000), written_at),
            "the record may be of the end of that second"
        );
        assert!(is_ahead_of_the_log(at(12_000_001), written_at));
        assert!(!is_ahead_of_the_log(at(99_000_000), None));
    }

    #[test]
    fn an_answer_that_may_change_decides_nothing() {
        let meaning = |placement, transit_micros| {
            let clock_offset = OffsetBounds { low: 0, high: 0 };
            decision(Placing { placement, transit_micros, clock_offset }).ok()
        };
        assert_eq!(meaning(Placement::ClockAhead, -100_001), None);
        assert_eq!(meaning(Placement::ClockAhead, -1_000_000), None);
        let refused = |reason| Some(Decision::Refused(reason));
        assert_eq!(meaning(Placement::ClockAhead, -1_000_001), refused(RefusalReason::ClockAhead));
        assert_eq!(meaning(Placement::TooLate, 3_000_000), refused(RefusalReason::TooLate));
        assert_eq!(meaning(Placement::Closed, 3_000_000), refused(RefusalReason::Closed));
        for placement in [Placement::Released, Placement::AlreadyTaken { sold: false }] {
            assert_eq!(meaning(placement, 3_000_000), Some(Decision::Superseded));
        }
    }
}
