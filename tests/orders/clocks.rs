//! Orders of a region whose clock is wrong are refused, and a metric shows it.

use local::system::regions;
use local::system::{Options, RegionOptions, System};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;
use tests::{Client, announce, eventually, quick};

/// Main with a right clock, and a region whose gateway and machines are off by `offset`.
async fn start(gateway_ms: i64, machine: Option<&str>) -> System {
    let mut options: Options = quick(regions::first(2));
    if let Some(RegionOptions { gateway_clock_offset_ms, wrapper, .. }) = options.regions.get_mut(1) {
        *gateway_clock_offset_ms = gateway_ms;
        if let Some(offset) = machine {
            *wrapper = shifted_clock(offset);
        }
    }
    System::start(&options).await.unwrap()
}

/// Runs a program with a shifted wall clock and correct timers.
///
/// The library is preloaded directly: the `faketime` command would be a process between this test and the program, and
/// would be killed instead of the program.
fn shifted_clock(offset: &str) -> Vec<String> {
    let shown = Command::new("faketime").args(["-f", offset, "env"]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let library = shown.lines().find(|line| line.starts_with("LD_PRELOAD=")).unwrap();
    ["env", library, &format!("FAKETIME={offset}"), "FAKETIME_DONT_FAKE_MONOTONIC=1", "DONT_FAKE_MONOTONIC=1"]
        .map(str::to_owned)
        .to_vec()
}

async fn refused(system: &System, slugs: &[&str]) {
    announce(system, "a", json!({ "settle_window_ms": 500 })).await.unwrap();
    // An order of a right clock is served first: until then a wrong clock overtakes none.
    let (right, token) = (Client::of(system, 0).unwrap(), system.identity.token("right").unwrap());
    assert_eq!(right.order("a", &token).await.unwrap().status, 202);
    eventually("the order is sold", Duration::from_secs(10), async || {
        Ok((right.mine("a", &token).await?.body["status"] == "sold").then_some(()))
    })
    .await
    .unwrap();
    let wrong = Client::of(system, 1).unwrap();
    for number in 0..6 {
        let token = system.identity.token(&format!("wrong-{number}")).unwrap();
        let answer = wrong.order("a", &token).await.unwrap();
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(slugs.contains(&answer.problem().unwrap()), "{answer:?}");
        assert_eq!(answer.body["outcome"], "not_queued");
        assert!(answer.header("retry-after").is_some());
    }
    let item = system.admin(&json!({ "command": "describe", "item_id": "a" })).await.unwrap();
    assert_eq!(
        (&item["orders_waiting"], &item["sold"]),
        (&json!(0), &json!(1)),
        "only the true clock's order is queued"
    );
}

/// Metric documents that the region's intake has written.
fn metrics(system: &System) -> Vec<Value> {
    let log = system.logs().join(format!("{}-order-intake.log", system.regions[1].region.name));
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &Value| line.get("_aws").is_some())
        .collect()
}

async fn metric_says(system: &System, what: &str, says: impl Fn(&Value) -> bool) {
    eventually(what, Duration::from_secs(5), async || Ok(metrics(system).iter().any(&says).then_some(())))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn three_seconds_ahead() {
    let system = start(3_000, Some("+3s")).await;
    refused(&system, &["clock-ahead", "clock-off"]).await;
    metric_says(&system, "the offset is a metric", |line| {
        line["clock_offset_high_ms"].as_f64().is_some_and(|high| high < -2_500.0)
    })
    .await;
    metric_says(&system, "refusals are counted by reason", |line| {
        line["Reason"] == "clock-off" && line["orders_refused"].as_f64() > Some(0.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_seconds_behind() {
    let system = start(-3_000, Some("-3s")).await;
    refused(&system, &["too-late", "clock-off"]).await;
    metric_says(&system, "the offset is a metric", |line| {
        line["clock_offset_low_ms"].as_f64().is_some_and(|low| low > 2_500.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stamps_three_seconds_behind_its_machines() {
    let system = start(-3_000, None).await;
    refused(&system, &["too-late"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_time_that_is_ahead_or_in_seconds_is_ignored() {
    for offset_ms in [3_000, -1_700_000_000_000] {
        let system = start(offset_ms, None).await;
        announce(&system, "a", json!({})).await.unwrap();
        let client = Client::of(&system, 1).unwrap();
        let answer = client.order("a", &system.identity.token("alice").unwrap()).await.unwrap();
        assert_eq!(answer.status, 202, "{offset_ms}: {answer:?}");
    }
}
