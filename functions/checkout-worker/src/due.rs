//! Holds that have ended, and reservations that were given back.

use crate::item_work::{Found, ItemWork, Unfinished};
use ledger::{Due, Standing};
use shared::queue::{MAX_BATCH, Outcome, Settlement};

impl ItemWork {
    /// Asks the ledger about a batch of due reservations and tells Redis what it said.
    pub(crate) async fn release_due(&mut self) -> Result<Found, Unfinished> {
        let batch = self.desk.queue.due(&self.item_id, self.due_to_skip).await?;
        let found = Found::of(batch.due.len());
        if found == Found::Nothing {
            self.due_to_skip = 0;
            return Ok(found);
        }
        let due: Vec<Due> = batch
            .due
            .iter()
            .map(|one| Due {
                user_token: one.user_token.clone(),
                hold_until: one.hold_until,
                given_back: one.given_back,
            })
            .collect();
        let reign = self.desk.lease.permit()?.reign(batch.epoch);
        let standings = self.desk.ledger.release_due(&self.item_id, &due, batch.now, reign).await?;
        let settlements: Vec<Settlement> = batch
            .due
            .into_iter()
            .zip(standings)
            .filter_map(|(one, standing)| {
                let outcome = match standing {
                    Standing::Sold => Outcome::Sold,
                    Standing::Reserved { until } => Outcome::Reserved { until },
                    Standing::Released => Outcome::Released { returns_unit: true },
                    // Its task is still on its way to the ledger.
                    Standing::Nothing => return None,
                };
                Some(Settlement { user_token: one.user_token, expected: Some(one.score), outcome })
            })
            .collect();
        let changed = self.desk.queue.settle(&self.item_id, &settlements).await?;
        let released =
            settlements.iter().filter(|one| matches!(one.outcome, Outcome::Released { .. })).count() as u64;
        self.done.released += released;
        if released > 0 {
            metrics::counter!("reservations_released", "Item" => self.item_id.to_string())
                .increment(released);
        }
        if changed > 0 {
            self.due_to_skip = 0;
            return Ok(found);
        }
        // All of it waits for its tasks: look further, and in no hurry.
        self.due_to_skip = if found == Found::More { self.due_to_skip + MAX_BATCH } else { 0 };
        Ok(Found::Nothing)
    }
}
