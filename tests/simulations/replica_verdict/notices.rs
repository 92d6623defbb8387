//! Whom to tell, and how often.

use crate::replica_verdict::model::Model;
use proptest::prelude::*;
use replica_lag::memory::{Letter, Memory, Settings};
use replica_lag::notice::{Notice, Occasion, due};
use replica_lag::sample::Sample;
use replica_lag::trigger::{Alarm, AlarmState};
use replica_lag::verdict::Verdict;

const REPEAT_MS: i64 = 900_000;

fn settings() -> Settings {
    Settings {
        replica: "standby".into(),
        region: "eu-west-1".into(),
        behind_seconds: 10.0,
        repeat_ms: REPEAT_MS,
        runbook: "runbook".into(),
        has_topic: true,
    }
}

/// Nobody answers at all, `seconds` after the first look.
fn blind(seconds: i64) -> Sample {
    Sample { at_ms: 1_795_392_000_000 + seconds * 1_000, ..Sample::default() }
}

#[test]
fn a_new_watcher_looks_for_a_minute_before_it_says_that_nobody_answers() {
    let told = |after_ms| due(None, Verdict::Unknown, 0, after_ms, REPEAT_MS);
    assert_eq!((told(0), told(59_999), told(60_000)), (None, None, Some(Occasion::Changed)));
    assert_eq!(due(None, Verdict::Broken, 0, 0, REPEAT_MS), Some(Occasion::Changed));
    assert_eq!(due(None, Verdict::Healthy, 0, 0, REPEAT_MS), None);
}

#[test]
fn a_notice_is_claimed_by_one_run_and_by_the_next_if_that_dies() {
    let mut memory = Memory::default();
    for second in 0..7 {
        memory.look(&blind(second * 10), None, &settings());
    }
    let now_ms = blind(60).at_ms;
    let claimed = memory.claim(now_ms);
    assert_eq!(claimed.len(), 1);
    assert_eq!(memory.claim(now_ms + 1_000), []);
    // Who claimed it never came back.
    assert_eq!(memory.claim(now_ms + 31_000).len(), 1);
    // The topic has it, the bus has not.
    let half: Vec<Letter> =
        claimed.iter().map(|letter| Letter { to_topic: false, ..letter.clone() }).collect();
    memory.sent(&half);
    let again = memory.claim(now_ms + 32_000);
    assert_eq!((again[0].to_topic, again[0].to_bus), (false, true));
    let done: Vec<Letter> = again.into_iter().map(|letter| Letter { to_bus: false, ..letter }).collect();
    memory.sent(&done);
    assert_eq!(memory.outbox, []);
}

#[test]
fn two_notices_of_one_look_are_two() {
    let mut model = Model::new(9);
    model.pass(60, |_, _| {});
    let mut memory = model.memory().clone();
    let sample = memory.window.newest().unwrap().clone();
    let assessment = memory.look(&sample, None, &settings());
    for occasion in [Occasion::Changed, Occasion::Repeated, Occasion::Over] {
        memory.write(occasion, &assessment, &sample, &settings());
    }
    let claimed = memory.claim(sample.at_ms);
    assert_eq!(claimed.len(), 3);
    let sent: Vec<Letter> =
        claimed.into_iter().map(|letter| Letter { to_topic: false, to_bus: false, ..letter }).collect();
    memory.sent(&sent);
    assert_eq!(memory.outbox, []);
}

#[test]
fn an_alarm_s_state_counts_once_and_an_older_one_not_at_all() {
    let alarm = |arn: &str, since: &str| Alarm {
        arn: arn.into(),
        state: AlarmState::Alarm,
        since: format!("2026-11-23T14:{since}.000+0000"),
    };
    let mut memory = Memory::default();
    let first = alarm("a", "30:00");
    assert!(!memory.knows(&first));
    memory.look(&blind(0), Some(&first), &settings());
    assert!(memory.knows(&first) && memory.knows(&alarm("a", "29:59")));
    assert!(!memory.knows(&alarm("a", "30:01")) && !memory.knows(&alarm("b", "30:00")));
    for number in 0..100 {
        memory.look(&blind(number + 1), Some(&alarm(&number.to_string(), "31:00")), &settings());
    }
    assert!(memory.alarms.len() <= 50, "{}", memory.alarms.len());
}

#[test]
fn what_is_remembered_fits_into_an_item_and_is_read_back() {
    let mut model = Model::new(1);
    for day in 0..20 {
        // A drop a day for three weeks, and the replica never quite takes it.
        model.load = if day % 2 == 0 { 3e6 } else { 1.8e6 };
        model.pass(3_600, |_, _| {});
        model.load = 0.0;
        model.pass(82_800, |_, _| {});
    }
    let text = serde_json::to_string(model.memory()).unwrap();
    println!("three weeks are {} bytes", text.len());
    assert!(text.len() < 100_000, "{}", text.len());
    let read: Memory = serde_json::from_str(&text).unwrap();
    // The last digits of a fraction may differ.
    let outline = |memory: &Memory| {
        (memory.standing, memory.told, memory.window.samples().len(), memory.window.periods().len())
    };
    assert_eq!(outline(&read), outline(model.memory()));
}

/// Whether `notices` make sense: each change once, repeated after a quarter of an hour and not
/// before, over once.
fn check(notices: &[Notice]) -> Result<(), TestCaseError> {
    let mut last: Option<&Notice> = None;
    for notice in notices {
        match (last, notice.occasion) {
            (None, Occasion::Changed) => {}
            (Some(last), Occasion::Changed) => prop_assert_ne!(last.verdict, notice.verdict),
            (Some(last), Occasion::Repeated) => {
                prop_assert_eq!(last.verdict, notice.verdict);
                prop_assert!((REPEAT_MS..REPEAT_MS + 25_000).contains(&(notice.at_ms - last.at_ms)));
            }
            (Some(last), Occasion::Over) => {
                prop_assert_ne!(last.verdict, Verdict::Healthy);
                prop_assert_eq!(notice.verdict, Verdict::Healthy);
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
    fn every_change_is_told_once_repeated_and_ended(
        seed: u64,
        stretches in prop::collection::vec((0.0..4e6, 20_i64..3_000, 0..10_u8), 1..12),
    ) {
        let mut model = Model::new(seed);
        for (load, seconds, trouble) in stretches {
            model.load = load;
            model.line_is_up = trouble != 0;
            model.is_paused = trouble == 1;
            model.main_answers = trouble != 2;
            model.replica_answers = trouble != 3;
            model.pass(seconds, |_, _| {});
        }
        check(&model.notices)?;
        // What stands has been told.
        let last = model.notices.last().filter(|notice| notice.occasion != Occasion::Over);
        let told = last.map_or(Verdict::Healthy, |notice| notice.verdict);
        prop_assert!(told == model.verdict() || model.now() < 70, "{:?}", model.verdict());
    }
}
