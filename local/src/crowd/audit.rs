//! Compares the result of a drop with the answers that buyers got, and counts broken promises.

use crate::crowd::{OrderAnswer, SentOrder};
use anyhow::{Context, Result};
use ledger::{Ledger, SaleState};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use redis::streams::StreamRangeReply;
use shared::item::ItemId;
use shared::queue::Keys;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Sales in one read from the ledger.
const LEDGER_PAGE: u32 = 5_000;

/// A reservation, in the order in which it was made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuditedReservation {
    /// The stamp of the order.
    pub placed_at: u64,
    /// Which buyer.
    pub user_token: String,
    /// When it was made, by main's clock, in milliseconds since the epoch.
    pub reserved_at_ms: u64,
}

/// The state of an item in Redis and in the ledger after a drop.
#[derive(Clone, Debug, Default)]
pub struct DropResult {
    /// Reservations as the task queue has them, oldest first.
    pub reservations: Vec<AuditedReservation>,
    /// Buyers with a reservation or a unit.
    pub taken: HashSet<String>,
    /// Buyers who are sold in Redis.
    pub sold: HashSet<String>,
    /// How often a buyer's reservation was released.
    pub released: HashMap<String, u64>,
    /// Buyers who are sold in the ledger, if it was read.
    pub in_ledger: Option<HashSet<String>>,
    /// Buyers in the queue.
    pub queued: HashSet<String>,
    pub stock_left: i64,
    pub stock_total: i64,
}

/// The number of times that each promise was broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditFindings {
    /// Units reserved beyond the stock.
    pub oversold: u64,
    /// Orders that were accepted and are neither queued nor reserved.
    pub lost: u64,
    /// Reservations of buyers who had one.
    pub duplicates: u64,
    /// Pairs of reservations out of `(placed_at, user_token)` order.
    pub inversions: u64,
    /// Orders that were finally refused and nevertheless queued.
    pub untrue: u64,
    /// Buyers who are sold in Redis and not in the ledger, or the reverse.
    pub unfounded: u64,
}

impl DropResult {
    /// Reads an item's keys from Redis.
    pub async fn read(connection: &mut MultiplexedConnection, item_id: &ItemId) -> Result<Self> {
        let keys = Keys::of(item_id);
        let tasks: StreamRangeReply = connection.xrange_all(&keys.tasks).await?;
        let mut released: HashMap<String, u64> = HashMap::new();
        for task in tasks.ids.iter().filter(|task| task.get::<String>("kind").as_deref() == Some("released"))
        {
            *released.entry(task.get("user_token").context("a task without user_token")?).or_default() += 1;
        }
        let reservations = tasks
            .ids
            .iter()
            .filter(|task| task.get::<String>("kind").as_deref() == Some("reserved"))
            .map(|task| {
                Ok(AuditedReservation {
                    placed_at: task.get("placed_at").context("a task without placed_at")?,
                    user_token: task.get("user_token").context("a task without user_token")?,
                    reserved_at_ms: task.id.split('-').next().context("a task without an id")?.parse()?,
                })
            })
            .collect::<Result<_>>()?;
        let taken: Vec<String> = connection.zrangebyscore(&keys.reservations, 0, "+inf").await?;
        let sold: Vec<String> = connection.zrangebyscore(&keys.reservations, "+inf", "+inf").await?;
        let queued: Vec<String> = connection.zrange(&keys.orders, 0, -1).await?;
        let (stock_left, stock_total) = connection.hmget(&keys.item, &["stock_left", "stock_total"]).await?;
        Ok(Self {
            reservations,
            taken: taken.into_iter().collect(),
            sold: sold.into_iter().collect(),
            released,
            in_ledger: None,
            queued: queued.into_iter().collect(),
            stock_left,
            stock_total,
        })
    }

    /// Reads the sales from the ledger, too.
    pub async fn read_ledger(&mut self, ledger: &Ledger, item_id: &ItemId) -> Result<()> {
        let mut sold = HashSet::new();
        let mut last = None;
        loop {
            let page = ledger.sales(item_id, last.as_ref(), LEDGER_PAGE).await?;
            let Some(end) = page.last().cloned() else { break };
            let of_page = page.iter().filter(|sale| sale.state == SaleState::Sold);
            sold.extend(of_page.map(|sale| sale.user_token.as_str().to_owned()));
            last = Some(end);
        }
        self.in_ledger = Some(sold);
        Ok(())
    }

