//! A ledger that was restored from a snapshot or to a point in time: Redis has sales that it lacks.

use crate::{Ledger, LedgerError};

impl Ledger {
    /// Begins `epoch`, which must be above the ledger's, and pauses all items. Reservations from before stay reserved until
    /// an operator has compared: their units may have been sold after the recovery point.
    ///
    /// One transaction. From its commit on, writes under an older epoch are refused.
    pub async fn begin_restored_epoch(&self, epoch: u64) -> Result<(), LedgerError> {
        self.within_limit(async {
            let mut transaction = self.pool.begin().await?;
            // The items first: every transaction locks an item before the epoch.
            sqlx::query(
                "UPDATE fairdrop.items
                    SET paused = true, withheld_in_epoch = $1, withheld_for_epoch = 0,
                        old_holds_before = (extract(epoch FROM now()) * 1000000)::bigint",
            )
            .bind(epoch.cast_signed())
            .execute(&mut *transaction)
            .await?;
            let begun =
                sqlx::query("UPDATE fairdrop.current_epoch SET epoch = $1, since = now() WHERE epoch < $1")
                    .bind(epoch.cast_signed())
                    .execute(&mut *transaction)
                    .await?;
            // Another process has begun this epoch or a later one.
            if begun.rows_affected() == 0 {
                return Err(LedgerError::StaleEpoch);
            }
            Ok(transaction.commit().await?)
        })
        .await
    }
}
