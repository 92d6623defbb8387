//! The built function against two real PostgreSQL servers in streaming replication and emulators of AWS: the reported
//! loss against the loss of a promotion, and the notices that are sent.

mod blocking_proxy;
mod pair;
mod stand;

use local::system::wan::ConnectionState;
use serde_json::{Value, json};
use stand::{HERE, RdsFault, ReplicaStand, alarm};
use std::time::{Duration, Instant};

/// The longest that a verdict may take.
const A_MINUTE: Duration = Duration::from_secs(60);

/// Collects a last sample, promotes the replica, and compares: the reported loss is never smaller than the real one,
/// and not two seconds larger.
async fn compare(mut stand: ReplicaStand, what: &str, least_lost_seconds: f64) {
    let asked = Instant::now();
    let report = stand.sample().await.unwrap();
    let reported = report["at_risk"]["seconds"].as_f64().unwrap();
    let reported_sales = report["at_risk"]["sales_likely"].as_u64().unwrap();
    // The report does not cover what main sells between the question and the promotion.
    let since = asked.elapsed().as_secs_f64() + 0.1;
    let sold_since = (since * 60.0) as u64;
    let (lost_micros, lost_sales) = stand.pair.promote().await.unwrap();
    let lost = lost_micros as f64 / 1e6;
    println!(
        "{what}: {} reported, {reported:.2} s and {reported_sales} sales at risk; {lost:.2} s and {lost_sales} sales lost",
        report["verdict"]
    );
    assert_eq!(report["at_risk"]["basis"], "main", "{report}");
    assert!(lost <= reported + since, "{what}: more was lost than reported: {report}");
    assert!(reported <= lost + 2.0, "{what}: much less was lost than reported: {report}");
    assert!(
        lost_sales <= reported_sales + sold_since,
        "{what}: more sales were lost than reported: {report}"
    );
    assert!(lost >= least_lost_seconds, "{what}: nothing to compare with");
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_it_is_healthy_and_next_to_nothing_would_be_lost() {
    let stand = ReplicaStand::start(50).await.unwrap();
    stand.until("healthy", A_MINUTE).await.unwrap();
    compare(stand, "load", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_main_is_no_lag() {
    let stand = ReplicaStand::start(0).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (report, _) = stand.until("healthy", A_MINUTE).await.unwrap();
    assert!(report["lag_seconds"].as_f64().unwrap() < 2.0, "{report}");
    compare(stand, "idle main", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_is_broken_and_loses_what_was_sold_since() {
    let stand = ReplicaStand::start(50).await.unwrap();
    stand.until("healthy", A_MINUTE).await.unwrap();
    stand.pair.connection.set(ConnectionState::Silent);
    let (report, took) = stand.until("broken", A_MINUTE).await.unwrap();
    println!("a cut connection was reported after {:.0} s: {}", took.as_secs_f64(), report["cause"]);
    assert_eq!(report["cause"], "nothing-arrives", "{report}");
    compare(stand, "cut connection", 15.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_replay_is_broken_and_loses_nothing_that_was_received() {
    let stand = ReplicaStand::start(50).await.unwrap();
    stand.until("healthy", A_MINUTE).await.unwrap();
    stand.pair.on_replica("SELECT pg_wal_replay_pause()").await.unwrap();
    let (report, _) = stand.until("broken", A_MINUTE).await.unwrap();
    assert_eq!(report["cause"], "paused", "{report}");
    compare(stand, "paused replay", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_replica_is_broken_and_catches_up() {
    let mut stand = ReplicaStand::start(50).await.unwrap();
    stand.until("healthy", A_MINUTE).await.unwrap();
    stand.pair.replica.kill();
    let (report, took) = stand.until("broken", A_MINUTE).await.unwrap();
    println!("a stopped replica was reported after {:.0} s: {}", took.as_secs_f64(), report["cause"]);
    assert_eq!(report["cause"], "connection-closed", "{report}");
    stand.pair.replica.restart().await.unwrap();
    stand.until("healthy", 2 * A_MINUTE).await.unwrap();
    compare(stand, "stopped replica", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_that_the_replica_cannot_replay_in_time_is_no_broken_connection() {
    let mut stand = ReplicaStand::start(20).await.unwrap();
    stand.until("healthy", A_MINUTE).await.unwrap();
    stand.pair.burden().await.unwrap();
    stand.pair.slow_down(0.02).unwrap();
    let (report, _) = stand.until("overloaded", A_MINUTE).await.unwrap();
    assert!(report["lag_seconds"].as_f64().unwrap() >= 4.0, "{report}");
    compare(stand, "burst", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_main_is_reported_and_the_loss_is_bounded() {
    let mut stand = ReplicaStand::start(50).await.unwrap();
    stand.until("healthy", A_MINUTE).await.unwrap();
    // Its busiest second; after it never more than 50 are sold in one.
    stand.pair.burst(60).await.unwrap();
    stand.pair.connection.set(ConnectionState::Silent);
    stand.main_connection.set(ConnectionState::Refusing);
    let (report, _) = stand.until("broken", A_MINUTE).await.unwrap();
    assert_eq!(
        (&report["cause"], &report["at_risk"]["basis"]),
        (&json!("main-silent"), &json!("replica")),
        "{report}"
    );
    // Main has gone on selling; the report covers that.
    let asked = Instant::now();
    let report = stand.sample().await.unwrap();
    let since = asked.elapsed().as_secs_f64() + 0.1;
    let (lost_micros, lost_sales) = stand.pair.promote().await.unwrap();
    let lost = lost_micros as f64 / 1e6;
    let reported = report["at_risk"]["seconds"].as_f64().unwrap();
    let reported_sales = report["at_risk"]["sales_likely"].as_u64().unwrap();
    let at_most = report["at_risk"]["sales_at_most"].as_u64().unwrap();
    println!(
        "silent main: {reported:.2} s and {reported_sales} sales reported; {lost:.2} s and {lost_sales} lost"
    );
    assert!(lost <= reported + since && reported <= lost + 2.0, "{report}");
    // Main cannot count, so the report assumes its busiest second again and again, up to the unsold stock.
    assert!(lost_sales <= at_most && lost_sales <= reported_sales + (since * 60.0) as u64, "{report}");
}

/// The occasions and verdicts of notices.
fn short(notices: &[Value]) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    notices
        .iter()
        .map(|notice| format!("{} {}", text(&notice["occasion"]), text(&notice["verdict"])))
        .collect()
}

/// The notices that have arrived on the bus since the last call.
async fn details(stand: &ReplicaStand) -> Vec<Value> {
    let events = stand.received("bus").await.unwrap();
    events.iter().map(|event| event["detail"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_and_programs_are_notified_once_and_when_it_is_over() {
    let stand = ReplicaStand::start_with(20, 2, &[]).await.unwrap();
    stand.until("healthy", A_MINUTE).await.unwrap();
    assert_eq!(stand.received("topic").await.unwrap(), Vec::<Value>::new());
    stand.pair.on_replica("SELECT pg_wal_replay_pause()").await.unwrap();
    // Two runs at once, an alarm that is delivered twice, and the schedule again.
    let event = alarm("replica-lag.metric-math.json", "2026-11-23T14:30:00.000+0000");
    let (one, other) = tokio::join!(stand.run(&event), stand.run(&event));
    let notified = [one.unwrap(), other.unwrap()].map(|report| report["notices"].as_array().unwrap().len());
    assert_eq!(notified.iter().sum::<usize>(), 1, "{notified:?}");
    for _ in 0..3 {
        let (one, other) = tokio::join!(stand.sample(), stand.sample());
        assert_eq!(
            (&one.unwrap()["verdict"], &other.unwrap()["verdict"]),
            (&json!("broken"), &json!("broken"))
        );
    }
    let notices = stand.received("topic").await.unwrap();
    assert_eq!(short(&notices), ["changed broken"]);
    let notice = &notices[0];
    let text = notice["text"].as_str().unwrap();
    for part in ["is broken (paused)", "A promotion now would lose", "pg_wal_replay_resume", "#broken"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let events = stand.received("bus").await.unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!((&events[0]["source"], &events[0]["detail"]), (&json!("fairdrop"), notice));
    stand.pair.on_replica("SELECT pg_wal_replay_resume()").await.unwrap();
    stand.until("healthy", 2 * A_MINUTE).await.unwrap();
    let notices = short(&stand.received("topic").await.unwrap());
    assert_eq!(
        (notices.first().map(String::as_str), notices.last().map(String::as_str)),
        (Some("changed catching-up"), Some("over healthy")),
        "{notices:?}"
    );
    assert_eq!(notices.len(), 2, "{notices:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_table_and_the_topic_are_unavailable_a_notice_stays_pending_and_no_run_hangs() {
    let stand = ReplicaStand::start(20).await.unwrap();
    stand.until("healthy", A_MINUTE).await.unwrap();
    stand.pair.on_replica("SELECT pg_wal_replay_pause()").await.unwrap();
    for fault in [ConnectionState::Silent, ConnectionState::Refusing] {
        stand.table_connection.set(fault);
        stand.topic_connection.set(fault);
        let began = Instant::now();
        let report = stand.sample().await.unwrap();
        println!("unavailable ({fault:?}): a run took {:.1} s", began.elapsed().as_secs_f64());
        assert_eq!(report["verdict"], "broken", "{report}");
        // The table may be asked twice, the topic once; collecting a sample takes up to 8 s.
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    }
    assert_eq!(stand.received("topic").await.unwrap(), Vec::<Value>::new());
    assert_eq!(short(&details(&stand).await), ["changed broken"]);
    stand.topic_connection.set(ConnectionState::Up);
    stand.table_connection.set(ConnectionState::Up);
    for _ in 0..4 {
        stand.sample().await.unwrap();
    }
    assert_eq!(short(&stand.received("topic").await.unwrap()), ["changed broken"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_table_accepts_no_writes_a_verdict_is_reached_and_notified_once() {
    let stand = ReplicaStand::start(20).await.unwrap();
    stand.until("healthy", A_MINUTE).await.unwrap();
    *stand.denied_in_dynamodb.lock().unwrap() = Some("PutItem");
    stand.pair.connection.set(ConnectionState::Silent);
    // Only several samples show it.
    let (report, _) = stand.until("broken", A_MINUTE).await.unwrap();
    assert_eq!(report["cause"], "nothing-arrives", "{report}");
    for _ in 0..3 {
        stand.sample().await.unwrap();
    }
    *stand.denied_in_dynamodb.lock().unwrap() = None;
    for _ in 0..2 {
        stand.sample().await.unwrap();
    }
    let notices = [stand.received("topic").await.unwrap(), details(&stand).await];
    assert_eq!(notices.map(|one| short(&one)), [["changed broken"], ["changed broken"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_fails_is_unknown_and_the_run_reports() {
    let stand = ReplicaStand::start(20).await.unwrap();
    stand.until("healthy", A_MINUTE).await.unwrap();
    for fault in [RdsFault::Throttling, RdsFault::Silence(Duration::from_secs(30))] {
        stand.set_rds_fault(fault);
        // RDS is asked again after 20 s.
        tokio::time::sleep(Duration::from_secs(21)).await;
        let report = stand.sample().await.unwrap();
        assert_eq!(
            (&report["verdict"], &report["unknown"]),
            (&json!("healthy"), &json!(["replica-instance", "main-instance"])),
            "{report}"
        );
    }
    // Moto has no status of a replica's replication.
    let status = "<DBInstanceIdentifier>ledger-standby</DBInstanceIdentifier>";
    let with_status = "<DBInstanceIdentifier>ledger-standby</DBInstanceIdentifier><StatusInfos><DBInstanceStatusInfo>\
        <StatusType>read replication</StatusType><Normal>false</Normal><Status>terminated</Status>\
        </DBInstanceStatusInfo></StatusInfos>";
    stand.set_rds_fault(RdsFault::Replaced(status, with_status));
    tokio::time::sleep(Duration::from_secs(21)).await;
    let report = stand.sample().await.unwrap();
    assert_eq!(
        (&report["verdict"], &report["cause"]),
        (&json!("broken"), &json!("replication-status")),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_heartbeat_overrules_cloudwatch_s_replica_lag() {
    let stand = ReplicaStand::start(20).await.unwrap();
    let replica = [("DBInstanceIdentifier", "ledger-standby")];
    stand.ministack.put_metric(HERE, ("AWS/RDS", "ReplicaLag"), &replica, -1.0).await.unwrap();
    let lag = ("AWS/ElastiCache", "GlobalDatastoreReplicationLag");
    let ours = [("ReplicationGroupId", "fairdrop-standby"), ("SomethingElse", "x")];
    stand.ministack.put_metric(HERE, lag, &ours, 12.5).await.unwrap();
    let others = [("ReplicationGroupId", "fairdrop-standbyish")];
    stand.ministack.put_metric(HERE, lag, &others, 99.0).await.unwrap();
    let (report, _) = stand.until("healthy", A_MINUTE).await.unwrap();
    let figures = &report["sample"]["figures"];
    assert_eq!(figures, &json!({ "replica_lag": -1.0, "redis_lag": 12.5 }), "{report}");
    let findings = report["findings"].to_string();
    assert!(
        findings.contains("the verdict follows the heartbeat") && findings.contains("12.5 s behind"),
        "{findings}"
    );
    // Without Redis's figure the replica's is still known.
    *stand.silent_in_cloudwatch.lock().unwrap() = Some("ListMetrics");
    // CloudWatch is asked again after 20 s.
    tokio::time::sleep(Duration::from_secs(21)).await;
    let report = stand.sample().await.unwrap();
    assert_eq!(report["sample"]["figures"], json!({ "replica_lag": -1.0 }), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bigger_class_is_recommended_and_never_set() {
    let mut stand = ReplicaStand::start(20).await.unwrap();
    // An hour ago it was behind, too.
    let lag = json!({ "class": "db.r6g.large", "until_ms": stand::now_ms() - 3_600_000 });
    stand.save_state(&json!({ "window": { "lags": [lag] } })).await.unwrap();
    stand.until("healthy", A_MINUTE).await.unwrap();
    stand.pair.burden().await.unwrap();
    stand.pair.slow_down(0.02).unwrap();
    let (report, _) = stand.until("undersized", A_MINUTE).await.unwrap();
    assert_eq!(
        (&report["cause"], &report["recommended_class"]),
        (&json!("falls-behind-repeatedly"), &json!("db.r6g.xlarge")),
        "{report}"
    );
    assert_eq!(stand.class().await.unwrap(), "db.r6g.large");
    assert_eq!(short(&details(&stand).await), ["changed undersized"]);
    // An operator's question changes nothing and sends no notice.
    stand.save_state(&json!({})).await.unwrap();
    stand.pair.on_replica("SELECT pg_wal_replay_pause()").await.unwrap();
    let report = stand.run(&tests::sample("replica-lag.observe.json")).await.unwrap();
    assert_eq!((&report["verdict"], &report["cause"]), (&json!("broken"), &json!("paused")), "{report}");
    assert_eq!(stand.received("bus").await.unwrap(), Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sample_event_starts_what_it_should() {
    let stand = ReplicaStand::start(0).await.unwrap();
    let kinds =
        ["alarm", "metric-math", "long-period", "no-dimensions", "composite", "ok", "insufficient-data"];
    for (minute, kind) in kinds.into_iter().enumerate() {
        let report = stand
            .run(&alarm(&format!("replica-lag.{kind}.json"), &format!("2026-11-23T14:3{minute}:00.000+0000")))
            .await
            .unwrap();
        assert!(report["verdict"].is_string(), "{kind}: {report}");
    }
    let report = stand.run(&tests::sample("replica-lag.schedule.json")).await.unwrap();
    assert!(report["verdict"].is_string(), "{report}");
    for (event, why) in [
        (tests::sample("replica-lag.foreign.json"), "not of this stack"),
        (json!({ "source": "aws.cloudwatch" }), "expects"),
        (json!({ "observe": false }), "expects"),
        (json!({ "observe": true, "x": 1 }), "expects"),
        (json!([]), "expects"),
        (json!(null), "expects"),
    ] {
        let error = stand.run(&event).await.unwrap_err().to_string();
        assert!(error.contains("BadEvent") && error.contains(why), "{event}: {error}");
    }
}
