//! Steps that are left outstanding, items that are set aside, and what a retry does.

use super::*;

#[test]
fn a_forced_run_begins_to_scale_right_after_the_gate_and_a_refusal_leaves_the_step_at_once() {
    let small = |is_settled| Observation::Instance { follows: true, is_settled, is_big_enough: Some(false) };
    let (raise, of_mode) = (FailoverAction::RaiseClass, run);
    let mut run = run(Mode::Forced { accepted: Loss::default() });
    run.step = FailoverStep::BeginScaleUp;
    assert_eq!(observed(&mut run, small(true), 0), Decision::Do(raise.clone()));
    run.performed(&raise, &Ok(Answer::Done(String::new())));
    assert_eq!(observed(&mut run, small(true), 2), Decision::Again);
    assert_eq!(run.step, FailoverStep::TakeLease);
    // The limit counts from the beginning.
    run.step = FailoverStep::ScaleUp;
    assert_eq!(observed(&mut run, small(false), 600), Decision::Pause);
    assert_eq!(observed(&mut run, small(false), 601), Decision::Again);
    assert_eq!((run.step, run.outstanding.as_slice()), (FailoverStep::Promote, &[FailoverStep::ScaleUp][..]));
    for (mode, step, next) in [
        (run.mode, FailoverStep::BeginScaleUp, FailoverStep::TakeLease),
        (run.mode, FailoverStep::ScaleUp, FailoverStep::Promote),
        (Mode::Planned, FailoverStep::ScaleUp, FailoverStep::StopSales),
    ] {
        let mut run = of_mode(mode);
        run.step = step;
        assert_eq!(observed(&mut run, small(true), 0), Decision::Do(raise.clone()));
        run.performed(&raise, &Ok(Answer::Refused("no capacity".into())));
        observed(&mut run, small(true), 2);
        assert_eq!((run.step, run.outstanding.as_slice()), (next, &[FailoverStep::ScaleUp][..]));
        assert_eq!(run.log_of(FailoverStep::ScaleUp).unwrap().last, "no capacity");
        // It is not asked again in this pass.
        run.step = FailoverStep::MoveRedis;
        let moved = Observation::Redis { role: Role::Primary, is_settled: true };
        assert_eq!(observed(&mut run, moved, 3), Decision::Again);
        assert_eq!(run.step, FailoverStep::Promote);
    }
}

#[test]
fn a_class_that_is_unknown_leaves_the_step_and_does_not_end_it() {
    let mut run = run(Mode::Forced { accepted: Loss::default() });
    run.step = FailoverStep::ScaleUp;
    let unknown = Observation::instance("available", true, None);
    assert_eq!(observed(&mut run, unknown, 0), Decision::Again);
    assert_eq!((run.step, run.outstanding.as_slice()), (FailoverStep::Promote, &[FailoverStep::ScaleUp][..]));
    assert!(run.log_of(FailoverStep::ScaleUp).unwrap().last.contains("FailoverClass"));
}

#[test]
fn a_retry_takes_only_the_steps_that_are_left() {
    let mut run = run(Mode::Planned);
    for step in FailoverStep::order(Mode::Planned) {
        let is_left = matches!(step, FailoverStep::ScaleUp | FailoverStep::FenceOldMain);
        run.log.push(StepLog { ended_ms: (!is_left).then_some(1), ..StepLog::begun(*step, 1) });
    }
    run.state = RunState::Degraded;
    run.outstanding = vec![FailoverStep::ScaleUp, FailoverStep::FenceOldMain];
    run.resume();
    assert_eq!(run.step, FailoverStep::ScaleUp);
    assert!(!run.can_abort(), "main was moved, though the step is an early one");
    assert_eq!(observed(&mut run, Observation::instance("available", false, true), 9), Decision::Again);
    assert_eq!(run.step, FailoverStep::FenceOldMain);
}

#[test]
fn a_run_of_an_older_version_goes_on_where_it_was() {
    // Stored while it raised the class, which older versions did after Redis was moved.
    let text = r#"{"id":"run","mode":"planned","from":"main","to":"standby","epoch":1,"withhold":0,
        "skip_cooldown":false,"since_last_seconds":null,"state":"running","step":"scale_up","log":[
        {"step":"precheck","began_ms":1,"ended_ms":2,"actions":0,"last":""},
        {"step":"stop_sales","began_ms":2,"ended_ms":3,"actions":1,"last":""},
        {"step":"lag_gate","began_ms":3,"ended_ms":4,"actions":0,"last":""},
        {"step":"take_lease","began_ms":4,"ended_ms":5,"actions":1,"last":""},
        {"step":"move_redis","began_ms":5,"ended_ms":6,"actions":1,"last":""},
        {"step":"scale_up","began_ms":6,"ended_ms":null,"actions":0,"last":""}],
        "outstanding":[],"why":"","stopped_ms":4,"stated":null}"#;
    let mut run: Run = serde_json::from_str(text).unwrap();
    assert!(!run.can_abort());
    assert_eq!(observed(&mut run, Observation::instance("available", true, true), 9), Decision::Again);
    assert_eq!(run.step, FailoverStep::Promote);
}

