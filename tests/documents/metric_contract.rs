//! Each alarm on a metric of fairdrop: what the functions write while all is well, when something fails or is unknown,
//! and when all is well again, in one process; and the states that CloudWatch gives the alarm, whatever the documents
//! leave open.

use AlarmState::{Alarm as InAlarm, Ok as IsOk};
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

/// The phases of each alarm. The first is a healthy start, and the last a recovery.
const CASES: &[(&str, &[Phase])] = &[
    (
        "OrdersRefusedAlarm",
        &[
            (|| orders(1_000, 5), IsOk),
            (|| orders(1_000, 100), InAlarm),
            (NOTHING, IsOk),
            // Since its deployment this region has queued no order.
            (|| orders(30, 30), InAlarm),
            (|| orders(1_000, 0), IsOk),
        ],
    ),
    (
        "LoggedOrdersRefusedAlarm",
        &[
            (|| decided(1_000, 5), IsOk),
            (|| decided(1_000, 100), InAlarm),
            (NOTHING, IsOk),
            (|| decided(30, 30), InAlarm),
            (|| decided(1_000, 0), IsOk),
        ],
    ),
    (
        "LogRecordsMalformedAlarm",
        &[(NOTHING, IsOk), (|| count("log_records_malformed", 1), InAlarm), (NOTHING, IsOk)],
    ),
    (
        "LogRecordsSetAsideAlarm",
        &[(NOTHING, IsOk), (|| count("log_records_set_aside", 1), InAlarm), (NOTHING, IsOk)],
    ),
    (
        "ReplayIncompleteAlarm",
        &[(NOTHING, IsOk), (|| set("items_restoring", 1.0), InAlarm), (|| set("items_restoring", 0.0), IsOk)],
    ),
    (
        "ClockOffAlarm",
        &[
            (|| clock(-1.0, 1.0), IsOk),
            (|| clock(30.0, 40.0), InAlarm),
            (NOTHING, IsOk),
            (|| clock(-40.0, -30.0), InAlarm),
            (|| clock(-1.0, 1.0), IsOk),
        ],
    ),
    ("LiveFailuresAlarm", &[(NOTHING, IsOk), (|| count("publish_failures", 1), InAlarm), (NOTHING, IsOk)]),
    (
        "LiveUnsentAlarm",
        &[
            (|| messages(100, 1), IsOk),
            (|| messages(100, 30), InAlarm),
            (NOTHING, IsOk),
            (|| messages(40, 40), InAlarm),
            (|| messages(100, 0), IsOk),
        ],
    ),
    // The drop ends with its last lag: the alarm must end, too.
    (
        "DrainLagAlarm",
        &[
            (|| set_of_item("drain_lag_ms", 10.0), IsOk),
            (|| set_of_item("drain_lag_ms", 6_000.0), InAlarm),
            (NOTHING, IsOk),
        ],
    ),
    (
        "DrainFailuresAlarm",
        &[(NOTHING, IsOk), (|| count_of_item("drain_failures", 1), InAlarm), (NOTHING, IsOk)],
    ),
    (
        "RecordLagAlarm",
        &[
            (|| set_of_item("record_lag_ms", 20.0), IsOk),
            (|| set_of_item("record_lag_ms", 11_000.0), InAlarm),
            (NOTHING, IsOk),
        ],
    ),
    (
        "WorkerFailuresAlarm",
        &[(NOTHING, IsOk), (|| count_of_item("worker_failures", 1), InAlarm), (NOTHING, IsOk)],
    ),
    (
        "LedgerRefusesAlarm",
        &[(NOTHING, IsOk), (|| count_of_item("reservations_refused", 1), InAlarm), (NOTHING, IsOk)],
    ),
    (
        "EventsLagAlarm",
        &[
            (|| set("events_lag_ms", 200.0), IsOk),
            (|| set("events_lag_ms", 61_000.0), InAlarm),
            (|| set("events_lag_ms", 0.0), IsOk),
            // No run writes it.
            (NOTHING, InAlarm),
            (|| set("events_lag_ms", 0.0), IsOk),
        ],
    ),
    (
        "EventDeadLettersAlarm",
        &[
            (|| set("event_dead_letters", 0.0), IsOk),
            (|| set("event_dead_letters", 1.0), InAlarm),
            (|| set("event_dead_letters", 0.0), IsOk),
        ],
    ),
    (
        "TokenKeysUnknownAlarm",
        &[(NOTHING, IsOk), (|| count("token_keys_unknown", 20), InAlarm), (NOTHING, IsOk)],
    ),
    ("DeadTasksAlarm", &[(NOTHING, IsOk), (|| count_of_item("dead_letters", 1), InAlarm), (NOTHING, IsOk)]),
    (
        "LeaseMissedAlarm",
        &[
            (NOTHING, IsOk),
            (|| count("lease_renewals_failed", 5), InAlarm),
            (|| count("lease_renewals_failed", 1), IsOk),
        ],
    ),
    (
        "PaymentsRefusedAlarm",
        &[
            (|| payment_refused("payments_refused", "reservation-ended"), IsOk),
            (|| payment_refused("payments_refused", "no-reservation"), InAlarm),
            // A refused `failed` has no money behind it.
            (|| payment_refused("failed_payments_refused", "no-reservation"), IsOk),
        ],
    ),
    (
        "PaymentsUnavailableAlarm",
        &[(NOTHING, IsOk), (|| count("payments_unavailable", 1), InAlarm), (NOTHING, IsOk)],
    ),
    ("RefundsDueAlarm", &[(NOTHING, IsOk), (|| count("refunds_due", 1), InAlarm), (NOTHING, IsOk)]),
    // Known, unknown, known; and too old.
    (
        "SnapshotsStaleAlarm",
        &[
            (|| snapshots(Some(600), 80), IsOk),
            (|| snapshots(None, 80), InAlarm),
            (|| snapshots(Some(600), 80), IsOk),
            (|| snapshots(Some(90_000), 80), InAlarm),
            (|| snapshots(Some(600), 80), IsOk),
            (NOTHING, InAlarm),
            (|| snapshots(Some(600), 80), IsOk),
        ],
    ),
    (
        "TokenKeysStaleAlarm",
        &[
            (|| set("token_keys_age_seconds", 15.0), IsOk),
            (|| set("token_keys_age_seconds", 700.0), InAlarm),
            (|| set("token_keys_age_seconds", 15.0), IsOk),
            (NOTHING, InAlarm),
            (|| set("token_keys_age_seconds", 15.0), IsOk),
        ],
    ),
    (
        "SnapshotActionsAlarm",
        &[(NOTHING, IsOk), (|| count("snapshot_actions_failed", 1), InAlarm), (NOTHING, IsOk)],
    ),
    (
        "SnapshotQuotaAlarm",
        &[(|| snapshots(Some(1), 80), IsOk), (|| snapshots(Some(1), 9), InAlarm), (NOTHING, IsOk)],
    ),
    (
        "ReplicaLagAlarm",
        &[
            (|| replica(Some(1.0), Some(1.0)), IsOk),
            (|| replica(None, Some(1.0)), InAlarm),
            (|| replica(Some(1.0), Some(1.0)), IsOk),
            (|| replica(Some(900.0), Some(1.0)), InAlarm),
            (|| replica(Some(1.0), Some(1.0)), IsOk),
        ],
    ),
    (
        "HeartbeatSilentAlarm",
        &[
            (|| replica(Some(1.0), Some(1.0)), IsOk),
            (|| replica(Some(1.0), None), InAlarm),
            (|| replica(Some(1.0), Some(1.0)), IsOk),
            (|| replica(Some(1.0), Some(900.0)), InAlarm),
            (|| replica(Some(1.0), Some(1.0)), IsOk),
        ],
    ),
    // A sample without any value shows that the function runs.
    (
        "WatcherSilentAlarm",
        &[(|| replica(None, None), IsOk), (NOTHING, InAlarm), (|| replica(None, None), IsOk)],
    ),
    (
        "FailoverNotReadyAlarm",
        &[
            (|| set("failover_ready", 1.0), IsOk),
            (|| set("failover_ready", 0.0), InAlarm),
            (|| set("failover_ready", 1.0), IsOk),
            (NOTHING, InAlarm),
            (|| set("failover_ready", 1.0), IsOk),
        ],
    ),
    // Without data the state stays: only a schedule that runs again ends it.
    (
        "FailoverUnfinishedAlarm",
        &[
            (|| set("failover_running", 0.0), IsOk),
            (|| set("failover_running", 1.0), InAlarm),
            (NOTHING, InAlarm),
            (|| set("failover_running", 0.0), IsOk),
        ],
    ),
    (
        "FailoverOutstandingAlarm",
        &[
            (|| set("failover_outstanding", 0.0), IsOk),
            (|| set("failover_outstanding", 1.0), InAlarm),
            (NOTHING, InAlarm),
            (|| set("failover_outstanding", 0.0), IsOk),
        ],
    ),
];

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
