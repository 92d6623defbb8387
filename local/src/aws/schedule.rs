//! Stands for EventBridge Scheduler: starts a function at an interval, as late and as unreliably as AWS's documents
//! allow (`docs/AWS_FACTS.md`). It does not wait for a run: several runs of a function overlap.

use crate::aws::lambda::{EventRetries, Invoke};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use shared::schedule::{LOOP_INTERVAL, LOOP_RUN};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::OnceLock;
use std::time::Duration;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// A start is late by up to this share of the interval: 59 s of a minute.
const LATEST: f64 = 59.0 / 60.0;
/// One start in this number is lost.
const LOST_ONE_IN: u32 = 20;
/// Lambda delivers the event of one start in this number twice.
const TWICE_ONE_IN: u32 = 20;
/// How much longer than planned a run may take, before the schedule forgets it.
const GRACE: Duration = Duration::from_secs(2);

/// A schedule that starts a function until it is dropped.
#[derive(Debug)]
pub struct Schedule(JoinHandle<()>);

/// What a schedule starts, and when.
#[derive(Debug)]
pub struct Plan<'a> {
    pub function: &'static str,
    pub region: &'a str,
    pub interval: Duration,
    /// What decides how late each start is, and which are lost. The same seed draws the same for a function of a region.
    pub seed: u64,
    pub since: Since,
}

/// How long a schedule has been enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// A run is under way: the function starts at once.
    LongAgo,
    /// The first start comes within an interval, and may be late or lost.
    Now,
}

/// One start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Which of the planned starts it is, from 0.
    pub number: u32,
    /// The time since the plan's begin.
    pub at: Duration,
    /// Whether Lambda delivers its event twice.
    pub is_twice: bool,
}

/// The starts of a plan that are not lost, in order.
#[derive(Debug)]
pub struct Starts {
    interval: Duration,
    random: StdRng,
    next: u32,
}

/// The length of a run of a loop that starts every `interval`: as long as on AWS, in proportion.
pub fn loop_run(interval: Duration) -> Duration {
    interval.mul_f64(LOOP_RUN.as_secs_f64() / LOOP_INTERVAL.as_secs_f64()).max(Duration::from_secs(1))
}

/// The value of the loops' variables `FAIRDROP_*_RUN_SECONDS` for `interval`.
pub fn run_seconds(interval: Duration) -> String {
    format!("{:.2}", loop_run(interval).as_secs_f64())
}

/// The seed of this process's schedules: `FAIRDROP_SCHEDULE_SEED`, or one at random, which is printed.
pub fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| {
        let given = std::env::var("FAIRDROP_SCHEDULE_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| rand::random_range(0..1_000_000));
        eprintln!("Schedules start late and lose starts; FAIRDROP_SCHEDULE_SEED={seed} repeats this.");
        seed
    })
}

/// The event that a schedule sends.
pub fn event(region: &str) -> Value {
    json!({
        "version": "0",
        "id": "00000000-0000-0000-0000-000000000000",
        "detail-type": "Scheduled Event",
        "source": "aws.scheduler",
        "account": "123456789012",
        "time": "2026-01-01T00:00:00Z",
        "region": region,
        "resources": [],
        "detail": "{}",
    })
}

impl Starts {
    pub fn new(interval: Duration, seed: u64) -> Self {
        Self { interval, random: StdRng::seed_from_u64(seed), next: 0 }
    }

    /// The starts of `plan`.
    pub fn of(plan: &Plan<'_>) -> Self {
        let mut hash = DefaultHasher::new();
        (plan.seed, plan.region, plan.function).hash(&mut hash);
        Self::new(plan.interval, hash.finish())
    }
}

impl Iterator for Starts {
    type Item = Start;

    fn next(&mut self) -> Option<Start> {
        loop {
            let number = self.next;
            self.next = number.checked_add(1)?;
            let late = self.interval.mul_f64(self.random.random_range(0.0..=LATEST));
            if !self.random.random_ratio(1, LOST_ONE_IN) {
                let is_twice = self.random.random_ratio(1, TWICE_ONE_IN);
                return Some(Start { number, at: self.interval * number + late, is_twice });
            }
        }
    }
}

impl Schedule {
    /// Starts the plan's function as planned, asynchronously.
    pub fn start(invoke: Invoke, plan: &Plan<'_>) -> Self {
        let event = event(plan.region).to_string();
        let (function, interval) = (plan.function, plan.interval);
        let limit = loop_run(interval) + GRACE;
        let retries = EventRetries::of(function).with_minutes_of(interval);
        let mut starts = Starts::of(plan);
        let first = match plan.since {
            Since::LongAgo => Some(Start { number: 0, at: Duration::ZERO, is_twice: false }),
            Since::Now => None,
        };
        if first.is_some() {
            // The run that is under way stands for the first planned start.
            starts.next = 1;
        }
        Self(tokio::spawn(async move {
            let began = Instant::now();
            let mut runs = JoinSet::new();
            for start in first.into_iter().chain(starts) {
                tokio::time::sleep_until(began + start.at).await;
                for _ in 0..=u32::from(start.is_twice) {
                    let (invoke, event) = (invoke.clone(), event.clone());
                    runs.spawn(async move { invoke.send_event(function, event, limit, retries).await });
                }
                while runs.try_join_next().is_some() {}
            }
        }))
    }
}

impl Drop for Schedule {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_late_by_up_to_a_minute_and_some_are_lost_or_delivered_twice() {
        let minute = Duration::from_secs(60);
        let starts: Vec<Start> = Starts::new(minute, 1).take(20_000).collect();
        let late = |start: &Start| start.at - minute * start.number;
        assert!(starts.iter().all(|start| late(start) <= Duration::from_secs(59)));
        assert!(starts.iter().any(|start| late(start) > Duration::from_secs(58)));
        assert!(starts.is_sorted_by_key(|start| start.at));
        let planned = f64::from(starts.last().unwrap().number);
        let lost = 1.0 - starts.len() as f64 / planned;
        assert!((0.04..0.06).contains(&lost), "{lost}");
        let twice = starts.iter().filter(|start| start.is_twice).count() as f64 / starts.len() as f64;
        assert!((0.04..0.06).contains(&twice), "{twice}");
        assert!(Starts::new(minute, 1).take(99).eq(Starts::new(minute, 1).take(99)));
    }

    #[test]
    fn runs_are_as_long_as_on_aws_in_proportion() {
        assert_eq!(loop_run(Duration::from_secs(60)), Duration::from_secs(190));
        assert_eq!(run_seconds(Duration::from_secs(1)), "3.17");
    }
}
