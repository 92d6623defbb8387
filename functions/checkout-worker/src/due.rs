//! Holds that have ended, and reservations that were given back.

use crate::item_work::{ItemWork, Unfinished};
use ledger::{Due, Standing};
use shared::queue::{MAX_BATCH, Outcome, Settlement};

/// The score of a reservation that its buyer gave back.
const GIVEN_BACK: &str = "0";

impl ItemWork {
    /// Asks the ledger about a batch of due reservations and tells Redis what it said;
    /// says whether anything changed.
    pub(crate) async fn release_due(&mut self) -> Result<bool, Unfinished> {
        let batch = self.desk.queue.due(&self.item_id, self.due_to_skip).await?;
        let is_full = batch.due.len() == MAX_BATCH as usize;
        if batch.due.is_empty() {
            self.due_to_skip = 0;
            return Ok(false);
        }
        let due: Vec<Due> = batch
            .due
            .iter()
            .map(|(buyer, score)| Due { user_token: buyer.clone(), given_back: score == GIVEN_BACK })
            .collect();
        let standings = self.desk.ledger.release_due(&self.item_id, &due, batch.now, batch.epoch).await?;
        let settlements: Vec<Settlement> = batch
            .due
            .into_iter()
            .zip(standings)
            .filter_map(|((user_token, score), standing)| {
                let outcome = match standing {
                    Standing::Sold => Outcome::Sold,
                    Standing::Reserved { until } => Outcome::Reserved { until },
                    Standing::Released => Outcome::Released { returns_unit: true },
                    // Its task is still on its way to the ledger.
                    Standing::Nothing => return None,
                };
                Some(Settlement { user_token, expected: Some(score), outcome })
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
        self.due_to_skip = if changed == 0 && is_full { self.due_to_skip + MAX_BATCH } else { 0 };
        Ok(changed > 0)
    }
}
