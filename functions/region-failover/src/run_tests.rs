use super::*;
use crate::seen::Role;
use lease::Record;
use std::time::Duration;

const TIMING: Timing = Timing { lasts: Duration::from_secs(12), tolerance: Duration::from_secs(1) };

fn at(seconds: u64) -> Stamp {
    Stamp::from_micros(1_795_000_000_000_000 + seconds * 1_000_000).unwrap()
}

fn run(mode: Mode) -> Run {
    Run::new("run", mode, ("main", "standby"), 1, 0)
}

fn lease() -> Record {
    Record::first("main", 1).renewed("main", at(0), TIMING).unwrap()
}

fn saw(run: &mut Run, seen: Seen, seconds: u64) -> Next {
    run.saw(&Ok(seen), at(seconds), TIMING)
}

fn ready(lease: Record, loss: Loss) -> Seen {
    Seen::Ready { lease, replica_follows: true, main_answers: false, loss, last_run_seconds: Some(60) }
}

#[test]
fn what_is_here_before_the_lease_has_run_out_says_nothing() {
    let mut run = run(Mode::Planned);
    run.step = Step::LagGate;
    let all_here = |lease| Seen::Lag {
        lease,
        ledger_is_here: Some(true),
        redis_is_here: Some(true),
        loss: Loss::default(),
    };
    let closed = lease().closed("run");
    assert_eq!(saw(&mut run, all_here(closed.clone()), 12), Next::Pause);
    assert_eq!(saw(&mut run, all_here(closed), 14), Next::Again);
    assert_eq!(run.step, Step::TakeLease);
}

#[test]
fn it_begins_only_where_it_may_and_says_why_not() {
    let loss = Loss { ms: 5_000, sales: 7 };
    let forced = |ms, sales| Mode::Forced { accepted: Loss { ms, sales } };
    let refused = |mode, lease, word: &str| {
        let mut run = run(mode);
        run.may_hurry = word != "an hour";
        assert_eq!(saw(&mut run, ready(lease, loss), 1), Next::Again);
        assert!(run.state == State::Aborting && run.why.contains(word), "{word}: {}", run.why);
    };
    refused(Mode::Planned, lease(), "main does not answer");
    refused(forced(4_999, 7), lease(), "5000 ms");
    refused(forced(5_000, 6), lease(), "7 sales");
    refused(forced(5_000, 7), lease(), "an hour");
    refused(forced(5_000, 7), lease().closed("another"), "another failover");
    refused(forced(5_000, 7), Record::first("main", 2), "epoch 2");
    let mut may = run(forced(5_000, 7));
    may.may_hurry = true;
    assert_eq!(saw(&mut may, ready(lease(), loss), 1), Next::Again);
    assert_eq!(may.step, Step::StopSales);
    // Killed after it had closed the lease, and begun again by another.
    may.step = Step::Precheck;
    assert_eq!(saw(&mut may, ready(lease().closed("run"), loss), 1), Next::Again);
    assert_eq!(may.state, State::Running);
}

#[test]
fn there_is_no_way_back_once_anything_is_moved() {
    let mut early = run(Mode::Planned);
    early.step = Step::TakeLease;
    assert!(early.abort("a person") && early.state == State::Aborting);
    let given_back = saw(&mut early, Seen::Lease(lease().closed("run")), 1);
    assert!(matches!(given_back, Next::Act(Act::WriteLease(record)) if record.is_open && record.epoch == 1));
    let mut late = run(Mode::Planned);
    late.step = Step::MoveRedis;
    assert!(!late.abort("a person") && late.state == State::Running);
}

#[test]
fn what_is_left_out_is_said_and_made_up_for() {
    let accepted = Loss { ms: u64::MAX, sales: u64::MAX };
    let mut run = run(Mode::Forced { accepted });
    run.step = Step::FenceOldMain;
    let away = Err(Trouble("main is gone".into()));
    assert_eq!(run.saw(&away, at(0), TIMING), Next::Pause);
    assert_eq!(run.saw(&away, at(121), TIMING), Next::End);
    assert_eq!((&run.state, run.outstanding.as_slice()), (&State::Degraded, [Step::FenceOldMain].as_slice()));
    run.resume();
    let fence = |is_up, is_settled| Seen::Fence { is_up, is_settled };
    assert_eq!(saw(&mut run, fence(false, true), 500), Next::Act(Act::Fence));
    // What is on its way is not begun anew.
    assert_eq!(saw(&mut run, fence(false, false), 501), Next::Pause);
    assert_eq!(saw(&mut run, fence(true, true), 502), Next::End);
    assert_eq!((&run.state, run.outstanding.len()), (&State::Done, 0));
}

