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
    run.performed(&FailoverAction::Reconcile, &Ok(Answer::Reconciled("reconciled 1 item".into(), set_aside)));
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
fn another_redis_is_named_only_while_redis_is_moved() {
    let mut run = run(Mode::Planned);
    assert!(!run.use_redis("spare:6379"));
    run.step = FailoverStep::MoveRedis;
    run.is_drill = true;
    assert!(!run.use_redis("spare:6379"));
    run.is_drill = false;
    assert!(run.use_redis("spare:6379"));
    assert_eq!(run.redis_endpoint.as_deref(), Some("spare:6379"));
    let takes_writes = Observation::Redis { role: Role::Alone, is_settled: true };
    assert_eq!(observed(&mut run, takes_writes, 1), Decision::Again);
    assert!(!run.use_redis("other:6379"), "the run is past it");
}
