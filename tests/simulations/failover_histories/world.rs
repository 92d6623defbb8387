//! The true state of two regions, with a clock of its own. No process sees it.
//!
//! A few items with some stock each. Main's Redis makes reservations, main's ledger makes them sales, both are
//! replicated to the standby with a delay, and every message may be slow, late or lost.

use crate::failover_histories::draws::Draws;
use crate::failover_histories::elasticache::Datastore;
use crate::failover_histories::lambda::Functions;
use crate::failover_histories::order_logs::OrderLogs;
use crate::failover_histories::rds::{OldDatabase, Replica};
use crate::failover_histories::stores::{ItemState, ItemTerms, Store, Unit};
use lease::{LeaseRecord, LeaseTiming};
use region_failover::Role;
use shared::stamp::Stamp;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub(crate) const MAIN: usize = 0;
pub(crate) const STANDBY: usize = 1;
/// Main, the standby, and a region that only takes orders.
pub(crate) const NAMES: [&str; 3] = ["us-east-1", "eu-west-1", "ap-south-1"];
pub(crate) const TIMING: LeaseTiming =
    LeaseTiming { lasts: Duration::from_secs(12), tolerance: Duration::from_secs(1) };
pub(crate) const SECOND: u64 = 1_000_000;
pub(crate) const START: u64 = 1_795_000_000 * SECOND;

/// A region's servers.
#[derive(Debug)]
pub(crate) struct RegionTruth {
    /// Ledger and Redis do not answer any more.
    pub(crate) is_dead: bool,
    /// How far its servers' clocks are ahead, in microseconds.
    pub(crate) clock: i64,
    pub(crate) redis: Store,
    pub(crate) ledger: Store,
    pub(crate) items: Vec<ItemState>,
    /// The ledger's epoch.
    pub(crate) epoch: u64,
    pub(crate) may_run: bool,
}

/// What is cut off from what.
#[derive(Debug, Default)]
pub(crate) struct Network {
    /// Whether messages to main, and to the standby, are cut.
    pub(crate) cut: [bool; 2],
    /// Whether a region cannot reach the table.
    pub(crate) table_cut: [bool; 2],
    pub(crate) main_unpointable: bool,
}

#[derive(Debug)]
pub(crate) struct FailoverWorld {
    pub(crate) draws: Draws,
    /// For what was added later: without it the seeds in the list would give other histories.
    pub(crate) more_draws: Draws,
    /// The true time, in microseconds.
    pub(crate) now: u64,
    pub(crate) terms: Vec<ItemTerms>,
    pub(crate) table: LeaseRecord,
    pub(crate) regions: [RegionTruth; 2],
    pub(crate) network: Network,
    pub(crate) replica: Replica,
    pub(crate) datastore: Datastore,
    pub(crate) functions: Functions,
    pub(crate) old_database: OldDatabase,
    pub(crate) logs: OrderLogs,
    /// The endpoint of another Redis of the standby, which the operator has named in place of its member of the datastore.
    pub(crate) spare: Option<String>,
    /// An item that cannot be reconciled before this time, if there is one.
    pub(crate) bad_item: Option<(usize, u64)>,
    pub(crate) next_buyer: usize,
    /// Whether the canary is placed, and sold.
    pub(crate) canary: (bool, bool),
    pub(crate) first_new_sale: Option<u64>,
    pub(crate) last_old_sale: u64,
    pub(crate) last_beat: u64,
    pub(crate) faults: Vec<String>,
}

impl FailoverWorld {
    pub(crate) fn new(seed: u64) -> Self {
        let mut draws = Draws::new(seed);
        let mut more_draws = Draws::new(seed.rotate_left(17) ^ 0x6C6F_6773);
        let items = usize::try_from(draws.within(1, 3)).unwrap();
        let mut gates = Draws::new(seed.rotate_left(29) ^ 0x6761_7465);
        let terms: Vec<ItemTerms> = (0..items)
            .map(|_| {
                let hold = draws.one_of(&[0, 0, 30, 120, 600]) * SECOND;
                let stock = draws.within(1, 40);
                // Soon, or months away.
                let opens_in = gates.one_of(&[0, 0, 0, 60, 600, 7_776_000]);
                ItemTerms { stock, hold, opens_at: START + gates.within(0, opens_in * SECOND) }
            })
            .collect();
        let regions = [MAIN, STANDBY].map(|region| RegionTruth {
            is_dead: false,
            clock: draws.clock(),
            redis: Store::new(items),
            ledger: Store::new(items),
            items: vec![ItemState { epoch: 1, ..ItemState::default() }; items],
            epoch: 1,
            may_run: region == MAIN,
        });
        Self {
            now: START,
            terms,
            table: LeaseRecord::first(NAMES[MAIN], 1),
            regions,
            network: Network::default(),
            replica: Replica::draw(&mut draws, START),
            datastore: Datastore::draw(&mut draws, START),
            functions: Functions::draw(&mut draws),
            old_database: OldDatabase::draw(&mut draws, START),
            logs: OrderLogs::draw(&mut more_draws, items, START),
            spare: None,
            bad_item: draw_bad_item(&mut Draws::new(!seed), items),
            next_buyer: 0,
            canary: (false, false),
            first_new_sale: None,
            last_old_sale: 0,
            last_beat: START,
            faults: Vec::new(),
            draws,
            more_draws,
        }
    }