    /// Compares the state with the answers that buyers got.
    pub fn check(&self, sent: &[SentOrder]) -> AuditFindings {
        let taken = self.taken.len() as u64;
        let stock_total = self.stock_total.max(0).unsigned_abs();
        let mut reserved: HashMap<&str, u64> = HashMap::new();
        for reservation in &self.reservations {
            *reserved.entry(&reservation.user_token).or_default() += 1;
        }
        // A buyer whose reservation was released may be reserved again.
        let duplicates = reserved.iter().map(|(subject, times)| {
            times.saturating_sub(1 + self.released.get(*subject).copied().unwrap_or_default())
        });
        let has_place = |order: &SentOrder| {
            self.taken.contains(&order.subject)
                || self.queued.contains(&order.subject)
                || self.released.contains_key(&order.subject)
        };
        let accepted: HashSet<&str> = sent
            .iter()
            .filter(|order| order.answer == OrderAnswer::Queued)
            .map(|order| order.subject.as_str())
            .collect();
        // A unit that was taken from the stock without a reservation is lost, too.
        let missing_units = stock_total.saturating_sub(self.stock_left.max(0).unsigned_abs()).abs_diff(taken);
        let lost_orders =
            sent.iter().filter(|order| order.answer == OrderAnswer::Queued && !has_place(order)).count();
        let untrue = sent
            .iter()
            .filter(|order| order.answer.is_firm_refusal() && has_place(order))
            .filter(|order| !accepted.contains(order.subject.as_str()) && !is_about_own_unit(order))
            .count();
        let in_ledger = self.in_ledger.as_ref().map_or(0, HashSet::len) as u64;
        AuditFindings {
            oversold: taken.max(in_ledger).saturating_sub(stock_total),
            lost: lost_orders as u64 + missing_units,
            duplicates: duplicates.sum(),
            inversions: inversions(&self.reservations),
            untrue: untrue as u64,
            unfounded: self
                .in_ledger
                .as_ref()
                .map_or(0, |known| known.symmetric_difference(&self.sold).count())
                as u64,
        }
    }
}

/// Whether the order was refused because its buyer has a unit: that is no contradiction.
fn is_about_own_unit(order: &SentOrder) -> bool {
    matches!(order.answer.reason(), Some("already-reserved" | "already-sold"))
}

/// The number of pairs in the wrong order.
fn inversions(reservations: &[AuditedReservation]) -> u64 {
    let mut before: BTreeSet<(u64, &str, usize)> = BTreeSet::new();
    let mut pairs = 0;
    for (position, reservation) in reservations.iter().enumerate() {
        let key = (reservation.placed_at, reservation.user_token.as_str(), position);
        pairs += before.range(key..).count() as u64;
        before.insert(key);
    }
    pairs
}

/// Who should win, by true arrival at their region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RightBuyers<'a> {
    /// The first buyers, one for each unit.
    pub first: HashSet<&'a str>,
    /// Who came after them in the same millisecond as the last of them. No stamp can tell them apart: API Gateway's time
    /// has milliseconds.
    pub tied: HashSet<&'a str>,
    /// Buyers of that millisecond, the first ones included.
    pub in_last_ms: usize,
}

