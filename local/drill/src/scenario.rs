//! The scenario of one run, drawn at random, the same for the same seed; and what is the same in every run.

use crate::two_regions::Cut;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use std::time::Duration;

/// The items and their units: one with more units than buyers, and one that sells out.
pub(super) const ITEMS: [(&str, u64); 2] = [("plenty", 100_000), ("scarce", 150)];
/// The longest that a failover may take.
pub(super) const RUN_LIMIT: Duration = Duration::from_secs(420);

/// The kind of failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum DrillMode {
    /// Planned: main answers.
    Planned,
    /// Forced: main is unavailable.
    Forced,
    /// One of them, at random.
    Mixed,
}

/// The accident of main before a forced failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Accident {
    /// All its processes are killed.
    Kill,
    /// It is partitioned and keeps running, with its own buyers.
    Cut,
}

/// What RDS does with the replica during the failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaState {
    /// Nothing.
    Available,
    /// It makes a backup at the time of the promotion, which refuses the promotion.
    BackingUp,
    /// It changes the instance at that time.
    Modifying,
    /// It optimises the storage, all the time.
    StorageOptimization,
    /// A change of class waits for the maintenance window.
    ChangePending,
}

impl ReplicaState {
    const ALL: [Self; 5] =
        [Self::Available, Self::BackingUp, Self::Modifying, Self::StorageOptimization, Self::ChangePending];

    fn words(self) -> Option<&'static str> {
        match self {
            Self::Available => None,
            Self::BackingUp => Some("replica is backing up"),
            Self::Modifying => Some("replica is modifying"),
            Self::StorageOptimization => Some("replica's storage is being optimised"),
            Self::ChangePending => Some("replica has a pending change"),
        }
    }
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scenario {
    pub seed: u64,
    /// The accident; `None` in a planned failover.
    pub accident: Option<Accident>,
    /// Whether a partitioned main still reaches the lease's table.
    pub reaches_table: bool,
    /// From the first sale to the accident, or to the planned failover.
    pub before_ms: u64,
    /// From the accident to the operator's decision.
    pub decides_after_ms: u64,
    /// When region-failover is killed, each time after its start or resumption.
    pub kills_after_ms: Vec<u64>,
    /// Whether the replica's class is too small.
    pub is_small: bool,
    /// What RDS does with the replica.
    pub replica: ReplicaState,
    /// Whether RDS has no instance of a bigger class while main is unavailable.
    pub lacks_capacity: bool,
    /// How long an operator's change keeps the Global Datastore `modifying`; 0: not at all.
    pub datastore_modifies_ms: u64,
    /// The number of first calls to AWS that are throttled.
    pub throttled: u32,
    /// Whether Redis's failover hangs while main is unavailable, so that Redis has to be detached.
    pub redis_hangs: bool,
    /// Whether the run ends with a failback.
    pub fails_back: bool,
    /// Whether Lambda has made main's functions in the standby inactive, because nothing invoked them.
    pub functions_idle: bool,
    /// Whether orders go through a log in each region.
    pub has_order_logs: bool,
}

impl Scenario {
    /// Draws a scenario.
    pub fn draw(seed: u64, modes: DrillMode, accident: Option<Accident>) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let is_planned = match modes {
            DrillMode::Planned => true,
            DrillMode::Forced => false,
            DrillMode::Mixed => random.random_bool(1.0 / 3.0),
        };
        let drawn = if random.random_bool(0.5) { Accident::Kill } else { Accident::Cut };
        let accident = (!is_planned).then_some(accident.unwrap_or(drawn));
        let kills = if random.random_bool(0.5) { random.random_range(1..=3) } else { 0 };
        Self {
            seed,
            accident,
            reaches_table: random.random_bool(0.5),
            before_ms: random.random_range(4_000..9_000),
            decides_after_ms: random.random_range(0..3_000),
            kills_after_ms: (0..kills).map(|_| random.random_range(200..9_000)).collect(),
            is_small: random.random_bool(0.25),
            replica: ReplicaState::ALL[random.random_range(0..ReplicaState::ALL.len())],
            throttled: if random.random_bool(0.3) { random.random_range(1..6) } else { 0 },
            fails_back: random.random_bool(0.3),
            redis_hangs: accident.is_some() && random.random_bool(0.25),
            functions_idle: random.random_bool(0.5),
            lacks_capacity: random.random_bool(0.5),
            datastore_modifies_ms: if random.random_bool(0.25) {
                random.random_range(1_000..20_000)
            } else {
                0
            },
            has_order_logs: random.random_bool(0.25),
        }
    }

    /// The partition of main.
    pub(super) fn cut(&self) -> Cut {
        if self.reaches_table { Cut::FromRegions } else { Cut::Whole }
    }

    pub(super) fn before(&self) -> Duration {
        Duration::from_millis(self.before_ms)
    }

    /// A short description.
    pub fn description(&self) -> String {
        let what = match (self.accident, self.reaches_table) {
            (None, _) => "planned",
            (Some(Accident::Kill), _) => "forced, all processes of main killed",
            (Some(Accident::Cut), false) => {
                "forced, main partitioned from all other regions and from the lease"
            }
            (Some(Accident::Cut), true) => "forced, main partitioned from the other regions",
        };
        let mut words = vec![what.to_owned()];
        match self.kills_after_ms.len() {
            0 => {}
            1 => words.push("region-failover killed once".into()),
            n => words.push(format!("region-failover killed {n} times")),
        }
        words.extend(self.redis_hangs.then(|| "Redis failover hangs".into()));
        words.extend(self.is_small.then(|| "replica too small".into()));
        words.extend((self.is_small && self.lacks_capacity).then(|| "RDS lacks capacity".into()));
        words.extend(self.replica.words().map(String::from));
        words.extend((self.datastore_modifies_ms > 0).then(|| "datastore is modifying".into()));
        words.extend((self.throttled > 0).then(|| format!("{} AWS calls throttled", self.throttled)));
        words.extend(self.functions_idle.then(|| "standby's functions inactive".into()));
        words.extend(self.has_order_logs.then(|| "order logs".into()));
        words.extend(self.fails_back.then(|| "failback".into()));
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
