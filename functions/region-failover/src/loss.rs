//! The loss that an operator has to accept before a forced failover: [`ledger::at_risk`], up to the last moment at
//! which main may have sold by its lease.

use crate::observation::Loss;
use lease::{LeaseRecord, LeaseTiming};
use ledger::AtRisk;
use shared::stamp::Stamp;

impl From<AtRisk> for Loss {
    fn from(at_risk: AtRisk) -> Self {
        let ms = if at_risk.is_bounded() { at_risk.micros.div_ceil(1_000) } else { u64::MAX };
        Self { ms, sales: at_risk.sales_at_most }
    }
}

/// The last moment at which main can have sold, or could sell if it were stopped now. `now` is by the caller's clock.
///
/// A main that does not answer may have gone on selling until its lease ended.
pub fn sells_until(lease: &LeaseRecord, now: Stamp, timing: LeaseTiming) -> Stamp {
    let renewed_now = now.saturating_add(timing.lasts);
    if may_be_renewed(lease, now, timing) { renewed_now } else { lease.expires_at }
}

/// Whether main may still renew its lease. Main renews four times in a lease: if the lease ended a whole lease ago,
/// main does not renew it any more.
pub fn may_be_renewed(lease: &LeaseRecord, now: Stamp, timing: LeaseTiming) -> bool {
    let ended_long_ago = now > lease.expires_at.saturating_add(timing.lasts);
    lease.is_open && !ended_long_ago
}

#[cfg(test)]
mod tests {
    use super::*;
    use ledger::{Basis, CountedLoss, MainState, ReplicaState, at_risk};
    use std::time::Duration;

    const TIMING: LeaseTiming =
        LeaseTiming { lasts: Duration::from_secs(12), tolerance: Duration::from_secs(1) };

    fn at(seconds: u64) -> Stamp {
        Stamp::from_micros(1_795_000_000_000_000 + seconds * 1_000_000).unwrap()
    }

    fn replica(beat: Option<Stamp>) -> ReplicaState {
        ReplicaState {
            follows: true,
            at: at(100),
            beat_at: beat,
            received: Some(7),
            replayed: Some(7),
            is_paused: false,
            is_streaming: Some(true),
            peak_sales_per_second: 10,
            units_unsold: 90,
            units_on_sale: 90,
            units_opening: 0,
        }
    }

    fn lease(ends: u64) -> LeaseRecord {
        LeaseRecord { expires_at: at(ends), ..LeaseRecord::first("main", 1) }
    }

    #[test]
    fn a_main_that_answers_counts_itself() {
        let main = MainState {
            at: at(100),
            beat_at: Some(at(100)),
            written: 9,
            slot: None,
            counted_loss: Some(CountedLoss { micros: 1_500_001, sales: 3 }),
        };
        let until = sells_until(&lease(108), at(100), TIMING);
        let risk = at_risk(&replica(Some(at(99))), Some(&main), until);
        assert_eq!((risk.basis, risk.sales_likely), (Basis::Main, 3));
        assert_eq!(Loss::from(risk), Loss { ms: 1_501, sales: 3 });
    }

    #[test]
    fn a_silent_one_may_sell_to_the_end_of_its_lease() {
        let of =
            |lease: &LeaseRecord, beat| at_risk(&replica(beat), None, sells_until(lease, at(100), TIMING));
        let loss = |lease: &LeaseRecord, beat| Loss::from(of(lease, beat));
        let grows = |lease: &LeaseRecord| may_be_renewed(lease, at(100), TIMING);
        // Open: main may just have renewed it.
        assert_eq!(loss(&lease(108), Some(at(95))), Loss { ms: 17_000, sales: 90 });
        assert_eq!(of(&lease(108), Some(at(95))).sales_likely, 90);
        assert!(grows(&lease(108)));
        assert_eq!(loss(&lease(108).closed("run"), Some(at(105))).ms, 3_000);
        assert_eq!(of(&lease(108).closed("run"), Some(at(105))).sales_likely, 30);
        // Main has not renewed it for so long that it does not renew it any more.
        assert_eq!(loss(&lease(80), Some(at(79))).ms, 1_000);
        assert!(!grows(&lease(80)) && !grows(&lease(108).closed("run")));
        // Without any heartbeat nothing bounds the loss.
        assert_eq!(loss(&lease(80), None).ms, u64::MAX);
    }
}
