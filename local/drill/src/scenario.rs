//! What happens in one run of a drill: drawn by lot, the same for the same seed.

use crate::two_regions::Cut;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use std::time::Duration;

/// How the standby takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum DrillMode {
    /// By plan, from a main that answers.
    Planned,
    /// From a main that is gone.
    Forced,
    /// The one or the other, by lot.
    Mixed,
}

/// What becomes of main in a forced failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Accident {
    /// Every process of it is killed.
    Kill,
    /// It is cut off, and lives, with buyers on it.
    Cut,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scenario {
    /// What it was drawn by.
    pub seed: u64,
    /// What happens to main; nothing in a planned failover.
    pub accident: Option<Accident>,
    /// Whether a main that is cut off still reaches the lease's table.
    pub reaches_table: bool,
    /// From the first buyers to the accident, or to the plan.
    pub before_ms: u64,
    /// From the accident until somebody has decided.
    pub decides_after_ms: u64,
    /// When region-failover is killed, each time after it was begun or resumed.
    pub kills_after_ms: Vec<u64>,
    /// Whether the replica's class is too small.
    pub is_small: bool,
    /// Whether AWS makes a backup of the replica when it is to be promoted.
    pub backs_up: bool,
    /// Calls to AWS that are throttled at the beginning.
    pub throttled: u32,
    /// Whether Redis's failover hangs for as long as main is gone, so that Redis has to be detached.
    pub redis_hangs: bool,
    /// Whether main is moved back in the end.
    pub fails_back: bool,
}

impl Scenario {
    /// Draws one.
    pub fn draw(seed: u64, modes: DrillMode, accident: Option<Accident>) -> Self {
        let mut lot = StdRng::seed_from_u64(seed);
        let is_planned = match modes {
            DrillMode::Planned => true,
            DrillMode::Forced => false,
            DrillMode::Mixed => lot.random_bool(1.0 / 3.0),
        };
        let drawn = if lot.random_bool(0.5) { Accident::Kill } else { Accident::Cut };
        let accident = (!is_planned).then_some(accident.unwrap_or(drawn));
        let kills = if lot.random_bool(0.5) { lot.random_range(1..=3) } else { 0 };
        Self {
            seed,
            accident,
            reaches_table: lot.random_bool(0.5),
            before_ms: lot.random_range(4_000..9_000),
            decides_after_ms: lot.random_range(0..3_000),
            kills_after_ms: (0..kills).map(|_| lot.random_range(200..9_000)).collect(),
            is_small: lot.random_bool(0.25),
            backs_up: lot.random_bool(0.25),
            throttled: if lot.random_bool(0.3) { lot.random_range(1..6) } else { 0 },
            fails_back: lot.random_bool(0.3),
            redis_hangs: accident.is_some() && lot.random_bool(0.25),
        }
    }

    /// How a main that is cut off is.
    pub(super) fn cut(&self) -> Cut {
        if self.reaches_table { Cut::FromRegions } else { Cut::Whole }
    }

    pub(super) fn before(&self) -> Duration {
        Duration::from_millis(self.before_ms)
    }

    /// In a few words.
    pub fn words(&self) -> String {
        let what = match (self.accident, self.reaches_table) {
            (None, _) => "planned",
            (Some(Accident::Kill), _) => "forced, main killed whole",
            (Some(Accident::Cut), false) => "forced, main cut off from everybody and alive",
            (Some(Accident::Cut), true) => "forced, main cut off from the other regions and alive",
        };
        let mut words = vec![what.to_owned()];
        match self.kills_after_ms.len() {
            0 => {}
            1 => words.push("region-failover killed once".into()),
            n => words.push(format!("region-failover killed {n} times")),
        }
        words.extend(self.redis_hangs.then(|| "Redis hangs".into()));
        words.extend(self.is_small.then(|| "replica too small".into()));
        words.extend(self.backs_up.then(|| "replica backing up".into()));
        words.extend((self.throttled > 0).then(|| format!("{} calls throttled", self.throttled)));
        words.extend(self.fails_back.then(|| "and back".into()));
        words.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_is_the_same_course_and_every_kind_is_drawn() {
        let draw = |seed| Scenario::draw(seed, DrillMode::Mixed, None);
        assert_eq!(draw(7), draw(7));
        let scenarios: Vec<Scenario> = (0..60).map(draw).collect();
        for wanted in [None, Some(Accident::Kill), Some(Accident::Cut)] {
            assert!(scenarios.iter().any(|scenario| scenario.accident == wanted), "{wanted:?}");
        }
        assert!(scenarios.iter().any(|scenario| scenario.kills_after_ms.len() > 1));
        assert!(scenarios.iter().any(|scenario| scenario.redis_hangs && scenario.fails_back));
        assert!(scenarios.iter().all(|scenario| !scenario.redis_hangs || scenario.accident.is_some()));
        assert_eq!(Scenario::draw(1, DrillMode::Planned, Some(Accident::Cut)).accident, None);
        assert_eq!(Scenario::draw(1, DrillMode::Forced, Some(Accident::Cut)).accident, Some(Accident::Cut));
    }
}
