use super::*;
use crate::fence::OldDatabase;
use crate::observation::{FunctionState, Loss, Role};
use crate::readiness::Reason;
use crate::run::Mode;
use lease::LeaseRecord;
use ledger::OtherWriters;
use std::time::Duration;

const TIMING: LeaseTiming = LeaseTiming { lasts: Duration::from_secs(12), tolerance: Duration::from_secs(1) };

fn at(seconds: u64) -> Stamp {
    Stamp::from_micros(1_795_000_000_000_000 + seconds * 1_000_000).unwrap()
}

fn run(mode: Mode) -> Run {
    Run::new("run", mode, ("main", "standby"), 1, 0)
}

fn lease() -> LeaseRecord {
    LeaseRecord::first("main", 1).renewed("main", at(0), TIMING).unwrap()
}

fn observed(run: &mut Run, observation: Observation, seconds: u64) -> Decision {
    run.observed(&Ok(observation), at(seconds), TIMING)
}

fn ready(lease: LeaseRecord, loss: Loss) -> Observation {
    Observation::Ready {
        lease,
        replica_follows: true,
        main_answers: false,
        loss,
        last_run_seconds: Some(60),
        reasons: Vec::new(),
        unreadable_logs: [].into(),
    }
}

#[test]
fn the_lag_gate_waits_for_the_end_of_the_lease() {
    let mut run = run(Mode::Planned);
    run.step = FailoverStep::LagGate;
    let all_here = |lease| Observation::Lag {
        lease,
        ledger_is_here: Some(true),
        redis_is_here: Some(true),
        loss: Loss::default(),
    };
    let closed = lease().closed("run");
    assert_eq!(observed(&mut run, all_here(closed.clone()), 12), Decision::Pause);
    assert_eq!(observed(&mut run, all_here(closed), 14), Decision::Again);
    assert_eq!(run.step, FailoverStep::TakeLease);
}

#[test]
fn a_reason_halts_a_planned_run_before_sales_are_stopped_and_no_forced_one() {
    let accepted = Loss { ms: u64::MAX, sales: u64::MAX };
    let detached = Reason::refusing("Redis has left the datastore");
    let quota = Reason::noting("the quota is small");
    for (mode, reason, is_halted) in [
        (Mode::Planned, &detached, true),
        (Mode::Planned, &quota, false),
        (Mode::Forced { accepted }, &detached, false),
    ] {
        let mut run = run(mode);
        run.skip_cooldown = true;
        let mut found = ready(lease(), Loss::default());
        if let Observation::Ready { reasons, main_answers, .. } = &mut found {
            (*reasons, *main_answers) = (vec![reason.clone()], true);
        }
        observed(&mut run, found, 1);
        assert_eq!(run.state == RunState::Aborting, is_halted, "{reason}: {}", run.why);
        assert!(!is_halted || run.why.contains(reason.reason), "{}", run.why);
    }
}

#[test]
fn a_precheck_that_fails_aborts_with_its_reason() {
    let loss = Loss { ms: 5_000, sales: 7 };
    let forced = |ms, sales| Mode::Forced { accepted: Loss { ms, sales } };
    let refused = |mode, lease, text: &str| {
        let mut run = run(mode);
        run.skip_cooldown = text != "an hour";
        assert_eq!(observed(&mut run, ready(lease, loss), 1), Decision::Again);
        assert!(run.state == RunState::Aborting && run.why.contains(text), "{text}: {}", run.why);
    };
    refused(Mode::Planned, lease(), "main does not answer");
    refused(forced(4_999, 7), lease(), "5000 ms");
    refused(forced(5_000, 6), lease(), "7 sales");
    refused(forced(5_000, 7), lease(), "an hour");
    refused(forced(5_000, 7), lease().closed("another"), "another failover");
    refused(forced(5_000, 7), LeaseRecord::first("main", 2), "epoch 2");
    let mut may = run(forced(5_000, 7));
    may.skip_cooldown = true;
    assert_eq!(observed(&mut may, ready(lease(), loss), 1), Decision::Again);
    assert_eq!(may.step, FailoverStep::StopSales);
    // Killed after it had closed the lease; another execution begins again.
    may.step = FailoverStep::Precheck;
    assert_eq!(observed(&mut may, ready(lease().closed("run"), loss), 1), Decision::Again);
    assert_eq!(may.state, RunState::Running);
}

