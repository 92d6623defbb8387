//! Payments that were reported before the end of a hold, while Redis could not note them.

use crate::{Ledger, LedgerError};
use shared::item::ItemId;
use shared::user_token::UserToken;

/// How long a note is kept after the end of its hold: longer than the longest grace.
const KEPT_MICROS: i64 = 86_400_000_000;

/// The note names the end of the hold, as one in Redis does. If the hold is extended, or its unit is sold or released, the
/// note has no meaning any more.
const NOTE: &str = "
    INSERT INTO fairdrop.attempts (item_id, user_token, notice, hold_until)
    SELECT item_id, user_token, $3, hold_until FROM fairdrop.sales
     WHERE item_id = $1 AND user_token = $2 AND state = 'reserved'
       AND hold_until >= extract(epoch FROM clock_timestamp()) * 1000000
        ON CONFLICT (item_id, user_token, notice) DO UPDATE SET hold_until = excluded.hold_until";

impl Ledger {
    /// Notes that `notice`, a payment's outcome and reference, was reported for `buyer` now, by the ledger's clock: when the
    /// hold ends, it is extended instead. Returns whether it was noted: not without a reservation in the ledger, or after the
    /// end of its hold.
    pub async fn note_attempt(
        &self,
        item_id: &ItemId,
        buyer: &UserToken,
        notice: &str,
    ) -> Result<bool, LedgerError> {
        Ok(self.write_attempt(NOTE, item_id, buyer, notice).await? > 0)
    }

    /// Takes the note of a notice back that was decided while the hold goes on. Those of the buyer's other notices stay.
    pub async fn forget_attempt(
        &self,
        item_id: &ItemId,
        buyer: &UserToken,
        notice: &str,
    ) -> Result<(), LedgerError> {
        // order-confirm's user may not delete.
        let forget = "UPDATE fairdrop.attempts SET hold_until = 0
                       WHERE item_id = $1 AND user_token = $2 AND notice = $3";
        self.write_attempt(forget, item_id, buyer, notice).await.map(drop)
    }

    async fn write_attempt(
        &self,
        statement: &'static str,
        item_id: &ItemId,
        buyer: &UserToken,
        notice: &str,
    ) -> Result<u64, LedgerError> {
        self.within_limit(async {
            let written = sqlx::query(statement)
                .bind(item_id.as_str())
                .bind(buyer.as_str())
                .bind(notice)
                .execute(&self.pool)
                .await?;
            Ok(written.rows_affected())
        })
        .await
    }

    /// Deletes the notes of holds that ended more than a day ago; returns how many.
    pub async fn prune_attempts(&self) -> Result<u64, LedgerError> {
        self.within_limit(async {
            let pruned = sqlx::query(
                "DELETE FROM fairdrop.attempts
                  WHERE hold_until < extract(epoch FROM clock_timestamp()) * 1000000 - $1",
            )
            .bind(KEPT_MICROS)
            .execute(&self.pool)
            .await?;
            Ok(pruned.rows_affected())
        })
        .await
    }
}
