//! The standby takes over, whole: two regions with real servers, buyers ordering throughout, AWS's control plane
//! on this machine. The long form is `make drill`.

use local::drill::{Accident, Course, Outcome, carry_out};

/// A drill's course without anything by lot.
fn course(seed: u64, accident: Option<Accident>) -> Course {
    Course {
        seed,
        accident,
        reaches_table: false,
        before_ms: 5_000,
        decides_after_ms: 500,
        kills_after_ms: Vec::new(),
        is_small: false,
        backs_up: false,
        throttled: 0,
    }
}

async fn carried_out(course: Course) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let outcome = carry_out(&course, folder.path(), 12, &|what| println!("{what}")).await.unwrap();
    println!("{}", serde_json::to_string_pretty(&outcome.report["steps"]).unwrap());
    println!("{outcome:?}");
    assert_eq!(outcome.faults(), Vec::<String>::new(), "{}", course.words());
    assert!(outcome.buyers > 100, "{} buyers say little", outcome.buyers);
    outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_failover_loses_nothing_and_nobody_sells_beside_another() {
    let outcome = carried_out(Course { is_small: true, throttled: 3, ..course(1, None) }).await;
    assert_eq!((outcome.findings.lost_sales, outcome.findings.lost_places), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_main_that_is_killed_whole_is_taken_over_and_harmless_when_it_is_back() {
    carried_out(course(2, Some(Accident::Kill))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_main_that_is_cut_off_and_lives_stops_before_the_standby_sells() {
    let kills_after_ms = vec![3_000, 4_000];
    let outcome = carried_out(Course { kills_after_ms, ..course(3, Some(Accident::Cut)) }).await;
    let told = &outcome.told_by_old_main;
    let refused: u64 = told.iter().filter(|(what, _)| what.starts_with("503 ")).map(|(_, times)| times).sum();
    assert!(refused > 0, "the buyers of a main that is cut off were told {told:?}");
}
