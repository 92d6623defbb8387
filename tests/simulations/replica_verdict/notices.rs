//! Which notices are sent, how often, and how many at most.

use crate::replica_verdict::model::Model;
use proptest::prelude::*;
use replica_lag::notice::ReplicaNotice;
use replica_lag::notified::{BURST, Destination, NOTICE_COST_MS, Notified, Occasion};
use replica_lag::sample::StandbySample;
use replica_lag::state::{LagSettings, LagState};
use replica_lag::verdict::ReplicaVerdict::{self, Broken, Healthy, Undersized, Unknown};

const REPEAT_MS: i64 = 900_000;
const HOUR_MS: i64 = 3_600_000;
const BEGINNING_MS: i64 = 1_795_392_000_000;

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
    StandbySample { at_ms: BEGINNING_MS + seconds * 1_000, ..StandbySample::default() }
}

#[test]
fn a_new_function_samples_for_a_minute_before_it_reports_unknown() {
    let due = |verdict, after_ms| Notified::default().due(verdict, 0, after_ms, REPEAT_MS);
    assert_eq!([0, 59_999, 60_000].map(|ms| due(Unknown, ms)), [None, None, Some(Occasion::Changed)]);
    assert_eq!((due(Broken, 0), due(Healthy, 0)), (Some(Occasion::Changed), None));
}

#[test]
fn one_run_sends_a_notice_and_the_next_one_if_that_run_dies() {
    let mut state = LagState::default();
    let first: Vec<_> = (0..7)
        .map(|second| {
            state.observe(&blind(second * 10), &settings());
            state.claim_notices(Unknown, blind(second * 10).at_ms, &settings())
        })
        .collect();
    let both = [(Destination::Topic, Occasion::Changed), (Destination::Bus, Occasion::Changed)];
    assert_eq!((first[..6].concat().len(), first[6].as_slice()), (0, both.as_slice()));
    let now_ms = blind(60).at_ms;
    // The sample of another run may be a little older or newer.
    for later_ms in [-500, 0, 1_000] {
        assert_eq!(state.claim_notices(Unknown, now_ms + later_ms, &settings()), []);
    }
    // The run that claimed them has died.
    assert_eq!(state.claim_notices(Unknown, now_ms + 31_000, &settings()), both);
    // The bus has accepted it, the topic has not.
    state.record_sends(&[Destination::Bus], Unknown, now_ms + 31_000);
    assert_eq!(state.notices_pending(now_ms + 31_000, &settings()), 1);
    assert_eq!(state.claim_notices(Unknown, now_ms + 41_000, &settings()), both[..1]);
    state.record_sends(&[Destination::Topic], Unknown, now_ms + 41_000);
    assert_eq!(state.notices_pending(now_ms + 41_000, &settings()), 0);
    assert_eq!(state.claim_notices(Unknown, now_ms + 51_000, &settings()), []);
}

#[test]
fn a_notice_that_is_sent_again_has_its_first_id_and_the_newest_verdict() {
    let mut model = Model::new(9);
    model.topic_accepts = false;
    model.pass(120, |_, _| {});
    model.is_paused = true;
    model.pass(600, |_, _| {});
    assert_eq!(model.notices, []);
    // What the bus was notified of meanwhile makes no difference.
    model.topic_accepts = true;
    model.pass(600, |_, _| {});
    assert_eq!(model.notices.len(), 1);
    let since_ms = model.state().verdict.unwrap().since_ms;
    assert_eq!(model.notices[0].notice_id, format!("standby-changed-broken-{since_ms}"));
    model.is_paused = false;
    model.pass(600, |_, _| {});
    let occasions: Vec<Occasion> = model.notices.iter().map(|notice| notice.occasion).collect();
    assert_eq!(occasions.last(), Some(&Occasion::Over));
    let ids: std::collections::BTreeSet<&str> =
        model.notices.iter().map(|notice| notice.notice_id.as_str()).collect();
    assert_eq!(ids.len(), model.notices.len(), "{ids:?}");
}