#[test]
fn a_bad_item_is_set_aside_and_the_others_sell() {
    let ids = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<_>>();
    let mut run = run(Mode::Planned);
    run.step = FailoverStep::Reconcile;
    let reconcile = Decision::Do(FailoverAction::Reconcile);
    assert_eq!(observed(&mut run, Observation::Stock { left: ids(&["bad", "good"]) }, 0), reconcile);
    let set_aside = [(ids(&["bad"]).remove(0), "WRONGTYPE".to_owned())].into();
    let answer = Answer::Items { text: "reconciled 1 item".into(), set_aside, failed: None };
    run.performed(&FailoverAction::Reconcile, &Ok(answer));
    assert_eq!(observed(&mut run, Observation::Stock { left: ids(&["bad"]) }, 1), Decision::Again);
    assert_eq!(
        (run.step, run.outstanding.as_slice()),
        (FailoverStep::Repoint, &[FailoverStep::Reconcile][..])
    );
    assert!(run.log_of(FailoverStep::Reconcile).unwrap().last.contains("bad: WRONGTYPE"));
    // The schedule tries the item again.
    run.state = RunState::Degraded;
    run.resume();
    assert_eq!(observed(&mut run, Observation::Stock { left: ids(&["bad"]) }, 2), reconcile);
    observed(&mut run, Observation::Stock { left: Vec::new() }, 3);
    assert_eq!(run.outstanding, []);
}

#[test]
fn an_error_that_is_not_the_items_own_delays_the_fence_only_until_the_limit() {
    let mut run = run(Mode::Planned);
    for step in FailoverStep::order(Mode::Planned) {
        let is_left = matches!(step, FailoverStep::Reconcile | FailoverStep::FenceOldMain);
        run.log.push(StepLog { ended_ms: (!is_left).then_some(1), ..StepLog::begun(*step, 1) });
    }
    run.state = RunState::Degraded;
    run.outstanding = vec![FailoverStep::Reconcile, FailoverStep::FenceOldMain];
    run.resume();
    let unavailable = || Err(Obstacle("the ledger does not answer".into()));
    let at = |seconds: u64| Stamp::from_micros(seconds * 1_000_000).unwrap();
    assert_eq!(run.observed(&unavailable(), at(1), TIMING), Decision::Pause);
    assert_eq!(run.observed(&unavailable(), at(121), TIMING), Decision::Pause);
    assert_eq!(run.observed(&unavailable(), at(122), TIMING), Decision::Again);
    assert_eq!((run.step, run.outstanding.len()), (FailoverStep::FenceOldMain, 2));
    assert!(run.log_of(FailoverStep::Reconcile).unwrap().last.contains("does not answer"));
}

#[test]
fn a_verdict_about_one_item_is_kept_although_another_item_failed() {
    let mut run = run(Mode::Planned);
    run.step = FailoverStep::Reconcile;
    let item_id: shared::item::ItemId = "bad".parse().unwrap();
    let left = Observation::Stock { left: vec![item_id.clone()] };
    observed(&mut run, left, 0);
    let (set_aside, failed) = ([(item_id, "malformed".to_owned())].into(), Some("no answer".to_owned()));
    let answer = Answer::Items { text: "reconciled 0 items".into(), set_aside, failed };
    run.performed(&FailoverAction::Reconcile, &Ok(answer));
    assert_eq!(run.set_aside.len(), 1);
    assert_eq!(run.log_of(FailoverStep::Reconcile).unwrap().last, "no answer");
}

