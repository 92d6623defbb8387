//! The order in which the records of a batch are applied. Pure.

use crate::event::Entry;
use order_log::RecordKind;
use shared::item::ItemId;
use shared::user_token::UserToken;
use std::collections::{BTreeMap, HashMap};

/// Records of one item that may be applied together: each buyer has one at most. Numbers are positions in the batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Round {
    pub(crate) orders: Vec<usize>,
    pub(crate) leaves: Vec<usize>,
}

/// The rounds of each item. A buyer's records are in as many rounds, in their order: the first record decides whose stamp
/// counts, and a withdrawal must not overtake its order.
pub(crate) fn rounds(entries: &[Entry]) -> BTreeMap<ItemId, Vec<Round>> {
    let mut items: BTreeMap<ItemId, Vec<Round>> = BTreeMap::new();
    let mut seen: HashMap<(&ItemId, &UserToken), usize> = HashMap::new();
    for (position, Entry { record, .. }) in entries.iter().enumerate() {
        let number = seen.entry((&record.item_id, &record.user_token)).or_default();
        let rounds = items.entry(record.item_id.clone()).or_default();
        if rounds.len() <= *number {
            rounds.push(Round::default());
        }
        if let Some(round) = rounds.get_mut(*number) {
            match record.kind {
                RecordKind::Order => round.orders.push(position),
                RecordKind::Leave => round.leaves.push(position),
            }
        }
        *number += 1;
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use order_log::LogRecord;
    use shared::stamp::Stamp;

    #[test]
    fn records_of_a_buyer_keep_their_order_and_others_travel_together() {
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
        ];
        let round =
            |orders: &[usize], leaves: &[usize]| Round { orders: orders.into(), leaves: leaves.into() };
        let found = rounds(&entries);
        assert_eq!(found[&"a".parse().unwrap()], [round(&[0, 1], &[4]), round(&[], &[3]), round(&[5], &[])]);
        assert_eq!(found[&"b".parse().unwrap()], [round(&[], &[2])]);
        assert!(rounds(&[]).is_empty());
    }
}
