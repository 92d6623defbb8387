//! The verdict over generated series: which verdict must come, how soon, and none without evidence.

mod model;
mod notices;
mod recorded;

use model::{LAG_LIMIT_SECONDS, Model};
use proptest::prelude::*;
use replica_lag::judge::judge;
use replica_lag::notice::findings;
use replica_lag::sample::StandbySample;
use replica_lag::verdict::ReplicaVerdict;
use replica_lag::verdict::ReplicaVerdict::{Broken, CatchingUp, Healthy, Overloaded, Undersized, Unknown};
use replica_lag::window::Window;
use std::collections::BTreeSet;

/// What a busy main writes, in bytes a second; the model's replica replays 2 MB.
const BUSY: f64 = 1.2e6;
const TOO_MUCH: f64 = 4e6;

fn quiet(seed: u64) -> Model {
    let mut model = Model::new(seed);
    model.pass(120, |_, _| {});
    assert_eq!(model.verdict(), Healthy);
    model.changes.clear();
    model
}

#[test]
fn nothing_is_healthy_without_evidence() {
    let nothing = judge(None, &Window::default(), LAG_LIMIT_SECONDS);
    assert_eq!((nothing.verdict, nothing.cause), (Unknown, "no-sample"));
    let mut window = Window::default();
    window.push(StandbySample { at_ms: 1, ..StandbySample::default() }, LAG_LIMIT_SECONDS);
    let blind = judge(None, &window, LAG_LIMIT_SECONDS);
    assert_eq!((blind.verdict, blind.cause), (Unknown, "no-evidence"));
    assert!(blind.why.contains("replica-ledger"), "{}", blind.why);
}

#[test]
fn an_idle_and_a_busy_main_are_healthy() {
    let mut model = quiet(1);
    model.pass(900, |_, _| {});
    model.load = BUSY;
    model.pass(1_800, |_, _| {});
    assert_eq!(model.verdicts(), []);
}

#[test]
fn one_burst_is_overloaded_then_catching_up_then_over() {
    let mut model = quiet(2);
    model.load = TOO_MUCH;
    model.pass(120, |_, _| {});
    model.load = 0.0;
    model.pass(600, |_, _| {});
    assert_eq!(model.verdicts(), [Overloaded, CatchingUp, Healthy]);
    let (_, catching_up) = &model.changes[1];
    // 120 s at twice the replica's capacity leave about 120 s of replay, and some of that has passed.
    let left = catching_up.caught_up_in_seconds.unwrap();
    assert!((20..=150).contains(&left), "{left}");
}

#[test]
fn a_replica_that_falls_behind_repeatedly_is_undersized() {
    let mut model = quiet(3);
    model.classes = ("db.r6g.large", "db.r6g.xlarge");
    for _ in 0..3 {
        model.load = TOO_MUCH;
        model.pass(120, |_, _| {});
        model.load = 0.0;
        model.pass(3_600, |_, _| {});
    }
    let time = |kind| [kind, CatchingUp, Healthy];
    assert_eq!(model.verdicts(), [time(Overloaded), time(Undersized), time(Undersized)].concat());
    let (_, undersized) = &model.changes[3];
    assert_eq!(undersized.cause, "falls-behind-repeatedly");
    assert_eq!(undersized.recommended_class.as_deref(), Some("db.r6g.xlarge"));
    assert!(undersized.why.contains("has fallen behind 2 times"), "{}", undersized.why);
    // Once it has caught up, it could take over, and the report still mentions it.
    let newest = model.state().window.newest().unwrap().clone();
    let findings = findings(&newest, model.state()).join("; ");
    assert!(
        findings.contains("earlier lags of the replica (db.r6g.large; main: db.r6g.xlarge) in two weeks: 3"),
        "{findings}"
    );
    // Two weeks later it is forgotten.
    model.every = 60;
    model.pass(14 * 86_400, |_, _| {});
    assert_eq!(model.state().window.earlier_lags(), 0);
}

#[test]
fn overloaded_names_no_earlier_lag_only_if_there_is_none() {
    let mut model = quiet(3);
    let burst = |model: &mut Model| {
        model.load = TOO_MUCH;
        model.pass(120, |_, _| {});
        model.load = 0.0;
        model.pass(3_600, |_, _| {});
    };
    burst(&mut model);
    // A query holds replay at first, so that this lag is not the replica's.
    (model.load, model.is_held) = (TOO_MUCH, true);
    model.pass(29, |_, _| {});
    model.is_held = false;
    burst(&mut model);
    let overloaded = model.changes.iter().filter(|(_, assessment)| assessment.verdict == Overloaded);
    let first: Vec<bool> = overloaded.map(|(_, it)| it.why.contains("has not done so before")).collect();
    assert_eq!(first, [true, false], "{:?}", model.changes);
}

