//! Asynchronous invocations: Lambda takes an event, and repeats what is throttled or fails (`docs/AWS_FACTS.md`).

use super::{Invoke, Invoked};
use crate::aws::environments::Throttled;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The pauses after a throttle: they double from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(300);

/// How often, and for how long, Lambda tries an event: a function's `EventInvokeConfig`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRetries {
    /// After an error of the function: `MaximumRetryAttempts`.
    pub after_errors: u32,
    /// `MaximumEventAgeInSeconds`.
    pub age: Duration,
    /// How long a minute is. Tests have shorter ones.
    pub minute: Duration,
}

/// What has become of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventEnd {
    pub is_processed: bool,
    /// How often the function failed, and how often it was throttled.
    pub errors: u32,
    pub throttled: u32,
}

impl EventRetries {
    /// Those of a function, as template.yaml has them: a test compares the two.
    pub fn of(function: &str) -> Self {
        let (after_errors, seconds) = match function {
            "checkout-drain" | "checkout-worker" | "live-publish" | "region-failover" | "shop-events"
            | "token-keys" => (0, 60),
            "order-confirm" => (2, 3_600),
            "replica-lag" => (1, 120),
            "restore-drill" => (0, 21_600),
            "snapshot-copy" => (0, 300),
            _ => (2, 21_600),
        };
        Self { after_errors, age: Duration::from_secs(seconds), minute: Duration::from_secs(60) }
    }

    /// The same in a world whose minutes are shorter.
    pub fn with_minutes_of(self, minute: Duration) -> Self {
        let scale = |time: Duration| minute.mul_f64(time.as_secs_f64() / self.minute.as_secs_f64());
        Self { age: scale(self.age), minute, ..self }
    }

    fn scaled(&self, time: Duration) -> Duration {
        self.minute.mul_f64(time.as_secs_f64() / 60.0)
    }
}

impl Invoke {
    /// Invokes `function` asynchronously, which may take `limit` each time: it is tried again after a throttle until the
    /// event is too old, and after an error one minute, then two minutes later.
    pub async fn send_event(
        &self,
        function: &str,
        payload: String,
        limit: Duration,
        retries: EventRetries,
    ) -> EventEnd {
        let began = Instant::now();
        let mut end = EventEnd::default();
        let mut pause = retries.scaled(FIRST_PAUSE);
        loop {
            let wait = match self.call_within(function, payload.clone(), limit).await {
                Ok(Invoked::Answer(_)) => return EventEnd { is_processed: true, ..end },
                Err(error) if error.is::<Throttled>() => {
                    end.throttled += 1;
                    let wait = pause;
                    pause = (pause * 2).min(retries.scaled(MAX_PAUSE));
                    wait
                }
                // A region that is unavailable loses the event: nothing promises more.
                Ok(Invoked::FunctionError(_)) | Err(_) if end.errors < retries.after_errors => {
                    end.errors += 1;
                    retries.minute * end.errors
                }
                Ok(Invoked::FunctionError(_)) | Err(_) => {
                    end.errors += 1;
                    return end;
                }
            };
            if began.elapsed() + wait > retries.age {
                return end;
            }
            sleep(wait).await;
        }
    }
}
