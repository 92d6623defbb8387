//! What was written since the last flush, and its lines in CloudWatch's embedded metric format.
//!
//! Nothing outlives a flush. A gauge that is not set any more leaves the log, and the alarm on it meets missing data.
//! metrics_cloudwatch_embedded repeats a gauge's last value at every flush: an alarm on silence would never go off, and
//! an alarm on a value would never end. Its recorder cannot be wrapped, since its type is private.
//!
//! Source of the format and of its limits: *Specification: Embedded metric format* in CloudWatch's user guide.

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Label, Metadata, Recorder,
    SharedString, Unit,
};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The format accepts this number of values of one metric in a line.
const MAX_VALUES_PER_LINE: usize = 100;
/// Values of one histogram that are kept until the next flush.
const MAX_SAMPLES: usize = 10_000;

/// The recorder of this process. Clones share their values.
#[derive(Clone)]
pub struct MetricCollector(Arc<CollectorState>);

impl std::fmt::Debug for MetricCollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetricCollector").finish_non_exhaustive()
    }
}

struct CollectorState {
    namespace: &'static str,
    /// Dimensions of every metric.
    dimensions: Vec<(&'static str, String)>,
    unflushed: Mutex<BTreeMap<Vec<Label>, Values>>,
}

/// Values by metric name.
type Values = BTreeMap<String, MetricValue>;

enum MetricValue {
    Counted(u64),
    Set(f64),
    Samples(Vec<f64>),
}

/// One metric with its dimensions.
struct MetricHandle {
    collector: MetricCollector,
    labels: Vec<Label>,
    name: String,
}

impl MetricCollector {
    /// An empty collector; `dimensions` are those of every metric.
    pub fn new(namespace: &'static str, dimensions: Vec<(&'static str, String)>) -> Self {
        Self(Arc::new(CollectorState { namespace, dimensions, unflushed: Mutex::default() }))
    }

    /// Takes what was written since the last call, as lines that end in a newline.
    pub fn take_lines(&self, at_ms: u64) -> Result<Vec<u8>, serde_json::Error> {
        let taken = std::mem::take(&mut *self.unflushed());
        let mut lines = Vec::new();
        for (labels, values) in taken {
            self.write_lines(&mut lines, at_ms, &labels, values)?;
        }
        Ok(lines)
    }

    /// Writes as many lines as the longest histogram needs; all other metrics are in the first.
    fn write_lines(
        &self,
        lines: &mut Vec<u8>,
        at_ms: u64,
        labels: &[Label],
        mut values: Values,
    ) -> Result<(), serde_json::Error> {
        while !values.is_empty() {
            let mut rest = Values::new();
            let mut members = BTreeMap::new();
            let own = self.0.dimensions.iter().map(|(name, value)| (*name, value.as_str()));
            let dimensions = own.chain(labels.iter().map(|label| (label.key(), label.value())));
            let mut names = Vec::new();
            for (name, value) in dimensions {
                names.push(name);
                members.insert(name.to_owned(), Value::from(value));
            }
            let mut metrics = Vec::new();
            for (name, value) in values {
                metrics.push(OutputMetric { name: name.clone() });
                let value = match value {
                    MetricValue::Counted(count) => Value::from(count),
                    MetricValue::Set(value) => Value::from(value),
                    MetricValue::Samples(mut samples) => {
                        let later = samples.split_off(samples.len().min(MAX_VALUES_PER_LINE));
                        if !later.is_empty() {
                            rest.insert(name.clone(), MetricValue::Samples(later));
                        }
                        Value::from(samples)
                    }
                };
                members.insert(name, value);
            }
            let directive = OutputDirective { namespace: self.0.namespace, dimensions: [names], metrics };
            let aws = EmfOutputMetadata { timestamp: at_ms, cloud_watch_metrics: [directive] };
            serde_json::to_writer(&mut *lines, &EmfOutput { aws, members })?;
            lines.push(b'\n');
            values = rest;
        }
        Ok(())
    }

    fn unflushed(&self) -> MutexGuard<'_, BTreeMap<Vec<Label>, Values>> {
        self.0.unflushed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, key: &Key) -> Arc<MetricHandle> {
        let labels = key.labels().cloned().collect();
        Arc::new(MetricHandle { collector: self.clone(), labels, name: key.name().to_owned() })
    }
}

impl MetricHandle {
    /// Changes the value since the last flush; `None` if there is none yet.
    fn update(&self, change: impl FnOnce(Option<MetricValue>) -> MetricValue) {
        let mut unflushed = self.collector.unflushed();
        let values = unflushed.entry(self.labels.clone()).or_default();
        let value = change(values.remove(&self.name));
        values.insert(self.name.clone(), value);
    }

    fn unsupported(&self, call: &'static str) {
        tracing::error!(metric = self.name, call, "fairdrop's metrics have no such call; ignoring it");
    }
}

impl CounterFn for MetricHandle {
    fn increment(&self, by: u64) {
        // A line says what happened: without an event, there is no line.
        if by > 0 {
            self.update(|before| match before {
                Some(MetricValue::Counted(count)) => MetricValue::Counted(count.saturating_add(by)),
                _ => MetricValue::Counted(by),
            });
        }
    }

    fn absolute(&self, _: u64) {
        self.unsupported("counter.absolute");
    }
}

/// A gauge keeps no value between flushes, so it cannot be changed by an amount.
impl GaugeFn for MetricHandle {
    fn increment(&self, _: f64) {
        self.unsupported("gauge.increment");
    }

    fn decrement(&self, _: f64) {
        self.unsupported("gauge.decrement");
    }

    fn set(&self, value: f64) {
        // JSON has no such numbers, and CloudWatch drops a line with `null` for a value.
        if value.is_finite() {
            self.update(|_| MetricValue::Set(value));
        }
    }
}

