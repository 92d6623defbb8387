//! What would be lost if main were gone now.

use crate::seen::Loss;
use lease::{Record, Timing};
use ledger::{Main, Replica};
use serde::Serialize;
use shared::stamp::Stamp;

/// The most that would be lost, and what is likely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AtRisk {
    /// What a person has to accept, at least.
    pub most: Loss,
    /// Sales, by the busiest second of the last minute that is here: a guess.
    pub likely_sales: u64,
    /// Main is silent and may be selling still: each second until it is stopped is one more.
    pub grows: bool,
}

/// What would be lost, by `replica` and, where main answers, by its own word. `now` is by the clock of who asks.
///
/// A main that does not answer may have gone on selling for as long as its lease allows, and all that was left.
pub fn at_risk(lease: &Record, now: Stamp, timing: Timing, replica: &Replica, main: Option<&Main>) -> AtRisk {
    if let Some(known) = main.and_then(|main| main.at_risk) {
        let most = Loss { ms: known.micros.div_ceil(1_000), sales: known.sales };
        // What it sells goes on coming over.
        return AtRisk { most, likely_sales: known.sales, grows: false };
    }
    let grows = may_be_renewed(lease, now, timing);
    let last = last_moment(lease, now, timing);
    let ms = replica
        .beat_at
        .map_or(u64::MAX, |beat| last.as_micros().saturating_sub(beat.as_micros()).div_ceil(1_000));
    let likely_sales =
        replica.peak_sales_per_second.saturating_mul(ms.div_ceil(1_000)).min(replica.units_unsold);
    AtRisk { most: Loss { ms, sales: replica.units_unsold }, likely_sales, grows }
}

/// Until when main can have sold, or could if it were told to stop now.
fn last_moment(lease: &Record, now: Stamp, timing: Timing) -> Stamp {
    let lasts = u64::try_from(timing.lasts.as_micros()).unwrap_or(u64::MAX);
    let renewed_now = Stamp::from_micros(now.as_micros().saturating_add(lasts)).unwrap_or(now);
    if may_be_renewed(lease, now, timing) { renewed_now } else { lease.expires_at }
}

/// Main renews four times in a lease: one that has run out for a whole lease is renewed by nobody.
fn may_be_renewed(lease: &Record, now: Stamp, timing: Timing) -> bool {
    let lasts = u64::try_from(timing.lasts.as_micros()).unwrap_or(u64::MAX);
    let is_left = now.as_micros() > lease.expires_at.as_micros().saturating_add(lasts);
    lease.is_open && !is_left
}

#[cfg(test)]
mod tests {
    use super::*;
    use ledger::AtRisk as Known;
    use std::time::Duration;

    const TIMING: Timing = Timing { lasts: Duration::from_secs(12), tolerance: Duration::from_secs(1) };

    fn at(seconds: u64) -> Stamp {
        Stamp::from_micros(1_795_000_000_000_000 + seconds * 1_000_000).unwrap()
    }

    fn replica(beat: Option<Stamp>) -> Replica {
        Replica {
            follows: true,
            at: at(100),
            beat_at: beat,
            received: Some(7),
            replayed: Some(7),
            is_paused: false,
            is_streaming: Some(true),
            peak_sales_per_second: 10,
            units_unsold: 90,
        }
    }

    fn lease(ends: u64) -> Record {
        Record { expires_at: at(ends), ..Record::first("main", 1) }
    }

    #[test]
    fn a_main_that_answers_says_it_itself() {
        let main = Main {
            at: at(100),
            beat_at: Some(at(100)),
            written: 9,
            slot: None,
            at_risk: Some(Known { micros: 1_500_001, sales: 3 }),
        };
        let risk = at_risk(&lease(108), at(100), TIMING, &replica(Some(at(99))), Some(&main));
        assert_eq!(risk, AtRisk { most: Loss { ms: 1_501, sales: 3 }, likely_sales: 3, grows: false });
    }

    #[test]
    fn a_silent_one_may_sell_to_the_end_of_its_lease() {
        let of = |lease: &Record, beat| at_risk(lease, at(100), TIMING, &replica(beat), None);
        // Open: it may just have been renewed.
        let open = of(&lease(108), Some(at(95)));
        assert_eq!(open, AtRisk { most: Loss { ms: 17_000, sales: 90 }, likely_sales: 90, grows: true });
        assert_eq!(of(&lease(108).closed("run"), Some(at(105))).most.ms, 3_000);
        assert_eq!(of(&lease(108).closed("run"), Some(at(105))).likely_sales, 30);
        // It has not been renewed for so long that it is not renewed any more.
        assert_eq!(of(&lease(80), Some(at(79))).most.ms, 1_000);
        assert!(!of(&lease(80), Some(at(79))).grows && !of(&lease(108).closed("run"), None).grows);
        // A heart that has never beaten says nothing.
        assert_eq!(of(&lease(80), None).most.ms, u64::MAX);
    }
}
