//! What must be true after a failover, held against the answers that buyers got, and what is in the records.

use super::buyers::{BuyerRecord, OrderAttempt};
use super::sales::ItemSales;
use local::crowd::OrderAnswer;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

/// An item after a run.
#[derive(Clone, Debug, Default)]
pub(super) struct ItemRecords {
    pub(super) stock: u64,
    pub(super) old: ItemSales,
    pub(super) new: ItemSales,
    /// Buyers in the new main's queue, or with a unit there.
    pub(super) in_queue: HashSet<String>,
}

/// How often each promise was broken, and what was lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillFindings {
    /// Units sold beyond the stock, both ledgers counted.
    pub oversold: u64,
    /// Buyers who were told that a unit is theirs, and have none at the new main.
    pub lost_sales: u64,
    /// Buyers who were told so of a sale that is in no ledger; who were refused for good, and have a place
    /// or a unit; or who were let into the old main's queue after the new one had begun.
    pub untrue: u64,
    /// Places in the queue that were gone after they had been promised.
    pub lost_places: u64,
    /// Sales in the old main's ledger alone.
    pub only_in_old: u64,
    /// The untrue answers one by one, the first of them.
    pub untrue_answers: Vec<String>,
}

/// The most untrue answers that are listed.
const MAX_LISTED: usize = 20;

/// Holds the records against the answers that buyers got.
pub(super) fn find(
    items: &BTreeMap<&'static str, ItemRecords>,
    buyers: &[BuyerRecord],
    answers_of_old_main: &[OrderAttempt],
) -> DrillFindings {
    let mut findings = DrillFindings::default();
    for item in items.values() {
        let everybody = item.old.sold.union(&item.new.sold).count() as u64;
        findings.oversold += everybody.saturating_sub(item.stock);
        findings.only_in_old += item.old.sold.difference(&item.new.sold).count() as u64;
    }
    let mut untrue = Vec::new();
    for buyer in buyers {
        let Some(item) = items.get(buyer.item_id) else { continue };
        let is_sold_here = item.new.sold.contains(&buyer.subject);
        findings.lost_places += buyer.places_lost;
        if buyer.sold_ms.is_some() && !is_sold_here {
            findings.lost_sales += 1;
            if !item.old.sold.contains(&buyer.subject) {
                untrue.push(format!("{} has a unit of {} in no ledger", buyer.subject, buyer.item_id));
            }
        }
        let has_place = is_sold_here || item.in_queue.contains(&buyer.subject);
        let is_refused = matches!(&buyer.answer, OrderAnswer::Refused(why) if is_for_good(why));
        if is_refused && has_place && buyer.queued_ms.is_none() {
            untrue.push(format!(
                "{} was told {:?} of {} and has {}; all answers: {}",
                buyer.subject,
                buyer.answer,
                buyer.item_id,
                if is_sold_here { "a unit" } else { "a place" },
                buyer.answers_seen.join(", "),
            ));
        }
    }
    let late = answers_of_old_main.iter().filter(|answer| answer.answer == OrderAnswer::Queued);
    untrue.extend(late.map(|answer| format!("the old main took an order at {} ms", answer.at_ms)));
    findings.untrue = untrue.len() as u64;
    untrue.truncate(MAX_LISTED);
    findings.untrue_answers = untrue;
    findings
}

/// Whether a buyer who hears this goes away.
fn is_for_good(why: &str) -> bool {
    matches!(why, "sold-out" | "closed" | "too-late")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buyer(subject: &str, answer: OrderAnswer, sold: bool) -> BuyerRecord {
        BuyerRecord {
            subject: subject.into(),
            item_id: "a",
            queued_ms: (answer == OrderAnswer::Queued).then_some(1),
            sold_ms: sold.then_some(2),
            places_lost: 0,
            answer,
            answers_seen: Vec::new(),
        }
    }

    fn names(names: &[&str]) -> HashSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn records(old: &[&str], new: &[&str], stock: u64) -> BTreeMap<&'static str, ItemRecords> {
        let book = |sold| ItemSales { sold: names(sold), reserved: HashSet::new() };
        let item = ItemRecords { stock, old: book(old), new: book(new), in_queue: names(&["q"]) };
        [("a", item)].into()
    }

    #[test]
    fn a_sound_failover_has_no_findings_and_every_fault_is_found() {
        let buyers = [
            buyer("x", OrderAnswer::Queued, true),
            buyer("y", OrderAnswer::Refused("sold-out".into()), false),
        ];
        let sound = find(&records(&["x"], &["x"], 1), &buyers, &[]);
        assert_eq!(sound, DrillFindings::default());
        let twice = find(&records(&["x"], &["z"], 1), &buyers, &[]);
        assert_eq!((twice.oversold, twice.lost_sales, twice.only_in_old, twice.untrue), (1, 1, 1, 0));
        let nowhere = find(&records(&[], &[], 1), &buyers, &[]);
        assert_eq!((nowhere.lost_sales, nowhere.untrue), (1, 1));
        let refused = [buyer("q", OrderAnswer::Refused("sold-out".into()), false)];
        assert_eq!(find(&records(&[], &[], 1), &refused, &[]).untrue, 1);
        // Who may come again has been told nothing untrue.
        let busy = [buyer("q", OrderAnswer::Refused("main-unreachable".into()), false)];
        assert_eq!(find(&records(&[], &[], 1), &busy, &[]).untrue, 0);
        let late = OrderAttempt { at_ms: 1, site: 0, status: 202, answer: OrderAnswer::Queued };
        assert_eq!(find(&records(&[], &[], 1), &[], &[late]).untrue, 1);
    }
}