#[test]
fn after_the_state_was_lost_a_notice_has_another_id() {
    let id = |second| {
        let (mut state, sample) = (LagState::default(), blind(second));
        let assessment = state.observe(&sample, &settings());
        let last = state.topic;
        ReplicaNotice::write(Occasion::Changed, &assessment, &sample, last, &state, &settings()).notice_id
    };
    assert_eq!(id(0), id(0));
    assert_ne!(id(0), id(600));
}

#[test]
fn a_repetition_that_is_not_accepted_is_pending() {
    let mut state = LagState::default();
    state.observe(&blind(0), &settings());
    let (first_ms, again_ms) = (blind(0).at_ms, blind(0).at_ms + REPEAT_MS);
    state.record_sends(&[Destination::Topic, Destination::Bus], Unknown, first_ms);
    let pending =
        |state: &LagState| [again_ms - 1, again_ms].map(|at| state.notices_pending(at, &settings()));
    assert_eq!(pending(&state), [0, 2]);
    state.record_sends(&[Destination::Bus], Unknown, again_ms);
    assert_eq!(pending(&state), [0, 1]);
}

#[test]
fn a_late_notice_of_the_end_names_the_time_until_the_end() {
    let mut model = Model::new(5);
    model.pass(120, |_, _| {});
    model.is_paused = true;
    model.pass(600, |_, _| {});
    let since_ms = model.notices[0].since_ms;
    (model.is_paused, model.topic_accepts) = (false, false);
    model.pass(3_600, |_, _| {});
    model.topic_accepts = true;
    model.pass(20, |_, _| {});
    let over = model.notices.last().unwrap();
    let seconds = (model.state().verdict.unwrap().since_ms - since_ms) / 1_000;
    let duration = format!("Duration: {} min {} s\n", seconds / 60, seconds % 60);
    assert!(over.occasion == Occasion::Over && over.text.contains(&duration), "{duration}{}", over.text);
    assert!((600..900).contains(&seconds), "{seconds}");
}

/// What an earlier version of the function has saved.
const EARLIER_STATE: &str = r#"{
    "first_sample_ms": 1795000000000,
    "window": {
        "samples": [{
            "at_ms": 1795391990000, "replica": { "follows": true, "is_paused": true, "peak_sales_per_second": 3, "units_unsold": 4 },
            "figures": { "replica": { "cpu": 3.5 }, "main": {}, "wal_bytes": 1.0 },
            "at_risk": { "seconds": 1.5, "sales_at_most": 3, "sales_likely": 3, "basis": "main" }
        }],
        "periods": [{ "number": 2990000, "class": "db.r6g.large", "written": 4e6, "followed": true, "fell_behind": true }],
        "is_unobstructed": true
    },
    "verdict": { "verdict": "undersized", "since_ms": 1795300000000 },
    "last_notified": { "verdict": "undersized", "first_ms": 1795300000000, "last_ms": 1795391000000 },
    "alarms": { "arn": { "state": "ALARM", "since": "2026-11-23T14:30:00.000+0000" } },
    "outbox": [{ "notice": { "notice_id": "x" }, "to_topic": true, "to_bus": false, "in_flight_until_ms": 0 }]
}"#;

#[test]
fn the_state_of_an_earlier_version_is_read() {
    let mut state: LagState = serde_json::from_str(EARLIER_STATE).unwrap();
    assert_eq!(state.window.samples().len(), 1);
    let sample = StandbySample { replica: state.window.samples()[0].replica, ..blind(0) };
    let assessment = state.observe(&sample, &settings());
    assert_eq!((assessment.verdict, assessment.cause), (Broken, "paused"));
    // What it had sent is known to both destinations.
    for (verdict, occasion) in
        [(Broken, Occasion::Changed), (Undersized, Occasion::Repeated), (Healthy, Occasion::Over)]
    {
        let due = state.clone().claim_notices(verdict, sample.at_ms, &settings());
        assert_eq!(due, [(Destination::Topic, occasion), (Destination::Bus, occasion)]);
    }
}

