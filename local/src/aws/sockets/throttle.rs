//! A token bucket, as API Gateway throttles.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Admits `rate` requests a second, and `burst` at one instant.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: f64,
    burst: f64,
    state: Mutex<(f64, Instant)>,
}

impl Bucket {
    pub(super) fn new(rate: u32, burst: u32) -> Self {
        let burst = f64::from(burst);
        Self { rate: f64::from(rate), burst, state: Mutex::new((burst, Instant::now())) }
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (tokens, since) = *state;
        let now = Instant::now();
        let tokens = (tokens + now.duration_since(since).as_secs_f64() * self.rate).min(self.burst);
        let passes = tokens >= 1.0;
        *state = (if passes { tokens - 1.0 } else { tokens }, now);
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_no_more() {
        let bucket = Bucket::new(1, 5);
        assert_eq!((0..100).filter(|_| bucket.take()).count(), 5);
    }
}
