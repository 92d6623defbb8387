//! What a history draws from its seed.

use crate::failover_histories::world::SECOND;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use region_failover::Obstacle;
use region_failover::observation::Answer;

/// Random numbers of one history: the same for the same seed.
#[derive(Debug)]
pub(crate) struct Draws(SmallRng);

impl Draws {
    pub(crate) fn new(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }

    pub(crate) fn chance(&mut self, p: f64) -> bool {
        self.0.random_bool(p)
    }

    pub(crate) fn within(&mut self, least: u64, most: u64) -> u64 {
        self.0.random_range(least..=most)
    }

    pub(crate) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.0.random_range(0..all.len())]
    }

    /// A clock's offset, in microseconds: within the tolerance of the lease.
    pub(crate) fn clock(&mut self) -> i64 {
        self.0.random_range(-1_000_000..=1_000_000)
    }

    /// How long a message takes: mostly short, rarely very long.
    pub(crate) fn delay(&mut self) -> u64 {
        match self.within(0, 99) {
            0..=89 => self.within(500, 150_000),
            90..=97 => self.within(SECOND, 5 * SECOND),
            // A frozen process, thawed.
            _ => self.within(5 * SECOND, 90 * SECOND),
        }
    }

    /// What the documents leave open.
    pub(crate) fn allows(&mut self, documented: Documented) -> bool {
        match documented {
            Documented::Accepts => true,
            Documented::Refuses => false,
            Documented::Either => self.chance(0.5),
        }
    }
}

/// The documented answer to a call in some state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Documented {
    Accepts,
    Refuses,
    /// No document decides it.
    Either,
}

/// A call's outcome, as the execution reads it.
pub(crate) type Called = Result<Answer, Obstacle>;

pub(crate) fn accepted() -> Called {
    Ok(Answer::Done(String::new()))
}

/// AWS has not done what was asked, and may do it later; or its answer is lost.
pub(crate) fn not_now(why: &str) -> Called {
    Err(Obstacle(why.into()))
}
