//! The lease record, and how it may change. Pure: nothing here calls the table.

use crate::timing::LeaseTiming;
use serde::Serialize;
use shared::permit::Permit;
use shared::stamp::Stamp;

/// Which region is main. Times are microseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeaseRecord {
    /// Goes up by one with every change. A writer names the version that it has read.
    pub version: u64,
    /// The region that is main.
    pub region: String,
    /// The fencing token: goes up with each failover, and after the ledger was restored.
    pub epoch: u64,
    /// When the lease ends, unless it is renewed.
    pub expires_at: Stamp,
    /// Whether it may be renewed. A failover closes the lease first, and opens it last.
    pub is_open: bool,
    /// The failover that has closed or taken the lease.
    pub run: Option<String>,
}

impl LeaseRecord {
    /// The first record: `region` is main under `epoch`. The lease has ended, and `region` has still to renew it.
    pub fn first(region: &str, epoch: u64) -> Self {
        let expires_at = Stamp::EPOCH;
        Self { version: 1, region: region.into(), epoch, expires_at, is_open: true, run: None }
    }

    /// The record as renewed by a process of `region` whose clock says `now`; `None` if it may not renew.
    pub fn renewed(&self, region: &str, now: Stamp, timing: LeaseTiming) -> Option<Self> {
        let may = self.is_open && self.region == region;
        let expires_at = now.saturating_add(timing.lasts).max(self.expires_at);
        may.then(|| Self { version: self.version + 1, expires_at, ..self.clone() })
    }

    /// Whether a process of `region` should renew it at `now`, and no other has just done so.
    pub(crate) fn renewal_is_due(&self, region: &str, now: Stamp, timing: LeaseTiming) -> bool {
        let may = self.is_open && self.region == region;
        may && self.expires_at < now.saturating_add(timing.renewed_below())
    }

    /// The permit of a process of `region` at `now`; `None` if it may not sell.
    pub fn permit(&self, region: &str, now: Stamp, timing: LeaseTiming) -> Option<Permit> {
        let until = self.expires_at.saturating_sub(timing.tolerance);
        let may = self.region == region && now < until;
        may.then_some(Permit::Leased { epoch: self.epoch, until })
    }

    /// Whether no process can sell by this lease any more, by a clock that says `now`. An open lease never counts as
    /// ended, since main may still renew it.
    pub fn has_run_out(&self, now: Stamp, timing: LeaseTiming) -> bool {
        !self.is_open && now > self.expires_at.saturating_add(timing.tolerance)
    }

    /// Under `epoch`, for the same main: its ledger was restored. `None` unless `region` is main, the lease is open, and its
    /// epoch is lower.
    pub(crate) fn raised(&self, region: &str, epoch: u64) -> Option<Self> {
        let may = self.is_open && self.region == region && self.epoch < epoch;
        may.then(|| Self { version: self.version + 1, epoch, ..self.clone() })
    }

    /// Closed by the failover `run`: it cannot be renewed.
    pub fn closed(&self, run: &str) -> Self {
        Self { version: self.version + 1, is_open: false, run: Some(run.into()), ..self.clone() }
    }

    /// Unchanged but for the id of the failover `run` and a new version, so that a write based on the old version fails.
    pub fn marked(&self, run: &str) -> Self {
        Self { version: self.version + 1, run: Some(run.into()), ..self.clone() }
    }

    /// Taken by `region` under the next epoch, for the failover `run` that had closed it. It stays closed. `None` as long
    /// as main might sell.
    pub fn taken(&self, region: &str, run: &str, now: Stamp, timing: LeaseTiming) -> Option<Self> {
        let may = self.run.as_deref() == Some(run) && self.has_run_out(now, timing);
        may.then(|| Self {
            version: self.version + 1,
            region: region.into(),
            epoch: self.epoch + 1,
            ..self.clone()
        })
    }

