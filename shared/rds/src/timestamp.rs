//! Timestamps and time slots in UTC. A snapshot belongs to the same day in every region, whatever the time
//! zone of the function.

use serde::{Serialize, Serializer};
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;

/// A UTC time with a resolution of one second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Clamps to the years 1970 to 9999.
    pub fn from_unix_seconds(seconds: i64) -> Self {
        // Formatting assumes years of four digits.
        Self(seconds.clamp(0, 253_402_300_799))
    }

    /// Reads the machine's clock.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::from_unix_seconds(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
    }

    pub fn unix_seconds(self) -> i64 {
        self.0
    }

    /// `self - earlier` in seconds; negative if `earlier` is later.
    pub fn seconds_since(self, earlier: Timestamp) -> i64 {
        self.0 - earlier.0
    }

    /// The beginning of the slot of `minutes` that contains this time. Slots begin at midnight.
    pub fn slot(self, minutes: u32) -> Timestamp {
        let length = i64::from(minutes) * 60;
        Self(self.0.div_euclid(length) * length)
    }

    /// For identifiers: `20261123-1430`.
    pub fn compact(self) -> String {
        let at = self.date_time();
        let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
        format!("{year:04}{month:02}{day:02}-{:02}{:02}", at.hour(), at.minute())
    }

    pub fn date_time(self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(self.0).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.date_time();
        let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
        write!(f, "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", at.hour(), at.minute(), at.second())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_begin_at_midnight() {
        let at = Timestamp::from_unix_seconds(1_798_761_599);
        for (minutes, slot) in
            [(15, "20261231-2345"), (60, "20261231-2300"), (480, "20261231-1600"), (1440, "20261231-0000")]
        {
            assert_eq!(at.slot(minutes).compact(), slot);
        }
    }

    #[test]
    fn every_number_is_clamped_to_a_valid_time() {
        assert_eq!(Timestamp::from_unix_seconds(i64::MAX).to_string(), "9999-12-31T23:59:59Z");
        assert_eq!(Timestamp::from_unix_seconds(-1).to_string(), "1970-01-01T00:00:00Z");
    }
}
