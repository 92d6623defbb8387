//! The event of an EventBridge schedule, and the time limit of a scheduled run.

use lambda_runtime::{Context, Error, LambdaEvent, service_fn};
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime};

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
    lambda_runtime::run(service_fn(|event: LambdaEvent<ScheduledEvent>| {
        // Boxed: the future of a run exceeds the compiler's recursion limit.
        let run = Box::pin(run(run_time(&event.context, longest)));
        async move { Ok::<_, Error>(run.await) }
    }))
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