#[test]
fn a_clock_that_was_ahead_silences_nothing() {
    let mut state = LagState::default();
    let ahead = StandbySample { at_ms: BEGINNING_MS + 10_000 * HOUR_MS, ..StandbySample::default() };
    state.observe(&ahead, &settings());
    for _ in 0..20 {
        state.claim_notices(Broken, ahead.at_ms, &settings());
        state.record_sends(&[Destination::Topic, Destination::Bus], Broken, ahead.at_ms);
    }
    // The run that sends has died.
    state.claim_notices(Unknown, ahead.at_ms, &settings());
    state.observe(&blind(0), &settings());
    assert_eq!(state.window.newest().map(|newest| newest.at_ms), Some(BEGINNING_MS));
    let changed = [(Destination::Topic, Occasion::Changed), (Destination::Bus, Occasion::Changed)];
    assert_eq!(state.claim_notices(Unknown, BEGINNING_MS, &settings()), changed);
}

#[test]
fn the_saved_state_is_small_and_is_read_back() {
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
    // A write of a kilobyte costs one unit.
    assert!(text.len() < 10_000, "{}", text.len());
    let read: LagState = serde_json::from_str(&text).unwrap();
    // The last digits of a fraction may differ.
    let outline = |state: &LagState| {
        (state.verdict, state.topic, state.window.samples().len(), state.window.earlier_lags())
    };
    assert_eq!(outline(&read), outline(model.state()));
}

/// Each change is notified once and repeated after a quarter of an hour, not earlier; the end is notified once.
fn check(notices: &[ReplicaNotice]) -> Result<(), TestCaseError> {
    let mut last: Option<&ReplicaNotice> = None;
    for (number, notice) in notices.iter().enumerate() {
        match (last, notice.occasion) {
            (None, Occasion::Changed) => {}
            (Some(last), Occasion::Changed) => prop_assert_ne!(last.verdict, notice.verdict),
            (Some(last), Occasion::Repeated) => {
                prop_assert_eq!(last.verdict, notice.verdict);
                let waited_ms = notice.at_ms - last.at_ms;
                prop_assert!(waited_ms >= REPEAT_MS, "{waited_ms}");
                prop_assert!(waited_ms < REPEAT_MS + 25_000 || is_limited(&notices[..number], notice.at_ms));
            }
            (Some(last), Occasion::Over) => {
                prop_assert_ne!(last.verdict, Healthy);
                prop_assert_eq!(notice.verdict, Healthy);
            }
            (last, occasion) => prop_assert!(false, "{:?} after {:?}", occasion, last),
        }
        prop_assert!(!notice.next_step.is_empty() && notice.runbook.contains('#'));
        prop_assert!(notice.subject().len() <= 100 && notice.text.contains(&notice.next_step));
        last = (notice.occasion != Occasion::Over).then_some(notice);
    }
    Ok(())
}

/// Whether so many notices were sent lately that the next one may have to wait.
fn is_limited(notices: &[ReplicaNotice], now_ms: i64) -> bool {
    let used_up_ms = BURST * NOTICE_COST_MS;
    notices.iter().filter(|notice| now_ms - notice.at_ms < 2 * used_up_ms).count() as i64 >= BURST - 1
}

/// The most notices in `time_ms`, whatever happens: docs/LIMITS.md names them for an hour and a day.
fn most(time_ms: i64) -> usize {
    usize::try_from(BURST + 1 + time_ms / NOTICE_COST_MS).unwrap()
}

#[test]
fn the_documented_limits_are_those_of_the_constants() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/LIMITS.md");
    let page = std::fs::read_to_string(page).unwrap();
    let cell = format!("| {} an hour; {} a day |", most(HOUR_MS), most(24 * HOUR_MS));
    assert!(page.contains(&cell), "docs/LIMITS.md lacks {cell}");
}