#[test]
fn a_question_that_fails_during_a_lag_obstructs_nothing() {
    let mut model = quiet(3);
    for _ in 0..2 {
        model.load = TOO_MUCH;
        model.pass(30, |_, _| {});
        model.failing = 1.0;
        model.pass(10, |_, _| {});
        model.failing = 0.0;
        model.pass(80, |_, _| {});
        model.load = 0.0;
        model.pass(3_600, |_, _| {});
    }
    assert!(model.verdicts().contains(&Undersized), "{:?}", model.verdicts());
}

#[test]
fn a_bigger_instance_class_ends_undersized() {
    let mut model = quiet(4);
    let fall_behind = |model: &mut Model| {
        model.changes.clear();
        model.load = 2.0 * model.capacity;
        model.pass(120, |_, _| {});
        model.load = 0.0;
        model.pass(3_600, |_, _| {});
        model.verdicts()[0]
    };
    assert_eq!((fall_behind(&mut model), fall_behind(&mut model)), (Overloaded, Undersized));
    model.classes = ("db.r6g.2xlarge", "db.r6g.large");
    model.capacity = 8e6;
    model.pass(300, |_, _| {});
    // What the smaller class did says nothing about this one.
    assert_eq!((fall_behind(&mut model), fall_behind(&mut model)), (Overloaded, Undersized));
}

#[test]
fn missing_heartbeats_are_no_lag_and_a_pause_is() {
    let mut model = quiet(6);
    model.writes_heartbeats = false;
    model.pass(600, |_, _| {});
    assert_eq!(model.verdicts(), []);
    model.writes_heartbeats = true;
    model.pass(60, |_, _| {});
    model.is_paused = true;
    model.pass(60, |_, _| {});
    assert_eq!((model.verdict(), model.changes[0].1.cause), (Broken, "paused"));
    model.is_paused = false;
    model.pass(300, |_, _| {});
    assert_eq!(model.verdict(), Healthy);
}

#[test]
fn a_query_that_holds_replay_says_nothing_about_the_replica() {
    for load in [0.0, 0.9 * BUSY] {
        let mut model = quiet(8);
        model.load = load;
        model.pass(600, |_, _| {});
        let mut causes = BTreeSet::new();
        for _ in 0..4 {
            model.is_held = true;
            model.pass(29, |_, assessment| {
                causes.insert(assessment.cause);
            });
            model.is_held = false;
            model.pass(3_600, |_, _| {});
        }
        assert!(!model.verdicts().contains(&Undersized), "{load}: {:?}", model.changes);
        assert_eq!(model.verdict(), Healthy);
        // Next to nothing is unreplayed if main is idle.
        if load == 0.0 {
            assert_eq!(model.verdicts(), []);
            assert!(causes.contains("replay-held"), "{causes:?}");
        }
    }
}

#[test]
fn an_unstable_connection_is_not_broken() {
    let mut model = quiet(7);
    model.every = 2;
    model.load = BUSY;
    model.pass(60, |_, _| {});
    for _ in 0..5 {
        model.is_connected = false;
        model.pass(9, |_, _| {});
        model.is_connected = true;
        model.pass(120, |_, _| {});
    }
    assert_eq!(model.verdicts(), []);
}

#[derive(Clone, Copy, Debug)]
enum PairFault {
    ConnectionCut,
    ConnectionClosed,
    MainGone,
    ReplicaGone,
    BothSilent,
}

fn fault() -> impl Strategy<Value = PairFault> {
    use PairFault::{BothSilent, ConnectionClosed, ConnectionCut, MainGone, ReplicaGone};
    proptest::sample::select(vec![ConnectionCut, ConnectionClosed, MainGone, ReplicaGone, BothSilent])
}

fn strike(model: &mut Model, fault: PairFault) {
    match fault {
        PairFault::ConnectionCut => model.is_connected = false,
        PairFault::ConnectionClosed => (model.is_connected, model.is_noticed) = (false, true),
        PairFault::MainGone => (model.is_connected, model.main_answers) = (false, false),
        PairFault::ReplicaGone => (model.replica_answers, model.is_noticed) = (false, true),
        PairFault::BothSilent => (model.replica_answers, model.main_answers) = (false, false),
    }
}

