//! CloudWatch's embedded metric format: a log line that carries metrics.

use serde::Deserialize;
use serde_json::Value;
use shared::telemetry::NAMESPACE;
use std::collections::BTreeMap;

/// The values of one metric in a line.
#[derive(Clone, Debug, PartialEq)]
pub struct EmfSample {
    pub metric: String,
    pub dimensions: BTreeMap<String, String>,
    /// In milliseconds since the Unix epoch.
    pub at_ms: u64,
    pub values: Vec<f64>,
}

#[derive(Deserialize)]
struct EmfLine {
    #[serde(rename = "_aws")]
    aws: EmfMetadata,
    #[serde(flatten)]
    members: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EmfMetadata {
    timestamp: u64,
    cloud_watch_metrics: Vec<MetricDirective>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct MetricDirective {
    namespace: String,
    dimensions: Vec<Vec<String>>,
    metrics: Vec<MetricDefinition>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct MetricDefinition {
    name: String,
}

/// The samples of a line; `None` if it is not in the embedded metric format.
pub fn parse(line: &[u8]) -> Option<Vec<EmfSample>> {
    // Most lines are ordinary log lines.
    if !line.starts_with(br#"{"_aws""#) {
        return None;
    }
    let line: EmfLine = serde_json::from_slice(line).ok()?;
    let mut samples = Vec::new();
    for directive in &line.aws.cloud_watch_metrics {
        if directive.namespace != NAMESPACE {
            continue;
        }
        for names in &directive.dimensions {
            let text = |name: &String| Some((name.clone(), line.members.get(name)?.as_str()?.to_owned()));
            let dimensions: BTreeMap<String, String> = names.iter().filter_map(text).collect();
            for definition in &directive.metrics {
                let values = line.members.get(&definition.name).map(numbers).unwrap_or_default();
                if !values.is_empty() {
                    samples.push(EmfSample {
                        metric: definition.name.clone(),
                        dimensions: dimensions.clone(),
                        at_ms: line.aws.timestamp,
                        values,
                    });
                }
            }
        }
    }
    Some(samples)
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().filter_map(Value::as_f64).collect(),
        value => value.as_f64().into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_gauges_and_histograms_are_read() {
        let line = br#"{"_aws":{"Timestamp":1795531146044,"CloudWatchMetrics":[{"Namespace":"fairdrop","Dimensions":[["Region","Item"]],"Metrics":[{"Name":"drain_lag_ms"},{"Name":"transit_ms"},{"Name":"absent"}]}]},"Item":"sneaker-42","Region":"us-east-1","drain_lag_ms":45.782,"transit_ms":[1.5,2]}"#;
        let samples = parse(line).unwrap();
        assert_eq!(samples.len(), 2);
        assert_eq!(
            (samples[0].metric.as_str(), samples[0].values.as_slice()),
            ("drain_lag_ms", &[45.782][..])
        );
        assert_eq!(samples[1].values, [1.5, 2.0]);
        assert_eq!(samples[1].dimensions["Item"], "sneaker-42");
        assert_eq!(samples[1].at_ms, 1_795_531_146_044);
    }

    #[test]
    fn other_lines_are_none() {
        for line in [&b"{\"level\":\"INFO\"}"[..], b"", b"{\"_aws\"", b"{\"_aws\":1}", b"\xff\xfe"] {
            assert_eq!(parse(line), None);
        }
        let foreign = br#"{"_aws":{"Timestamp":1,"CloudWatchMetrics":[{"Namespace":"other","Dimensions":[[]],"Metrics":[{"Name":"a"}]}]},"a":1}"#;
        assert_eq!(parse(foreign), Some(Vec::new()));
    }
}
