//! Which snapshots are kept: the newest of each of the last hours, days, weeks and months that have one, and
//! never fewer than the floor.
//!
//! The decision depends on the snapshots alone, not on the clock: if no snapshots are taken any more, none are
//! deleted. It is also incremental: what a run keeps of what earlier runs kept is what it would keep of all.

use rds::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The number of periods of each kind that keep their newest snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// 0 to 1,000.
    pub hourly: u32,
    /// 0 to 1,000.
    pub daily: u32,
    /// 0 to 1,000. Weeks begin on Monday.
    pub weekly: u32,
    /// 0 to 1,000.
    pub monthly: u32,
}

/// Identifier and time of a snapshot, ordered by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DatedSnapshot<'a> {
    /// When the data was read.
    pub taken_at: Timestamp,
    pub id: &'a str,
}

impl Retention {
    /// The highest number of snapshots of one database that are kept with this floor.
    pub fn most(&self, floor: u32) -> u32 {
        let tiers = self.hourly.saturating_add(self.daily).saturating_add(self.weekly);
        tiers.saturating_add(self.monthly).max(floor)
    }

    /// Which of `snapshots` are kept. The newest `floor` always are.
    pub fn kept<'a>(
        &self,
        floor: u32,
        snapshots: impl IntoIterator<Item = DatedSnapshot<'a>>,
    ) -> BTreeSet<&'a str> {
        let mut newest_first: Vec<DatedSnapshot<'a>> = snapshots.into_iter().collect();
        newest_first.sort_unstable_by(|one, other| other.cmp(one));
        let mut kept: BTreeSet<&str> = newest_first.iter().take(floor as usize).map(|one| one.id).collect();
        let tiers = [
            (CalendarPeriod::Hour, self.hourly),
            (CalendarPeriod::Day, self.daily),
            (CalendarPeriod::Week, self.weekly),
            (CalendarPeriod::Month, self.monthly),
        ];
        for (kind, mut remaining) in tiers {
            let mut last = None;
            for one in &newest_first {
                let period = Some(kind.of(one.taken_at));
                if period == last {
                    continue;
                }
                if remaining == 0 {
                    break;
                }
                remaining -= 1;
                last = period;
                kept.insert(one.id);
            }
        }
        kept
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CalendarPeriod {
    Hour,
    Day,
    Week,
    Month,
}

impl CalendarPeriod {
    /// The number of the period that contains `at`, in UTC. Later periods have higher numbers.
    fn of(self, at: Timestamp) -> i64 {
        let seconds = at.unix_seconds();
        match self {
            Self::Hour => seconds.div_euclid(3_600),
            Self::Day => seconds.div_euclid(86_400),
            // Weeks begin on Monday, as in ISO 8601; 1970 began on a Thursday.
            Self::Week => (seconds.div_euclid(86_400) + 3).div_euclid(7),
            Self::Month => {
                let date = at.date_time();
                i64::from(date.year()) * 12 + i64::from(u8::from(date.month()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600;
    const DAY: i64 = 24 * HOUR;
    /// 2026-11-23T00:00:00Z, a Monday.
    const MONDAY: i64 = 1_795_392_000;

    fn series(from: i64, to: i64, every: i64) -> Vec<(String, Timestamp)> {
        let moments = (from..to).step_by(every as usize).map(Timestamp::from_unix_seconds);
        moments.map(|at| (at.compact(), at)).collect()
    }

    fn dated(series: &[(String, Timestamp)]) -> impl Iterator<Item = DatedSnapshot<'_>> {
        series.iter().map(|(id, taken_at)| DatedSnapshot { taken_at: *taken_at, id })
    }

    #[test]
    fn each_period_keeps_its_newest() {
        let retention = Retention { hourly: 3, daily: 2, weekly: 2, monthly: 2 };
        let series = series(MONDAY - 40 * DAY, MONDAY + 2 * HOUR, HOUR);
        let kept: Vec<&str> = retention.kept(1, dated(&series)).into_iter().collect();
        let expected = [
            "20261031-2300", // the month before
            "20261122-2300", // the hour before midnight, and Sunday's last, and the last week's
            "20261123-0000",
            "20261123-0100", // the newest: of its hour, day, week and month
        ];
        assert_eq!(kept, expected);
    }

    #[test]
    fn incremental_decisions_equal_one_decision() {
        let retention = Retention { hourly: 5, daily: 4, weekly: 3, monthly: 2 };
        let all = series(MONDAY - 100 * DAY, MONDAY, 5 * HOUR);
        let mut survivors: Vec<(String, Timestamp)> = Vec::new();
        for (taken, next) in all.iter().enumerate() {
            survivors.push(next.clone());
            let kept = retention.kept(2, dated(&survivors));
            assert_eq!(kept, retention.kept(2, dated(&all[..=taken])));
            let kept: BTreeSet<String> = kept.into_iter().map(str::to_owned).collect();
            survivors.retain(|(id, _)| kept.contains(id));
        }
        // Tiers overlap: the newest snapshot belongs to all of them.
        assert!(survivors.len() <= retention.most(2) as usize);
    }

    #[test]
    fn the_floor_is_kept_with_empty_tiers() {
        let series = series(MONDAY, MONDAY + 10 * HOUR, HOUR);
        let none = Retention::default();
        assert_eq!(none.kept(3, dated(&series)).len(), 3);
        assert_eq!(none.most(3), 3);
        assert_eq!(none.kept(3, dated(&series[..2])).len(), 2);
    }

    #[test]
    fn an_old_series_that_ended_is_kept() {
        let retention = Retention { hourly: 24, daily: 7, weekly: 0, monthly: 0 };
        let old = series(0, 20 * HOUR, HOUR);
        assert_eq!(retention.kept(1, dated(&old)).len(), 20);
    }

    #[test]
    fn periods_follow_the_calendar_in_utc() {
        // 2026-12-31T23:59:59Z, a Thursday, and the second after it.
        let last = Timestamp::from_unix_seconds(1_798_761_599);
        let first = Timestamp::from_unix_seconds(1_798_761_600);
        assert_eq!(last.to_string(), "2026-12-31T23:59:59Z");
        for (kind, apart) in [
            (CalendarPeriod::Hour, 1),
            (CalendarPeriod::Day, 1),
            (CalendarPeriod::Week, 0),
            (CalendarPeriod::Month, 1),
        ] {
            assert_eq!(kind.of(first) - kind.of(last), apart, "{kind:?}");
        }
        // Sunday to Monday: 2027-01-03 to 2027-01-04.
        let sunday = Timestamp::from_unix_seconds(1_799_020_799);
        let monday = Timestamp::from_unix_seconds(1_799_020_800);
        assert_eq!(CalendarPeriod::Week.of(monday) - CalendarPeriod::Week.of(sunday), 1);
    }
}
