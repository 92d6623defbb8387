//! The true state of two regions, with a clock of its own. No process sees it.
//!
//! One item with some stock. Main's Redis makes reservations, main's ledger makes them sales, both are replicated to the
//! standby with a delay, and every message may be slow, late or lost.

use lease::{LeaseRecord, LeaseTiming};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use region_failover::Role;
use shared::permit::Permit;
use shared::stamp::Stamp;
use std::collections::BTreeSet;
use std::time::Duration;

pub(crate) const MAIN: usize = 0;
pub(crate) const STANDBY: usize = 1;
pub(crate) const NAMES: [&str; 2] = ["us-east-1", "eu-west-1"];
pub(crate) const TIMING: LeaseTiming =
    LeaseTiming { lasts: Duration::from_secs(12), tolerance: Duration::from_secs(1) };
pub(crate) const SECOND: u64 = 1_000_000;
const START: u64 = 1_795_000_000 * SECOND;

/// A region's servers.
#[derive(Debug, Default)]
pub(crate) struct RegionTruth {
    /// Ledger and Redis do not answer any more.
    pub(crate) is_dead: bool,
    /// How far its servers' clocks are ahead, in microseconds.
    pub(crate) clock: i64,
    /// Reservations in Redis, in order: a buyer is a number that is used once.
    pub(crate) reservations: Vec<u64>,
    /// The epoch of the item in Redis.
    pub(crate) item_epoch: u64,
    /// Sales in the ledger, in order of their commits.
    pub(crate) sales: Vec<u64>,
    pub(crate) epoch: u64,
    pub(crate) withheld: u64,
    pub(crate) may_run: bool,
}

/// What AWS is doing to the standby's servers.
#[derive(Debug)]
pub(crate) struct Standby {
    pub(crate) role: Role,
    pub(crate) redis_settles_at: u64,
    pub(crate) follows: bool,
    pub(crate) is_big: bool,
    pub(crate) instance_settles_at: u64,
    /// Its status while RDS is not changing it: it may be optimising its storage for more than a day.
    pub(crate) usable_status: &'static str,
    /// Until when its description still shows a source.
    pub(crate) shown_follows_until: u64,
    pub(crate) promotes_at: Option<u64>,
    pub(crate) grows_at: Option<u64>,
    pub(crate) moves_at: Option<u64>,
    /// When Lambda can invoke main's functions there; `None` while they are inactive.
    pub(crate) functions_active_at: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct FailoverWorld {
    pub(crate) rng: StdRng,
    /// The true time, in microseconds.
    pub(crate) now: u64,
    pub(crate) stock: u64,
    pub(crate) table: LeaseRecord,
    pub(crate) regions: [RegionTruth; 2],
    pub(crate) standby: Standby,
    pub(crate) next_buyer: u64,
    /// Whether messages to main, and to the standby, are cut.
    pub(crate) cut: [bool; 2],
    /// Whether a region cannot reach the table.
    pub(crate) table_cut: [bool; 2],
    /// How long the Global Datastore takes to move, if it hangs.
    pub(crate) hangs_for: Option<u64>,
    pub(crate) pointed: bool,
    pub(crate) main_unpointable: bool,
    pub(crate) canary: (bool, bool),
    pub(crate) fence_settles_at: Option<u64>,
    pub(crate) first_new_sale: Option<u64>,
    pub(crate) last_old_sale: u64,
    pub(crate) lost_at_promotion: Vec<u64>,
    pub(crate) last_beat: u64,
    pub(crate) faults: Vec<String>,
}

impl FailoverWorld {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut region = |_| RegionTruth {
            clock: rng.random_range(-1_000_000..=1_000_000),
            item_epoch: 1,
            epoch: 1,
            may_run: false,
            ..RegionTruth::default()
        };
        let mut regions = [0, 1].map(&mut region);
        regions[MAIN].may_run = true;
        let stock = rng.random_range(1..60);
        let is_big = rng.random_bool(0.7);
        let usable_status = if rng.random_bool(0.2) { "storage-optimization" } else { "available" };
        // A change of the datastore by an operator, or a backup of the replica, while the run begins.
        let mut other_change =
            || if rng.random_bool(0.1) { START + rng.random_range(0..20 * 60 * SECOND) } else { 0 };
        let (redis_settles_at, instance_settles_at) = (other_change(), other_change());
        // Nothing invokes them before a failover, so that Lambda makes them inactive.
        let functions_active_at = rng.random_bool(0.5).then_some(0);
        Self {
            now: START,
            stock,
            table: LeaseRecord::first(NAMES[MAIN], 1),
            regions,
            standby: Standby {
                role: Role::Secondary,
                redis_settles_at,
                follows: true,
                is_big,
                instance_settles_at,
                usable_status,
                shown_follows_until: 0,
                promotes_at: None,
                grows_at: None,
                moves_at: None,
                functions_active_at,
            },
            next_buyer: 0,
            cut: [false; 2],
            table_cut: [false; 2],
            hangs_for: None,
            pointed: false,
            main_unpointable: false,
            canary: (false, false),
            fence_settles_at: None,
            first_new_sale: None,
            last_old_sale: 0,
            lost_at_promotion: Vec::new(),
            last_beat: START,
            faults: Vec::new(),
            rng,
        }
    }

    pub(crate) fn chance(&mut self, p: f64) -> bool {
        self.rng.random_bool(p)
    }

