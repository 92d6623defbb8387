//! Which logged orders still count. Pure.

use order_log::{LogRecord, RecordKind, RefusalReason, WITHDRAWAL_SKEW};
use serde::Serialize;
use shared::queue::BatchOrder;
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::collections::HashMap;

/// Why an order is not put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeftOut {
    /// Main has refused it.
    Refused,
    /// The buyer has withdrawn it.
    Withdrawn,
    /// The ledger has a unit or a release of the buyer with a stamp that is at least as new.
    InLedger,
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
    pub(crate) left_out: Vec<(usize, LeftOut)>,
}

/// Decides about the records of each region. `in_ledger` has the stamp of each buyer's newest reservation.
pub(crate) fn decide(regions: &[Vec<LogRecord>], in_ledger: &HashMap<UserToken, Stamp>) -> Decided {
    let all = || regions.iter().enumerate().flat_map(|(region, of)| of.iter().map(move |one| (region, one)));
    let mut withdrawn: HashMap<&UserToken, Stamp> = HashMap::new();
    for (_, leave) in all().filter(|(_, record)| record.kind == RecordKind::Leave) {
        // As order-place judges it. Orders before this stamp are withdrawn.
        let before = leave.placed_at.saturating_add(WITHDRAWAL_SKEW).saturating_add_micros(1);
        let newest = withdrawn.entry(&leave.user_token).or_insert(before);
        *newest = before.max(*newest);
    }
    let mut decided = Decided::default();
    let mut counts: HashMap<&UserToken, (usize, Stamp)> = HashMap::new();
    for (region, order) in all().filter(|(_, record)| record.kind == RecordKind::Order) {
        let (buyer, placed_at) = (&order.user_token, order.placed_at);
        let reason = if order.refusal.is_some_and(|refusal| !was_lost(refusal.reason)) {
            LeftOut::Refused
        } else if withdrawn.get(buyer).is_some_and(|leave| placed_at < *leave) {
            LeftOut::Withdrawn
        } else if in_ledger.get(buyer).is_some_and(|known| placed_at <= *known) {
            LeftOut::InLedger
        } else {
            match counts.get_mut(buyer) {
                None => {
                    counts.insert(buyer, (region, placed_at));
                    continue;
                }
                Some(oldest) if placed_at < oldest.1 => {
                    let (younger, _) = std::mem::replace(oldest, (region, placed_at));
                    decided.left_out.push((younger, LeftOut::OlderOrder));
                    continue;
                }
                Some(_) => LeftOut::OlderOrder,
            }
        };
        decided.left_out.push((region, reason));
    }
    let order = |buyer: &UserToken, placed_at| BatchOrder { user_token: buyer.clone(), placed_at };
    decided.orders =
        counts.into_iter().map(|(buyer, (region, placed_at))| (region, order(buyer, placed_at))).collect();
    for buyer in all().map(|(_, record)| &record.user_token) {
        if let Some(known) = in_ledger.get(buyer) {
            let decided = known.saturating_add_micros(1);
            let newest = withdrawn.entry(buyer).or_insert(decided);
            *newest = decided.max(*newest);
        }
    }
    decided.withdrawals = withdrawn.into_iter().map(|(buyer, placed_at)| order(buyer, placed_at)).collect();
    decided
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
        let ledger = ledger.iter().map(|(buyer, at)| (UserToken::parse(*buyer).unwrap(), stamp(*at)));
        let decided = decide(regions, &ledger.collect());
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
}
