//! What AWS's documents leave open: drawn from the seed of the run.

use super::locked;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Random numbers of one account. Calls come in the order in which the functions make them, which differs between runs
/// of the same seed.
#[derive(Clone, Debug)]
pub struct Draws(Arc<Mutex<StdRng>>);

impl Draws {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    pub(super) fn chance(&self, p: f64) -> bool {
        locked(&self.0).random_bool(p)
    }

    pub(super) fn millis(&self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(locked(&self.0).random_range(range))
    }

    pub(super) fn one_of<T: Copy>(&self, first: T, others: &[T]) -> T {
        let drawn = locked(&self.0).random_range(0..=others.len());
        drawn.checked_sub(1).and_then(|index| others.get(index)).copied().unwrap_or(first)
    }
}
