//! Holds that have ended, and reservations that buyers have cancelled.

use crate::item_work::{BatchFill, ItemWork, RoundError};
use ledger::{BuyerState, Due};
use shared::queue::{MAX_BATCH, ReservationOutcome, Settlement};

impl ItemWork {
    /// Lets the ledger decide a batch of due reservations, and writes its decisions to Redis.
    pub(crate) async fn release_due(&mut self) -> Result<BatchFill, RoundError> {
        let batch = self.context.queue.due(&self.item_id, self.due_to_skip).await?;
        let found = BatchFill::of(batch.due.len());
        if found == BatchFill::Empty {
            self.due_to_skip = 0;
            return Ok(found);
        }
        let fence = self.context.lease.permit()?.fence(batch.epoch);
        let due: Vec<Due> = batch
            .due
            .iter()
            .map(|one| Due {
                user_token: one.user_token.clone(),
                hold_until: one.hold_until,
                cancelled: one.cancelled,
                kept_until: one.has_attempt.then(|| self.context.service.kept_until(one.hold_until)),
            })
            .collect();
        let states = self.context.ledger.release_due(&self.item_id, &due, batch.now, fence).await?;
        let settlements: Vec<Settlement> = batch
            .due
            .into_iter()
            .zip(states)
            .filter_map(|(one, state)| {
                let outcome = match state {
                    BuyerState::Sold => ReservationOutcome::Sold,
                    BuyerState::Reserved { until } => ReservationOutcome::Reserved { until },
                    BuyerState::Released => ReservationOutcome::Released { returns_unit: true },
                    BuyerState::Voided => ReservationOutcome::Voided,
                    // Its task has not reached the ledger yet.
                    BuyerState::Excluded | BuyerState::None => return None,
                };
                Some(Settlement { user_token: one.user_token, expected: Some(one.score), outcome })
            })
            .collect();
        let changed = self.context.queue.settle(&self.item_id, &settlements).await?;
        let released = settlements
            .iter()
            .filter(|one| matches!(one.outcome, ReservationOutcome::Released { .. }))
            .count() as u64;
        self.done.released += released;
        if released > 0 {
            metrics::counter!("reservations_released", "Item" => self.item_id.to_string())
                .increment(released);
        }
        if changed > 0 {
            self.due_to_skip = 0;
            return Ok(found);
        }
        // The whole batch waits for its tasks: skip it, and take the normal pause.
        self.due_to_skip = if found == BatchFill::Full { self.due_to_skip + MAX_BATCH } else { 0 };
        Ok(BatchFill::Empty)
    }
}
