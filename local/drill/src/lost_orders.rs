//! Accepted orders that a failover has lost: an order log has them, and the new main does not.

use super::buyers::now_ms;
use super::findings::ItemRecords;
use order_log::{LogRecord, RecordKind, decided_by};
use std::collections::{BTreeMap, HashMap};

/// The accepted orders in `log` that are decided by now, and are neither refused nor withdrawn, nor in the new main's queue,
/// reservations or ledger.
pub(super) fn lost_orders(log: &[LogRecord], items: &BTreeMap<&'static str, ItemRecords>) -> Vec<String> {
    let mut withdrawn: HashMap<(&str, &str), u64> = HashMap::new();
    for leave in log.iter().filter(|record| record.kind == RecordKind::Leave) {
        let newest = withdrawn.entry((leave.item_id.as_str(), leave.user_token.as_str())).or_default();
        *newest = leave.placed_at.as_micros().max(*newest);
    }
    let is_lost = |order: &&LogRecord| {
        let key = (order.item_id.as_str(), order.user_token.as_str());
        let is_decided = decided_by(order.placed_at).as_millis() < now_ms();
        let is_withdrawn = withdrawn.get(&key).is_some_and(|leave| order.placed_at.as_micros() < *leave);
        let is_known = items.get(key.0).is_some_and(|item| item.knows(key.1));
        order.kind == RecordKind::Order && order.refusal.is_none() && is_decided && !is_withdrawn && !is_known
    };
    let text = |order: &LogRecord| {
        format!("{} of {} at {}", order.user_token.as_str(), order.item_id, order.placed_at.as_micros())
    };
    log.iter().filter(is_lost).map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use order_log::{Refusal, RefusalReason};
    use shared::stamp::Stamp;
    use shared::user_token::UserToken;

    #[test]
    fn an_accepted_order_that_the_new_main_does_not_know_is_lost() {
        let record = |kind, micros: u64, buyer: &str| {
            let (buyer, placed_at) = (UserToken::parse(buyer).unwrap(), Stamp::from_micros(micros).unwrap());
            LogRecord::new(kind, "a".parse().unwrap(), buyer, placed_at)
        };
        let order = |buyer| record(RecordKind::Order, 5, buyer);
        let in_queue = ["queued".to_owned()].into();
        let items = [("a", ItemRecords { stock: 1, in_queue, ..ItemRecords::default() })].into();
        let lost = |log: &[LogRecord]| lost_orders(log, &items).len();
        assert_eq!(lost(&[order("nowhere"), order("queued")]), 1);
        assert_eq!(lost(&[order("gone"), record(RecordKind::Leave, 6, "gone")]), 0);
        assert_eq!(lost(&[order("back"), record(RecordKind::Leave, 4, "back")]), 1);
        assert_eq!(lost(&[record(RecordKind::Order, now_ms() * 1_000, "new")]), 0, "it is not decided yet");
        let refusal = Refusal { reason: RefusalReason::TooLate, decided_at: Stamp::from_micros(9).unwrap() };
        assert_eq!(lost(&[LogRecord { refusal: Some(refusal), ..order("refused") }]), 0);
    }
}
