//! CloudWatch's evaluation of alarms on the functions' own metrics: periods, statistics, metric math, Metrics Insights,
//! M out of N, and missing data. docs/AWS_FACTS.md has the sources. What the documents leave open is a [`Choice`].

mod expression;

use local::aws::metrics::emf::EmfSample;
use serde_json::Value;
use std::collections::BTreeMap;

/// The state of an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlarmState {
    Ok,
    Alarm,
    InsufficientData,
}

/// What the documents leave open.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// How many periods before the evaluated ones CloudWatch reads, if newer ones are missing: at least one.
    pub extra_periods: usize,
    /// Whether `FILL` returns values for a metric without any data point.
    pub fills_unwritten: bool,
}

impl Choice {
    /// Those that a test tries.
    pub const ALL: [Self; 6] = [
        Self { extra_periods: 1, fills_unwritten: true },
        Self { extra_periods: 2, fills_unwritten: true },
        Self { extra_periods: 5, fills_unwritten: true },
        Self { extra_periods: 1, fills_unwritten: false },
        Self { extra_periods: 2, fills_unwritten: false },
        Self { extra_periods: 5, fills_unwritten: false },
    ];
}

/// Values by period; `None` is missing data.
type Values = Vec<Option<f64>>;

/// An alarm of the expanded template.
#[derive(Debug)]
pub struct Alarm<'a> {
    properties: &'a Value,
    choice: Choice,
    pub state: AlarmState,
}

impl<'a> Alarm<'a> {
    pub fn new(properties: &'a Value, choice: Choice) -> Self {
        Self { properties, choice, state: AlarmState::InsufficientData }
    }

    /// The length of a period, in seconds.
    pub fn period_seconds(properties: &Value) -> u64 {
        let of = |value: &Value| number(&value["Period"]).or_else(|| number(&value["MetricStat"]["Period"]));
        let metrics = properties["Metrics"].as_array().into_iter().flatten();
        let found = of(properties).or_else(|| metrics.into_iter().find_map(of));
        found.expect("an alarm has a period") as u64
    }

    fn evaluation_periods(&self) -> usize {
        number(&self.properties["EvaluationPeriods"]).expect("EvaluationPeriods") as usize
    }

    /// Evaluates at `now_ms`, with all complete periods of `samples`.
    pub fn evaluate(&mut self, samples: &[EmfSample], now_ms: u64) {
        let wanted = self.evaluation_periods();
        let range = wanted + self.choice.extra_periods;
        let values = self.values(samples, now_ms, range);
        let threshold = number(&self.properties["Threshold"]).expect("Threshold");
        let breaches = |value: f64| match self.properties["ComparisonOperator"].as_str() {
            Some("GreaterThanThreshold") => value > threshold,
            Some("GreaterThanOrEqualToThreshold") => value >= threshold,
            Some("LessThanThreshold") => value < threshold,
            other => panic!("a comparison that is not implemented: {other:?}"),
        };
        let to_alarm =
            number(&self.properties["DatapointsToAlarm"]).map_or(wanted, |datapoints| datapoints as usize);
        let existing: Vec<bool> = values.iter().flatten().map(|value| breaches(*value)).collect();
        let treatment = self.properties["TreatMissingData"].as_str().unwrap_or("missing");
        let evaluated: Vec<bool> = if values.iter().rev().take(wanted).all(Option::is_some) {
            values.iter().rev().take(wanted).flatten().map(|value| breaches(*value)).collect()
        } else if existing.len() >= wanted {
            // Older data points of the range stand in for missing ones.
            existing.iter().rev().take(wanted).copied().collect()
        } else {
            let missing = wanted - existing.len();
            match treatment {
                "breaching" => existing.iter().copied().chain(vec![true; missing]).collect(),
                "notBreaching" => existing.iter().copied().chain(vec![false; missing]).collect(),
                "ignore" => {
                    // Only the data points decide; if they do not suffice, the state stays.
                    if existing.iter().filter(|breaching| **breaching).count() >= to_alarm {
                        self.state = AlarmState::Alarm;
                    }
                    return;
                }
                _ if existing.is_empty() => {
                    self.state = AlarmState::InsufficientData;
                    return;
                }
                other => panic!("a treatment of missing data that is not implemented: {other}"),
            }
        };
        let breaching = evaluated.iter().filter(|breaching| **breaching).count();
        self.state = if breaching >= to_alarm { AlarmState::Alarm } else { AlarmState::Ok };
    }

