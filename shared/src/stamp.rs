//! Moments in time: microseconds since the Unix epoch.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// A moment in microseconds since the Unix epoch, at least 0 and below 2^53.
///
/// Redis stores the score of a sorted set as a double. A double represents every whole number below 2^53
/// exactly, so that microseconds sort exactly (until the year 2255). Nanoseconds would not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "u64", into = "u64")]
#[schemars(with = "u64", extend("maximum" = 9_007_199_254_740_991_u64))]
pub struct Stamp(u64);

/// A number of microseconds that is out of the range of a [`Stamp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is out of range: a moment is a number of microseconds since 1970 below 2^53")]
pub struct StampRangeError(pub u64);

impl Stamp {
    /// The Unix epoch, the earliest moment.
    pub const EPOCH: Self = Self(0);
    /// The lowest number that is out of range.
    pub const LIMIT: u64 = 1 << 53;
    /// The latest moment.
    pub const MAX: Self = Self(Self::LIMIT - 1);

    /// The moment `micros` microseconds after the Unix epoch.
    pub fn from_micros(micros: u64) -> Result<Self, StampRangeError> {
        if micros < Self::LIMIT { Ok(Self(micros)) } else { Err(StampRangeError(micros)) }
    }

    /// As [`from_micros`](Self::from_micros); a number out of range becomes [`MAX`](Self::MAX).
    pub fn saturating_from_micros(micros: u64) -> Self {
        Self(micros.min(Self::MAX.0))
    }

    /// The moment of Redis's `TIME`: seconds, and microseconds of the second.
    pub fn from_redis_time((seconds, micros): (u64, u64)) -> Result<Self, StampRangeError> {
        Self::from_micros(seconds.saturating_mul(1_000_000).saturating_add(micros))
    }

    /// Microseconds since the Unix epoch.
    pub fn as_micros(self) -> u64 {
        self.0
    }

    /// Whole milliseconds since the Unix epoch.
    pub fn as_millis(self) -> u64 {
        self.0 / 1_000
    }

    /// Whole seconds since the Unix epoch.
    pub fn as_secs(self) -> u64 {
        self.0 / 1_000_000
    }

    /// `self - earlier` in microseconds; negative if `earlier` is later.
    pub fn micros_since(self, earlier: Self) -> i64 {
        self.0.cast_signed() - earlier.0.cast_signed()
    }

    /// The time from `earlier` to `self`; zero if `earlier` is later.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// `self + time`, or [`MAX`](Self::MAX).
    pub fn saturating_add(self, time: Duration) -> Self {
        Self::saturating_from_micros(self.0.saturating_add(micros(time)))
    }

    /// `self - time`, or [`EPOCH`](Self::EPOCH).
    pub fn saturating_sub(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(micros(time)))
    }

    /// `self + micros`, bounded by [`EPOCH`](Self::EPOCH) and [`MAX`](Self::MAX).
    pub fn saturating_add_micros(self, micros: i64) -> Self {
        Self::saturating_from_micros(self.0.saturating_add_signed(micros))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The number of microseconds, as Redis stores it.
impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<u64> for Stamp {
    type Error = StampRangeError;

    fn try_from(micros: u64) -> Result<Self, StampRangeError> {
        Self::from_micros(micros)
    }
}

impl From<Stamp> for u64 {
    fn from(stamp: Stamp) -> u64 {
        stamp.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_where_doubles_stop_being_exact() {
        let last = Stamp::from_micros(Stamp::LIMIT - 1).unwrap();
        assert_eq!((last.as_micros() as f64) as u64, last.as_micros());
        assert_ne!(((Stamp::LIMIT + 1) as f64) as u64, Stamp::LIMIT + 1);
        assert_eq!(Stamp::from_micros(Stamp::LIMIT), Err(StampRangeError(Stamp::LIMIT)));
    }

    #[test]
    fn a_difference_has_a_sign() {
        let (early, late) = (Stamp(5), Stamp(8));
        assert_eq!(late.micros_since(early), 3);
        assert_eq!(early.micros_since(late), -3);
    }

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let (early, late) = (Stamp(5), Stamp(8));
        let three = Duration::from_micros(3);
        assert_eq!((late.saturating_since(early), early.saturating_since(late)), (three, Duration::ZERO));
        assert_eq!((early.saturating_add(three), late.saturating_sub(three)), (late, early));
        assert_eq!(early.saturating_sub(Duration::MAX), Stamp::EPOCH);
        assert_eq!(early.saturating_add(Duration::MAX), Stamp::MAX);
        assert_eq!((late.saturating_add_micros(-3), late.saturating_add_micros(-9)), (early, Stamp::EPOCH));
        assert_eq!(Stamp::MAX.saturating_add_micros(i64::MAX), Stamp::MAX);
    }
}
