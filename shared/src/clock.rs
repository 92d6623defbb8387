//! The region's clock, and the arrival of an order by that clock.

use crate::clock_check::CLOCK_TOLERANCE_MICROS;
use crate::stamp::Stamp;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The gateway's arrival time is accepted if it is at most this old, in microseconds.
///
/// The limit covers a cold start. It rejects local emulators that send seconds instead of milliseconds: their times
/// are in 1970.
pub const GATEWAY_TRUST_MICROS: u64 = 10_000_000;

/// A clock that does not go backwards within one process, unless by more than the clocks' tolerance. In that case the
/// earlier reading was a fault. If the clock waited until the time is reached, all orders in between would get the
/// same stamp.
///
/// On Lambda the machine clock is disciplined by Amazon Time Sync.
#[derive(Debug)]
pub struct Clock {
    read: fn() -> u64,
    latest: AtomicU64,
}

impl Clock {
    /// The machine's clock.
    pub fn machine() -> Self {
        Self::from_fn(machine_micros)
    }

    /// A clock that reads `read`, in microseconds since the Unix epoch, for tests.
    pub fn from_fn(read: fn() -> u64) -> Self {
        Self { read, latest: AtomicU64::new(0) }
    }

    /// The time now: not earlier than an earlier reading, unless that was a fault of the clock.
    pub fn now(&self) -> Stamp {
        let read = (self.read)().min(Stamp::MAX.as_micros());
        let latest = self.latest.fetch_max(read, Ordering::Relaxed);
        let now = if latest.saturating_sub(read) > CLOCK_TOLERANCE_MICROS.unsigned_abs() {
            // If another thread has written first, its reading is as good.
            let _ = self.latest.compare_exchange(latest, read, Ordering::Relaxed, Ordering::Relaxed);
            read
        } else {
            latest.max(read)
        };
        Stamp::saturating_from_micros(now)
    }

    /// When a request reached the region. This is the gateway's `timeEpoch` in milliseconds, which was taken before
    /// any cold start, with the microseconds of the machine clock added. If `timeEpoch` is not within the last
    /// 10 s, it is now.
    pub fn arrival(&self, gateway_epoch_ms: i64) -> Stamp {
        let now = self.now();
        let Ok(gateway_ms) = u64::try_from(gateway_epoch_ms) else {
            return now;
        };
        let arrival = gateway_ms.saturating_mul(1000).saturating_add(now.as_micros() % 1000);
        let believable = arrival <= now.as_micros() && now.as_micros() - arrival <= GATEWAY_TRUST_MICROS;
        match Stamp::from_micros(arrival) {
            Ok(stamp) if believable => stamp,
            _ => now,
        }
    }
}

fn machine_micros() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_000_000_123_456;

    fn fixed() -> Clock {
        Clock::from_fn(|| NOW)
    }

    #[test]
    fn a_clock_set_back_by_less_than_the_tolerance_does_not_go_backwards() {
        static READS: AtomicU64 = AtomicU64::new(3);
        let clock = Clock::from_fn(|| READS.fetch_sub(1, Ordering::Relaxed) + NOW);
        assert_eq!(clock.now().as_micros(), NOW + 3);
        assert_eq!(clock.now().as_micros(), NOW + 3);
    }

    #[test]
    fn one_reading_far_ahead_does_not_stop_the_clock() {
        static READING: AtomicU64 = AtomicU64::new(NOW);
        let clock = Clock::from_fn(|| READING.load(Ordering::Relaxed));
        let tolerance = CLOCK_TOLERANCE_MICROS.unsigned_abs();
        // The reading, and the time that the clock returns.
        for (read, returned) in [
            (NOW, NOW),
            (NOW + tolerance, NOW + tolerance),
            // Back by the tolerance of two good clocks.
            (NOW, NOW + tolerance),
            (NOW + 3_600_000_000, NOW + 3_600_000_000),
            (NOW + 1, NOW + 1),
            (NOW, NOW + 1),
            (NOW + 2, NOW + 2),
        ] {
            READING.store(read, Ordering::Relaxed);
            assert_eq!(clock.now().as_micros(), returned, "{}", read - NOW);
        }
    }

    #[test]
    fn a_gateway_time_of_the_last_ten_seconds_is_the_arrival() {
        for age_ms in [0, 1, 40, 9_999] {
            let gateway_ms = NOW / 1000 - age_ms;
            let arrival = fixed().arrival(gateway_ms as i64).as_micros();
            assert_eq!(arrival, gateway_ms * 1000 + 456);
        }
    }

    #[test]
    fn any_other_gateway_time_is_ignored() {
        let seconds_instead_of_ms = (NOW / 1_000_000) as i64;
        let ahead = (NOW / 1000) as i64 + 1;
        let stale = (NOW / 1000) as i64 - 10_001;
        for gateway_ms in [seconds_instead_of_ms, ahead, stale, 0, -1, i64::MIN, i64::MAX] {
            assert_eq!(fixed().arrival(gateway_ms).as_micros(), NOW, "{gateway_ms}");
        }
    }
}
