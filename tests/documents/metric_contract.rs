//! Each alarm on a metric of fairdrop: what the functions write while all is well, when something fails or is unknown,
//! and when all is well again, in one process; and the states that CloudWatch gives the alarm, whatever the documents
//! leave open.

mod cases;

use AlarmState::{Alarm as InAlarm, Ok as IsOk};
use cases::CASES;
use local::aws::metrics::emf::{self, EmfSample};
use replica_lag::sample::{MainSample, ReplicaSample, StandbySample};
use replica_lag::verdict::ReplicaVerdict;
use serde_json::Value;
use shared::telemetry::{MetricCollector, NAMESPACE};
use snapshot_copy::managed::RecoveryPoint;
use snapshot_copy::report::{RegionSummary, SnapshotReport};
use std::collections::{BTreeMap, BTreeSet};
use tests::cloudwatch::{Alarm, AlarmState, Choice};
use tests::expanded::{Deployment, deployments, expand};

/// What the functions write in each period of a phase, and the alarm's state at the end of the phase.
type Phase = (fn(), AlarmState);

const NOTHING: fn() = || {};

fn count(name: &'static str, by: u64) {
    metrics::counter!(name).increment(by);
}

fn count_of_item(name: &'static str, by: u64) {
    metrics::counter!(name, "Item" => "sneaker-42").increment(by);
}

fn set(name: &'static str, value: f64) {
    metrics::gauge!(name).set(value);
}

fn set_of_item(name: &'static str, value: f64) {
    metrics::gauge!(name, "Item" => "sneaker-42").set(value);
}

fn payment_refused(name: &'static str, reason: &'static str) {
    metrics::counter!(name, "Reason" => reason).increment(1);
}

fn orders(answered: u64, lost: u64) {
    count("orders_answered", answered);
    count("orders_lost", lost);
}

fn decided(decided: u64, lost: u64) {
    count("log_orders_decided", decided);
    count("log_orders_lost", lost);
}

/// order-intake writes a zero of what order-place decides; here both are one process, where the count replaces the zero.
fn accepted(accepted: u64, decided: u64) {
    count("orders_accepted", accepted);
    set("log_orders_decided", 0.0);
    count("log_orders_decided", decided);
}

fn messages(calls: u64, unsent: u64) {
    count("live_calls", calls);
    count("live_unsent", unsent);
}

fn clock(low: f64, high: f64) {
    set("clock_offset_low_ms", low);
    set("clock_offset_high_ms", high);
}

/// A run of snapshot-copy.
fn snapshots(age_seconds: Option<i64>, quota_remaining: u32) {
    let recovery_point = |region: &str, age_seconds| RecoveryPoint {
        database: "ledger".into(),
        region: region.into(),
        is_known: true,
        id: None,
        at: None,
        age_seconds,
        usable: 1,
        in_progress: 0,
    };
    let summary =
        RegionSummary { answers: true, snapshots: Some(20), quota_remaining: Some(quota_remaining) };
    let report = SnapshotReport {
        dry_run: false,
        now: rds::Timestamp::now(),
        regions: [("us-east-1".to_owned(), summary)].into(),
        recovery_points: vec![
            recovery_point("us-east-1", Some(300)),
            recovery_point("eu-west-1", age_seconds),
        ],
        actions: Vec::new(),
        deferred: 0,
        notices: BTreeSet::new(),
    };
    report.write_metrics();
}

/// A sample of replica-lag: the replica's lag, and the age of main's heartbeat; `None` if it cannot be read.
fn replica(lag_seconds: Option<f64>, heartbeat_age_seconds: Option<f64>) {
    let replica = lag_seconds.map(|age| ReplicaSample {
        follows: true,
        heartbeat_age_seconds: Some(age),
        ..ReplicaSample::default()
    });
    let main = heartbeat_age_seconds
        .map(|age| MainSample { heartbeat_age_seconds: Some(age), ..MainSample::default() });
    let sample = StandbySample { replica, main, ..StandbySample::default() };
    replica_lag::report::write_metrics(&sample, ReplicaVerdict::Unknown, 0);
}

