//! Whole failovers: two regions with real servers, buyers who order throughout, and AWS's control plane on this machine.
//! `make drill` runs more of them.

use drill::two_regions::{MAIN, STANDBY, TwoRegions, TwoRegionsSettings};
use drill::{Accident, DrillOutcome, ReplicaState, Scenario, run_scenario};
use local::system::folder::WorkFolder;
use serde_json::{Value, json};
use std::time::Duration;
use tests::eventually;

/// A drill's scenario without anything at random.
fn scenario(seed: u64, accident: Option<Accident>) -> Scenario {
    Scenario {
        seed,
        accident,
        reaches_table: false,
        before_ms: 5_000,
        decides_after_ms: 500,
        kills_after_ms: Vec::new(),
        is_small: false,
        replica: ReplicaState::Available,
        lacks_capacity: false,
        datastore_modifies_ms: 0,
        throttled: 0,
        redis_hangs: false,
        fails_back: false,
        functions_idle: false,
        has_order_logs: false,
    }
}

async fn run_faultless(scenario: Scenario) -> DrillOutcome {
    run_at_rate(scenario, 12).await
}

async fn run_at_rate(scenario: Scenario, per_second: u32) -> DrillOutcome {
    let folder = WorkFolder::new().unwrap();
    let outcome =
        run_scenario(&scenario, folder.path(), per_second, &|what| println!("{what}")).await.unwrap();
    println!("{}", serde_json::to_string_pretty(&outcome.report["steps"]).unwrap());
    println!("{outcome:?}");
    assert_eq!(outcome.faults(), Vec::<String>::new(), "{}", scenario.description());
    assert!(outcome.buyers > 100, "only {} buyers ordered", outcome.buyers);
    outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_failover_and_its_failback_lose_nothing_and_sell_in_one_region_at_a_time() {
    let scenario = Scenario {
        is_small: true,
        throttled: 3,
        fails_back: true,
        functions_idle: true,
        ..scenario(1, None)
    };
    let outcome = run_faultless(scenario).await;
    assert_eq!((outcome.findings.lost_sales, outcome.findings.lost_places), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_killed_main_redis_is_detached_and_the_old_main_sells_nothing_when_it_is_back() {
    let scenario = Scenario {
        redis_hangs: true,
        functions_idle: true,
        replica: ReplicaState::StorageOptimization,
        datastore_modifies_ms: 6_000,
        ..scenario(2, Some(Accident::Kill))
    };
    run_faultless(scenario).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_failover_without_main_s_redis_loses_no_accepted_order_of_a_region_that_is_alive() {
    let scenario = Scenario { redis_hangs: true, has_order_logs: true, ..scenario(4, Some(Accident::Kill)) };
    // The replay reads the logs bucket by bucket, over a distance: it takes a busy machine a minute and more.
    let outcome = run_at_rate(scenario, 4).await;
    assert_eq!(outcome.findings.lost_orders_listed, Vec::<String>::new());
    let step = |name: &str| {
        let steps = outcome.report["steps"].as_array().unwrap();
        steps.iter().find(|step| step["step"] == name).unwrap().clone()
    };
    let last = step("replay")["last"].as_str().unwrap().to_owned();
    assert!(
        last.starts_with("restored 2 items") && last.contains("without the order log of us-east-1"),
        "{last}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_main_that_is_cut_off_stops_before_the_standby_sells() {
    let kills_after_ms = vec![3_000, 4_000];
    let replica = ReplicaState::BackingUp;
    let outcome =
        run_faultless(Scenario { kills_after_ms, replica, ..scenario(3, Some(Accident::Cut)) }).await;
    let answers = &outcome.answers_of_old_main;
    let refused: u64 =
        answers.iter().filter(|(what, _)| what.starts_with("503 ")).map(|(_, times)| times).sum();
    assert!(refused > 0, "the buyers of a main that is cut off received {answers:?}");
}

/// The newest drill's report.
async fn drilled(two: &TwoRegions) -> Value {
    two.failover(&json!({ "command": "status", "drill": true })).await.unwrap()
}

/// The instances of the standby's region.
fn instances(two: &TwoRegions) -> Vec<String> {
    let (region, _) = two.replica();
    two.control_plane.account().databases.of_region(&region).into_iter().map(|one| one.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_on_a_temporary_copy_moves_nothing_and_leaves_nothing() {
    let folder = WorkFolder::new().unwrap();
    let two = TwoRegions::start_in(folder.path(), &TwoRegionsSettings::default()).await.unwrap();
    let lease = || async { two.admin(MAIN, &json!({ "command": "lease" })).await.unwrap() };
    eventually("main sells", Duration::from_secs(15), async || {
        Ok((lease().await["means"] == "main sells").then_some(()))
    })
    .await
    .unwrap();

    // Killed in the middle, and resumed.
    let drill = json!({ "command": "drill" });
    let begun = tokio::time::timeout(Duration::from_secs(3), two.failover(&drill)).await;
    assert!(begun.is_err(), "a copy takes longer: {begun:?}");
    two.kill_failover().unwrap();
    let report = two.failover(&json!({ "command": "resume", "drill": true })).await.unwrap();
    assert_eq!(
        (&report["run"]["state"], &report["run"]["outstanding"]),
        (&json!("done"), &json!([])),
        "{report}"
    );
    let done = |step: &Value| step["is_done"] == true;
    assert_eq!(report["steps"].as_array().unwrap().iter().filter(|step| done(step)).count(), 14, "{report}");
    assert!(report["means"].as_str().unwrap().contains("on a copy"), "{report}");

    let after = lease().await;
    assert_eq!((&after["lease"]["epoch"], &after["means"]), (&json!(1), &json!("main sells")), "{after}");
    assert_eq!(
        two.ledger(STANDBY).await.unwrap().epoch().await,
        Ok(1),
        "the standby's own ledger is unchanged"
    );
    assert!(two.ledger(STANDBY).await.unwrap().follows().await.unwrap());
    assert_eq!(instances(&two), ["standby-ledger"], "the copy is deleted");

    // The plan knows how long each step took.
    let plan = two.failover(&json!({ "command": "plan", "mode": "planned" })).await.unwrap();
    assert_eq!((&plan["can_begin"], &plan["obstacle"]), (&json!(true), &Value::Null), "{plan}");
    let promote = plan["steps"].as_array().unwrap().iter().find(|step| step["step"] == "promote").unwrap();
    assert!(promote["took_in_the_last_drill_seconds"].as_f64().unwrap() > 0.0, "{plan}");
    assert_eq!(plan["at_risk"]["basis"], "main", "{plan}");

    // An aborted drill leaves no copy either: the schedule deletes it.
    let again = tokio::time::timeout(Duration::from_secs(3), two.failover(&drill)).await;
    assert!(again.is_err(), "{again:?}");
    two.kill_failover().unwrap();
    two.failover(&json!({ "command": "abort", "drill": true })).await.unwrap();
    assert_eq!(drilled(&two).await["run"]["state"], "aborted");
    eventually("the copy is deleted", Duration::from_secs(30), async || {
        // RDS refuses the deletion while it creates the copy.
        let _ = two.failover(&json!({ "command": "resume_pending" })).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok((instances(&two) == ["standby-ledger"] && !is_changing(&two).await).then_some(()))
    })
    .await
    .unwrap();
}

/// Whether RDS is creating or deleting the copy.
async fn is_changing(two: &TwoRegions) -> bool {
    let resumed = two.failover(&json!({ "command": "resume_pending" })).await;
    resumed.is_err()
}
