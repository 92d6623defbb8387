//! Moments in time: microseconds since the Unix epoch.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A moment in microseconds since the Unix epoch, at least 0 and below 2^53.
///
/// Redis keeps the score of a sorted set as a double. Every whole number below
/// 2^53 has a double of its own, so that microseconds sort exactly (until the
/// year 2255); nanoseconds would not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "u64", into = "u64")]
#[schemars(with = "u64", extend("maximum" = 9_007_199_254_740_991_u64))]
pub struct Stamp(u64);

/// A number of microseconds that no [`Stamp`] can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a moment in microseconds since 1970 below 2^53")]
pub struct StampRangeError(pub u64);

impl Stamp {
    /// The Unix epoch.
    pub const EPOCH: Self = Self(0);
    /// The first number that does not fit.
    pub const LIMIT: u64 = 1 << 53;

    /// The moment `micros` microseconds after the Unix epoch.
    pub fn from_micros(micros: u64) -> Result<Self, StampRangeError> {
        if micros < Self::LIMIT { Ok(Self(micros)) } else { Err(StampRangeError(micros)) }
    }

    /// Microseconds since the Unix epoch.
    pub fn as_micros(self) -> u64 {
        self.0
    }

    /// `self - earlier` in microseconds; negative where `earlier` is later.
    pub fn micros_since(self, earlier: Stamp) -> i64 {
        self.0.cast_signed() - earlier.0.cast_signed()
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
}
