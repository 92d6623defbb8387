//! A circuit breaker: when a process stops waiting for a Redis that it cannot connect to.
//!
//! On classic Lambda a process that waits serves no other request. So while main is unreachable, an order must not hold its
//! process for as long as an order may take: soon the region would have no process left, for any request.

use super::random_part_of;
use std::time::{Duration, Instant};

/// So many attempts in a row must have failed, over [`BREAK_AFTER`]: a restart of Redis opens no breaker.
const MIN_FAILURES: u32 = 3;
const BREAK_AFTER: Duration = Duration::from_secs(5);
/// From one attempt to the next while the breaker is open: this, and a random part of [`OPEN_JITTER`].
const OPEN_FOR: Duration = Duration::from_secs(2);
const OPEN_JITTER: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
pub(super) struct Breaker {
    failures: u32,
    failing_since: Option<Instant>,
    open_until: Option<Instant>,
}

impl Breaker {
    /// Whether a caller must not wait for an attempt at `now`. One caller is let through at the end of each such time.
    pub(super) fn refuses(&mut self, now: Instant) -> bool {
        match self.open_until {
            None => false,
            Some(until) if now < until => true,
            Some(_) => {
                self.open(now);
                false
            }
        }
    }

    /// An attempt has failed.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let since = *self.failing_since.get_or_insert(now);
        if self.failures >= MIN_FAILURES && now.saturating_duration_since(since) >= BREAK_AFTER {
            self.open(now);
        }
    }

    /// A connection is open.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    fn open(&mut self, now: Instant) {
        self.open_until = Some(now + OPEN_FOR + random_part_of(OPEN_JITTER));
    }
}
