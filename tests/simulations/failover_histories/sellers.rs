//! The processes that sell: drain, worker and order-confirm of a region, with what they know of the lease.

use crate::failover_histories::stores::{Change, Unit};
use crate::failover_histories::world::{FailoverWorld, MAIN, NAMES, STANDBY};
use lease::LeaseRecord;
use shared::permit::Permit;

/// A process that sells.
#[derive(Debug)]
pub(crate) struct Seller {
    pub(crate) region: usize,
    pub(crate) clock: i64,
    pub(crate) known: Option<LeaseRecord>,
}

/// What a process asks of the ledger for one buyer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// The worker records the reservation, or ends its hold if it is due.
    Record,
    /// The buyer has paid.
    Pay,
}

impl FailoverWorld {
    /// Whether the schedules of `region` start drain and worker.
    pub(crate) fn runs(&self, region: usize) -> bool {
        self.regions[region].may_run && (region == MAIN || self.functions.are_active(self.now))
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

    /// Whether the Redis that a region's functions reach takes writes. A main that is cut off is not notified that it
    /// is a secondary now.
    fn takes_writes(&self, region: usize) -> bool {
        match region {
            MAIN => {
                let is_primary = !self.datastore.takes_writes() || self.network.cut[MAIN];
                is_primary && !self.regions[MAIN].is_dead
            }
            _ => self.spare.is_some() || self.datastore.takes_writes(),
        }
    }

    /// The drain's script, when it arrives.
    pub(crate) fn drain(&mut self, region: usize, permit: Permit) {
        let Some(epoch) = self.is_in_time(region, permit) else { return };
        let item = usize::try_from(self.draws.within(0, self.terms.len() as u64 - 1)).unwrap();
        let (terms, takes_writes) = (self.terms[item], self.takes_writes(region));
        if self.clock(self.regions[region].clock).as_micros() < terms.opens_at {
            return;
        }
        let until = self.clock(self.regions[region].clock).as_micros() + terms.hold;
        let own = &mut self.regions[region];
        let state = own.items[item];
        // The script takes nothing from an item that waits to be restored. The worker finds it, and restores it.
        if region == STANDBY && self.logs.waits(item) {
            if state.epoch == epoch && takes_writes && !self.is_bad(item) && self.more_draws.chance(0.05) {
                let are_readable = self.unreadable_logs().is_empty();
                self.logs.restored_by_worker(item, are_readable);
            }
            return;
        }
        if takes_writes && state.epoch == epoch && own.redis.taken(item) + state.withheld < terms.stock {
            let buyer = self.next_buyer;
            own.redis.write(Change { item, buyer, unit: Unit::Held { until } });
            self.next_buyer += 1;
            self.check_lease(region);
            if region == STANDBY && !self.logs.is_restored(item) {
                self.fault("an item is sold before its orders are restored from the logs");
            }
        }
    }

    /// The transaction of worker or order-confirm, when it commits. Redis is written afterwards, unless that is lost.
    pub(crate) fn work(&mut self, region: usize, buyer: usize, permit: Permit, work: Work) {
        let Some(epoch) = self.is_in_time(region, permit) else { return };
        let follows = region == STANDBY && self.replica.follows;
        let own = &self.regions[region];
        let Some(item) = own.redis.item_of(buyer) else { return };
        let is_fenced = region == MAIN && !self.old_database.is_reached(self.now);
        if own.is_dead || is_fenced || follows || own.epoch != epoch {
            return;
        }
        let Some(unit) = self.decided(region, item, buyer, work) else { return };
        let change = Change { item, buyer, unit };
        let own = &mut self.regions[region];
        if own.ledger.unit(buyer) != Some(unit) {
            own.ledger.write(change);
            self.check_lease(region);
            if unit == Unit::Sold {
                self.sold(region);
            }
        }
        if self.takes_writes(region) && self.draws.chance(0.95) {
            self.regions[region].redis.write(change);
        }
    }

    /// What the ledger decides about a buyer's unit; `None`: it refuses, and changes nothing.
    fn decided(&self, region: usize, item: usize, buyer: usize, work: Work) -> Option<Unit> {
        let (own, terms) = (&self.regions[region], self.terms[item]);
        let state = own.items[item];
        let Some(Unit::Held { until: in_redis }) = own.redis.unit(buyer) else { return None };
        match own.ledger.unit(buyer) {
            None if work == Work::Pay => None,
            None if own.ledger.taken(item) + state.withheld >= terms.stock => Some(Unit::Released),
            None if terms.hold == 0 => Some(Unit::Sold),
            None => Some(Unit::Held { until: in_redis }),
            Some(Unit::Held { .. }) if work == Work::Pay => Some(Unit::Sold),
            Some(held @ Unit::Held { until }) => {
                let is_due = self.clock(own.clock).as_micros() >= until && buyer >= state.old_holds_below;
                Some(if is_due { Unit::Released } else { held })
            }
            decided => decided,
        }
    }

    fn sold(&mut self, region: usize) {
        if region == MAIN {
            self.last_old_sale = self.now;
            if self.first_new_sale.is_some() {
                self.fault("the old main sells after the new one");
            }
        } else {
            self.first_new_sale.get_or_insert(self.now);
        }
    }

    /// How far main's stores are written, for a copy that leaves now.
    pub(crate) fn written(&self) -> (usize, usize) {
        (self.regions[MAIN].redis.log.len(), self.regions[MAIN].ledger.log.len())
    }

    /// A delayed copy of main's data arrives at the standby.
    pub(crate) fn replicate(&mut self, (redis, ledger): (usize, usize), beat: u64) {
        let [main, standby] = &mut self.regions;
        if !self.datastore.takes_writes() && self.spare.is_none() {
            standby.redis.replicate(&main.redis, redis);
        }
        if self.replica.follows {
            standby.ledger.replicate(&main.ledger, ledger);
            self.last_beat = self.last_beat.max(beat);
        }
    }
}