    /// Opened for `region` under `epoch` by the failover `run` that had closed it: for the new main when the failover
    /// succeeds, and for the old main when it is aborted.
    pub fn opened(&self, region: &str, epoch: u64, run: &str) -> Option<Self> {
        let may = !self.is_open && self.run.as_deref() == Some(run);
        may.then(|| Self {
            version: self.version + 1,
            region: region.into(),
            epoch,
            is_open: true,
            ..self.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const TIMING: LeaseTiming =
        LeaseTiming { lasts: Duration::from_secs(12), tolerance: Duration::from_secs(1) };

    fn at(seconds: u64) -> Stamp {
        Stamp::saturating_from_micros(1_795_000_000_000_000 + seconds * 1_000_000)
    }

    #[test]
    fn no_region_takes_the_lease_while_main_may_sell() {
        let record = LeaseRecord::first("main", 3).renewed("main", at(0), TIMING).unwrap();
        assert_eq!(record.permit("main", at(10), TIMING), Some(Permit::Leased { epoch: 3, until: at(11) }));
        assert_eq!(record.permit("main", at(11), TIMING), None);
        assert_eq!(record.permit("other", at(1), TIMING), None);
        // Open, it could still be renewed, however late it is.
        assert_eq!(record.taken("other", "run", at(99), TIMING), None);
        let closed = record.closed("run");
        assert_eq!(closed.renewed("main", at(5), TIMING), None);
        assert_eq!(closed.permit("main", at(5), TIMING), Some(Permit::Leased { epoch: 3, until: at(11) }));
        assert_eq!(closed.taken("other", "run", at(13), TIMING), None);
        assert_eq!(closed.taken("other", "another run", at(14), TIMING), None);
        let taken = closed.taken("other", "run", at(14), TIMING).unwrap();
        assert_eq!((taken.region.as_str(), taken.epoch, taken.is_open), ("other", 4, false));
    }

    #[test]
    fn only_main_raises_the_epoch_of_its_open_lease() {
        let record = LeaseRecord::first("main", 3).renewed("main", at(0), TIMING).unwrap();
        let raised = record.raised("main", 5).unwrap();
        assert_eq!(raised, LeaseRecord { version: record.version + 1, epoch: 5, ..record.clone() });
        assert_eq!(record.raised("other", 5), None);
        assert_eq!(record.closed("run").raised("main", 5), None);
        assert_eq!((record.raised("main", 3), record.raised("main", 2)), (None, None));
    }

    #[test]
    fn a_taken_lease_permits_sales_only_after_it_is_opened() {
        let closed = LeaseRecord::first("main", 3).closed("run");
        let taken = closed.taken("other", "run", at(0), TIMING).unwrap();
        assert_eq!(taken.renewed("other", at(1), TIMING), None);
        assert_eq!(taken.permit("other", at(1), TIMING), None);
        assert_eq!(taken.opened("other", 4, "another run"), None);
        let opened = taken.opened("other", 4, "run").unwrap();
        assert_eq!(opened.renewed("main", at(2), TIMING), None);
        assert!(opened.renewed("other", at(2), TIMING).is_some());
        // Aborted before anything was sold: the old main goes on under its epoch.
        let back = taken.opened("main", 3, "run").unwrap();
        assert_eq!((back.region.as_str(), back.epoch, back.version), ("main", 3, 4));
    }

    #[test]
    fn one_of_several_processes_renews_and_one_alone_renews_each_time() {
        let open = LeaseRecord::first("main", 1);
        assert!(open.renewal_is_due("main", at(0), TIMING), "a new record has no time left");
        let renewed = open.renewed("main", at(100), TIMING).unwrap();
        let due = |second| renewed.renewal_is_due("main", at(second), TIMING);
        // Renewed every 3 s; another process that comes in between finds it fresh.
        assert_eq!([100, 101, 102, 103, 110, 120].map(due), [false, false, false, true, true, true]);
        assert!(!renewed.renewal_is_due("other", at(110), TIMING));
        assert!(!renewed.closed("run").renewal_is_due("main", at(110), TIMING), "a failover has closed it");
    }

    #[test]
    fn a_renewal_never_shortens_the_lease() {
        let record = LeaseRecord::first("main", 1).renewed("main", at(5), TIMING).unwrap();
        assert_eq!(record.renewed("main", at(2), TIMING).unwrap().expires_at, at(17));
    }
}