/// The first `stock` buyers, and who ties with the last of them.
pub fn right_buyers(sent: &[SentOrder], stock: usize) -> RightBuyers<'_> {
    let mut first: HashMap<&str, u64> = HashMap::new();
    for order in sent {
        if let Some(arrived_at) = order.arrived_at {
            let earliest = first.entry(order.subject.as_str()).or_insert(arrived_at);
            *earliest = arrived_at.min(*earliest);
        }
    }
    let mut arrivals: Vec<(u64, &str)> = first.into_iter().map(|(subject, at)| (at, subject)).collect();
    arrivals.sort_unstable();
    let later = arrivals.split_off(stock.min(arrivals.len()));
    let last_ms = arrivals.last().map(|(at, _)| at / 1_000);
    let is_of_last_ms = |(at, _): &(u64, &str)| Some(at / 1_000) == last_ms;
    let tied: HashSet<&str> = later.into_iter().filter(is_of_last_ms).map(|(_, subject)| subject).collect();
    RightBuyers {
        in_last_ms: arrivals.iter().filter(|arrival| is_of_last_ms(arrival)).count() + tied.len(),
        tied,
        first: arrivals.into_iter().map(|(_, subject)| subject).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reservation(placed_at: u64, user_token: &str) -> AuditedReservation {
        AuditedReservation { placed_at, user_token: user_token.into(), reserved_at_ms: 0 }
    }

    fn order(subject: &str, answer: OrderAnswer) -> SentOrder {
        SentOrder { subject: subject.into(), region: 0, arrived_at: Some(1), answer, answer_ms: 1.0 }
    }

    fn sound() -> (DropResult, Vec<SentOrder>) {
        let outcome = DropResult {
            reservations: vec![reservation(1, "a"), reservation(1, "b")],
            taken: ["a".into(), "b".into()].into(),
            sold: ["a".into()].into(),
            released: HashMap::new(),
            in_ledger: Some(["a".into()].into()),
            queued: ["c".into()].into(),
            stock_left: 0,
            stock_total: 2,
        };
        let refused = OrderAnswer::Refused("sold-out".into());
        let sent = vec![
            order("a", OrderAnswer::Queued),
            order("b", OrderAnswer::Queued),
            order("c", OrderAnswer::Queued),
            order("d", refused),
        ];
        (outcome, sent)
    }

    #[test]
    fn a_sound_drop_has_no_findings() {
        let (outcome, sent) = sound();
        assert_eq!(outcome.check(&sent), AuditFindings::default());
    }

    #[test]
    fn every_fault_is_found() {
        let (outcome, sent) = sound();
        let with = |change: fn(&mut DropResult)| {
            let mut outcome = outcome.clone();
            change(&mut outcome);
            outcome.check(&sent)
        };
        assert_eq!(with(|o| o.stock_total = 1).oversold, 1);
        assert_eq!(with(|o| o.queued.clear()).lost, 1);
        assert_eq!(with(|o| o.stock_left = 1).lost, 1);
        assert_eq!(with(|o| o.reservations.push(reservation(1, "b"))).duplicates, 1);
        assert_eq!(with(|o| o.reservations.reverse()).inversions, 1);
        assert_eq!(with(|o| o.in_ledger = Some(HashSet::new())).unfounded, 1);
        assert_eq!(with(|o| o.sold.clear()).unfounded, 1);
        assert_eq!(with(|o| o.taken.extend(["d".to_owned()])).lost, 1);
        let released = |o: &mut DropResult| {
            o.reservations.push(reservation(2, "b"));
            o.released.insert("b".into(), 1);
        };
        assert_eq!(with(released).duplicates, 0);
        assert_eq!(with(|o| o.queued.extend(["d".to_owned()])).untrue, 1);
    }

    #[test]
    fn buyers_of_one_millisecond_tie() {
        let at = |subject: &str, micros| SentOrder {
            arrived_at: Some(micros),
            ..order(subject, OrderAnswer::Queued)
        };
        let sent = [at("d", 3_000), at("c", 2_999), at("b", 2_001), at("a", 1_999), at("a", 2_500)];
        let right = |stock| right_buyers(&sent, stock);
        let two = RightBuyers { first: ["a", "b"].into(), tied: ["c"].into(), in_last_ms: 2 };
        assert_eq!(right(2), two);
        assert_eq!(right(1), RightBuyers { first: ["a"].into(), tied: HashSet::new(), in_last_ms: 1 });
        assert_eq!((right(9).first.len(), right(9).tied.len(), right(0)), (4, 0, RightBuyers::default()));
    }

    #[test]
    fn inversions_count_pairs() {
        let order = |stamps: &[u64]| stamps.iter().map(|stamp| reservation(*stamp, "x")).collect::<Vec<_>>();
        assert_eq!(inversions(&order(&[1, 2, 3])), 0);
        assert_eq!(inversions(&order(&[3, 2, 1])), 3);
        assert_eq!(inversions(&order(&[2, 3, 1])), 2);
    }
}
