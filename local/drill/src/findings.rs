//! Compares ledgers and queue after a failover with the answers that buyers got.

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

/// The number of times that each promise was broken, and the losses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillFindings {
    /// Units sold beyond the stock, in both ledgers together.
    pub oversold: u64,
    /// Buyers to whom a sale was reported, and who have none in the new main's ledger.
    pub lost_sales: u64,
    /// Untrue answers: a reported sale that is in no ledger; a final refusal of a buyer who has a place or a unit; or
    /// a place in the old main's queue after the new main had begun.
    pub untrue: u64,
    /// Places in the queue that were confirmed and then lost.
    pub lost_places: u64,
    /// Accepted orders that the new main does not know, in the logs of all regions that the operator has not left out.
    pub lost_orders: u64,
    /// Sales that only the old main's ledger has.
    pub only_in_old: u64,
    /// The first untrue answers, in detail.
    pub untrue_answers: Vec<String>,
    /// The first lost orders, in detail.
    pub lost_orders_listed: Vec<String>,
}

impl ItemRecords {
    /// Whether a buyer has a place or a unit in the new main.
    pub(super) fn knows(&self, buyer: &str) -> bool {
        let ItemSales { sold, reserved } = &self.new;
        [&self.in_queue, sold, reserved].iter().any(|buyers| buyers.contains(buyer))
    }
}

impl DrillFindings {
    pub(super) fn add_lost_orders(&mut self, lost: Vec<String>) {
        self.lost_orders += lost.len() as u64;
        self.lost_orders_listed.extend(lost);
        self.lost_orders_listed.truncate(MAX_LISTED);
    }
}

/// Untrue answers, and lost orders, that are listed at most.
const MAX_LISTED: usize = 20;

/// Compares the records with the answers that buyers got.
pub(super) fn find(
    items: &BTreeMap<&'static str, ItemRecords>,
    buyers: &[BuyerRecord],
    answers_of_old_main: &[OrderAttempt],
) -> DrillFindings {
    let mut findings = DrillFindings::default();
    for item in items.values() {
        let buyers_of_both = item.old.sold.union(&item.new.sold).count() as u64;
        findings.oversold += buyers_of_both.saturating_sub(item.stock);
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
                untrue.push(format!(
                    "{} was sold a unit of {}, which no ledger has",
                    buyer.subject, buyer.item_id
                ));
            }
        }
        let has_place = is_sold_here || item.in_queue.contains(&buyer.subject);
        let is_refused = matches!(&buyer.answer, OrderAnswer::Refused(why) if is_final(why));
        if is_refused && has_place && buyer.queued_ms.is_none() {
            untrue.push(format!(
                "{} got the answer {:?} for {} and has {}; all answers: {}",
                buyer.subject,
                buyer.answer,
                buyer.item_id,
                if is_sold_here { "a unit" } else { "a place" },
                buyer.answers_seen.join(", "),
            ));
        }
    }
    let late = answers_of_old_main.iter().filter(|answer| answer.answer == OrderAnswer::Queued);
    untrue.extend(late.map(|answer| {
        format!("the old main queued an order at {} ms, after the new main had begun", answer.at_ms)
    }));
    findings.untrue = untrue.len() as u64;
    untrue.truncate(MAX_LISTED);
    findings.untrue_answers = untrue;
    findings
}

/// Whether a refusal is final for its buyer.
fn is_final(why: &str) -> bool {
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
        // A refusal that invites to try again is not untrue.
        let busy = [buyer("q", OrderAnswer::Refused("main-unreachable".into()), false)];
        assert_eq!(find(&records(&[], &[], 1), &busy, &[]).untrue, 0);
        // A refusal that a later answer has replaced: the next order was queued, sold, and its answer was lost.
        let mut late_and_sold = buyer("x", OrderAnswer::None("no-answer".into()), true);
        [(503, Some("outcome-unknown")), (503, Some("too-late")), (409, Some("already-sold"))]
            .into_iter()
            .for_each(|(status, slug)| late_and_sold.take(status, slug));
        assert_eq!(find(&records(&["x"], &["x"], 1), &[late_and_sold], &[]), DrillFindings::default());
        let late = OrderAttempt { at_ms: 1, region: 0, status: 202, answer: OrderAnswer::Queued };
        assert_eq!(find(&records(&[], &[], 1), &[], &[late]).untrue, 1);
    }
}
