//! Holds that have ended, and reservations that buyers have cancelled.

use crate::WorkerContext;
use crate::item_work::{BatchFill, ItemWork, RoundError};
use ledger::{BuyerState, Due};
use shared::queue::{MAX_BATCH, ReservationOutcome, Settlement};
use shared::user_token::UserToken;

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
        self.mark_excluded(&settlements).await;
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

    /// Marks the excluded buyers whose units have ended now.
    async fn mark_excluded(&self, settlements: &[Settlement]) {
        let has_ended = |one: &&Settlement| {
            matches!(one.outcome, ReservationOutcome::Released { .. } | ReservationOutcome::Voided)
        };
        let ended: Vec<&UserToken> =
            settlements.iter().filter(has_ended).map(|one| &one.user_token).collect();
        if ended.is_empty() {
            return;
        }
        let WorkerContext { queue, ledger, .. } = &self.context;
        if let Err(error) = reconcile::mark_excluded(queue, ledger, &self.item_id, &ended).await {
            tracing::warn!(%error, item_id = %self.item_id, "could not mark excluded buyers in Redis whose units have ended; the ledger refuses their next reservations");
        }
    }
}
