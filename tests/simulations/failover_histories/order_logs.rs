//! The order logs of the regions: which of them can be read, and which items a replay has restored from them.

use crate::failover_histories::draws::{Called, Draws, not_now};
use crate::failover_histories::world::{MAIN, NAMES, SECOND};
use region_failover::{Answer, Run};
use shared::item::ItemId;
use std::collections::{BTreeMap, BTreeSet};

/// The share of items at which an action on all items is cut.
pub(crate) const CUT: f64 = 0.15;

/// How far an item is restored in the standby's Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Restored {
    /// It is not reconciled yet.
    #[default]
    No,
    Waits,
    From(BTreeSet<String>),
}

#[derive(Debug)]
pub(crate) struct OrderLogs {
    /// Until when each region's log cannot be read; `None`: orders go through no log.
    unreadable_until: Option<[u64; 3]>,
    /// Whether a main that is dead takes its log with it.
    is_lost_with_main: bool,
    items: Vec<Restored>,
    /// When the new main's sales opened first: items are restored from then on.
    opened_at: Option<u64>,
    /// When all items were marked last for another replay.
    replayed_again_at: Option<u64>,
}

impl OrderLogs {
    pub(crate) fn draw(draws: &mut Draws, items: usize, start: u64) -> Self {
        let unreadable_until = draws.chance(0.7).then(|| {
            NAMES.map(|_| match draws.within(0, 9) {
                0 => u64::MAX,
                1 | 2 => start + draws.within(0, 1_800 * SECOND),
                _ => start,
            })
        });
        let is_lost_with_main = draws.chance(0.7);
        let items = vec![Restored::No; items];
        Self { unreadable_until, is_lost_with_main, items, opened_at: None, replayed_again_at: None }
    }

    /// The regions that have a log.
    pub(crate) fn regions(&self) -> BTreeSet<String> {
        self.unreadable_until.iter().flat_map(|_| NAMES.map(str::to_owned)).collect()
    }

    pub(crate) fn unreadable(&self, now: u64, is_main_dead: bool) -> BTreeMap<String, String> {
        let untils = self.unreadable_until.iter().flatten().enumerate();
        let unreadable = untils.filter(|(region, until)| {
            now < **until || *region == MAIN && is_main_dead && self.is_lost_with_main
        });
        unreadable.map(|(region, _)| (NAMES[region].to_owned(), "no answer".to_owned())).collect()
    }

    /// The item gets the new epoch. With logs, it waits to be restored from the same step on.
    pub(crate) fn reconciled(&mut self, item: usize) {
        if self.unreadable_until.is_some() {
            self.items[item] = Restored::Waits;
        }
    }

    pub(crate) fn waits(&self, item: usize) -> bool {
        self.items[item] == Restored::Waits
    }

    /// Whether the new main may sell the item.
    pub(crate) fn is_restored(&self, item: usize) -> bool {
        self.unreadable_until.is_none() || matches!(self.items[item], Restored::From(_))
    }

    /// Regions without whose log an item was restored.
    pub(crate) fn left_out(&self) -> BTreeSet<String> {
        let missing = |from: &BTreeSet<String>| self.regions().difference(from).cloned().collect::<Vec<_>>();
        let restored = self.items.iter().filter_map(|item| match item {
            Restored::From(from) => Some(missing(from)),
            _ => None,
        });
        restored.flatten().collect()
    }

    pub(crate) fn sales_open(&mut self, now: u64) {
        self.opened_at.get_or_insert(now);
    }

    pub(crate) fn replay_again(&mut self, now: u64) {
        self.replayed_again_at = Some(now);
    }

    /// Whether a replay of all items began after `at`, when a region sent an order to the old Redis.
    pub(crate) fn are_replayed_after(&self, at: u64) -> bool {
        let began = self.replayed_again_at.max(self.opened_at);
        self.unreadable_until.is_none() || began.is_none_or(|began| at <= began)
    }

    /// Another Redis is used, which has no item.
    pub(crate) fn begin_again(&mut self) {
        self.items.fill(Restored::No);
    }

    /// The worker of the new main restores an item that waits. It can leave no log out.
    pub(crate) fn restored_by_worker(&mut self, item: usize, are_readable: bool) {
        if are_readable && self.waits(item) {
            self.items[item] = Restored::From(self.regions());
        }
    }

    /// A replay. It may be cut after any item.
    pub(crate) fn replay(
        &mut self,
        draws: &mut Draws,
        run: &Run,
        unreadable: &BTreeMap<String, String>,
        item_of: impl Fn(usize) -> (ItemId, bool),
    ) -> Called {
        if unreadable.keys().any(|region| !run.may_leave_log(region)) {
            return not_now("an order log cannot be read");
        }
        let from: BTreeSet<String> =
            self.regions().into_iter().filter(|region| !unreadable.contains_key(region)).collect();
        let (mut set_aside, mut failed) = (BTreeMap::new(), None);
        for item in 0..self.items.len() {
            let (item_id, is_bad) = item_of(item);
            if is_bad || self.items[item] == Restored::No {
                set_aside.insert(item_id, "its keys are malformed, or it is not reconciled".to_owned());
            } else if draws.chance(CUT) {
                failed = Some("the replay was cut".to_owned());
                break;
            } else if self.waits(item) {
                self.items[item] = Restored::From(from.clone());
            }
        }
        Ok(Answer::Items { text: String::new(), set_aside, failed })
    }
}