#[test]
fn what_a_person_gives_up_is_not_tried_again() {
    let mut run = run(Mode::Planned);
    run.state = State::Degraded;
    run.step = Step::FenceOldMain;
    run.outstanding = vec![Step::SmokeTest, Step::FenceOldMain];
    assert!(!run.waive(Step::Point, "why not", 1), "it is not outstanding");
    assert!(run.waive(Step::FenceOldMain, "it is deleted", 1));
    assert_eq!((run.state, run.outstanding.as_slice()), (State::Degraded, [Step::SmokeTest].as_slice()));
    // What is left is tried, and what was given up is not.
    run.resume();
    assert_eq!(run.step, Step::SmokeTest);
    assert_eq!(saw(&mut run, Seen::Canary { is_placed: true, is_sold: true }, 5), Next::End);
    assert_eq!((run.state, run.waived.as_slice()), (State::Done, [Step::FenceOldMain].as_slice()));
    let words = run.log.iter().find(|log| log.step == Step::FenceOldMain).map(|log| log.last.as_str());
    assert_eq!(words, Some("given up by a person: it is deleted"));
}

#[test]
fn what_is_being_tried_can_be_given_up_too() {
    let mut run = run(Mode::Planned);
    run.state = State::Degraded;
    run.outstanding = vec![Step::FenceOldMain];
    run.resume();
    assert_eq!((run.state, run.step), (State::Running, Step::FenceOldMain));
    assert!(run.waive(Step::FenceOldMain, "it is deleted", 1));
    assert_eq!(run.state, State::Done);
}

#[test]
fn an_hour_is_an_hour_however_many_were_given_up_in_it() {
    let mut done = run(Mode::Planned);
    done.state = State::Done;
    done.log =
        vec![Log { step: Step::Precheck, began_ms: 0, ended_ms: Some(60_000), acts: 0, last: String::new() }];
    let mut given_up = run(Mode::Planned);
    given_up.follow_on(Some(&done), 100_000);
    assert_eq!(given_up.since_last_seconds, Some(40));
    given_up.state = State::Aborted;
    let mut third = run(Mode::Planned);
    third.follow_on(Some(&given_up), 160_000);
    assert_eq!(third.since_last_seconds, Some(100));
    let mut first = run(Mode::Planned);
    first.follow_on(None, 1);
    assert_eq!(first.since_last_seconds, None);
}

#[test]
fn a_drill_waits_for_its_copy_to_be_deleted_and_is_not_given_up_for_it() {
    let mut run = run(Mode::Planned);
    run.is_drill = true;
    run.step = Step::FenceOldMain;
    let fence = || Seen::Fence { is_up: false, is_settled: false };
    assert_eq!(saw(&mut run, fence(), 0), Next::Pause);
    assert_eq!(saw(&mut run, fence(), 29 * 60), Next::Pause);
    assert_eq!(saw(&mut run, fence(), 31 * 60), Next::End);
    assert_eq!((run.state, run.outstanding.as_slice()), (State::Degraded, [Step::FenceOldMain].as_slice()));
}

#[test]
fn a_forced_failover_does_not_wait_for_the_region_that_is_lost() {
    let accepted = Loss::default();
    for (mode, at_once) in [(Mode::Forced { accepted }, true), (Mode::Planned, false)] {
        let mut run = run(mode);
        run.step = Step::Point;
        let left =
            |regions: &[&str]| Seen::Pointers { left: regions.iter().map(|name| (*name).into()).collect() };
        assert_eq!(saw(&mut run, left(&["main", "standby"]), 0), Next::Act(Act::Point));
        assert_eq!(saw(&mut run, left(&["main", "standby"]), 20), Next::Act(Act::Point));
        let next = saw(&mut run, left(&["main"]), 21);
        assert_eq!(next == Next::Again, at_once, "{next:?}");
        assert_eq!(run.outstanding == [Step::Point], at_once);
    }
}

#[test]
fn a_datastore_that_hangs_is_left_only_where_main_is_gone() {
    let hangs = |mode| {
        let mut run = run(mode);
        run.step = Step::MoveRedis;
        let seen = || Seen::Redis { role: Role::Secondary, is_settled: false };
        assert_eq!(saw(&mut run, seen(), 0), Next::Pause);
        saw(&mut run, seen(), 301)
    };
    assert_eq!(hangs(Mode::Planned), Next::Pause);
    let accepted = Loss::default();
    assert_eq!(hangs(Mode::Forced { accepted }), Next::Act(Act::DetachRedis));
}

#[test]
fn it_is_written_down_and_read_back() {
    let mut one = run(Mode::Forced { accepted: Loss { ms: 1, sales: 2 } });
    saw(&mut one, ready(lease(), Loss::default()), 1);
    let text = serde_json::to_string(&one).unwrap();
    assert_eq!(serde_json::from_str::<Run>(&text).unwrap(), one);
}
