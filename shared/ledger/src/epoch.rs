//! The ledger's epoch: the fencing token.

use crate::ends::REPEAT_ENDS;
use crate::items::stamp;
use crate::{Ledger, LedgerError};
use shared::stamp::Stamp;
use sqlx::Row;

/// The beginning of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    pub epoch: u64,
    /// By the ledger's clock.
    pub since: Stamp,
}

impl Ledger {
    /// The current epoch.
    pub async fn epoch(&self) -> Result<u64, LedgerError> {
        self.within_limit(async {
            let epoch: i64 =
                sqlx::query_scalar("SELECT epoch FROM fairdrop.current_epoch").fetch_one(&self.pool).await?;
            Ok(epoch.unsigned_abs())
        })
        .await
    }

    /// The current epoch and its beginning.
    pub async fn epoch_start(&self) -> Result<EpochStart, LedgerError> {
        self.within_limit(async {
            let row = sqlx::query(
                "SELECT epoch, (extract(epoch FROM since) * 1000000)::bigint AS since FROM fairdrop.current_epoch",
            )
            .fetch_one(&self.pool)
            .await?;
            let epoch = row.try_get::<i64, _>("epoch")?.unsigned_abs();
            Ok(EpochStart { epoch, since: stamp(row.try_get("since")?)? })
        })
        .await
    }

    /// From now on the ledger refuses sales without a lease.
    pub async fn sell_by_lease(&self) -> Result<(), LedgerError> {
        self.within_limit(async {
            // The trigger allows this change, since the epoch stays.
            sqlx::query("UPDATE fairdrop.current_epoch SET leased = true WHERE NOT leased")
                .execute(&self.pool)
                .await?;
            Ok(())
        })
        .await
    }

    /// Raises the epoch from `from` to `from + 1`, if it has not been raised yet. Under any other epoch it is refused.
    /// Writes under an older epoch are refused from then on. The new main's Redis may lack the end of items that the old
    /// main's has ended: their ends are repeated.
    pub async fn raise_epoch(&self, from: u64) -> Result<u64, LedgerError> {
        self.within_limit(async {
            sqlx::query(
                "UPDATE fairdrop.current_epoch SET epoch = epoch + 1, since = now() WHERE epoch = $1",
            )
            .bind(from.cast_signed())
            .execute(&self.pool)
            .await?;
            let epoch: i64 =
                sqlx::query_scalar("SELECT epoch FROM fairdrop.current_epoch").fetch_one(&self.pool).await?;
            if epoch.unsigned_abs() != from + 1 {
                return Err(LedgerError::StaleEpoch);
            }
            sqlx::query(REPEAT_ENDS).execute(&self.pool).await?;
            Ok(from + 1)
        })
        .await
    }
}