#[test]
fn a_forced_run_does_not_begin_without_a_region_s_log_unless_the_operator_says_so() {
    let accepted = Loss { ms: u64::MAX, sales: u64::MAX };
    for (without, begins) in [(None, false), (Some("edge"), false), (Some("main"), true)] {
        let mut run = run(Mode::Forced { accepted });
        run.skip_cooldown = true;
        run.without_logs.extend(without.map(str::to_owned));
        let mut found = ready(lease(), Loss::default());
        if let Observation::Ready { unreadable_logs, .. } = &mut found {
            unreadable_logs.insert("main".into(), "no answer".into());
        }
        assert_eq!(observed(&mut run, found, 1), Decision::Again);
        assert_eq!(run.state == RunState::Running, begins, "{without:?}: {}", run.why);
        assert!(begins || run.why.contains("main cannot be read"), "{}", run.why);
    }
}

#[test]
fn a_replay_is_repeated_until_no_item_waits_and_nothing_is_replayed_without_logs() {
    let restoring = |items: &[&str]| Observation::Restoring {
        left: items.iter().map(|item_id| item_id.parse().unwrap()).collect(),
    };
    let mut run = run(Mode::Planned);
    run.step = FailoverStep::Replay;
    run.order_logs.insert("main".into());
    let mut of_earlier_release = run.clone();
    assert_eq!(observed(&mut of_earlier_release, restoring(&[]), 1), Decision::Again);
    assert_eq!(of_earlier_release.step, FailoverStep::OpenSales);
    run.log.push(StepLog { ended_ms: Some(1), ..StepLog::begun(FailoverStep::OpenSales, 0) });
    assert_eq!(observed(&mut run, restoring(&["drop"]), 1), Decision::Do(FailoverAction::Replay));
    run.performed(&FailoverAction::Replay, &Err(Obstacle("the order log of main cannot be read".into())));
    assert!(run.log_of(FailoverStep::Replay).unwrap().last.contains("main"));
    assert_eq!(run.without_log("main"), Ok(()));
    assert!(run.may_leave_log("main") && !run.may_leave_log("edge"));
    assert_eq!(observed(&mut run, restoring(&["drop"]), 50), Decision::Do(FailoverAction::Replay));
    // The others sell: the next steps do not wait for it.
    let mut late = run.clone();
    assert_eq!(observed(&mut late, restoring(&["drop"]), 70), Decision::Again);
    assert_eq!((late.step, &late.outstanding[..]), (FailoverStep::SmokeTest, &[FailoverStep::Replay][..]));
    assert_eq!(observed(&mut run, restoring(&[]), 80), Decision::Again);
    assert_eq!((run.step, run.without_log("edge")), (FailoverStep::SmokeTest, Err(FailoverStep::SmokeTest)));
    // An item of which the keys are malformed does not stop the others.
    let mut other = Run { step: FailoverStep::Replay, ..run.clone() };
    other.log.clear();
    other.set_aside.insert("bad".parse().unwrap(), "WRONGTYPE".into());
    assert_eq!(observed(&mut other, restoring(&["bad"]), 1), Decision::Again);
    assert_eq!(other.outstanding, [FailoverStep::Replay]);
    other.state = RunState::Degraded;
    assert_eq!(other.without_log("edge"), Ok(()));
    assert_eq!((other.state, other.step), (RunState::Running, FailoverStep::Replay));
    let mut none = Run { step: FailoverStep::Replay, ..run };
    none.log.clear();
    none.order_logs.clear();
    assert_eq!(observed(&mut none, restoring(&[]), 1), Decision::Again);
    assert!(none.log_of(FailoverStep::Replay).unwrap().last.contains("no order log"));
}

#[test]
fn a_run_cannot_be_aborted_once_redis_moves() {
    let mut early = run(Mode::Planned);
    early.step = FailoverStep::TakeLease;
    assert!(early.abort("an operator") && early.state == RunState::Aborting);
    let returned = observed(&mut early, Observation::Lease(lease().closed("run")), 1);
    assert!(
        matches!(returned, Decision::Do(FailoverAction::WriteLease(record)) if record.is_open && record.epoch == 1)
    );
    let mut late = run(Mode::Planned);
    late.step = FailoverStep::MoveRedis;
    assert!(!late.abort("an operator") && late.state == RunState::Running);
}

#[test]
fn a_skipped_step_is_outstanding_and_done_after_a_resume() {
    let accepted = Loss { ms: u64::MAX, sales: u64::MAX };
    let mut run = run(Mode::Forced { accepted });
    run.step = FailoverStep::FenceOldMain;
    let no_answer = Err(Obstacle("main does not answer".into()));
    assert_eq!(run.observed(&no_answer, at(0), TIMING), Decision::Pause);
    assert_eq!(run.observed(&no_answer, at(121), TIMING), Decision::End);
    assert_eq!(
        (&run.state, run.outstanding.as_slice()),
        (&RunState::Degraded, [FailoverStep::FenceOldMain].as_slice())
    );
    run.resume();
    let fence = |is_closed: bool, is_settled| {
        let writers = is_closed.then_some(OtherWriters { open: 0, own: 0 });
        Observation::Fence(OldDatabase { is_closed, is_settled, is_rebooting: false, writers, ended: 0 })
    };
    assert_eq!(observed(&mut run, fence(false, true), 500), Decision::Do(FailoverAction::Fence));
    // A change in progress is not started again.
    assert_eq!(observed(&mut run, fence(false, false), 501), Decision::Pause);
    assert_eq!(observed(&mut run, fence(true, true), 502), Decision::End);
    assert_eq!((&run.state, run.outstanding.len()), (&RunState::Done, 0));
}