/// What a destination is notified of while the verdicts of `pattern`, each for some seconds, follow each other for 30 hours.
fn notified(pattern: &[(ReplicaVerdict, i64)]) -> (Notified, i64, Vec<(i64, ReplicaVerdict)>) {
    let (mut notified, mut now_ms, mut sent) = (Notified::default(), BEGINNING_MS, Vec::new());
    let mut pattern = pattern.iter().cycle();
    while now_ms - BEGINNING_MS < 30 * HOUR_MS {
        let (verdict, seconds) = *pattern.next().unwrap();
        for _ in 0..seconds.div_euclid(10).max(1) {
            step(&mut notified, verdict, now_ms, &mut sent);
            now_ms += 10_000;
        }
    }
    (notified, now_ms, sent)
}

fn step(
    notified: &mut Notified,
    verdict: ReplicaVerdict,
    now_ms: i64,
    sent: &mut Vec<(i64, ReplicaVerdict)>,
) {
    let last = notified.verdict;
    if notified.due(verdict, BEGINNING_MS, now_ms, REPEAT_MS).is_some() {
        notified.record(verdict, now_ms);
        sent.push((now_ms, verdict));
    }
    assert!(verdict != Broken || notified.verdict == Some(Broken), "broken was delayed after {last:?}");
}

/// The most notices that were sent within `time_ms`.
fn within(sent: &[(i64, ReplicaVerdict)], time_ms: i64) -> usize {
    let from =
        |first: usize| sent[first..].iter().take_while(|(at_ms, _)| at_ms - sent[first].0 <= time_ms).count();
    (0..sent.len()).map(from).max().unwrap_or(0)
}

#[test]
fn a_replica_that_breaks_every_twenty_seconds_is_notified_as_broken_within_the_limit() {
    let (_, _, sent) = notified(&[(Broken, 10), (Healthy, 10)]);
    let (hour, day) = (within(&sent, HOUR_MS), within(&sent, 24 * HOUR_MS));
    println!("broken every 20 s: {hour} notices an hour, {day} a day");
    assert!((most(HOUR_MS) - 1..=most(HOUR_MS)).contains(&hour), "{hour}");
    assert!(day <= most(24 * HOUR_MS), "{day}");
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
        let notified = last.map_or(Healthy, |notice| notice.verdict);
        let now_ms = model.state().window.newest().map_or(0, |newest| newest.at_ms);
        // Samples are collected for a minute before the first notice of *unknown*; the first one comes after ten seconds.
        prop_assert!(
            notified == model.verdict() || model.now() < 80 || is_limited(&model.notices, now_ms),
            "{:?}", model.verdict()
        );
    }

    /// Whatever the verdicts do: the notices of an hour and of a day have a limit, *broken* is never delayed by it, and the
    /// verdict that stays is notified in the end.
    #[test]
    fn flapping_verdicts_are_notified_within_the_limit_and_the_last_one_always(
        pattern in prop::collection::vec((prop::sample::select(&ReplicaVerdict::ALL[..]), 1_i64..4_000), 1..40),
        is_hasty: bool,
        last in prop::sample::select(&ReplicaVerdict::ALL[..]),
    ) {
        let pattern: Vec<_> =
            pattern.into_iter().map(|(verdict, seconds)| (verdict, if is_hasty { 10 } else { seconds })).collect();
        let (mut notified, mut now_ms, mut sent) = notified(&pattern);
        prop_assert!(within(&sent, HOUR_MS) <= most(HOUR_MS), "{}", within(&sent, HOUR_MS));
        prop_assert!(within(&sent, 24 * HOUR_MS) <= most(24 * HOUR_MS), "{}", within(&sent, 24 * HOUR_MS));
        let end_ms = now_ms + 2 * NOTICE_COST_MS;
        while now_ms <= end_ms {
            step(&mut notified, last, now_ms, &mut sent);
            now_ms += 10_000;
        }
        prop_assert_eq!(notified.verdict.unwrap_or(Healthy), last);
    }
}
