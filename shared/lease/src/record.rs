//! The record, and what may become of it. Nothing here asks anybody.

use crate::LeaseTiming;
use serde::Serialize;
use shared::permit::Permit;
use shared::stamp::Stamp;

/// Who is main. Moments are microseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeaseRecord {
    /// Goes up by one with every change: who writes names the version they have read.
    pub version: u64,
    /// The region that is main.
    pub region: String,
    /// The number of its reign.
    pub epoch: u64,
    /// When its right to sell ends, unless it is renewed.
    pub expires_at: Stamp,
    /// Whether it may be renewed. A failover closes it first, and opens it last.
    pub is_open: bool,
    /// The failover that has closed it or taken it.
    pub run: Option<String>,
}

impl LeaseRecord {
    /// The first record there is: `region` is main under `epoch`, and has still to renew it.
    pub fn first(region: &str, epoch: u64) -> Self {
        let expires_at = Stamp::EPOCH;
        Self { version: 1, region: region.into(), epoch, expires_at, is_open: true, run: None }
    }

    /// Renewed by a process of `region` at `now` by its clock; nothing where it may not be.
    pub fn renewed(&self, region: &str, now: Stamp, timing: LeaseTiming) -> Option<Self> {
        let may = self.is_open && self.region == region;
        let expires_at = now.saturating_add(timing.lasts).max(self.expires_at);
        may.then(|| Self { version: self.version + 1, expires_at, ..self.clone() })
    }

    /// What a process of `region` may do by it at `now`; nothing where that is nothing.
    pub fn permit(&self, region: &str, now: Stamp, timing: LeaseTiming) -> Option<Permit> {
        let until = self.expires_at.saturating_sub(timing.tolerance);
        let may = self.region == region && now < until;
        may.then_some(Permit::Leased { epoch: self.epoch, until })
    }

    /// Whether nobody can sell by it any more, to one whose clock says `now`. A record that is open
    /// may still be renewed.
    pub fn has_run_out(&self, now: Stamp, timing: LeaseTiming) -> bool {
        !self.is_open && now > self.expires_at.saturating_add(timing.tolerance)
    }

    /// Not to be renewed any more, by the failover `run`.
    pub fn closed(&self, run: &str) -> Self {
        Self { version: self.version + 1, is_open: false, run: Some(run.into()), ..self.clone() }
    }

    /// As it is, with the mark of the failover `run`, so that whatever else was made of it is not written.
    pub fn marked(&self, run: &str) -> Self {
        Self { version: self.version + 1, run: Some(run.into()), ..self.clone() }
    }

    /// Taken by `region` for the failover `run` that had closed it, under the next epoch; nothing
    /// as long as anybody might sell by it. It is still closed.
    pub fn taken(&self, region: &str, run: &str, now: Stamp, timing: LeaseTiming) -> Option<Self> {
        let may = self.run.as_deref() == Some(run) && self.has_run_out(now, timing);
        may.then(|| Self {
            version: self.version + 1,
            region: region.into(),
            epoch: self.epoch + 1,
            ..self.clone()
        })
    }

    /// Open again, for `region` under `epoch`, by the failover `run` that had closed it: by its
    /// success for the new main, and by its end for the old one.
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
    fn nobody_takes_it_while_anybody_may_sell() {
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
    fn what_is_taken_sells_only_once_it_is_opened() {
        let closed = LeaseRecord::first("main", 3).closed("run");
        let taken = closed.taken("other", "run", at(0), TIMING).unwrap();
        assert_eq!(taken.renewed("other", at(1), TIMING), None);
        assert_eq!(taken.permit("other", at(1), TIMING), None);
        assert_eq!(taken.opened("other", 4, "another run"), None);
        let opened = taken.opened("other", 4, "run").unwrap();
        assert_eq!(opened.renewed("main", at(2), TIMING), None);
        assert!(opened.renewed("other", at(2), TIMING).is_some());
        // Given up before anything was sold: the old main goes on under its epoch.
        let back = taken.opened("main", 3, "run").unwrap();
        assert_eq!((back.region.as_str(), back.epoch, back.version), ("main", 3, 4));
    }

    #[test]
    fn a_renewal_never_shortens_it() {
        let record = LeaseRecord::first("main", 1).renewed("main", at(5), TIMING).unwrap();
        assert_eq!(record.renewed("main", at(2), TIMING).unwrap().expires_at, at(17));
    }
}