impl HistogramFn for MetricHandle {
    fn record(&self, value: f64) {
        if !value.is_finite() {
            return;
        }
        let mut is_full = false;
        self.update(|before| {
            let mut samples = match before {
                Some(MetricValue::Samples(samples)) => samples,
                _ => Vec::new(),
            };
            if samples.len() < MAX_SAMPLES {
                samples.push(value);
                is_full = samples.len() == MAX_SAMPLES;
            }
            MetricValue::Samples(samples)
        });
        if is_full {
            let max = MAX_SAMPLES;
            tracing::error!(
                metric = self.name,
                max,
                "dropping this metric's further values until the next flush"
            );
        }
    }
}

impl Recorder for MetricCollector {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.handle(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.handle(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.handle(key))
    }
}

#[derive(Serialize)]
struct EmfOutput<'a> {
    #[serde(rename = "_aws")]
    aws: EmfOutputMetadata<'a>,
    #[serde(flatten)]
    members: BTreeMap<String, Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct EmfOutputMetadata<'a> {
    timestamp: u64,
    cloud_watch_metrics: [OutputDirective<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct OutputDirective<'a> {
    namespace: &'static str,
    dimensions: [Vec<&'a str>; 1],
    metrics: Vec<OutputMetric>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct OutputMetric {
    name: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const AT_MS: u64 = 1_795_531_146_044;

    fn collector() -> MetricCollector {
        MetricCollector::new("fairdrop", vec![("Region", "eu-west-1".to_owned())])
    }

    /// The lines of what `write` writes and of all that was not flushed before.
    fn lines(collector: &MetricCollector, write: impl FnOnce()) -> Vec<Value> {
        metrics::with_local_recorder(collector, write);
        let lines = String::from_utf8(collector.take_lines(AT_MS).unwrap()).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_gauge_that_becomes_unknown_leaves_the_log_and_comes_back() {
        let collector = collector();
        let known = |value: f64| {
            metrics::counter!("replica_samples").increment(1);
            metrics::gauge!("replica_lag_seconds").set(value);
        };
        let first = lines(&collector, || known(3.0));
        assert_eq!(first.len(), 1);
        assert_eq!(first[0]["replica_lag_seconds"], 3.0);
        let unknown = lines(&collector, || metrics::counter!("replica_samples").increment(1));
        assert_eq!(unknown.len(), 1);
        assert_eq!(unknown[0]["replica_samples"], 1);
        assert_eq!(unknown[0].get("replica_lag_seconds"), None, "{unknown:?}");
        assert_eq!(
            unknown[0]["_aws"]["CloudWatchMetrics"][0]["Metrics"],
            json!([{ "Name": "replica_samples" }])
        );
        assert_eq!(lines(&collector, || ()), Vec::<Value>::new());
        // The same value as before is a new observation.
        let known_again = lines(&collector, || known(3.0));
        assert_eq!(known_again, first);
    }

    #[test]
    fn a_gauge_set_twice_between_two_flushes_has_its_last_value() {
        let collector = collector();
        let set = lines(&collector, || {
            let held = metrics::gauge!("orders_waiting", "Item" => "a");
            held.set(5.0);
            metrics::gauge!("orders_waiting", "Item" => "b").set(1.0);
            held.set(2.0);
            held.set(f64::NAN);
        });
        let waiting: Vec<_> = set.iter().map(|line| (&line["Item"], &line["orders_waiting"])).collect();
        assert_eq!(waiting, [(&json!("a"), &json!(2.0)), (&json!("b"), &json!(1.0))]);
    }

    #[test]
    fn a_line_is_in_the_embedded_metric_format() {
        let collector = collector();
        let written = lines(&collector, || {
            metrics::counter!("orders_refused", "Reason" => "too-late").increment(2);
            metrics::counter!("orders_refused", "Reason" => "too-late").increment(3);
            metrics::counter!("orders_refused", "Reason" => "internal").increment(0);
        });
        let expected = json!({
            "_aws": {
                "Timestamp": AT_MS,
                "CloudWatchMetrics": [{
                    "Namespace": "fairdrop",
                    "Dimensions": [["Region", "Reason"]],
                    "Metrics": [{ "Name": "orders_refused" }],
                }],
            },
            "Region": "eu-west-1",
            "Reason": "too-late",
            "orders_refused": 5,
        });
        assert_eq!(written, [expected]);
        metrics::with_local_recorder(&collector, || metrics::counter!("a").increment(1));
        assert!(collector.take_lines(AT_MS).unwrap().starts_with(br#"{"_aws""#), "as local/ expects it");
    }

    #[test]
    fn more_values_than_a_line_holds_are_in_several_lines() {
        let collector = collector();
        let written = lines(&collector, || {
            metrics::counter!("orders_queued").increment(250);
            for value in 0..250 {
                metrics::histogram!("transit_ms").record(f64::from(value));
            }
        });
        let values = |line: &Value| line["transit_ms"].as_array().unwrap().len();
        assert_eq!(written.iter().map(values).collect::<Vec<_>>(), [100, 100, 50]);
        assert_eq!(written[2]["transit_ms"][49], 249.0);
        let counted: Vec<_> = written.iter().filter_map(|line| line.get("orders_queued")).collect();
        assert_eq!(counted, [250], "a counter is in one line");
    }

    #[test]
    fn a_histogram_between_two_flushes_is_bounded() {
        let collector = collector();
        let written = lines(&collector, || {
            for _ in 0..=MAX_SAMPLES {
                metrics::histogram!("transit_ms").record(1.0);
            }
        });
        assert_eq!(written.len(), MAX_SAMPLES / MAX_VALUES_PER_LINE);
    }
}