#[test]
fn a_waived_step_is_not_tried_again() {
    let mut run = run(Mode::Planned);
    run.state = RunState::Degraded;
    run.step = FailoverStep::FenceOldMain;
    run.outstanding = vec![FailoverStep::SmokeTest, FailoverStep::FenceOldMain];
    assert!(!run.waive(FailoverStep::Repoint, "why not", 1), "it is not outstanding");
    assert!(run.waive(FailoverStep::FenceOldMain, "it is deleted", 1));
    assert_eq!(
        (run.state, run.outstanding.as_slice()),
        (RunState::Degraded, [FailoverStep::SmokeTest].as_slice())
    );
    // The outstanding step is tried, and the waived step is not.
    run.resume();
    assert_eq!(run.step, FailoverStep::SmokeTest);
    assert_eq!(observed(&mut run, Observation::Canary { is_placed: true, is_sold: true }, 5), Decision::End);
    assert_eq!((run.state, run.waived.as_slice()), (RunState::Done, [FailoverStep::FenceOldMain].as_slice()));
    let last = run.log.iter().find(|log| log.step == FailoverStep::FenceOldMain).map(|log| log.last.as_str());
    assert_eq!(last, Some("waived by the operator: it is deleted"));
}

#[test]
fn the_current_step_can_be_waived_too() {
    let mut run = run(Mode::Planned);
    run.state = RunState::Degraded;
    run.outstanding = vec![FailoverStep::FenceOldMain];
    run.resume();
    assert_eq!((run.state, run.step), (RunState::Running, FailoverStep::FenceOldMain));
    assert!(run.waive(FailoverStep::FenceOldMain, "it is deleted", 1));
    assert_eq!(run.state, RunState::Done);
}

#[test]
fn aborted_runs_and_retries_do_not_change_the_cooldown() {
    let mut done = run(Mode::Planned);
    done.state = RunState::Degraded;
    done.log = vec![
        StepLog { ended_ms: Some(60_000), ..StepLog::begun(FailoverStep::OpenSales, 50_000) },
        // Tried again a moment ago.
        StepLog::begun(FailoverStep::FenceOldMain, 99_000),
    ];
    let mut aborted = run(Mode::Planned);
    aborted.set_previous(Some(&done), 100_000);
    assert_eq!(aborted.since_last_seconds, Some(40));
    aborted.state = RunState::Aborted;
    let mut third = run(Mode::Planned);
    third.set_previous(Some(&aborted), 160_000);
    assert_eq!(third.since_last_seconds, Some(100));
    let mut first = run(Mode::Planned);
    first.set_previous(None, 1);
    assert_eq!(first.since_last_seconds, None);
}

#[test]
fn a_drill_waits_for_the_deletion_of_its_copy_and_is_not_aborted_for_it() {
    let mut run = run(Mode::Drill);
    run.step = FailoverStep::FenceOldMain;
    let deleting =
        OldDatabase { is_closed: false, is_settled: false, is_rebooting: false, writers: None, ended: 0 };
    let fence = || Observation::Fence(deleting);
    assert_eq!(observed(&mut run, fence(), 0), Decision::Pause);
    assert_eq!(observed(&mut run, fence(), 29 * 60), Decision::Pause);
    assert_eq!(observed(&mut run, fence(), 31 * 60), Decision::End);
    assert_eq!(
        (run.state, run.outstanding.as_slice()),
        (RunState::Degraded, [FailoverStep::FenceOldMain].as_slice())
    );
}

#[test]
fn a_forced_failover_does_not_wait_for_the_region_that_is_lost() {
    let accepted = Loss::default();
    for (mode, at_once) in [(Mode::Forced { accepted }, true), (Mode::Planned, false)] {
        let mut run = run(mode);
        run.step = FailoverStep::Repoint;
        let left = |regions: &[&str]| Observation::Pointers {
            left: regions.iter().map(|name| (*name).into()).collect(),
        };
        assert_eq!(observed(&mut run, left(&["main", "standby"]), 0), Decision::Do(FailoverAction::Repoint));
        assert_eq!(observed(&mut run, left(&["main", "standby"]), 20), Decision::Do(FailoverAction::Repoint));
        let next = observed(&mut run, left(&["main"]), 21);
        assert_eq!(next == Decision::Again, at_once, "{next:?}");
        assert_eq!(run.outstanding == [FailoverStep::Repoint], at_once);
    }
}

