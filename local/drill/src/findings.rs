//! What must be true after a failover, held against what was told, and what is in the books.

use super::books::Book;
use super::buyers::{Answer, Buyer};
use local::crowd::Told;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

/// An item after a run.
#[derive(Clone, Debug, Default)]
pub(super) struct ItemBooks {
    pub(super) stock: u64,
    pub(super) old: Book,
    pub(super) new: Book,
    /// Buyers in the new main's queue, or with a unit there.
    pub(super) in_queue: HashSet<String>,
}

/// How often each promise was broken, and what was lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
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

/// Holds the books against what buyers were told.
pub(super) fn find(
    items: &BTreeMap<&'static str, ItemBooks>,
    buyers: &[Buyer],
    told_by_old_main: &[Answer],
) -> Findings {
    let mut findings = Findings::default();
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
        let is_refused = matches!(&buyer.told, Told::Refused(why) if is_for_good(why));
        if is_refused && has_place && buyer.queued_ms.is_none() {
            untrue.push(format!(
                "{} was told {:?} of {} and has {}; all answers: {}",
                buyer.subject,
                buyer.told,
                buyer.item_id,
                if is_sold_here { "a unit" } else { "a place" },
                buyer.heard.join(", "),
            ));
        }
    }
    let late = told_by_old_main.iter().filter(|answer| answer.told == Told::Queued);
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

    fn buyer(subject: &str, told: Told, sold: bool) -> Buyer {
        Buyer {
            subject: subject.into(),
            item_id: "a",
            queued_ms: (told == Told::Queued).then_some(1),
            sold_ms: sold.then_some(2),
            places_lost: 0,
            told,
            heard: Vec::new(),
        }
    }

    fn names(names: &[&str]) -> HashSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn books(old: &[&str], new: &[&str], stock: u64) -> BTreeMap<&'static str, ItemBooks> {
        let book = |sold| Book { sold: names(sold), reserved: HashSet::new() };
        let item = ItemBooks { stock, old: book(old), new: book(new), in_queue: names(&["q"]) };
        [("a", item)].into()
    }

    #[test]
    fn a_sound_failover_has_no_findings_and_every_fault_is_found() {
        let buyers = [buyer("x", Told::Queued, true), buyer("y", Told::Refused("sold-out".into()), false)];
        let sound = find(&books(&["x"], &["x"], 1), &buyers, &[]);
        assert_eq!(sound, Findings::default());
        let twice = find(&books(&["x"], &["z"], 1), &buyers, &[]);
        assert_eq!((twice.oversold, twice.lost_sales, twice.only_in_old, twice.untrue), (1, 1, 1, 0));
        let nowhere = find(&books(&[], &[], 1), &buyers, &[]);
        assert_eq!((nowhere.lost_sales, nowhere.untrue), (1, 1));
        let refused = [buyer("q", Told::Refused("sold-out".into()), false)];
        assert_eq!(find(&books(&[], &[], 1), &refused, &[]).untrue, 1);
        // Who may come again has been told nothing untrue.
        let busy = [buyer("q", Told::Refused("main-unreachable".into()), false)];
        assert_eq!(find(&books(&[], &[], 1), &busy, &[]).untrue, 0);
        let late = Answer { at_ms: 1, site: 0, status: 202, told: Told::Queued };
        assert_eq!(find(&books(&[], &[], 1), &[], &[late]).untrue, 1);
    }
}
