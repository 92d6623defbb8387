//! The samples of the last ten minutes, and a summary of the last two weeks.

use crate::sample::StandbySample;
use serde::{Deserialize, Serialize};

/// How long a sample is kept.
const SAMPLES_MS: i64 = 10 * 60_000;
/// The most samples: a limit in case the clock jumps.
const MAX_SAMPLES: usize = 120;
/// Older samples are summed up in periods of this length ...
pub const PERIOD_MS: i64 = 10 * 60_000;
/// ... which are kept for this long ...
const PERIODS_MS: i64 = 14 * 86_400_000;
/// ... up to this number. The periods with the least load are dropped first.
const MAX_PERIODS: usize = 200;
/// Two samples give a rate if they are this far apart.
const RATE_MS: std::ops::RangeInclusive<i64> = 4_000..=150_000;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Window {
    /// Oldest first.
    samples: Vec<StandbySample>,
    /// Oldest first.
    periods: Vec<LoadPeriod>,
    /// Whether the replica has followed freely since it last had everything of main's. Then a new lag comes from what
    /// main writes, and not from a connection that was cut.
    is_unobstructed: bool,
}

/// The load of ten minutes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadPeriod {
    /// The number of periods since the Unix epoch.
    pub number: i64,
    /// The replica's instance class.
    pub class: String,
    /// The most WAL that main wrote, in bytes a second.
    pub written: f64,
    /// The most WAL that the replica replayed while it was behind, in bytes a second: its capacity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replayed: Option<f64>,
    /// The load of the replica's processor when main wrote most, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    /// Whether the replica followed at all.
    pub followed: bool,
    /// Whether the replica fell behind although nothing obstructed replication.
    pub fell_behind: bool,
}

/// In bytes of WAL a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    pub written: f64,
    pub replayed: f64,
}

impl Window {
    /// Adds a sample. A sample that is not newer than all others is ignored.
    pub fn push(&mut self, sample: StandbySample, lag_limit_seconds: f64) {
        if self.samples.last().is_some_and(|last| last.at_ms >= sample.at_ms) {
            return;
        }
        let rates = self.samples.last().and_then(|last| rates(last, &sample));
        // A query holds replay: a lag that begins so does not come from what main writes.
        if rates.is_some_and(|rates| rates.replayed == 0.0) && sample.has_received_more() {
            self.is_unobstructed = false;
        }
        self.sum_up(&sample, rates, lag_limit_seconds);
        let oldest = sample.at_ms - SAMPLES_MS;
        self.samples.push(sample);
        self.samples.retain(|one| one.at_ms >= oldest);
        let surplus = self.samples.len().saturating_sub(MAX_SAMPLES);
        self.samples.drain(..surplus);
    }

    fn sum_up(&mut self, sample: &StandbySample, rates: Option<Rates>, lag_limit_seconds: f64) {
        let (lag, is_free) = (sample.lag_that_counts(), sample.follows_freely());
        if !is_free {
            self.is_unobstructed = false;
        } else if lag.is_some_and(|lag| lag < lag_limit_seconds / 2.0) {
            self.is_unobstructed = true;
        }
        let number = sample.at_ms / PERIOD_MS;
        let class = sample.instance.as_ref().map(|instance| instance.class.clone()).unwrap_or_default();
        if self.periods.last().is_none_or(|last| {
            last.number < number || (!class.is_empty() && !last.class.is_empty() && last.class != class)
        }) {
            self.periods.push(LoadPeriod { number, class: class.clone(), ..LoadPeriod::default() });
        }
        let Some(period) = self.periods.last_mut() else { return };
        if period.class.is_empty() {
            period.class = class;
        }
        period.followed |= is_free;
        let is_behind = lag.is_some_and(|lag| lag >= lag_limit_seconds);
        period.fell_behind |= is_behind && self.is_unobstructed;
        if let Some(rates) = rates {
            if rates.written > period.written {
                period.written = rates.written;
                period.cpu = sample.figures.and_then(|figures| figures.replica.cpu);
            }
            if is_behind && is_free {
                period.replayed =
                    Some(period.replayed.map_or(rates.replayed, |most| most.max(rates.replayed)));
            }
        }
        let oldest = number - PERIODS_MS / PERIOD_MS;
        self.periods.retain(|period| period.number > oldest);
        while self.periods.len() > MAX_PERIODS {
            // The newest period has not ended yet.
            let others = self.periods.iter().enumerate().take(MAX_PERIODS);
            let lightest = others.min_by(|(_, one), (_, other)| one.weight().total_cmp(&other.weight()));
            let Some((index, _)) = lightest else { break };
            self.periods.remove(index);
        }
    }

    /// Oldest first.
    pub fn samples(&self) -> &[StandbySample] {
        &self.samples
    }

    /// Oldest first.
    pub fn periods(&self) -> &[LoadPeriod] {
        &self.periods
    }

    pub fn newest(&self) -> Option<&StandbySample> {
        self.samples.last()
    }

    /// The samples of the last `seconds`, oldest first.
    pub fn last(&self, seconds: i64) -> &[StandbySample] {
        let from = self.newest().map_or(0, |newest| newest.at_ms) - seconds * 1_000;
        let first = self.samples.partition_point(|sample| sample.at_ms < from);
        self.samples.get(first..).unwrap_or_default()
    }
}

impl LoadPeriod {
    fn weight(&self) -> f64 {
        if self.fell_behind { f64::MAX } else { self.written }
    }
}

/// What main wrote and the replica replayed between two samples. Absent if they are too close, too far apart, or lack
/// a position.
pub fn rates(earlier: &StandbySample, later: &StandbySample) -> Option<Rates> {
    let elapsed_ms = later.at_ms - earlier.at_ms;
    if !RATE_MS.contains(&elapsed_ms) {
        return None;
    }
    let seconds = elapsed_ms as f64 / 1_000.0;
    let per_second = |from: u64, to: u64| to.saturating_sub(from) as f64 / seconds;
    Some(Rates {
        written: per_second(earlier.main?.written_lsn, later.main?.written_lsn),
        replayed: per_second(earlier.replica?.replayed_lsn?, later.replica?.replayed_lsn?),
    })
}
