//! How many messages a second go out: up to a limit, and fewer while the service says that it is too many.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Outcomes after which the rate is judged.
const JUDGED_AFTER: u32 = 50;
/// Throttled more often than one time in this many, and it is the service that is too slow, not a client.
const TOLERATED: u32 = 5;
/// The rate is never lower.
const LEAST: f64 = 50.0;
/// A pause of the sender may be made up for this long.
const BURST: Duration = Duration::from_millis(50);

/// Hands out moments to send at.
#[derive(Debug)]
pub(crate) struct Pace {
    most: f64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rate: f64,
    next: Instant,
    outcomes: u32,
    throttled: u32,
}

impl Pace {
    /// At most `per_second` messages a second.
    pub(crate) fn new(per_second: u32, now: Instant) -> Self {
        let most = f64::from(per_second).max(1.0);
        Self { most, state: Mutex::new(State { rate: most, next: now, outcomes: 0, throttled: 0 }) }
    }

    /// When the next message may go out.
    pub(crate) fn slot(&self, now: Instant) -> Instant {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let slot = state.next.max(earliest);
        state.next = slot + Duration::from_secs_f64(1.0 / state.rate);
        slot
    }

    /// Takes note of an outcome: the rate is halved where many are throttled, and grows back slowly.
    pub(crate) fn note(&self, was_throttled: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.outcomes += 1;
        state.throttled += u32::from(was_throttled);
        if state.outcomes < JUDGED_AFTER {
            return;
        }
        let is_too_fast = state.throttled * TOLERATED > state.outcomes;
        state.rate = if is_too_fast { state.rate / 2.0 } else { state.rate * 1.05 };
        state.rate = state.rate.clamp(LEAST.min(self.most), self.most);
        (state.outcomes, state.throttled) = (0, 0);
    }

    /// Messages a second at the moment.
    pub(crate) fn rate(&self) -> f64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_at_the_rate_and_idleness_saves_up_little() {
        let start = Instant::now();
        let pace = Pace::new(100, start);
        let slots: Vec<Instant> = (0..200).map(|_| pace.slot(start)).collect();
        assert_eq!(slots[199] - slots[0], Duration::from_millis(1_990));
        let later = start + Duration::from_secs(60);
        let now = (0..200).filter(|_| pace.slot(later) <= later).count();
        assert_eq!(now, 6);
    }

    #[test]
    fn one_slow_client_slows_nobody_and_a_slow_service_everybody() {
        let pace = Pace::new(1_000, Instant::now());
        for number in 0..1_000 {
            pace.note(number % 10 == 0);
        }
        assert!((pace.rate() - 1_000.0).abs() < 1.0);
        for _ in 0..100 {
            pace.note(true);
        }
        assert!((pace.rate() - 250.0).abs() < 1.0);
        for _ in 0..10_000 {
            pace.note(true);
        }
        assert!((pace.rate() - LEAST).abs() < 1.0);
        for _ in 0..10_000 {
            pace.note(false);
        }
        assert!((pace.rate() - 1_000.0).abs() < 1.0);
    }
}
