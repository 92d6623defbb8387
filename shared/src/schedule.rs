//! The event of an EventBridge schedule, and the time limit of a scheduled run.
//!
//! EventBridge Scheduler has a precision of 60 s: an invocation that is planned for 1:00 comes between 1:00:00 and
//! 1:00:59. One may also fail to come. A loop that must not pause therefore runs for [`LOOP_RUN`], so that several
//! runs overlap (`docs/AWS_FACTS.md`).

use crate::config::{self, ConfigError, Source};
use crate::keep_warm::KeepWarm;
use lambda_runtime::{Context, Error, LambdaEvent, service_fn};
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime};

/// The interval of the schedules that start a loop.
pub const LOOP_INTERVAL: Duration = Duration::from_secs(60);
/// The precision of EventBridge Scheduler: how late an invocation may come.
const PRECISION: Duration = Duration::from_secs(60);
/// The longest time from an invocation to the first round of its loop: cold start, connections, main lease.
pub const START_UP: Duration = Duration::from_secs(10);
/// The length of a loop's run: 190 s. If one invocation does not come, its neighbours are planned 120 s apart. The
/// earlier one may come on time and the later one 60 s late, and then needs time to start. Two lost invocations in a
/// row leave a gap of up to 50 s.
pub const LOOP_RUN: Duration =
    Duration::from_secs(2 * LOOP_INTERVAL.as_secs() + PRECISION.as_secs() + START_UP.as_secs());

/// Reads the length of a loop's run from the variable `name`, in seconds. On AWS it is [`LOOP_RUN`]; on one machine,
/// where an interval lasts a second or a few, it is shorter and has decimals.
pub fn loop_run(source: Source<'_>, name: &'static str) -> Result<Duration, ConfigError> {
    let seconds = config::number(source, name, LOOP_RUN.as_secs_f64(), 1.0, 890.0);
    let seconds =
        seconds.map_err(|_| ConfigError::bad(name, "it must be a number of seconds from 1 to 890"))?;
    Ok(Duration::from_secs_f64(seconds))
}

/// The event of an EventBridge rule or of EventBridge Scheduler. Any other event fails to parse with an error that
/// says what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawEvent")]
pub struct ScheduledEvent;

#[derive(Deserialize)]
struct RawEvent {
    #[serde(rename = "detail-type")]
    detail_type: String,
}

impl TryFrom<RawEvent> for ScheduledEvent {
    type Error = &'static str;

    fn try_from(event: RawEvent) -> Result<Self, Self::Error> {
        if event.detail_type == "Scheduled Event" {
            Ok(Self)
        } else {
            Err("this function expects an EventBridge schedule's event (detail-type \"Scheduled Event\")")
        }
    }
}

/// Serves a schedule: calls `run` for each event with its time limit, at most `longest`.
pub async fn serve<R, Fut>(longest: Duration, run: impl Fn(Duration) -> Fut) -> Result<(), Error>
where
    R: Serialize,
    Fut: Future<Output = R>,
{
    lambda_runtime::run(KeepWarm(service_fn(|event: LambdaEvent<ScheduledEvent>| {
        // Boxed: the future of a run exceeds the compiler's recursion limit.
        let run = Box::pin(run(run_time(&event.context, longest)));
        async move { Ok::<_, Error>(run.await) }
    })))
    .await
}

/// A run ends this long before the invocation's deadline.
pub const DEADLINE_MARGIN: Duration = Duration::from_secs(2);
/// Lambda's maximum time limit.
const LAMBDA_LIMIT: Duration = Duration::from_secs(900);

/// The time limit of a run: until shortly before the invocation's deadline, at most `fallback`. If the deadline is
/// impossible (local emulators send 1970), it is `fallback`.
pub fn run_time(context: &Context, fallback: Duration) -> Duration {
    match context.deadline().duration_since(SystemTime::now()) {
        Ok(left) if left <= LAMBDA_LIMIT => left.saturating_sub(DEADLINE_MARGIN).min(fallback),
        _ => fallback,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due_in(ms: i64) -> Context {
        let now_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        let mut context = Context::default();
        context.deadline = u64::try_from(i64::try_from(now_ms).unwrap() + ms).unwrap();
        context
    }

    #[test]
    fn a_run_ends_before_its_deadline() {
        let fallback = Duration::from_secs(55);
        let left = run_time(&due_in(12_000), fallback);
        assert!(left <= Duration::from_secs(10) && left > Duration::from_secs(9), "{left:?}");
        assert_eq!(run_time(&due_in(1_000), fallback), Duration::ZERO);
        assert_eq!(run_time(&due_in(300_000), fallback), fallback);
    }

    #[test]
    fn a_loops_run_may_have_decimals_and_is_at_most_a_lambdas_time() {
        let read = |text: &'static str| loop_run(&move |_: &str| Some(text.to_owned()), "FAIRDROP_X");
        assert_eq!(loop_run(&|_: &str| None, "FAIRDROP_X"), Ok(Duration::from_secs(190)));
        assert_eq!(read("3.2"), Ok(Duration::from_millis(3_200)));
        for wrong in ["0.9", "891", "inf", "NaN", "a minute"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_deadline_in_1970_is_ignored() {
        let mut context = Context::default();
        context.deadline = 600_000;
        assert_eq!(run_time(&context, Duration::from_secs(7)), Duration::from_secs(7));
    }

    #[test]
    fn only_a_schedules_event_is_accepted() {
        assert!(
            serde_json::from_str::<ScheduledEvent>(r#"{"detail-type":"Scheduled Event","source":"x"}"#)
                .is_ok()
        );
        for other in ["null", "[]", "{}", r#"{"detail-type":"EC2 Instance State-change Notification"}"#, "7"]
        {
            assert!(serde_json::from_str::<ScheduledEvent>(other).is_err(), "{other}");
        }
    }
}
