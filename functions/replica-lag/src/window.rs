//! The samples of the last minutes, and what is worth knowing of the last two weeks.

use crate::sample::Sample;
use serde::{Deserialize, Serialize};

/// Samples are kept for so long.
const SAMPLES_MS: i64 = 10 * 60_000;
/// The most samples, for a clock that jumps.
const MAX_SAMPLES: usize = 120;
/// What is remembered for longer is summed up by periods of this length ...
pub const PERIOD_MS: i64 = 10 * 60_000;
/// ... for so long ...
const PERIODS_MS: i64 = 14 * 86_400_000;
/// ... and for so many: the quietest ones go first.
const MAX_PERIODS: usize = 200;
/// Two samples tell a rate if they are this far apart.
const RATE_MS: std::ops::RangeInclusive<i64> = 4_000..=150_000;

/// What has been seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Window {
    /// Oldest first.
    samples: Vec<Sample>,
    /// Oldest first.
    periods: Vec<Period>,
    /// Whether the replica has followed freely since it was last in step with main: a lag that
    /// comes now comes from what is written, and not from a line that was cut.
    held: bool,
}

/// What ten minutes were like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Period {
    /// Its number since the Unix epoch.
    pub number: i64,
    /// The replica's class.
    pub class: String,
    /// The most that main wrote, in bytes a second.
    pub written: f64,
    /// What the replica replayed while it was behind, in bytes a second: all it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replayed: Option<f64>,
    /// The replica's processor when main wrote most, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    /// Whether the replica followed at all.
    pub followed: bool,
    /// Whether it fell behind though nothing held it.
    pub fell_behind: bool,
}

/// What two samples, one after the other, tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// What main wrote, in bytes a second.
    pub written: f64,
    /// What the replica replayed.
    pub replayed: f64,
}

impl Window {
    /// Adds a sample, newer than all there are; one that is older is left out.
    pub fn push(&mut self, sample: Sample, behind_seconds: f64) {
        if self.samples.last().is_some_and(|last| last.at_ms >= sample.at_ms) {
            return;
        }
        let rates = self.samples.last().and_then(|last| rates(last, &sample));
        self.sum_up(&sample, rates, behind_seconds);
        let oldest = sample.at_ms - SAMPLES_MS;
        self.samples.push(sample);
        self.samples.retain(|one| one.at_ms >= oldest);
        let surplus = self.samples.len().saturating_sub(MAX_SAMPLES);
        self.samples.drain(..surplus);
    }

    fn sum_up(&mut self, sample: &Sample, rates: Option<Rates>, behind_seconds: f64) {
        let (lag, is_free) = (sample.lag_seconds(), sample.follows_freely());
        if !is_free {
            self.held = false;
        } else if lag.is_some_and(|lag| lag < behind_seconds / 2.0) {
            self.held = true;
        }
        let number = sample.at_ms / PERIOD_MS;
        let class = sample.instance.as_ref().map(|instance| instance.class.clone()).unwrap_or_default();
        if self.periods.last().is_none_or(|last| {
            last.number < number || (!class.is_empty() && !last.class.is_empty() && last.class != class)
        }) {
            self.periods.push(Period { number, class: class.clone(), ..Period::default() });
        }
        let Some(period) = self.periods.last_mut() else { return };
        if period.class.is_empty() {
            period.class = class;
        }
        period.followed |= is_free;
        let is_behind = lag.is_some_and(|lag| lag >= behind_seconds);
        period.fell_behind |= is_behind && self.held;
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
            // The newest is still going on.
            let others = self.periods.iter().enumerate().take(MAX_PERIODS);
            let quietest = others.min_by(|(_, one), (_, other)| one.weight().total_cmp(&other.weight()));
            let Some((place, _)) = quietest else { break };
            self.periods.remove(place);
        }
    }

    /// Oldest first.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// Oldest first.
    pub fn periods(&self) -> &[Period] {
        &self.periods
    }

    /// The newest sample.
    pub fn newest(&self) -> Option<&Sample> {
        self.samples.last()
    }

    /// The samples of the last `seconds`, oldest first.
    pub fn last(&self, seconds: i64) -> &[Sample] {
        let from = self.newest().map_or(0, |newest| newest.at_ms) - seconds * 1_000;
        let first = self.samples.partition_point(|sample| sample.at_ms < from);
        self.samples.get(first..).unwrap_or_default()
    }
}

impl Period {
    fn weight(&self) -> f64 {
        if self.fell_behind { f64::MAX } else { self.written }
    }
}

/// What main wrote and the replica replayed between two samples.
pub fn rates(earlier: &Sample, later: &Sample) -> Option<Rates> {
    let elapsed_ms = later.at_ms - earlier.at_ms;
    if !RATE_MS.contains(&elapsed_ms) {
        return None;
    }
    let seconds = elapsed_ms as f64 / 1_000.0;
    let per_second = |from: u64, to: u64| to.saturating_sub(from) as f64 / seconds;
    Some(Rates {
        written: per_second(earlier.main?.written, later.main?.written),
        replayed: per_second(earlier.replica?.replayed?, later.replica?.replayed?),
    })
}