#[test]
fn another_redis_is_named_until_sales_may_open_and_is_reconciled_and_repointed_again() {
    use FailoverStep::{MoveRedis, OpenSales, Promote, Reconcile, Repoint, ScaleUp};
    let mut run = run(Mode::Forced { accepted: Loss::default() });
    assert_eq!(run.use_redis("spare:6379"), Err(FailoverStep::Precheck));
    run.step = MoveRedis;
    assert_eq!(run.use_redis("spare:6379"), Ok(()));
    assert_eq!(run.redis_endpoint.as_deref(), Some("spare:6379"));
    let takes_writes = || Observation::Redis { role: Role::Alone, is_settled: true };
    assert_eq!(observed(&mut run, takes_writes(), 1), Decision::Again);
    // It dies before the new main sells.
    for step in FailoverStep::order(run.mode).iter().take_while(|step| **step != Repoint) {
        run.log.retain(|log| log.step != *step);
        run.log.push(StepLog { ended_ms: (*step != ScaleUp).then_some(1), ..StepLog::begun(*step, 1) });
    }
    run.log.push(StepLog::begun(Repoint, 1));
    run.step = Repoint;
    run.outstanding = vec![ScaleUp, Reconcile];
    run.waived = vec![Repoint];
    run.set_aside.insert("bad".parse().unwrap(), "WRONGTYPE".into());
    assert_eq!(run.use_redis("other:6379"), Ok(()));
    assert!(!run.can_abort() && run.set_aside.is_empty());
    assert_eq!(observed(&mut run, takes_writes(), 2), Decision::Again);
    assert_eq!(
        (run.step, run.outstanding.as_slice()),
        (Promote, &[ScaleUp][..]),
        "the class is not waited for"
    );
    for step in [Reconcile, Repoint] {
        assert!(!run.is_done(step), "{step:?}");
    }
    // The lease may be open, or is about to be.
    run.step = OpenSales;
    assert_eq!(run.use_redis("third:6379"), Err(OpenSales));
    // A class that was left is raised again once the new main sells.
    run.log.push(StepLog { ended_ms: Some(3), ..StepLog::begun(OpenSales, 2) });
    run.step = ScaleUp;
    assert_eq!(run.use_redis("third:6379"), Err(ScaleUp));
    assert_eq!(run.redis_endpoint.as_deref(), Some("other:6379"));
}

#[test]
fn another_redis_that_takes_no_writes_is_waited_for_and_no_datastore_is_changed() {
    let mut run = run(Mode::Planned);
    run.step = FailoverStep::MoveRedis;
    run.redis_endpoint = Some("spare:6379".into());
    for seconds in [0, 400] {
        let follows = Observation::Redis { role: Role::Secondary, is_settled: true };
        assert_eq!(observed(&mut run, follows, seconds), Decision::Pause);
        assert!(run.log.last().unwrap().last.contains("takes no writes"));
    }
}

#[test]
fn a_class_that_no_step_has_begun_to_raise_has_the_whole_limit() {
    let small = |is_settled| Observation::Instance { follows: true, is_settled, is_big_enough: Some(false) };
    let failed = Err(Obstacle("the instance is backing up".into()));
    for answer in [None, Some(failed), Some(Ok(Answer::Done(String::new())))] {
        let is_begun = matches!(answer, Some(Ok(_)));
        let mut run = run(Mode::Forced { accepted: Loss::default() });
        run.step = FailoverStep::BeginScaleUp;
        if let Some(answer) = answer {
            assert_eq!(observed(&mut run, small(true), 0), Decision::Do(FailoverAction::RaiseClass));
            run.performed(&FailoverAction::RaiseClass, &answer);
        }
        // Not settled: RDS is backing the instance up.
        assert_eq!(observed(&mut run, small(false), 1), Decision::Again);
        run.step = FailoverStep::ScaleUp;
        let late = observed(&mut run, small(true), 700);
        let expected = if is_begun { Decision::Again } else { Decision::Do(FailoverAction::RaiseClass) };
        assert_eq!(late, expected);
        if is_begun {
            assert!(!run.log_of(FailoverStep::ScaleUp).unwrap().last.is_empty());
            continue;
        }
        assert_eq!(observed(&mut run, small(false), 1_300), Decision::Pause);
        assert_eq!(observed(&mut run, small(false), 1_301), Decision::Again);
        assert_eq!(run.outstanding, [FailoverStep::ScaleUp]);
    }
}

#[test]
fn an_aborted_run_leaves_no_step_outstanding() {
    for mode in [Mode::Planned, Mode::Drill] {
        let mut run = run(mode);
        run.step = FailoverStep::LagGate;
        run.outstanding = vec![FailoverStep::ScaleUp];
        assert!(run.abort("an operator"));
        observed(&mut run, Observation::Lease(lease().marked("run")), 1);
        assert_eq!((run.state, run.outstanding.as_slice()), (RunState::Aborted, &[][..]));
    }
}

/// A run at *replay*, whose earlier steps are done.
fn replaying(mode: Mode) -> Run {
    let mut run = run(mode);
    run.order_logs.insert("main".into());
    for step in FailoverStep::order(mode).iter().take_while(|step| **step != FailoverStep::Replay) {
        run.log.push(StepLog { ended_ms: Some(1), ..StepLog::begun(*step, 1) });
    }
    run.step = FailoverStep::Replay;
    run
}