    pub(crate) fn within(&mut self, least: u64, most: u64) -> u64 {
        self.rng.random_range(least..=most)
    }

    /// The time by a clock that is `ahead` microseconds ahead.
    pub(crate) fn clock(&self, ahead: i64) -> Stamp {
        Stamp::from_micros(self.now.saturating_add_signed(ahead)).unwrap()
    }

    pub(crate) fn fault(&mut self, what: impl Into<String>) {
        let what = format!("{:.3} s: {}", (self.now - START) as f64 / 1e6, what.into());
        self.faults.push(what);
    }

    fn is_in_time(&self, region: usize, permit: Permit) -> Option<u64> {
        let Permit::Leased { epoch, until } = permit else { return None };
        (self.clock(self.regions[region].clock) < until).then_some(epoch)
    }

    /// A region that has just sold must still have the lease.
    fn check_lease(&mut self, region: usize) {
        if self.table.region != NAMES[region] {
            self.fault(format!("{} sells by a lease that another region has taken", NAMES[region]));
        }
    }

    /// Whether the Redis that a region's functions reach takes writes.
    fn takes_writes(&self, region: usize) -> bool {
        match region {
            MAIN => !self.regions[MAIN].is_dead && self.standby.role == Role::Secondary,
            _ => self.standby.role != Role::Secondary,
        }
    }

    /// The drain's script, when it arrives.
    pub(crate) fn drain(&mut self, region: usize, permit: Permit) {
        let Some(epoch) = self.is_in_time(region, permit) else { return };
        // A main that is cut off is not notified that it is a secondary now.
        let is_primary =
            self.takes_writes(region) || (region == MAIN && !self.regions[MAIN].is_dead && self.cut[MAIN]);
        let (stock, own) = (self.stock, &mut self.regions[region]);
        let taken = own.reservations.iter().chain(&own.sales).collect::<BTreeSet<_>>().len() as u64;
        if is_primary && own.item_epoch == epoch && taken + own.withheld < stock {
            own.reservations.push(self.next_buyer);
            self.next_buyer += 1;
            self.check_lease(region);
        }
    }

    /// The worker's transaction, when it commits.
    pub(crate) fn record(&mut self, region: usize, buyer: u64, permit: Permit) {
        let Some(epoch) = self.is_in_time(region, permit) else { return };
        let follows = region == STANDBY && self.standby.follows;
        if self.regions[region].is_dead || follows || self.regions[region].epoch != epoch {
            return;
        }
        let (stock, own) = (self.stock, &mut self.regions[region]);
        if own.sales.contains(&buyer) || own.sales.len() as u64 + own.withheld >= stock {
            return;
        }
        own.sales.push(buyer);
        self.check_lease(region);
        if region == MAIN {
            self.last_old_sale = self.now;
            if self.first_new_sale.is_some() {
                self.fault("the old main sells after the new one");
            }
        } else {
            self.first_new_sale.get_or_insert(self.now);
        }
    }

    /// A delayed copy of main's data arrives at the standby.
    pub(crate) fn copy(&mut self, reservations: usize, sales: usize, beat: u64) {
        let [main, standby] = &mut self.regions;
        if self.standby.role == Role::Secondary && reservations > standby.reservations.len() {
            standby.reservations = main.reservations[..reservations].to_vec();
        }
        if self.standby.follows && sales >= standby.sales.len() {
            standby.sales = main.sales[..sales].to_vec();
            self.last_beat = self.last_beat.max(beat);
        }
    }

    /// AWS finishes changes that are due.
    pub(crate) fn settle(&mut self) {
        let now = self.now;
        let is_due = |at: &mut Option<u64>| at.take_if(|at| *at <= now).is_some();
        if is_due(&mut self.standby.grows_at) {
            self.standby.is_big = true;
        }
        if is_due(&mut self.standby.moves_at) && self.standby.role == Role::Secondary {
            self.standby.role = Role::Primary;
        }
        if is_due(&mut self.standby.promotes_at) && self.standby.follows {
            self.standby.follows = false;
            let known: BTreeSet<u64> = self.regions[STANDBY]
                .sales
                .iter()
                .chain(&self.regions[STANDBY].reservations)
                .copied()
                .collect();
            self.lost_at_promotion =
                self.regions[MAIN].sales.iter().filter(|buyer| !known.contains(buyer)).copied().collect();
        }
    }

    /// Checks what must be true at the end.
    pub(crate) fn judge(&mut self, is_planned: bool, accepted: u64, is_aborted: bool) {
        if is_aborted && !self.table.is_open {
            self.fault("the run was aborted, and no region can sell");
        }
        if is_aborted && (self.standby.role, self.standby.follows) != (Role::Secondary, true) {
            self.fault("the run was aborted, and something was moved");
        }
        let sold: BTreeSet<u64> = self.regions.iter().flat_map(|region| &region.sales).copied().collect();
        if sold.len() as u64 > self.stock {
            let (sold, stock) = (sold.len(), self.stock);
            self.fault(format!("{sold} units of {stock} are sold"));
        }
        let lost = self.lost_at_promotion.len() as u64;
        if is_planned && lost > 0 || lost > accepted && !is_planned {
            self.fault(format!("{lost} sales are lost, {accepted} were accepted"));
        }
        if self.first_new_sale.is_some_and(|first| first <= self.last_old_sale) {
            self.fault("both mains have sold");
        }
    }
}
