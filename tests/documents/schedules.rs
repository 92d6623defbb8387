//! The lengths of runs in template.yaml, against what EventBridge Scheduler may do.

use local::aws::functions::OVERLAPPING_RUNS;
use local::aws::lambda::EventRetries;
use local::aws::schedule::{Start, Starts};
use shared::schedule::{LOOP_INTERVAL, LOOP_RUN, START_UP};
use std::time::Duration;
use tests::template;

/// The functions that must not pause.
const LOOPS: [&str; 4] =
    ["CheckoutDrainFunction", "CheckoutWorkerFunction", "LivePublishFunction", "ShopEventsFunction"];
const SCHEDULES: u64 = 2_000;
/// Starts of each schedule: an hour or more.
const STARTS: usize = 60;
/// Scheduler and Lambda each keep a start that was not accepted for this time.
const RETRIED_FOR: Duration = Duration::from_secs(60);

fn schedules() -> impl Iterator<Item = Vec<Start>> {
    (0..SCHEDULES).map(|seed| Starts::new(LOOP_INTERVAL, seed).take(STARTS).collect())
}

/// The gaps between runs of this length whose starts have at most one lost start between them.
fn gaps(run: Duration) -> Vec<Duration> {
    let mut gaps = Vec::new();
    for starts in schedules() {
        for pair in starts.windows(2).filter(|pair| pair[1].number - pair[0].number <= 2) {
            let until = pair[0].at + run;
            gaps.extend((pair[1].at + START_UP).checked_sub(until).filter(|gap| !gap.is_zero()));
        }
    }
    gaps
}

/// The number after `field` in a resource's text.
fn number(text: &str, field: &str) -> u64 {
    let found = text.split(field).nth(1).unwrap_or_else(|| panic!("no {field} in\n{text}"));
    let digits: String =
        found.chars().skip_while(|c| " \"".contains(*c)).take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("{field} has no number in\n{text}"))
}

#[test]
fn runs_of_the_template_leave_no_gap_if_a_start_is_lost() {
    let resources = template::resources(&template::read().unwrap());
    for name in LOOPS {
        let text = &resources[name];
        assert!(text.contains("ScheduleExpression: rate(1 minute)"), "{name}");
        let run = Duration::from_secs(number(text, "_RUN_SECONDS:"));
        assert_eq!(run, LOOP_RUN, "{name}: the template and the function's default differ");
        let limit = Duration::from_secs(number(text, "Timeout:"));
        assert!(limit >= run + START_UP, "{name}: Lambda ends a run of {run:?} after {limit:?}");
        let gaps = gaps(run);
        assert!(gaps.is_empty(), "{name}: {} gaps, up to {:?}", gaps.len(), gaps.iter().max());
    }
    let of_a_minute = gaps(Duration::from_secs(62));
    assert!(of_a_minute.iter().max() > Some(&Duration::from_secs(100)), "{:?}", of_a_minute.iter().max());
}

#[test]
fn no_more_runs_overlap_than_concurrency_is_reserved() {
    let resources = template::resources(&template::read().unwrap());
    let limit = LOOPS.map(|name| Duration::from_secs(number(&resources[name], "Timeout:")));
    let limit = limit.into_iter().max().unwrap();
    // A start that was retried comes as late as that; the one before it may have come on time.
    let most = schedules().map(|starts| {
        let at_once = |at: Duration| {
            let is_running = |start: &&Start| start.at <= at && at < start.at + limit + RETRIED_FOR;
            starts.iter().filter(is_running).count()
        };
        starts.iter().map(|start| at_once(start.at)).max().unwrap_or_default()
    });
    assert_eq!(most.max(), Some(OVERLAPPING_RUNS as usize));
}

#[test]
fn the_stand_in_repeats_events_as_the_template_says() {
    let resources = template::resources(&template::read().unwrap());
    let mut compared = 0;
    for text in resources.values().filter(|text| text.contains("AWS::Serverless::Function")) {
        let function =
            text.split("CodeUri: functions/").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
        let lines = text.lines().skip_while(|line| !line.contains("EventInvokeConfig:"));
        let config: String = lines.take(3).collect();
        let number = |name: &str| {
            let digits = config.split(&format!("{name}: ")).nth(1)?.chars().take_while(char::is_ascii_digit);
            digits.collect::<String>().parse::<u64>().ok()
        };
        // Without the setting Lambda tries twice more, and for six hours.
        let retries = EventRetries::of(function);
        let expected = number("MaximumRetryAttempts").unwrap_or(2);
        assert_eq!(u64::from(retries.after_errors), expected, "{function}");
        let expected = number("MaximumEventAgeInSeconds").unwrap_or(21_600);
        assert_eq!(retries.age.as_secs(), expected, "{function}");
        compared += usize::from(!config.is_empty());
    }
    assert!(compared >= 10, "{compared}");
}
