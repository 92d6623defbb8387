//! Which logged orders still count. Pure.

use ledger::SaleState;
use order_log::{LogRecord, RecordKind, RefusalReason, WITHDRAWAL_SKEW};
use serde::Serialize;
use shared::queue::{BatchOrder, Withdrawal};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::collections::HashMap;
use std::time::Duration;

/// Why an order is not put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeftOut {
    /// Main has refused it.
    Refused,
    /// The buyer has withdrawn it.
    Withdrawn,
    /// The ledger has a unit or a release of the buyer with a stamp that is at least as new; or the buyer had the unit when
    /// the order was made.
    InLedger,
    /// The item's times do not admit it: it is of an opening that has ended, or was made before the item opens. The drain
    /// drops such an order, and it must not stand in the way of the buyer's order of today.
    OutsideGates,
    /// The buyer has an older order that counts.
    OlderOrder,
    /// The buyer has a unit in Redis.
    Taken,
}

/// What follows from the records of some buyers. A region is its position in the list of regions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decided {
    /// The order of each buyer that counts.
    pub(crate) orders: Vec<(usize, BatchOrder)>,
    /// The newest withdrawal of each buyer who has one, or the newest reservation in the ledger if that is newer. An older
    /// order does not wait any more.
    pub(crate) withdrawals: Vec<BatchOrder>,
    /// Buyers who have withdrawn a reservation, and have not ordered since.
    pub(crate) cancelled: Vec<Withdrawal>,
    pub(crate) left_out: Vec<(usize, LeftOut)>,
}

/// A buyer's newest reservation, as the ledger has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) state: SaleState,
    pub(crate) placed_at: Stamp,
    pub(crate) released_at: Option<Stamp>,
}

impl Known {
    /// The newest stamp of an order that does not count any more. While a buyer has a unit, main takes no other order of
    /// the buyer (place.lua), and the log has no trace of that.
    fn decided_to(self) -> Stamp {
        let had_unit_to = self.released_at.map(|at| at.saturating_sub(WITHDRAWAL_SKEW));
        had_unit_to.map_or(self.placed_at, |at| at.max(self.placed_at))
    }
}

/// Decides about the records of each region. `admits`: whether the item's times admit an order of this stamp.
pub(crate) fn decide(
    regions: &[Vec<LogRecord>],
    in_ledger: &HashMap<UserToken, Known>,
    admits: impl Fn(Stamp) -> bool,
) -> Decided {
    let all = regions.iter().enumerate().flat_map(|(region, of)| of.iter().map(move |one| (region, one)));
    let mut records: Vec<(usize, &LogRecord)> = all.collect();
    // The records of a region come in this order, so that this only merges them.
    records.sort_by(|(_, one), (_, other)| one.user_token.cmp(&other.user_token));
    let mut decided = Decided::default();
    for of_buyer in records.chunk_by(|(_, one), (_, other)| one.user_token == other.user_token) {
        if let Some((_, record)) = of_buyer.first() {
            let known = if in_ledger.is_empty() { None } else { in_ledger.get(&record.user_token) };
            decide_buyer(&record.user_token, of_buyer, known.copied(), &admits, &mut decided);
        }
    }
    decided
}