#[test]
fn smoke_test_and_fence_wait_a_minute_for_a_replay_which_then_takes_as_long_as_it_needs() {
    use FailoverStep::{FenceOldMain, Replay, SmokeTest};
    let mut run = replaying(Mode::Planned);
    let big = || Observation::Restoring { left: vec!["big".parse().unwrap()] };
    let left_ms = |run: &Run, seconds: u64| run.left_ms(at(seconds).as_millis());
    assert_eq!(observed(&mut run, big(), 0), Decision::Do(FailoverAction::Replay));
    assert_eq!(
        (left_ms(&run, 0), left_ms(&run, 45), left_ms(&run, 99)),
        (Some(60_000), Some(15_000), Some(0))
    );
    run.performed(&FailoverAction::Replay, &Err(Obstacle("it takes longer".into())));
    assert_eq!(observed(&mut run, big(), 61), Decision::Again);
    assert_eq!((run.step, run.outstanding.as_slice()), (SmokeTest, &[Replay][..]));
    let sold = || Observation::Canary { is_placed: true, is_sold: true };
    assert_eq!(observed(&mut run, sold(), 62), Decision::Again);
    let no_answer = Err(Obstacle("the old main does not answer".into()));
    run.observed(&no_answer, at(63), TIMING);
    assert_eq!(run.observed(&no_answer, at(184), TIMING), Decision::Again);
    // In the same pass, with a limit of its own.
    assert_eq!((run.step, run.outstanding.as_slice()), (Replay, &[Replay, FenceOldMain][..]));
    assert_eq!(observed(&mut run, big(), 185), Decision::Do(FailoverAction::Replay));
    assert_eq!(left_ms(&run, 185), None, "no step waits for it");
    assert_eq!(observed(&mut run, big(), 246), Decision::End);
    // The retries of the fence do not wait for it either.
    for fence_is_done in [false, true] {
        let mut again = run.clone();
        again.resume();
        assert_eq!(again.step, FenceOldMain);
        if fence_is_done {
            again.waive(FenceOldMain, "the region is lost", 1);
        } else {
            again.observed(&no_answer, at(300), TIMING);
            again.observed(&no_answer, at(421), TIMING);
        }
        assert_eq!(again.step, Replay);
        let is_restored = Observation::Restoring { left: Vec::new() };
        assert_eq!(observed(&mut again, is_restored, 430), Decision::End);
        assert_eq!(again.state == RunState::Done, fence_is_done);
    }
    // An operator's decision about a log does not wait for the fence.
    assert_eq!(run.without_log("main"), Ok(()));
    assert_eq!((run.state, run.step), (RunState::Running, Replay));
    assert_eq!(observed(&mut run, big(), 500), Decision::Do(FailoverAction::Replay));
}

#[test]
fn the_orders_of_a_region_that_is_repointed_after_sales_have_opened_are_replayed_again() {
    let pointers =
        |left: &[&str]| Observation::Pointers { left: left.iter().map(|one| (*one).into()).collect() };
    let replay_of = |regions: &[&str]| {
        let regions = regions.iter().map(|region| (*region).to_owned()).collect();
        FailoverAction::ReplayAgain { regions }
    };
    let done = || Ok(Answer::Done(String::new()));
    for has_logs in [true, false] {
        let mut run = run(Mode::Planned);
        run.order_logs.extend(has_logs.then(|| "main".to_owned()));
        run.step = FailoverStep::Repoint;
        observed(&mut run, pointers(&["edge", "main", "standby"]), 0);
        // The standby and the edge follow before sales open: the replay reads all that the edge has sent elsewhere.
        assert_eq!(observed(&mut run, pointers(&["main", "other"]), 121), Decision::Again);
        assert_eq!(run.outstanding, [FailoverStep::Repoint]);
        for step in [FailoverStep::OpenSales, FailoverStep::Replay] {
            run.log.push(StepLog { ended_ms: Some(1), ..StepLog::begun(step, 1) });
        }
        run.state = RunState::Degraded;
        run.resume();
        if !has_logs {
            assert_eq!(observed(&mut run, pointers(&[]), 200), Decision::Again);
            assert_eq!((run.outstanding.len(), run.not_repointed.len()), (0, 0));
            continue;
        }
        // One region is back, and the other one may stay away for days.
        assert_eq!(observed(&mut run, pointers(&["main"]), 200), Decision::Do(replay_of(&["other"])));
        run.performed(&replay_of(&["other"]), &Err(Obstacle("Redis does not answer".into())));
        assert_eq!(observed(&mut run, pointers(&["main"]), 201), Decision::Do(replay_of(&["other"])));
        run.performed(&replay_of(&["other"]), &done());
        assert_eq!(observed(&mut run, pointers(&["main"]), 202), Decision::Do(FailoverAction::Repoint));
        assert_eq!(observed(&mut run, pointers(&[]), 203), Decision::Do(replay_of(&["main"])));
        run.performed(&replay_of(&["main"]), &done());
        assert_eq!(observed(&mut run, pointers(&[]), 204), Decision::Again);
        assert_eq!(run.outstanding, []);
    }
}
