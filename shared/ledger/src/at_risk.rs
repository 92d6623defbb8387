//! The loss of a promotion of the standby's replica. replica-lag reports it; region-failover uses it in its plan and its
//! gate.

use crate::{MainState, ReplicaState};
use serde::{Serialize, Serializer};
use shared::stamp::Stamp;

/// What a promotion would lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AtRisk {
    /// The most of main's time that is lost, in microseconds; written as seconds. [`u64::MAX`] if the replica has no
    /// heartbeat at all: then nothing bounds it.
    #[serde(rename = "seconds", serialize_with = "as_seconds")]
    pub micros: u64,
    /// An upper limit of the number of lost sales, unless an operator added stock, put withheld units on sale or moved a gate
    /// in that time.
    pub sales_at_most: u64,
    /// The likely number of lost sales. With [`Basis::Main`] it is the same number.
    pub sales_likely: u64,
    pub basis: Basis,
}

/// The ledger that has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Main's ledger counted: `micros` is too high by one heartbeat interval at most, and the sales are never too low.
    Main,
    /// Main's ledger does not answer, or its heartbeats do not reach back far enough. The replica alone gives the
    /// limits, and the likely number: its busiest second again and again, and all units of an item that just opens, but no
    /// units of an item that closed long before.
    Replica,
}

/// What a promotion of `replica` would lose.
///
/// If `main` could count, its count is the answer. If not, everything that main may have sold between the newest
/// heartbeat on the replica and `sells_until` is at risk: the last moment at which main may have sold, as far as the
/// caller knows (the end of its lease, or now). `replica` must have been read with the same `sells_until`.
pub fn at_risk(replica: &ReplicaState, main: Option<&MainState>, sells_until: Stamp) -> AtRisk {
    if let Some(counted) = main.and_then(|main| main.counted_loss) {
        return AtRisk {
            micros: counted.micros,
            sales_at_most: counted.sales,
            sales_likely: counted.sales,
            basis: Basis::Main,
        };
    }
    let micros =
        replica.beat_at.map_or(u64::MAX, |beat_at| sells_until.micros_since(beat_at).max(0).unsigned_abs());
    let at_peak = replica.peak_sales_per_second.saturating_mul(micros.div_ceil(1_000_000));
    let likely = at_peak.saturating_add(replica.units_opening);
    AtRisk {
        micros,
        sales_at_most: replica.units_unsold,
        sales_likely: likely.min(replica.units_on_sale),
        basis: Basis::Replica,
    }
}

impl AtRisk {
    /// Whether a heartbeat bounds the time that would be lost.
    pub fn is_bounded(self) -> bool {
        self.micros != u64::MAX
    }

    /// The most of main's time that is lost, in seconds.
    pub fn seconds(self) -> f64 {
        self.micros as f64 / 1e6
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a field by reference")]
fn as_seconds<S: Serializer>(micros: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    (*micros as f64 / 1e6).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CountedLoss;

    fn at(seconds: u64) -> Stamp {
        Stamp::from_micros(1_795_000_000_000_000 + seconds * 1_000_000).unwrap()
    }

    fn replica(beat_at: Option<Stamp>) -> ReplicaState {
        ReplicaState {
            follows: true,
            at: at(100),
            beat_at,
            received: Some(7),
            replayed: Some(7),
            is_paused: false,
            is_streaming: Some(true),
            peak_sales_per_second: 10,
            units_unsold: 95,
            units_on_sale: 90,
            units_opening: 0,
        }
    }

    #[test]
    fn main_s_own_count_is_the_answer() {
        let counted_loss = Some(CountedLoss { micros: 1_500_001, sales: 3 });
        let main = MainState { at: at(100), beat_at: Some(at(100)), written: 9, slot: None, counted_loss };
        let risk = at_risk(&replica(Some(at(99))), Some(&main), at(112));
        let expected = AtRisk { micros: 1_500_001, sales_at_most: 3, sales_likely: 3, basis: Basis::Main };
        assert_eq!(risk, expected);
        // Its heartbeats do not reach back far enough: the replica's limits hold.
        let main = MainState { counted_loss: None, ..main };
        assert_eq!(at_risk(&replica(Some(at(99))), Some(&main), at(100)).basis, Basis::Replica);
    }

    #[test]
    fn without_it_the_replica_gives_the_limit_and_a_likely_number() {
        let of = |beat_at, until| at_risk(&replica(beat_at), None, until);
        let few = AtRisk { micros: 3_000_000, sales_at_most: 95, sales_likely: 30, basis: Basis::Replica };
        assert_eq!(of(Some(at(97)), at(100)), few);
        // Not more than there is.
        assert_eq!(of(Some(at(83)), at(100)).sales_likely, 90);
        assert_eq!(of(Some(at(101)), at(100)).micros, 0);
        let unbounded = of(None, at(100));
        assert!(!unbounded.is_bounded() && few.is_bounded());
        assert_eq!((unbounded.micros, unbounded.sales_likely), (u64::MAX, 90));
    }

    #[test]
    fn an_item_that_just_opens_is_likely_to_be_sold_out() {
        let opening = ReplicaState { units_opening: 50, ..replica(Some(at(98))) };
        let risk = at_risk(&opening, None, at(100));
        assert_eq!((risk.sales_at_most, risk.sales_likely), (95, 70));
    }
}