/// Decides about the records of one buyer.
fn decide_buyer(
    buyer: &UserToken,
    records: &[(usize, &LogRecord)],
    known: Option<Known>,
    admits: impl Fn(Stamp) -> bool,
    decided: &mut Decided,
) {
    let of = |kind| records.iter().filter(move |(_, record)| record.kind == kind);
    // As order-place judges it. Orders before this stamp are withdrawn.
    let before = |leave: Stamp| leave.saturating_add(WITHDRAWAL_SKEW).saturating_add_micros(1);
    let withdrawn = of(RecordKind::Leave).map(|(_, leave)| before(leave.placed_at)).max();
    let mut counts: Option<(usize, Stamp)> = None;
    for (region, order) in of(RecordKind::Order) {
        let (region, placed_at) = (*region, order.placed_at);
        let left_out = if order.refusal.is_some_and(|refusal| !was_lost(refusal.reason)) {
            (region, LeftOut::Refused)
        } else if withdrawn.is_some_and(|before| placed_at < before) {
            (region, LeftOut::Withdrawn)
        } else if known.is_some_and(|known| placed_at <= known.decided_to()) {
            (region, LeftOut::InLedger)
        } else if !admits(placed_at) {
            (region, LeftOut::OutsideGates)
        } else {
            match counts {
                Some((_, oldest)) if placed_at >= oldest => (region, LeftOut::OlderOrder),
                younger => {
                    counts = Some((region, placed_at));
                    let Some((region, _)) = younger else { continue };
                    (region, LeftOut::OlderOrder)
                }
            }
        };
        decided.left_out.push(left_out);
    }
    let order = |placed_at| BatchOrder { user_token: buyer.clone(), placed_at };
    decided.orders.extend(counts.map(|(region, placed_at)| (region, order(placed_at))));
    // An order of the buyer that waits is judged likewise.
    let to_ledger = known.map(|known| known.decided_to().saturating_add_micros(1));
    decided.withdrawals.extend(withdrawn.max(to_ledger).map(order));
    let orders_since = |left| of(RecordKind::Order).any(|(_, order)| order.placed_at >= left);
    if let (Some(left), Some(known)) = (withdrawn, known)
        && known.state == SaleState::Reserved
        && known.placed_at < left
        && !orders_since(left)
    {
        // As order-place judges it. An order that arrives meanwhile is newer, and stays.
        let newest = left.saturating_sub(Duration::from_micros(1));
        let left_at = newest.saturating_sub(WITHDRAWAL_SKEW);
        decided.cancelled.push(Withdrawal { user_token: buyer.clone(), left_at, newest });
    }
}

/// Whether a refusal says only that Redis had lost the item, which the ledger has.
fn was_lost(reason: RefusalReason) -> bool {
    reason == RefusalReason::NoSuchItem
}

#[cfg(test)]
mod tests {
    use super::*;
    use order_log::Refusal;

    fn record(kind: RecordKind, buyer: &str, seconds: u64) -> LogRecord {
        let placed_at = Stamp::from_micros(seconds * 1_000_000).unwrap();
        LogRecord::new(kind, "shoe".parse().unwrap(), UserToken::parse(buyer).unwrap(), placed_at)
    }

    /// The orders that count, as (region, stamp), and the reasons.
    type Counted = (Vec<(usize, u64)>, Vec<(usize, LeftOut)>);

    fn of(regions: &[Vec<LogRecord>], ledger: &[(&str, u64)]) -> Counted {
        let stamp = |seconds: u64| Stamp::from_micros(seconds * 1_000_000).unwrap();
        let known = |at| Known { state: SaleState::Reserved, placed_at: stamp(at), released_at: None };
        let ledger = ledger.iter().map(|(buyer, at)| (UserToken::parse(*buyer).unwrap(), known(*at)));
        let decided = decide(regions, &ledger.collect(), |_| true);
        let mut orders: Vec<_> = decided
            .orders
            .iter()
            .map(|(region, one)| (*region, one.placed_at.as_micros() / 1_000_000))
            .collect();
        orders.sort_unstable();
        (orders, decided.left_out)
    }

    #[test]
    fn the_oldest_order_that_is_not_withdrawn_refused_or_in_the_ledger_counts() {
        use LeftOut::{InLedger, OlderOrder, Refused, Withdrawn};
        let order = |micros| record(RecordKind::Order, "ann", micros);
        let leave = |micros| record(RecordKind::Leave, "ann", micros);
        let refused = |micros| {
            let decided_at = Stamp::from_micros(99).unwrap();
            let refusal = Some(Refusal { reason: RefusalReason::TooLate, decided_at });
            LogRecord { refusal, ..order(micros) }
        };
        let one = |records: Vec<LogRecord>| of(&[records], &[]);
        assert_eq!(one(vec![order(5)]), (vec![(0, 5)], vec![]));
        assert_eq!(one(vec![order(7), order(5)]), (vec![(0, 5)], vec![(0, OlderOrder)]));
        assert_eq!(one(vec![order(5), order(7)]), (vec![(0, 5)], vec![(0, OlderOrder)]));
        assert_eq!(one(vec![refused(5), order(7)]), (vec![(0, 7)], vec![(0, Refused)]));
        let mut without_item = refused(5);
        without_item.refusal.as_mut().unwrap().reason = RefusalReason::NoSuchItem;
        assert_eq!(one(vec![without_item]), (vec![(0, 5)], vec![]));
        assert_eq!(one(vec![order(5), leave(6)]), (vec![], vec![(0, Withdrawn)]));
        assert_eq!(one(vec![leave(4), order(5)]), (vec![(0, 5)], vec![]));
        assert_eq!(one(vec![order(5), leave(6), order(7)]), (vec![(0, 7)], vec![(0, Withdrawn)]));
        // The clock of the order's machine was ahead of the one of the withdrawal.
        let ahead = |micros: u64| {
            let placed_at = Stamp::from_micros(5_000_000 + micros).unwrap();
            one(vec![leave(5), LogRecord { placed_at, ..order(5) }])
        };
        assert_eq!(ahead(100_000), (vec![], vec![(0, Withdrawn)]));
        assert_eq!(ahead(100_001), (vec![(0, 5)], vec![]));
        // A withdrawal and an older order of another region.
        assert_eq!(of(&[vec![order(5)], vec![leave(6)]], &[]), (vec![], vec![(0, Withdrawn)]));
        assert_eq!(of(&[vec![order(5)], vec![order(3)]], &[]), (vec![(1, 3)], vec![(0, OlderOrder)]));
        let in_ledger = |at| of(&[vec![order(5), order(7)]], &[("ann", at)]);
        assert_eq!(in_ledger(7), (vec![], vec![(0, InLedger), (0, InLedger)]));
        assert_eq!(in_ledger(5), (vec![(0, 7)], vec![(0, InLedger)]));
        assert_eq!(in_ledger(4), (vec![(0, 5)], vec![(0, OlderOrder)]));
        assert_eq!(of(&[vec![order(5)]], &[("ben", 9)]), (vec![(0, 5)], vec![]));
    }