/// The alarms on fairdrop's own metrics, each in a deployment that has it.
fn own_alarms() -> BTreeMap<String, (Deployment, Value)> {
    let mut found = BTreeMap::new();
    for deployment in deployments().unwrap() {
        for (name, resource) in expand("template", &deployment).unwrap() {
            let properties = resource["Properties"].clone();
            let text = properties.to_string();
            let is_own = text.contains(r#""Namespace":"fairdrop""#) || text.contains("SCHEMA(fairdrop,");
            if resource["Type"] == "AWS::CloudWatch::Alarm" && is_own {
                found.insert(name, (deployment.clone(), properties));
            }
        }
    }
    found
}

/// Runs the phases of an alarm, and compares its state at the end of each.
fn run(
    name: &str,
    deployment: &Deployment,
    properties: &Value,
    phases: &[Phase],
    choice: Choice,
    is_late: bool,
) {
    let dimensions = vec![("Region", deployment.region.clone()), ("Stack", deployment.stack.clone())];
    let collector = MetricCollector::new(NAMESPACE, dimensions);
    let period_ms = Alarm::period_seconds(properties) * 1_000;
    // A phase is longer than any range that CloudWatch may read.
    let periods = 2 * properties["EvaluationPeriods"].as_u64().unwrap() + 8;
    let mut alarm = Alarm::new(properties, choice);
    let mut samples: Vec<EmfSample> = Vec::new();
    let mut now_ms = 1_795_500_000_000 / period_ms * period_ms;
    for (number, (write, expected)) in phases.iter().enumerate() {
        for _ in 0..periods {
            metrics::with_local_recorder(&collector, write);
            let lines = collector.take_lines(now_ms + 5_000).unwrap();
            samples.extend(lines.split_inclusive(|byte| *byte == b'\n').filter_map(emf::parse).flatten());
            now_ms += period_ms;
            if is_late {
                // CloudWatch does not have the newest values yet.
                let known: Vec<EmfSample> =
                    samples.iter().filter(|sample| sample.at_ms + period_ms < now_ms).cloned().collect();
                alarm.evaluate(&known, now_ms);
            } else {
                alarm.evaluate(&samples, now_ms);
            }
        }
        assert_eq!(alarm.state, *expected, "{name}, phase {number}, {choice:?}, late: {is_late}");
    }
}

#[test]
fn each_alarm_on_a_metric_of_ours_goes_off_and_ends_as_the_runbook_says() {
    let alarms = own_alarms();
    let cases: BTreeMap<&str, &[Phase]> = CASES.iter().copied().collect();
    let names: BTreeSet<&str> = alarms.keys().map(String::as_str).collect();
    assert_eq!(names, cases.keys().copied().collect(), "alarms, and cases of this test");
    for (name, (deployment, properties)) in &alarms {
        for choice in Choice::ALL {
            for is_late in [false, true] {
                run(name, deployment, properties, cases[name.as_str()], choice, is_late);
            }
        }
    }
}

/// The cases above stand for the functions only if these write the same metrics.
#[test]
fn the_functions_write_each_metric_of_an_alarm_with_its_dimensions() {
    let workspace = local::system::process::workspace();
    let code = ["functions", "shared"].map(|folder| crate::template_rules::sources(&workspace.join(folder)));
    // Without whitespace: rustfmt may break a call.
    let code: String = code.concat().split_whitespace().collect();
    let mut checked = 0;
    for (name, (_, properties)) in own_alarms() {
        let text = properties.to_string();
        assert!(
            !text.contains("FILL("),
            "{name}: no document says what FILL does for a metric never written"
        );
        let stats = text.split(r#""MetricName":""#).skip(1).map(|rest| (rest, ""));
        let queries = text.split("SELECT ").skip(1).map(|rest| {
            let label = rest.split("SCHEMA(fairdrop, ").nth(1).unwrap().split(',').next().unwrap();
            (rest.split('(').nth(1).unwrap(), label)
        });
        for (rest, label) in stats.chain(queries) {
            let metric = rest.split(['"', ')']).next().unwrap();
            let start = if label.is_empty() {
                format!("\"{metric}\"")
            } else {
                format!("\"{metric}\",\"{label}\"=>")
            };
            assert!(code.contains(&start), "{name}: no function writes {start}");
            checked += 1;
        }
    }
    assert!(checked >= 20, "{checked}");
}
