//! Snapshot-copy against a simulated RDS, through years of random histories.

mod account;
mod decisions;
mod history;
mod instance;
mod invariants;
mod simulator;

use history::{SnapshotHistory, run_histories};
use std::thread;

/// The number of histories in a test run. `FAIRDROP_HISTORIES` sets another number; `FAIRDROP_SEED` runs one seed.
const HISTORIES: u64 = 1_000;

#[test]
fn every_history_keeps_what_the_policy_promises() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds: Vec<u64> = match number("FAIRDROP_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("FAIRDROP_HISTORIES").unwrap_or(HISTORIES)).collect(),
    };
    let halves = seeds.chunks(seeds.len().div_ceil(2)).map(<[u64]>::to_vec);
    let threads: Vec<_> = halves.map(|seeds| thread::spawn(move || run_histories(&seeds))).collect();
    let results: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let (mut runs, mut ages_checked, mut days) = (0, 0, 0);
    for half in results {
        let half = half.unwrap_or_else(|(seed, why)| panic!("FAIRDROP_SEED={seed}: {why}"));
        runs += half.runs;
        ages_checked += half.ages_checked;
        days += half.days;
    }
    println!(
        "{} histories, {runs} runs, {ages_checked} ages checked, {} simulated years",
        seeds.len(),
        days / 365
    );
}

#[test]
fn the_same_seed_is_the_same_history() {
    for seed in [1, 7, 42] {
        let digest = || SnapshotHistory::of(seed).run().unwrap().digest;
        assert_eq!(digest(), digest());
    }
    assert_ne!(SnapshotHistory::of(1).run().unwrap().digest, SnapshotHistory::of(2).run().unwrap().digest);
}
