//! Calls to Redis that are repeated if there is no answer.

use crate::ReplayError;
use crate::pass::Pass;
use shared::queue::{BatchOrder, LinkError, RESTORE_SLOTS, RestoreCall, RestoredBatch, Withdrawal};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;

/// Calls of one batch, and the pause between them.
const MAX_ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// The slots of a replay, each with the number of its latest call.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    next: AtomicUsize,
    numbers: [Mutex<u64>; RESTORE_SLOTS],
}

/// One batch. Redis executes it once: its answer counts what it did, also if the first answer was lost.
pub(crate) async fn restore<S>(
    pass: &Pass<'_, S>,
    withdrawals: &[BatchOrder],
    orders: &[BatchOrder],
) -> Result<RestoredBatch, ReplayError> {
    let slot = pass.slots.next.fetch_add(1, Ordering::Relaxed) % RESTORE_SLOTS;
    // The next call in the slot waits until this one is answered.
    let mut number = pass.slots.numbers[slot].lock().await;
    *number += 1;
    let call = RestoreCall { slot, number: *number };
    repeat(|| pass.queue.restore_batch(pass.item_id, pass.token, call, withdrawals, orders)).await
}

/// Cancels reservations that the buyers have withdrawn: a new primary may lack that. A worker releases them.
pub(crate) async fn cancel<S>(pass: &Pass<'_, S>, withdrawals: &[Withdrawal]) -> Result<(), ReplayError> {
    let answers = repeat(|| pass.queue.withdraw(pass.item_id, withdrawals, true)).await?;
    tracing::info!(item_id = %pass.item_id, ?answers, "applied withdrawals to reservations that the ledger still has");
    Ok(())
}

/// Repeats a call that changes nothing when it is repeated.
pub(crate) async fn repeat<T, Fut>(call: impl Fn() -> Fut) -> Result<T, ReplayError>
where
    Fut: Future<Output = Result<T, LinkError>>,
{
    let mut attempts = 0;
    loop {
        let answer = call().await;
        attempts += 1;
        match answer {
            Err(LinkError::NotSent(_) | LinkError::Unanswered(_)) if attempts < MAX_ATTEMPTS => {
                tokio::time::sleep(PAUSE).await;
            }
            other => return Ok(other?),
        }
    }
}
