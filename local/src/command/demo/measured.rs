//! From the measurements of a drop to its report.

use super::{DemoOptions, percentiles};
use crate::command::report::{ByStrategy, DropReport, Holds, PathFigures, RegionFigures};
use crate::crowd::audit::{self, AuditFindings, DropResult};
use crate::crowd::payments::{PaymentAnswer, PaymentAnswers};
use crate::crowd::{OrderAnswer, SentOrder};
use crate::system::regions::{self, WorldRegion};
use std::collections::{BTreeMap, HashSet};

/// The measurements that a report is made from.
pub(super) struct Measured<'a> {
    pub(super) demo: &'a DemoOptions,
    pub(super) world: &'a [WorldRegion],
    pub(super) sent: &'a [SentOrder],
    /// Orders of the buyers who pay in time.
    pub(super) buying: &'a [SentOrder],
    pub(super) outcome: &'a DropResult,
    pub(super) winners: ByStrategy<HashSet<String>>,
    pub(super) payments: PaymentAnswers,
    pub(super) unreturned: u64,
    pub(super) path: PathFigures,
    pub(super) opens_at: u64,
    pub(super) seconds: f64,
}

impl Measured<'_> {
    pub(super) fn report(&self) -> DropReport {
        let AuditFindings { oversold, lost, duplicates, inversions, untrue, unfounded } =
            self.outcome.check(self.sent);
        let right = audit::right_buyers(self.buying, self.demo.stock as usize);
        let share = |winners: &HashSet<String>| {
            let hits = winners.iter().filter(|subject| right.first.contains(subject.as_str())).count();
            hits as f64 / right.first.len().max(1) as f64
        };
        let tied =
            self.winners.fairdrop.iter().filter(|subject| right.tied.contains(subject.as_str())).count();
        let last_ms = self.outcome.reservations.last().map(|reservation| reservation.reserved_at_ms);
        let sold_out = self.outcome.stock_left == 0;
        DropReport {
            item_id: "demo-drop".into(),
            seed: self.demo.seed,
            settle_window_ms: self.demo.settle_window_ms.into(),
            orders: self.sent.len() as u64,
            stock: self.demo.stock.into(),
            sold: self.outcome.in_ledger.as_ref().map_or(0, HashSet::len) as u64,
            oversold,
            lost,
            duplicates,
            inversions,
            untrue,
            unfounded,
            unreturned: self.unreturned,
            holds: self.holds(),
            path: self.path.clone(),
            right_winners: ByStrategy {
                list: share(&self.winners.list),
                zset: share(&self.winners.zset),
                fairdrop: share(&self.winners.fairdrop),
            },
            tied: tied as f64 / right.first.len().max(1) as f64,
            in_last_ms: right.in_last_ms as u64,
            refused: refused(self.sent.iter()),
            seconds_to_sell_out: last_ms
                .filter(|_| sold_out)
                .map(|last_ms| (last_ms as f64 - self.opens_at as f64 / 1000.0) / 1000.0),
            orders_per_second: self.sent.len() as f64 / self.seconds,
            transit_source: regions::SOURCE.into(),
            regions: (0..self.world.len()).filter_map(|index| self.region(index)).collect(),
        }
    }

    fn holds(&self) -> Holds {
        let refused_late =
            self.payments.values().filter(|answer| **answer != PaymentAnswer::Sold).count() as u64;
        let released: u64 = self.outcome.released.values().sum();
        // The first reservations, one for each unit; later ones were made for units that were released.
        let first: HashSet<&str> = self
            .outcome
            .reservations
            .iter()
            .take(self.demo.stock as usize)
            .map(|reservation| reservation.user_token.as_str())
            .collect();
        let handed_on = self.outcome.sold.iter().filter(|subject| !first.contains(subject.as_str()));
        Holds {
            hold_seconds: self.demo.hold_seconds.into(),
            unpaid_share: self.demo.unpaid,
            released,
            paid_too_late: refused_late,
            handed_on: handed_on.count() as u64,
        }
    }

    fn region(&self, index: usize) -> Option<RegionFigures> {
        let region = self.world.get(index)?;
        let sent: Vec<&SentOrder> = self.sent.iter().filter(|order| order.region == index).collect();
        let wins =
            |winners: &HashSet<String>| sent.iter().filter(|order| winners.contains(&order.subject)).count();
        let wins = ByStrategy {
            list: wins(&self.winners.list) as u64,
            zset: wins(&self.winners.zset) as u64,
            fairdrop: wins(&self.winners.fairdrop) as u64,
        };
        let share = |wins: u64, all: usize| wins as f64 / all.max(1) as f64;
        Some(RegionFigures {
            name: region.name.into(),
            is_main: index == 0,
            round_trip_ms: region.round_trip_ms,
            orders: sent.len() as u64,
            demand_share: share(sent.len() as u64, self.sent.len()),
            queued: sent.iter().filter(|order| order.answer == OrderAnswer::Queued).count() as u64,
            refused: refused(sent.iter().copied()),
            answer_ms: percentiles(sent.iter().map(|order| order.answer_ms)),
            wins,
            win_share: ByStrategy {
                list: share(wins.list, self.winners.list.len()),
                zset: share(wins.zset, self.winners.zset.len()),
                fairdrop: share(wins.fairdrop, self.winners.fairdrop.len()),
            },
        })
    }
}

fn refused<'a>(sent: impl Iterator<Item = &'a SentOrder>) -> BTreeMap<String, u64> {
    let mut refused = BTreeMap::new();
    for reason in sent.filter_map(|order| order.answer.reason()) {
        *refused.entry(reason.to_owned()).or_default() += 1;
    }
    refused
}