#[test]
fn redis_is_asked_for_in_every_state_and_is_to_be_detached_as_well_once_that_takes_too_long() {
    let accepted = Loss::default();
    for mode in [Mode::Planned, Mode::Forced { accepted }] {
        let mut run = run(mode);
        run.step = FailoverStep::MoveRedis;
        let observation = || Observation::Redis { role: Role::Secondary, is_settled: false };
        let moves = Decision::Do(FailoverAction::MoveRedis);
        assert_eq!(observed(&mut run, observation(), 0), moves);
        assert_eq!(observed(&mut run, observation(), 299), moves);
        // A move that hangs refuses to be detached: it is tried ever more rarely.
        let is_move = |seconds| observed(&mut run, observation(), seconds) == moves;
        let tries: Vec<bool> = (301..315).map(is_move).collect();
        let moved: Vec<usize> = (0..tries.len()).filter(|place| tries[*place]).collect();
        assert_eq!(moved, [1, 5, 13]);
        // Once ElastiCache has accepted to detach, the group is not asked to become the primary of what it leaves.
        run.is_detaching = true;
        for seconds in [305, 307] {
            let detach = Decision::Do(FailoverAction::DetachRedis);
            assert_eq!(observed(&mut run, observation(), seconds), detach);
        }
    }
}

#[test]
fn a_promotion_is_asked_for_in_every_state_and_ends_with_the_source() {
    let mut run = run(Mode::Planned);
    run.step = FailoverStep::Promote;
    let promote = Decision::Do(FailoverAction::Promote);
    for status in ["available", "storage-optimization", "backing-up", "modifying"] {
        assert_eq!(observed(&mut run, Observation::instance(status, true, true), 0), promote, "{status}");
    }
    assert_eq!(observed(&mut run, Observation::instance("rebooting", false, true), 9), Decision::Again);
    assert_eq!(run.step, FailoverStep::RaiseEpoch);
}

#[test]
fn a_run_is_stored_and_read_back() {
    let mut one = run(Mode::Forced { accepted: Loss { ms: 1, sales: 2 } });
    observed(&mut one, ready(lease(), Loss::default()), 1);
    let text = serde_json::to_string(&one).unwrap();
    assert_eq!(serde_json::from_str::<Run>(&text).unwrap(), one);
}

#[test]
fn sales_open_when_all_functions_are_active_or_after_the_timeout() {
    let closed = LeaseRecord { region: "standby".into(), epoch: 2, ..lease().closed("run") };
    let selling = |state: &str| Observation::Selling {
        lease: closed.clone(),
        may_run: true,
        not_active: match state {
            "Active" => Vec::new(),
            _ => vec![FunctionState {
                function: "order-confirm".into(),
                text: format!("order-confirm is {state}"),
                is_inactive: state == "Inactive",
            }],
        },
    };
    let opening = || {
        let mut run = run(Mode::Planned);
        run.step = FailoverStep::OpenSales;
        run
    };
    let is_opened = |decision| matches!(decision, Decision::Do(FailoverAction::WriteLease(_)));
    let mut waiting = opening();
    assert_eq!(observed(&mut waiting, selling("Inactive"), 1), Decision::Do(FailoverAction::WakeFunctions));
    for state in ["Pending", "Failed"] {
        assert_eq!(observed(&mut waiting, selling(state), 2), Decision::Pause);
        let last = waiting.log.last().unwrap().last.clone();
        assert!(last.contains(&format!("order-confirm is {state}")), "{last}");
    }
    assert_eq!(observed(&mut waiting, selling("Pending"), 241), Decision::Pause);
    assert!(is_opened(observed(&mut waiting, selling("Pending"), 242)), "the wait is bounded");
    assert!(is_opened(observed(&mut opening(), selling("Active"), 1)));
    // The lease is open, and nothing has renewed it: an inactive drain is still woken.
    let open = Observation::Selling {
        lease: closed.opened("standby", 2, "run").unwrap(),
        may_run: true,
        not_active: vec![FunctionState {
            function: "checkout-drain".into(),
            text: "checkout-drain is Inactive".into(),
            is_inactive: true,
        }],
    };
    assert_eq!(observed(&mut waiting, open, 400), Decision::Do(FailoverAction::WakeFunctions));
}

#[path = "outstanding_tests.rs"]
mod outstanding;
