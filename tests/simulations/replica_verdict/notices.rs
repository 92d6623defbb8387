//! Which notices are sent, and how often.

use crate::replica_verdict::model::Model;
use proptest::prelude::*;
use replica_lag::notice::{Occasion, ReplicaNotice, due};
use replica_lag::sample::StandbySample;
use replica_lag::state::{LagSettings, LagState, OutboxEntry};
use replica_lag::trigger::{Alarm, AlarmState};
use replica_lag::verdict::ReplicaVerdict;

const REPEAT_MS: i64 = 900_000;

fn settings() -> LagSettings {
    LagSettings {
        replica: "standby".into(),
        region: "eu-west-1".into(),
        lag_limit_seconds: 10.0,
        repeat_ms: REPEAT_MS,
        runbook: "runbook".into(),
        has_topic: true,
    }
}

/// A sample without any answer, `seconds` after the first one.
fn blind(seconds: i64) -> StandbySample {
    StandbySample { at_ms: 1_795_392_000_000 + seconds * 1_000, ..StandbySample::default() }
}

#[test]
fn a_new_function_samples_for_a_minute_before_it_reports_unknown() {
    let notified = |after_ms| due(None, ReplicaVerdict::Unknown, 0, after_ms, REPEAT_MS);
    assert_eq!((notified(0), notified(59_999), notified(60_000)), (None, None, Some(Occasion::Changed)));
    assert_eq!(due(None, ReplicaVerdict::Broken, 0, 0, REPEAT_MS), Some(Occasion::Changed));
    assert_eq!(due(None, ReplicaVerdict::Healthy, 0, 0, REPEAT_MS), None);
}

#[test]
fn one_run_sends_a_notice_and_the_next_one_if_that_run_dies() {
    let mut state = LagState::default();
    for second in 0..7 {
        state.observe(&blind(second * 10), None, &settings());
    }
    let now_ms = blind(60).at_ms;
    let taken = state.take_unsent(now_ms);
    assert_eq!(taken.len(), 1);
    assert_eq!(state.take_unsent(now_ms + 1_000), []);
    // The run that took it has died.
    assert_eq!(state.take_unsent(now_ms + 31_000).len(), 1);
    // The topic has accepted it, the bus has not.
    let half: Vec<OutboxEntry> =
        taken.iter().map(|entry| OutboxEntry { to_topic: false, ..entry.clone() }).collect();
    state.record_sends(&half);
    let again = state.take_unsent(now_ms + 32_000);
    assert_eq!((again[0].to_topic, again[0].to_bus), (false, true));
    let done: Vec<OutboxEntry> =
        again.into_iter().map(|entry| OutboxEntry { to_bus: false, ..entry }).collect();
    state.record_sends(&done);
    assert_eq!(state.outbox, []);
}

#[test]
fn several_notices_of_one_sample_have_ids_of_their_own() {
    let mut model = Model::new(9);
    model.pass(60, |_, _| {});
    let mut state = model.state().clone();
    let sample = state.window.newest().unwrap().clone();
    let assessment = state.observe(&sample, None, &settings());
    for occasion in [Occasion::Changed, Occasion::Repeated, Occasion::Over] {
        state.add_notice(occasion, &assessment, &sample, &settings());
    }
    let taken = state.take_unsent(sample.at_ms);
    assert_eq!(taken.len(), 3);
    let sent: Vec<OutboxEntry> =
        taken.into_iter().map(|entry| OutboxEntry { to_topic: false, to_bus: false, ..entry }).collect();
    state.record_sends(&sent);
    assert_eq!(state.outbox, []);
}

#[test]
fn an_alarm_s_state_is_handled_once_and_an_older_one_is_ignored() {
    let alarm = |arn: &str, since: &str| Alarm {
        arn: arn.into(),
        state: AlarmState::Alarm,
        since: format!("2026-11-23T14:{since}.000+0000"),
    };
    let mut state = LagState::default();
    let first = alarm("a", "30:00");
    assert!(!state.has_handled(&first));
    state.observe(&blind(0), Some(&first), &settings());
    assert!(state.has_handled(&first) && state.has_handled(&alarm("a", "29:59")));
    assert!(!state.has_handled(&alarm("a", "30:01")) && !state.has_handled(&alarm("b", "30:00")));
    for number in 0..100 {
        state.observe(&blind(number + 1), Some(&alarm(&number.to_string(), "31:00")), &settings());
    }
    assert!(state.alarms.len() <= 50, "{}", state.alarms.len());
}

#[test]
fn the_saved_state_fits_into_an_item_and_is_read_back() {
    let mut model = Model::new(1);
    for day in 0..20 {
        // A drop a day for three weeks, and the replica is always a little too small.
        model.load = if day % 2 == 0 { 3e6 } else { 1.8e6 };
        model.pass(3_600, |_, _| {});
        model.load = 0.0;
        model.pass(82_800, |_, _| {});
    }
    let text = serde_json::to_string(model.state()).unwrap();
    println!("three weeks are {} bytes", text.len());
    assert!(text.len() < 100_000, "{}", text.len());
    let read: LagState = serde_json::from_str(&text).unwrap();
    // The last digits of a fraction may differ.
    let outline = |state: &LagState| {
        (state.verdict, state.last_notified, state.window.samples().len(), state.window.periods().len())
    };
    assert_eq!(outline(&read), outline(model.state()));
}

/// Each change is notified once and repeated after a quarter of an hour, not earlier; the end is notified once.
fn check(notices: &[ReplicaNotice]) -> Result<(), TestCaseError> {
    let mut last: Option<&ReplicaNotice> = None;
    for notice in notices {
        match (last, notice.occasion) {
            (None, Occasion::Changed) => {}
            (Some(last), Occasion::Changed) => prop_assert_ne!(last.verdict, notice.verdict),
            (Some(last), Occasion::Repeated) => {
                prop_assert_eq!(last.verdict, notice.verdict);
                prop_assert!((REPEAT_MS..REPEAT_MS + 25_000).contains(&(notice.at_ms - last.at_ms)));
            }
            (Some(last), Occasion::Over) => {
                prop_assert_ne!(last.verdict, ReplicaVerdict::Healthy);
                prop_assert_eq!(notice.verdict, ReplicaVerdict::Healthy);
            }
            (last, occasion) => prop_assert!(false, "{:?} after {:?}", occasion, last),
        }
        prop_assert!(!notice.next_step.is_empty() && notice.runbook.contains('#'));
        prop_assert!(notice.subject().len() <= 100 && notice.text.contains(&notice.next_step));
        last = (notice.occasion != Occasion::Over).then_some(notice);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_change_is_notified_once_repeated_and_ended(
        seed: u64,
        stretches in prop::collection::vec((0.0..4e6, 20_i64..3_000, 0..10_u8), 1..12),
    ) {
        let mut model = Model::new(seed);
        for (load, seconds, fault) in stretches {
            model.load = load;
            model.is_connected = fault != 0;
            model.is_paused = fault == 1;
            model.main_answers = fault != 2;
            model.replica_answers = fault != 3;
            model.pass(seconds, |_, _| {});
        }
        check(&model.notices)?;
        // The last notice reports the current verdict.
        let last = model.notices.last().filter(|notice| notice.occasion != Occasion::Over);
        let notified = last.map_or(ReplicaVerdict::Healthy, |notice| notice.verdict);
        prop_assert!(notified == model.verdict() || model.now() < 70, "{:?}", model.verdict());
    }
}
