//! Samples by time step, and their statistics.

use super::emf::EmfSample;
use serde::Serialize;
use std::collections::BTreeMap;

/// The length of a step, in seconds.
pub const STEP_SECONDS: u64 = 2;
/// Steps that are kept.
pub const STEPS: u64 = 90;
/// Series that are kept; samples of further series are dropped.
const MAX_SERIES: usize = 512;
/// Values of one step for percentiles; further values count for sum and average alone.
const MAX_VALUES: usize = 10_000;

/// A statistic of the values of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Statistic {
    Sum,
    Maximum,
    Average,
    /// The median.
    #[serde(rename = "p50")]
    P50,
    /// The value that one in a hundred exceeds.
    #[serde(rename = "p99")]
    P99,
}
use Statistic::{Average, Maximum, P50, P99, Sum};

/// The metrics of the operator's page, as on the dashboard of template.yaml.
const SHOWN: [(&str, Statistic); 28] = [
    ("orders_queued", Sum),
    ("orders_accepted", Sum),
    ("orders_placed", Sum),
    ("orders_refused", Sum),
    ("log_orders_refused", Sum),
    ("transit_ms", P50),
    ("transit_ms", P99),
    ("placement_age_ms", P50),
    ("placement_age_ms", P99),
    ("clock_offset_low_ms", Average),
    ("clock_offset_high_ms", Average),
    ("orders_waiting", Maximum),
    ("orders_dropped", Sum),
    ("reservations", Sum),
    ("drain_lag_ms", Maximum),
    ("settle_delay_ms", Maximum),
    ("drain_failures", Sum),
    ("reservations_recorded", Sum),
    ("reservations_refused", Sum),
    ("reservations_released", Sum),
    ("record_lag_ms", Maximum),
    ("worker_failures", Sum),
    ("dead_letters", Sum),
    ("payments", Sum),
    ("payments_refused", Sum),
    ("live_watchers", Maximum),
    ("live_messages", Sum),
    ("lease_renewals_failed", Sum),
];

/// The answer to a query.
#[derive(Clone, Debug, Serialize)]
pub struct MetricResults {
    /// Time of the answer, in microseconds since the Unix epoch.
    pub at: u64,
    /// Start of the first step, in microseconds since the Unix epoch.
    pub from: u64,
    pub step_seconds: u64,
    /// One for each metric, statistic and set of dimensions.
    pub results: Vec<MetricSeries>,
}

/// One statistic of one metric.
#[derive(Clone, Debug, Serialize)]
pub struct MetricSeries {
    pub metric: &'static str,
    pub statistic: Statistic,
    pub dimensions: BTreeMap<String, String>,
    /// One for each step, `null` if nothing was measured in it.
    pub values: Vec<Option<f64>>,
    /// The sum of all values since the start.
    pub total: f64,
}

#[derive(Debug, Default)]
pub(super) struct Series(BTreeMap<SeriesKey, SeriesValues>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SeriesKey {
    metric: &'static str,
    dimensions: BTreeMap<String, String>,
}

#[derive(Debug, Default)]
struct SeriesValues {
    total: f64,
    steps: BTreeMap<u64, StepValues>,
}

#[derive(Debug, Default)]
struct StepValues {
    sum: f64,
    count: f64,
    values: Vec<f64>,
}

impl Series {
    /// Adds a sample, if its metric is shown.
    pub(super) fn add(&mut self, sample: EmfSample) {
        let Some((metric, _)) = SHOWN.iter().find(|(metric, _)| *metric == sample.metric) else { return };
        let key = SeriesKey { metric, dimensions: sample.dimensions };
        if self.0.len() >= MAX_SERIES && !self.0.contains_key(&key) {
            return;
        }
        let kept = self.0.entry(key).or_default();
        kept.total += sample.values.iter().sum::<f64>();
        let step = kept.steps.entry(sample.at_ms / (STEP_SECONDS * 1_000)).or_default();
        for value in sample.values {
            step.sum += value;
            step.count += 1.0;
            if step.values.len() < MAX_VALUES {
                step.values.push(value);
            }
        }
        while kept.steps.len() > STEPS as usize + 1 {
            kept.steps.pop_first();
        }
    }

    /// The steps that are complete at `now_ms`.
    pub(super) fn results(&mut self, now_ms: u64) -> MetricResults {
        let until = now_ms / (STEP_SECONDS * 1_000);
        let from = until.saturating_sub(STEPS);
        let mut results = Vec::new();
        for (metric, statistic) in SHOWN {
            for (key, kept) in self.0.iter().filter(|(key, _)| key.metric == metric) {
                let values =
                    (from..until).map(|step| kept.steps.get(&step).map(|step| step.statistic(statistic)));
                results.push(MetricSeries {
                    metric,
                    statistic,
                    dimensions: key.dimensions.clone(),
                    values: values.collect(),
                    total: kept.total,
                });
            }
        }
        let micros = |step: u64| step * STEP_SECONDS * 1_000_000;
        MetricResults { at: now_ms * 1_000, from: micros(from), step_seconds: STEP_SECONDS, results }
    }
}

impl StepValues {
    fn statistic(&self, statistic: Statistic) -> f64 {
        match statistic {
            Sum => self.sum,
            Average => self.sum / self.count,
            Maximum => self.values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            P50 => self.quantile(0.5),
            P99 => self.quantile(0.99),
        }
    }

    /// By nearest rank.
    fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(metric: &str, region: &str, at_ms: u64, values: &[f64]) -> EmfSample {
        EmfSample {
            metric: metric.into(),
            dimensions: [("Region".to_owned(), region.to_owned())].into(),
            at_ms,
            values: values.to_vec(),
        }
    }

    #[test]
    fn complete_steps_are_returned_and_gaps_are_not_zero() {
        let mut series = Series::default();
        let now_ms = 1_000_000_000;
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        series.add(sample("transit_ms", "a", now_ms - 2_000, &hundred));
        series.add(sample("orders_queued", "a", now_ms - 2_000, &[5.0]));
        series.add(sample("orders_queued", "a", now_ms - 1_000, &[2.0]));
        series.add(sample("orders_queued", "a", now_ms, &[9.0]));
        series.add(sample("of_no_interest", "a", now_ms - 2_000, &[1.0]));
        let all = series.results(now_ms);
        let last = |metric, statistic| {
            let mut found =
                all.results.iter().filter(|one| (one.metric, one.statistic) == (metric, statistic));
            let one = found.next().unwrap();
            assert_eq!((one.values.len() as u64, found.count()), (STEPS, 0));
            (one.values.last().copied().flatten(), one.values.iter().flatten().count(), one.total)
        };
        assert_eq!(last("orders_queued", Sum), (Some(7.0), 1, 16.0));
        assert_eq!(last("transit_ms", P50), (Some(50.0), 1, 5_050.0));
        assert_eq!(last("transit_ms", P99), (Some(99.0), 1, 5_050.0));
        assert_eq!(all.results.len(), 3);
        assert_eq!(all.from, (now_ms / 1_000 - STEPS * STEP_SECONDS) * 1_000_000);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut series = Series::default();
        for number in 0..2_000 {
            series.add(sample("orders_refused", &format!("region-{number}"), number, &[1.0]));
            series.add(sample("orders_queued", "region-0", number * 2_000, &[1.0]));
        }
        assert_eq!(series.0.len(), MAX_SERIES);
        let longest = series.0.values().map(|kept| kept.steps.len()).max();
        assert_eq!(longest, Some(STEPS as usize + 1));
    }
}