/// Queries hold replay: each stretch has main's load and the seconds for which replay is held and then free. Returns when
/// the standby was not healthy although it could have taken over, with the causes.
fn hold_now_and_then(
    seed: u64,
    every: i64,
    stretches: &[(f64, i64, i64)],
) -> (Vec<(i64, &'static str)>, Model) {
    let mut model = quiet(seed);
    model.every = every;
    let mut wrong = Vec::new();
    for &(load, held, free) in stretches {
        model.load = load;
        model.is_held = true;
        let could_take_over = load == 0.0 && model.verdict() == Healthy && model.lag() < 2.0;
        model.pass(held, |model, assessment| {
            if could_take_over && assessment.verdict != Healthy {
                wrong.push((model.now(), assessment.cause));
            }
        });
        model.is_held = false;
        model.pass(free, |_, _| {});
    }
    (wrong, model)
}

#[test]
fn a_query_that_no_sample_has_seen_is_no_lag_of_the_replica() {
    // The second query begins and ends between two samples, while the first lag's verdict goes on.
    let (_, model) =
        hold_now_and_then(15_514_476_347_627_425_950, 10, &[(0.9 * BUSY, 19, 64), (0.3e6, 9, 454)]);
    assert!(model.verdicts().contains(&Overloaded), "{:?}", model.changes);
    assert_eq!(model.state().window.earlier_lags(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Every fault is reported within a minute, is never followed by healthy while it lasts, and its end is reported once.
    #[test]
    fn a_fault_is_reported_within_a_minute(
        seed: u64, kind in fault(), load in 0.0..BUSY, quiet_for in 0_i64..120, lasts in 90_i64..900,
    ) {
        let mut model = quiet(seed);
        model.load = load;
        model.pass(quiet_for, |_, _| {});
        prop_assert_eq!(model.verdicts(), []);
        strike(&mut model, kind);
        let began = model.now();
        let mut wrong = Vec::new();
        model.pass(lasts, |model, assessment| {
            if model.now() - began > 60 && assessment.verdict == Healthy {
                wrong.push(model.now() - began);
            }
        });
        prop_assert_eq!(wrong, Vec::<i64>::new());
        // If neither side answers, the verdict is unknown as long as CloudWatch has a figure.
        let expected = if matches!(kind, PairFault::BothSilent) { Unknown } else { Broken };
        let reported = model.changes.iter().find(|(_, assessment)| assessment.verdict == expected);
        prop_assert!(reported.is_some_and(|(at, _)| at - began <= 60), "{:?}: {:?}", kind, model.changes);
        (model.is_connected, model.is_noticed, model.replica_answers, model.main_answers) = (true, false, true, true);
        prop_assert!(lasts < 300 || model.verdict() == Broken, "{:?}", model.verdicts());
        model.changes.clear();
        model.pass(5_400, |_, _| {});
        prop_assert_eq!(model.verdict(), Healthy);
        prop_assert!(model.changes.len() <= 3, "{:?}", model.verdicts());
        prop_assert_eq!(model.verdicts().iter().filter(|one| **one == Broken).count(), 0);
    }

    /// Queries hold replay at any time, and for as long as PostgreSQL lets them by default. That never means that the
    /// replica is too small; and while main is idle, the standby could take over.
    #[test]
    fn held_replay_says_nothing_about_the_replica_s_size(
        seed: u64,
        every in 1_i64..=10,
        stretches in prop::collection::vec(
            (prop::sample::select(vec![0.0, 0.0, 0.3e6, 0.9 * BUSY]), 1_i64..30, 60_i64..600), 1..9,
        ),
    ) {
        let (wrong, model) = hold_now_and_then(seed, every, &stretches);
        prop_assert_eq!(wrong, Vec::new());
        prop_assert!(!model.verdicts().contains(&Undersized), "{:?}", model.changes);
        prop_assert_eq!(model.state().window.earlier_lags(), 0);
    }

    /// Neither occasional failures of questions nor a load close to the capacity change the verdict.
    #[test]
    fn a_load_close_to_the_capacity_does_not_flap(seed: u64, failing in 0.0..0.02, load in 0.0..1.7e6) {
        let mut model = quiet(seed);
        (model.failing, model.load) = (failing, load);
        model.pass(3_600, |_, _| {});
        prop_assert_eq!(model.verdicts(), []);
    }

    /// With changing loads and cuts, the kind of a lag changes once a minute at most, and the verdict is never healthy
    /// while the replica has been far behind for long.
    #[test]
    fn a_replica_far_behind_is_never_healthy_and_its_verdict_never_flaps(
        seed: u64,
        stretches in prop::collection::vec((0.0..6e6, 20_i64..400, prop::bool::weighted(0.1)), 1..25),
    ) {
        let mut model = quiet(seed);
        let mut far_since = None;
        let mut wrong = Vec::new();
        for (load, seconds, cut) in stretches {
            model.load = load;
            model.is_connected = !cut;
            model.pass(seconds, |model, assessment| {
                if model.lag() < LAG_LIMIT_SECONDS * 1.5 {
                    far_since = None;
                } else {
                    let since = *far_since.get_or_insert(model.now());
                    if model.now() - since > 60 && assessment.verdict == Healthy {
                        wrong.push((model.now(), model.lag()));
                    }
                }
            });
        }
        prop_assert_eq!(wrong, Vec::new());
        let of_lag = |verdict: ReplicaVerdict| matches!(verdict, CatchingUp | Overloaded);
        for pair in model.changes.windows(2) {
            let ((before, one), (after, other)) = (&pair[0], &pair[1]);
            if of_lag(one.verdict) && of_lag(other.verdict) {
                prop_assert!(after - before >= 60, "{before} {:?} {after} {:?}", one.verdict, other.verdict);
            }
        }
    }
}
