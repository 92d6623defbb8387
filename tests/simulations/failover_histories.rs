//! Simulated failovers: with clocks that differ, messages that are late or arrive twice, regions that die or are cut off
//! in any direction, executions that are killed at any point, and operators who start too many of them. The invariants
//! are checked on the true state, which no process sees.
//!
//! The same seed gives the same history. A seed that has once found a fault stays in the list below.

mod aws;
mod commands;
mod draws;
mod elasticache;
mod executions;
mod history;
mod intake;
mod lambda;
mod order_logs;
mod rds;
mod sellers;
mod stores;
mod world;

use history::{HistoryEnd, play};
use std::collections::BTreeMap;

const HISTORIES: u64 = 100_000;
/// Seeds that find a fault if its fix is taken out. The fault:
///
/// - 53: a promotion waited for the status `available`, which an instance in `storage-optimization` does not get.
/// - 78: ElastiCache was not asked to move Redis while the datastore was `modifying`.
/// - 0: a planned run raised the replica's class after main had stopped; a lack of capacity was asked about for minutes; an
///   alias got a version that was pending.
/// - 1398: another Redis was named while a write that opens the lease was in transit.
/// - 16, 76: retries of a degraded run prolonged the cooldown; an aborted run ended it.
/// - 18, 906: an alias got a version that had failed; a failed version was waited for.
/// - 190: a bad item was tried again and again, and no item was sold.
///
/// Found by these before operators could name another Redis at any moment, which ends such a wait, too:
///
/// - 66: a group that had left the datastore and was still described as a secondary was not understood.
/// - 160: main died in a planned run, and Redis was not detached.
/// - 358: moves that were accepted and hung left no time in which ElastiCache accepts to detach.
const FAULT_SEEDS: [u64; 12] = [53, 78, 0, 1_398, 16, 76, 18, 906, 190, 66, 160, 358];
/// Histories are independent of each other.
const THREADS: u64 = 2;

/// Faulty histories of which the seed is printed.
const SHOWN: usize = 10;

/// The ends of many histories.
#[derive(Default)]
struct Ends {
    states: BTreeMap<String, u64>,
    kills: u64,
    gaps_ms: Vec<u64>,
    /// Seeds and faults.
    faulty: Vec<String>,
}

impl Ends {
    fn add(&mut self, seed: u64, ended: HistoryEnd) {
        *self.states.entry(format!("{:?}", ended.state)).or_default() += 1;
        self.kills += u64::from(ended.kills);
        self.gaps_ms.extend(ended.gap_ms);
        if !ended.faults.is_empty() {
            self.faulty.push(format!("seed {seed}: {:?}", ended.faults));
        }
    }

    fn and(mut self, other: Self) -> Self {
        other.states.into_iter().for_each(|(state, n)| *self.states.entry(state).or_default() += n);
        self.kills += other.kills;
        self.gaps_ms.extend(other.gaps_ms);
        self.faulty.extend(other.faulty);
        self
    }

    /// The gap that this share of histories does not exceed.
    fn gap_ms(&mut self, share: f64) -> u64 {
        self.gaps_ms.sort_unstable();
        let place = ((self.gaps_ms.len() as f64 - 1.0) * share) as usize;
        self.gaps_ms.get(place).copied().unwrap_or(0)
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn no_history_has_a_split_brain_or_sells_a_unit_twice() {
    let first = number("FAIRDROP_SEED").unwrap_or(0);
    let histories = number("FAIRDROP_HISTORIES").unwrap_or(HISTORIES);
    let share = |thread: u64| {
        let mut ends = Ends::default();
        for seed in (first..first + histories).filter(|seed| seed % THREADS == thread) {
            ends.add(seed, play(seed));
            if ends.faulty.len() >= SHOWN {
                break;
            }
        }
        ends
    };
    let mut ends = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || share(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).reduce(Ends::and).unwrap()
    });
    println!("{histories} histories: {:?}; {} executions killed or overtaken", ends.states, ends.kills);
    println!(
        "from the old main's last sale to the new one's first: {} ms at least, {} ms half of the time",
        ends.gap_ms(0.0),
        ends.gap_ms(0.5)
    );
    assert!(ends.faulty.is_empty(), "{}", ends.faulty.join("\n"));
    if histories >= 1_000 {
        for state in ["Done", "Degraded", "Aborted"] {
            let seen = ends.states.get(state).copied().unwrap_or(0);
            assert!(seen * 50 > histories, "hardly ever {state}: {:?}", ends.states);
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_history_and_a_seed_that_has_found_a_fault_finds_none() {
    for seed in (0..50).chain(FAULT_SEEDS) {
        let (one, other) = (play(seed), play(seed));
        assert!(one.faults.is_empty(), "seed {seed}: {:?}", one.faults);
        assert_eq!((one.digest, one.state, one.kills), (other.digest, other.state, other.kills));
    }
}
