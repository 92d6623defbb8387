//! Snapshot-copy against a simulated RDS, through years of random histories.

mod account;
mod decisions;
mod history;
mod simulator;
mod watch;

use history::{History, histories};
use std::thread;

/// Histories in one test run; `FAIRDROP_HISTORIES` asks for more, `FAIRDROP_SEED` for one.
const HISTORIES: u64 = 1_000;

#[test]
fn every_history_keeps_what_the_policy_promises() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds: Vec<u64> = match number("FAIRDROP_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("FAIRDROP_HISTORIES").unwrap_or(HISTORIES)).collect(),
    };
    let halves = seeds.chunks(seeds.len().div_ceil(2)).map(<[u64]>::to_vec);
    let threads: Vec<_> = halves.map(|seeds| thread::spawn(move || histories(&seeds))).collect();
    let lived: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let (mut runs, mut looks, mut days) = (0, 0, 0);
    for half in lived {
        let half = half.unwrap_or_else(|(seed, why)| panic!("FAIRDROP_SEED={seed}: {why}"));
        runs += half.runs;
        looks += half.looks;
        days += half.days;
    }
    println!(
        "{} histories, {runs} runs, {looks} ages looked at, {} simulated years",
        seeds.len(),
        days / 365
    );
}

#[test]
fn the_same_seed_is_the_same_history() {
    for seed in [1, 7, 42] {
        let digest = || History::of(seed).live().unwrap().digest;
        assert_eq!(digest(), digest());
    }
    assert_ne!(History::of(1).live().unwrap().digest, History::of(2).live().unwrap().digest);
}
