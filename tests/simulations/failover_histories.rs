//! Simulated failovers: with clocks that differ, messages that are late or arrive twice, regions that die or are cut off
//! in any direction, executions that are killed at any point, and operators who start too many of them. The invariants
//! are checked on the true state, which no process sees.
//!
//! The same seed gives the same history. A seed that has once found a fault stays in the list below.

mod aws;
mod history;
mod world;

use history::{HistoryEnd, play};
use std::collections::BTreeMap;

const HISTORIES: u64 = 100_000;
/// Seeds that have found a fault.
///
/// 86519: an observation from before the end of the lease was judged by a time after it.
/// 3322: no inactive function was woken after the timeout of the wait for them.
const FAULT_SEEDS: [u64; 2] = [86_519, 3_322];
/// Histories are independent of each other.
const THREADS: u64 = 2;

fn check(seed: u64) -> HistoryEnd {
    let ended = play(seed);
    assert!(ended.faults.is_empty(), "seed {seed}: {:?}", ended.faults);
    ended
}

#[test]
fn no_history_has_a_split_brain_or_sells_a_unit_twice() {
    let first: u64 = std::env::var("FAIRDROP_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    let histories =
        std::env::var("FAIRDROP_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(HISTORIES);
    let share = |thread: u64| {
        let mut states: BTreeMap<String, u64> = BTreeMap::new();
        let (mut kills, mut gaps) = (0, Vec::new());
        for seed in (first..first + histories).filter(|seed| seed % THREADS == thread) {
            let ended = check(seed);
            *states.entry(format!("{:?}", ended.state)).or_default() += 1;
            kills += ended.kills;
            gaps.extend(ended.gap_ms);
        }
        (states, kills, gaps)
    };
    let mut all = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || share(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    let (mut states, mut kills, mut gaps) = all.pop().unwrap();
    for (more, killed, more_gaps) in all {
        more.into_iter().for_each(|(state, n)| *states.entry(state).or_default() += n);
        kills += killed;
        gaps.extend(more_gaps);
    }
    gaps.sort_unstable();
    let at = |share: f64| gaps.get(((gaps.len() as f64 - 1.0) * share) as usize).copied().unwrap_or(0);
    println!("{histories} histories: {states:?}; {kills} executions killed or overtaken");
    println!(
        "from the old main's last sale to the new one's first: {} ms at least, {} ms half of the time",
        at(0.0),
        at(0.5)
    );
    if histories >= 1_000 {
        for state in ["Done", "Degraded", "Aborted"] {
            assert!(
                states.get(state).copied().unwrap_or(0) * 50 > histories,
                "hardly ever {state}: {states:?}"
            );
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in (0..50).chain(FAULT_SEEDS) {
        let (one, other) = (check(seed), check(seed));
        assert_eq!((one.digest, one.state, one.kills), (other.digest, other.state, other.kills));
    }
}