    /// The values of the alarm's expression or metric, the newest last.
    fn values(&self, samples: &[EmfSample], now_ms: u64, range: usize) -> Values {
        let window =
            Window { samples, now_ms, range, period_ms: Self::period_seconds(self.properties) * 1_000 };
        let Some(metrics) = self.properties["Metrics"].as_array() else {
            let statistic = self.properties["Statistic"].as_str().expect("Statistic");
            return window.metric(self.properties, statistic);
        };
        let mut known: BTreeMap<String, Values> = BTreeMap::new();
        let mut expressions = Vec::new();
        for metric in metrics {
            let id = metric["Id"].as_str().expect("Id").to_owned();
            match metric["Expression"].as_str() {
                Some(query) if query.trim_start().starts_with("SELECT ") => {
                    known.insert(id.clone(), window.query(query));
                }
                Some(text) => expressions.push((id.clone(), text)),
                None => {
                    let stat = &metric["MetricStat"];
                    let statistic = stat["Stat"].as_str().expect("Stat");
                    known.insert(id.clone(), window.metric(&stat["Metric"], statistic));
                }
            }
        }
        while let Some((id, text)) = expressions.pop() {
            let values = expression::evaluate(text, &known, range, self.choice.fills_unwritten);
            known.insert(id, values);
        }
        let returned = |metric: &&Value| metric["ReturnData"].as_bool() != Some(false);
        let returned: Vec<&Value> = metrics.iter().filter(returned).collect();
        assert_eq!(returned.len(), 1, "an alarm returns one series");
        known.remove(returned[0]["Id"].as_str().expect("Id")).expect("the returned series")
    }
}

/// The complete periods before a moment.
struct Window<'a> {
    samples: &'a [EmfSample],
    now_ms: u64,
    range: usize,
    period_ms: u64,
}

impl Window<'_> {
    fn metric(&self, metric: &Value, statistic: &str) -> Values {
        let dimensions: BTreeMap<&str, &str> = metric["Dimensions"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|one| (one["Name"].as_str().expect("Name"), one["Value"].as_str().expect("Value")))
            .collect();
        let name = metric["MetricName"].as_str().expect("MetricName");
        self.aggregate(statistic, |sample| {
            // Dimensions name a metric exactly: one more is another metric.
            let own = sample.dimensions.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            sample.metric == name && own.collect::<BTreeMap<_, _>>() == dimensions
        })
    }

    /// `SELECT SUM(name) FROM SCHEMA(fairdrop, A, B) WHERE A = 'x' AND B != 'y'`
    fn query(&self, text: &str) -> Values {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let (select, rest) = text.split_once(" FROM SCHEMA(fairdrop, ").expect("FROM SCHEMA(fairdrop, ");
        let (schema, conditions) = rest.split_once(") WHERE ").expect("WHERE");
        let (statistic, name) = select.strip_prefix("SELECT ").expect("SELECT").split_once('(').expect("(");
        let mut schema: Vec<&str> = schema.split(", ").collect();
        schema.sort_unstable();
        let conditions: Vec<(&str, bool, &str)> = conditions
            .split(" AND ")
            .map(|condition| {
                let parts: Vec<&str> = condition.split(' ').collect();
                let [name, operator, value] = parts[..] else { panic!("{condition}") };
                (name, operator == "=", value.trim_matches('\''))
            })
            .collect();
        self.aggregate(statistic, |sample| {
            let names: Vec<&str> = sample.dimensions.keys().map(String::as_str).collect();
            sample.metric == name.trim_end_matches(')')
                && names == schema
                && conditions.iter().all(|(name, is_equal, value)| {
                    (sample.dimensions.get(*name).map(String::as_str) == Some(*value)) == *is_equal
                })
        })
    }

    fn aggregate(&self, statistic: &str, matches: impl Fn(&EmfSample) -> bool) -> Values {
        let newest = self.now_ms / self.period_ms;
        let first = newest.saturating_sub(self.range as u64);
        let mut periods: Vec<Vec<f64>> = vec![Vec::new(); self.range];
        for sample in self.samples.iter().filter(|sample| matches(sample)) {
            let period = sample.at_ms / self.period_ms;
            if (first..newest).contains(&period) {
                periods[(period - first) as usize].extend(&sample.values);
            }
        }
        let value = |values: Vec<f64>| {
            if values.is_empty() {
                return None;
            }
            Some(match statistic.to_ascii_lowercase().as_str() {
                "sum" => values.iter().sum(),
                "maximum" | "max" => values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                "minimum" | "min" => values.iter().copied().fold(f64::INFINITY, f64::min),
                other => panic!("a statistic that is not implemented: {other}"),
            })
        };
        periods.into_iter().map(value).collect()
    }
}

/// A number of a template, which may be a text.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok())
}
