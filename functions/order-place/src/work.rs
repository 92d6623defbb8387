//! What the records of a batch ask of main. Pure.

use crate::event::Entry;
use order_log::RecordKind;
use shared::item::ItemId;
use shared::user_token::UserToken;
use std::collections::{BTreeMap, HashMap};

/// What the records of one item ask, in as few calls of main as possible, however many records a buyer has. Numbers are
/// positions in the batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    /// Orders of buyers who withdraw nothing in this batch, in their order: the first decides whose stamp counts.
    pub(crate) orders: Vec<usize>,
    /// The last withdrawal of each buyer who withdraws.
    pub(crate) leaves: Vec<usize>,
    /// Orders of a buyer after that withdrawal. None may overtake it.
    pub(crate) later: Vec<usize>,
}

impl Work {
    pub(crate) fn is_done(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn positions(&self) -> impl Iterator<Item = usize> {
        self.orders.iter().chain(&self.leaves).chain(&self.later).copied()
    }
}

/// The work of each item, and the number of orders that the batch itself withdraws: main never gets them. A withdrawal
/// that the same buyer repeats is done with the last one.
pub(crate) fn work(entries: &[Entry]) -> (BTreeMap<ItemId, Work>, u64) {
    let mut last_leaves: HashMap<(&ItemId, &UserToken), usize> = HashMap::new();
    for (position, Entry { record, .. }) in entries.iter().enumerate() {
        if record.kind == RecordKind::Leave {
            last_leaves.insert((&record.item_id, &record.user_token), position);
        }
    }
    let mut items: BTreeMap<ItemId, Work> = BTreeMap::new();
    let mut withdrawn = 0;
    for (position, Entry { record, .. }) in entries.iter().enumerate() {
        let work = items.entry(record.item_id.clone()).or_default();
        match (record.kind, last_leaves.get(&(&record.item_id, &record.user_token))) {
            (RecordKind::Order, None) => work.orders.push(position),
            (RecordKind::Order, Some(leave)) if position > *leave => work.later.push(position),
            (RecordKind::Order, Some(_)) => withdrawn += 1,
            (RecordKind::Leave, Some(leave)) if position == *leave => work.leaves.push(position),
            (RecordKind::Leave, _) => {}
        }
    }
    (items, withdrawn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use order_log::LogRecord;
    use shared::stamp::Stamp;

    #[test]
    fn only_what_follows_a_buyers_last_withdrawal_waits_for_it() {
        let entry = |item: &str, buyer: &str, kind| Entry {
            sequence_number: String::new(),
            written_at: None,
            record: LogRecord::new(
                kind,
                item.parse().unwrap(),
                UserToken::parse(buyer).unwrap(),
                Stamp::EPOCH,
            ),
        };
        let (order, leave) = (RecordKind::Order, RecordKind::Leave);
        let entries = [
            entry("a", "ann", order),
            entry("a", "ben", order),
            entry("b", "ann", leave),
            entry("a", "ann", leave),
            entry("a", "cid", leave),
            entry("a", "ann", order),
            entry("a", "ben", order),
            entry("a", "ann", leave),
            entry("a", "ann", order),
            entry("a", "ann", order),
        ];
        let (found, withdrawn) = work(&entries);
        let all = Work { orders: vec![1, 6], leaves: vec![4, 7], later: vec![8, 9] };
        assert_eq!(found[&"a".parse().unwrap()], all);
        assert_eq!(found[&"b".parse().unwrap()], Work { leaves: vec![2], ..Work::default() });
        assert_eq!(withdrawn, 2);
        assert_eq!(work(&[]), (BTreeMap::new(), 0));
    }
}
