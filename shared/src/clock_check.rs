//! Whether this region's clock may stamp orders, compared with main's clock.
//!
//! Each answer from main carries main's `TIME`. Main reads it after this region sent the request and before this
//! region receives the answer. So main's clock minus this region's clock lies between `main - received` and
//! `main - sent`, however slow the connection is. The clock is wrong only if the round trip cannot explain the offset.

use crate::stamp::Stamp;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The most that two synchronised clocks may differ, in microseconds.
///
/// Amazon Time Sync keeps a machine within about 1 ms; a hundred times that is a fault. The place script also refuses
/// stamps that are further ahead of main than this.
pub const CLOCK_TOLERANCE_MICROS: i64 = 100_000;

/// How often a wrong clock is measured again.
pub const REMEASURE_INTERVAL: Duration = Duration::from_secs(1);

/// Main's clock minus this region's, in microseconds: at least `low`, at most `high`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetBounds {
    pub low: i64,
    pub high: i64,
}

impl OffsetBounds {
    /// Sets the metrics by which an alarm compares this region's clock with main's.
    pub fn set_metrics(self) {
        metrics::gauge!("clock_offset_low_ms").set(self.low as f64 / 1000.0);
        metrics::gauge!("clock_offset_high_ms").set(self.high as f64 / 1000.0);
    }

    /// The bounds that one exchange proves: sent at `sent`, main's clock at `main`, answered at `received`.
    pub fn from_exchange(sent: Stamp, main: Stamp, received: Stamp) -> Self {
        Self { low: main.micros_since(received), high: main.micros_since(sent) }
    }

    /// Whether the round trip alone could explain the offset.
    pub fn is_tolerable(self) -> bool {
        self.low <= CLOCK_TOLERANCE_MICROS && self.high >= -CLOCK_TOLERANCE_MICROS
    }
}

/// The latest measurement of this process's clock.
#[derive(Debug, Default)]
pub struct ClockCheck {
    wrong_since_measurement: Mutex<Option<(OffsetBounds, Instant)>>,
}

/// Whether this process may stamp the next order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockVerdict {
    /// The clock is not known to be wrong.
    MayStamp,
    /// The clock was wrong a while ago: measure it again before stamping.
    Remeasure,
    /// The clock was measured less than [`REMEASURE_INTERVAL`] ago and is wrong.
    Wrong(OffsetBounds),
}

impl ClockCheck {
    /// Records a measurement.
    pub fn record(&self, bounds: OffsetBounds) {
        let wrong = (!bounds.is_tolerable()).then(|| (bounds, Instant::now()));
        *self.lock() = wrong;
    }

    /// Whether an order may be stamped now.
    pub fn verdict(&self) -> ClockVerdict {
        match *self.lock() {
            None => ClockVerdict::MayStamp,
            Some((bounds, measured)) if measured.elapsed() < REMEASURE_INTERVAL => {
                ClockVerdict::Wrong(bounds)
            }
            Some(_) => ClockVerdict::Remeasure,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(OffsetBounds, Instant)>> {
        self.wrong_since_measurement.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Stamp {
        Stamp::from_micros(1_795_000_000_000_000 + ms * 1000).unwrap()
    }

    #[test]
    fn a_slow_connection_is_not_a_wrong_clock() {
        let bounds = OffsetBounds::from_exchange(at(0), at(1_900), at(2_000));
        assert_eq!(bounds, OffsetBounds { low: -100_000, high: 1_900_000 });
        assert!(bounds.is_tolerable());
    }

    #[test]
    fn a_clock_three_seconds_off_is_wrong_however_slow_the_connection() {
        for (sent, main, received) in [(3_000, 75, 3_150), (0, 3_075, 150)] {
            assert!(!OffsetBounds::from_exchange(at(sent), at(main), at(received)).is_tolerable());
        }
    }

    #[test]
    fn a_wrong_clock_is_measured_again_and_may_stamp_once_it_is_right() {
        let check = ClockCheck::default();
        assert_eq!(check.verdict(), ClockVerdict::MayStamp);
        let wrong = OffsetBounds::from_exchange(at(3_000), at(75), at(3_150));
        check.record(wrong);
        assert_eq!(check.verdict(), ClockVerdict::Wrong(wrong));
        *check.lock() = Instant::now().checked_sub(REMEASURE_INTERVAL).map(|then| (wrong, then));
        assert_eq!(check.verdict(), ClockVerdict::Remeasure);
        check.record(OffsetBounds::from_exchange(at(0), at(75), at(150)));
        assert_eq!(check.verdict(), ClockVerdict::MayStamp);
    }
}
