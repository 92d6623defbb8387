//! Moments, slots and calendar periods, all in UTC: a snapshot belongs to the same day
//! wherever the function runs and whatever its time zone says.

use serde::{Serialize, Serializer};
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;

/// A moment, to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(i64);

impl Moment {
    /// The moment `seconds` after the Unix epoch.
    pub fn from_unix_seconds(seconds: i64) -> Self {
        // The years that have four digits: what every moment is formatted with.
        Self(seconds.clamp(0, 253_402_300_799))
    }

    /// What the machine's clock says.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::from_unix_seconds(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
    }

    /// Seconds since the Unix epoch.
    pub fn unix_seconds(self) -> i64 {
        self.0
    }

    /// `self - earlier` in seconds; negative where `earlier` is later.
    pub fn seconds_since(self, earlier: Moment) -> i64 {
        self.0 - earlier.0
    }

    /// Which calendar period of `kind` the moment is in. Later periods have higher numbers.
    pub(crate) fn period(self, kind: Period) -> i64 {
        let date = self.date_time();
        match kind {
            Period::Hour => self.0.div_euclid(3_600),
            Period::Day => self.0.div_euclid(86_400),
            // Weeks begin on Monday, as ISO 8601 has it; 1970 began on a Thursday.
            Period::Week => (self.0.div_euclid(86_400) + 3).div_euclid(7),
            Period::Month => i64::from(date.year()) * 12 + i64::from(u8::from(date.month())),
        }
    }

    /// The beginning of the slot of `minutes` that the moment is in. Slots begin at midnight.
    pub fn slot(self, minutes: u32) -> Moment {
        let length = i64::from(minutes) * 60;
        Self(self.0.div_euclid(length) * length)
    }

    /// For identifiers: `20261123-1430`.
    pub(crate) fn compact(self) -> String {
        let at = self.date_time();
        let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
        format!("{year:04}{month:02}{day:02}-{:02}{:02}", at.hour(), at.minute())
    }

    fn date_time(self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(self.0).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

/// A calendar period that retention counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Period {
    Hour,
    Day,
    Week,
    Month,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.date_time();
        let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
        write!(f, "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", at.hour(), at.minute(), at.second())
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_follow_the_calendar_in_utc() {
        // 2026-12-31T23:59:59Z, a Thursday, and the second after it.
        let last = Moment::from_unix_seconds(1_798_761_599);
        let first = Moment::from_unix_seconds(1_798_761_600);
        assert_eq!(
            (last.to_string(), first.compact()),
            ("2026-12-31T23:59:59Z".into(), "20270101-0000".into())
        );
        for (kind, apart) in [(Period::Hour, 1), (Period::Day, 1), (Period::Week, 0), (Period::Month, 1)] {
            assert_eq!(first.period(kind) - last.period(kind), apart, "{kind:?}");
        }
        // Sunday to Monday: 2027-01-03 to 2027-01-04.
        let sunday = Moment::from_unix_seconds(1_799_020_799);
        let monday = Moment::from_unix_seconds(1_799_020_800);
        assert_eq!(monday.period(Period::Week) - sunday.period(Period::Week), 1);
    }

    #[test]
    fn slots_begin_at_midnight() {
        let at = Moment::from_unix_seconds(1_798_761_599);
        for (minutes, slot) in
            [(15, "20261231-2345"), (60, "20261231-2300"), (480, "20261231-1600"), (1440, "20261231-0000")]
        {
            assert_eq!(at.slot(minutes).compact(), slot);
        }
    }

    #[test]
    fn no_number_is_no_moment() {
        assert_eq!(Moment::from_unix_seconds(i64::MAX).to_string(), "9999-12-31T23:59:59Z");
        assert_eq!(Moment::from_unix_seconds(-1).to_string(), "1970-01-01T00:00:00Z");
    }
}
