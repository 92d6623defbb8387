//! The number of messages sent per second: up to a limit, and fewer while the service throttles.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The rate is adjusted after this number of results.
const ADJUST_AFTER_RESULTS: u32 = 50;
/// One throttled call in this number is tolerated: a single slow client causes that. More than that means
/// that the service itself is too slow.
const TOLERATED_SHARE: u32 = 5;
const MIN_RATE: f64 = 50.0;
/// Slots that the sender missed may be used for this long afterwards.
const BURST: Duration = Duration::from_millis(50);

/// Assigns a time slot to each message.
#[derive(Debug)]
pub(crate) struct SendRate {
    max_rate: f64,
    state: Mutex<RateState>,
}

#[derive(Debug)]
struct RateState {
    /// In messages per second.
    rate: f64,
    next: Instant,
    results: u32,
    throttled: u32,
}

impl SendRate {
    pub(crate) fn new(max_per_second: u32, now: Instant) -> Self {
        let max_rate = f64::from(max_per_second).max(1.0);
        Self {
            max_rate,
            state: Mutex::new(RateState { rate: max_rate, next: now, results: 0, throttled: 0 }),
        }
    }

    /// When the next message may be sent.
    pub(crate) fn slot(&self, now: Instant) -> Instant {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let slot = state.next.max(earliest);
        state.next = slot + Duration::from_secs_f64(1.0 / state.rate);
        slot
    }

    /// Counts a result. The rate is halved if many calls are throttled, and grows back slowly.
    pub(crate) fn record(&self, was_throttled: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.results += 1;
        state.throttled += u32::from(was_throttled);
        if state.results < ADJUST_AFTER_RESULTS {
            return;
        }
        let is_too_fast = state.throttled * TOLERATED_SHARE > state.results;
        state.rate = if is_too_fast { state.rate / 2.0 } else { state.rate * 1.05 };
        state.rate = state.rate.clamp(MIN_RATE.min(self.max_rate), self.max_rate);
        (state.results, state.throttled) = (0, 0);
    }

    /// The current rate, in messages per second.
    pub(crate) fn per_second(&self) -> f64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_follow_the_rate_and_an_idle_sender_saves_few() {
        let start = Instant::now();
        let rate = SendRate::new(100, start);
        let slots: Vec<Instant> = (0..200).map(|_| rate.slot(start)).collect();
        assert_eq!(slots[199] - slots[0], Duration::from_millis(1_990));
        let later = start + Duration::from_secs(60);
        let now = (0..200).filter(|_| rate.slot(later) <= later).count();
        assert_eq!(now, 6);
    }

    #[test]
    fn a_slow_service_lowers_the_rate_and_a_slow_client_does_not() {
        let rate = SendRate::new(1_000, Instant::now());
        for number in 0..1_000 {
            rate.record(number % 10 == 0);
        }
        assert!((rate.per_second() - 1_000.0).abs() < 1.0);
        for _ in 0..100 {
            rate.record(true);
        }
        assert!((rate.per_second() - 250.0).abs() < 1.0);
        for _ in 0..10_000 {
            rate.record(true);
        }
        assert!((rate.per_second() - MIN_RATE).abs() < 1.0);
        for _ in 0..10_000 {
            rate.record(false);
        }
        assert!((rate.per_second() - 1_000.0).abs() < 1.0);
    }
}