    #[test]
    fn an_order_of_an_earlier_opening_does_not_stand_in_the_way_of_a_new_one() {
        let order = |seconds| record(RecordKind::Order, "ann", seconds);
        let opens_at = Stamp::from_micros(6_000_000).unwrap();
        let decided =
            decide(&[vec![order(5)], vec![order(7), order(9)]], &HashMap::new(), |at| at >= opens_at);
        let orders: Vec<_> = decided.orders.iter().map(|(region, one)| (*region, one.placed_at)).collect();
        assert_eq!(orders, [(1, order(7).placed_at)]);
        assert_eq!(decided.left_out, [(0, LeftOut::OutsideGates), (1, LeftOut::OlderOrder)]);
    }

    #[test]
    fn an_order_that_was_made_while_the_buyer_had_a_unit_does_not_count() {
        let ann = UserToken::parse("ann").unwrap();
        let stamp = |micros| Stamp::from_micros(micros).unwrap();
        let released = Known {
            state: SaleState::Released,
            placed_at: stamp(5_000_000),
            released_at: Some(stamp(9_000_000)),
        };
        let counted = |micros: u64| {
            let order = LogRecord { placed_at: stamp(micros), ..record(RecordKind::Order, "ann", 0) };
            let decided = decide(&[vec![order]], &HashMap::from([(ann.clone(), released)]), |_| true);
            assert_eq!(decided.withdrawals[0].placed_at, stamp(8_900_001), "what waits is judged likewise");
            decided.orders.len()
        };
        assert_eq!([5_000_000, 7_000_000, 8_900_000, 8_900_001, 10_000_000].map(counted), [0, 0, 0, 1, 1]);
    }

    #[test]
    fn a_withdrawal_cancels_the_reservation_before_it_unless_the_buyer_has_ordered_since() {
        let cancelled = |records: &[(RecordKind, u64)], state, reserved: u64| {
            let records = records.iter().map(|(kind, at)| record(*kind, "ann", *at)).collect();
            let placed_at = Stamp::from_micros(reserved * 1_000_000).unwrap();
            let known = Known { state, placed_at, released_at: None };
            let in_ledger = HashMap::from([(UserToken::parse("ann").unwrap(), known)]);
            !decide(&[records], &in_ledger, |_| true).cancelled.is_empty()
        };
        let (order, leave) = (RecordKind::Order, RecordKind::Leave);
        assert!(cancelled(&[(order, 5), (leave, 6)], SaleState::Reserved, 5));
        assert!(!cancelled(&[(order, 5), (leave, 6)], SaleState::Sold, 5));
        assert!(!cancelled(&[(order, 5), (leave, 6)], SaleState::Released, 5));
        assert!(!cancelled(&[(order, 5), (leave, 6), (order, 7)], SaleState::Reserved, 5));
        assert!(!cancelled(&[(leave, 4), (order, 5)], SaleState::Reserved, 5));
        // The buyer has ordered in a region without a log.
        assert!(!cancelled(&[(order, 3), (leave, 4)], SaleState::Reserved, 5));
        assert!(!cancelled(&[(order, 5)], SaleState::Reserved, 5));
    }
}
