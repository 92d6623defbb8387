//! Repeating a call.

use crate::OrderLogError;
use shared::queue::random_part_of;
use std::time::{Duration, Instant};

/// The limits of a call with its repetitions.
#[derive(Clone, Copy, Debug)]
pub struct CallLimits {
    /// No attempt starts later than this after the first one.
    pub budget: Duration,
    pub max_attempts: u32,
}

/// A buyer waits for a write. With its last attempt of 500 ms it takes 2 s at most.
pub(crate) const OF_WRITES: CallLimits = CallLimits { budget: Duration::from_millis(1_500), max_attempts: 6 };
/// With its last attempt of 2 s, a read takes 5 s at most.
pub(crate) const OF_READS: CallLimits = CallLimits { budget: Duration::from_secs(3), max_attempts: 4 };

/// A page of an item's records: no buyer waits for it, and a partition may be throttled for seconds.
pub(crate) const OF_SCANS: CallLimits = CallLimits { budget: Duration::from_secs(20), max_attempts: 8 };

/// The longest pause before the first repetition; it doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const MAX_PAUSE: Duration = Duration::from_millis(200);

impl CallLimits {
    /// Repeats `attempt` until it succeeds, cannot succeed, or the limits are reached. The error is
    /// [`Unanswered`](OrderLogError::Unanswered) if one of the attempts was.
    pub(crate) async fn repeat<T, Fut>(self, attempt: impl Fn() -> Fut) -> Result<T, OrderLogError>
    where
        Fut: Future<Output = Result<T, OrderLogError>>,
    {
        let began = Instant::now();
        let (mut attempts, mut pause) = (0, FIRST_PAUSE);
        let mut unanswered = None;
        loop {
            let error = match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            attempts += 1;
            let is_last =
                !error.may_pass() || attempts >= self.max_attempts || began.elapsed() + pause >= self.budget;
            tracing::warn!(%error, attempts, is_last, "a call of the order log failed; it is repeated unless this was the last attempt");
            if error.may_be_executed() {
                unanswered = Some(error.clone());
            }
            if is_last {
                return Err(unanswered.unwrap_or(error));
            }
            tokio::time::sleep(random_part_of(pause)).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }
}