    /// The time by a clock that is `ahead` microseconds ahead.
    pub(crate) fn clock(&self, ahead: i64) -> Stamp {
        Stamp::from_micros(self.now.saturating_add_signed(ahead)).unwrap()
    }

    pub(crate) fn fault(&mut self, what: impl Into<String>) {
        let what = format!("{:.3} s: {}", (self.now - START) as f64 / 1e6, what.into());
        self.faults.push(what);
    }

    /// Whether the standby reaches main's servers.
    pub(crate) fn main_answers(&self) -> bool {
        !self.regions[MAIN].is_dead && !self.network.cut[STANDBY]
    }

    /// Regions whose order log cannot be read now, with the reasons.
    pub(crate) fn unreadable_logs(&self) -> BTreeMap<String, String> {
        self.logs.unreadable(self.now, self.regions[MAIN].is_dead)
    }

    /// The operator names another Redis at `endpoint`, which is empty. The ledger keeps what it has, and the withheld units.
    pub(crate) fn use_spare(&mut self, endpoint: String) {
        self.spare = Some(endpoint);
        let items = self.terms.len();
        let own = &mut self.regions[STANDBY];
        own.redis = Store::new(items);
        own.items.iter_mut().for_each(|item| item.epoch = 1);
        self.logs.begin_again();
        self.functions.send_elsewhere();
    }

    /// AWS finishes changes that are due.
    pub(crate) fn settle(&mut self) {
        self.replica.settle(&mut self.draws, self.now);
        self.datastore.settle(self.now);
        self.functions.settle(self.now);
    }

    /// Units, of items that open before `end`, that the standby's ledger does not have as sold: main cannot have sold more
    /// by then.
    pub(crate) fn units_unsold(&self, end: u64) -> u64 {
        let is_open = |item: usize| self.terms[item].opens_at <= end;
        let open = self.terms.iter().filter(|terms| terms.opens_at <= end);
        let sold = self.regions[STANDBY].ledger.sold().filter(|(item, _)| is_open(*item)).count() as u64;
        open.map(|terms| terms.stock).sum::<u64>().saturating_sub(sold)
    }

    /// Sales of the old main that the new main's ledger does not have as sold.
    fn lost(&self) -> Vec<usize> {
        let here = &self.regions[STANDBY].ledger;
        let sold = self.regions[MAIN].ledger.sold();
        sold.map(|(_, buyer)| buyer).filter(|buyer| here.unit(*buyer) != Some(Unit::Sold)).collect()
    }

    /// Whether an item cannot be reconciled now.
    pub(crate) fn is_bad(&self, item: usize) -> bool {
        self.bad_item.is_some_and(|(bad, until)| bad == item && self.now < until)
    }

    /// Checks what must be true at the end. `accepted` is the accepted number of lost sales; `None`: the run is planned.
    pub(crate) fn judge(&mut self, accepted: Option<u64>, is_aborted: bool) {
        if is_aborted && !self.table.is_open {
            self.fault("the run was aborted, and no region can sell");
        }
        if is_aborted && (self.datastore.role, self.replica.follows) != (Role::Secondary, true) {
            self.fault("the run was aborted, and something was moved");
        }
        for item in 0..self.terms.len() {
            let sold: BTreeSet<usize> = self
                .regions
                .iter()
                .flat_map(|region| region.ledger.sold())
                .filter_map(|(of, buyer)| (of == item).then_some(buyer))
                .collect();
            let (sold, stock) = (sold.len() as u64, self.terms[item].stock);
            if sold > stock {
                self.fault(format!("{sold} units of {stock} are sold"));
            }
        }
        if self.replica.follows {
            return;
        }
        let lost = self.lost();
        if lost.len() as u64 > accepted.unwrap_or(0) {
            self.fault(format!("{} sales are lost, {accepted:?} were accepted", lost.len()));
        }
        let here = &self.regions[STANDBY].ledger;
        // Old holds of an item that was set aside are not kept: they may end before it is reconciled.
        let is_set_aside = |buyer: usize| self.bad_item.map(|(bad, _)| bad) == here.item_of(buyer);
        if lost.iter().any(|buyer| here.unit(*buyer) == Some(Unit::Released) && !is_set_aside(*buyer)) {
            self.fault("a unit that the old main has sold was released before an operator has compared");
        }
        if self.first_new_sale.is_some_and(|first| first <= self.last_old_sale) {
            self.fault("both mains have sold");
        }
    }
}

/// Its keys in Redis are malformed until an operator has fixed them.
fn draw_bad_item(draws: &mut Draws, items: usize) -> Option<(usize, u64)> {
    let bad = draws.chance(0.1).then(|| draws.within(0, items as u64 - 1))?;
    let until = if draws.chance(0.3) { u64::MAX } else { START + draws.within(0, 3_600 * SECOND) };
    Some((usize::try_from(bad).unwrap(), until))
}
