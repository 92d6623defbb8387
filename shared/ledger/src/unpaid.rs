//! Buyers who reserve and do not pay.

use crate::{Ledger, LedgerError};
use shared::item::ItemId;
use sqlx::Row;

/// The highest limit of an item.
pub const MAX_UNPAID_LIMIT: u16 = 100;

/// How long unpaid holds are kept: 90 days. No limit counts older ones than 30 days.
const KEPT_MICROS: i64 = 90 * 86_400_000_000;
/// Holds that are deleted at a time.
const PRUNED: i64 = 10_000;

/// The holds of an item that ended without a payment, in the last 90 days.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnpaidHolds {
    pub holds: u64,
    /// The buyers who had them.
    pub buyers: u64,
    /// With this number of unpaid holds of any items in the last 30 days, a buyer gets no unit of this item.
    pub limit: Option<u16>,
}

impl Ledger {
    /// The unpaid holds of an item.
    pub async fn unpaid_holds(&self, item_id: &ItemId) -> Result<UnpaidHolds, LedgerError> {
        self.within_limit(async {
            let row = sqlx::query(
                "SELECT max_unpaid,
                        (SELECT count(*) FROM fairdrop.unpaid_holds WHERE item_id = $1) AS holds,
                        (SELECT count(DISTINCT user_token) FROM fairdrop.unpaid_holds WHERE item_id = $1) AS buyers
                   FROM fairdrop.items WHERE item_id = $1",
            )
            .bind(item_id.as_str())
            .fetch_optional(&self.pool)
            .await?;
            let row = row.ok_or_else(|| LedgerError::NoSuchItem(item_id.clone()))?;
            let count = |column| row.try_get::<i64, _>(column).map(i64::unsigned_abs);
            Ok(UnpaidHolds {
                holds: count("holds")?,
                buyers: count("buyers")?,
                limit: row.try_get::<Option<i16>, _>("max_unpaid")?.map(i16::unsigned_abs),
            })
        })
        .await
    }

    /// Sets an item's limit, 1 to [`MAX_UNPAID_LIMIT`], or removes it. It counts for later reservations.
    pub async fn limit_unpaid(&self, item_id: &ItemId, limit: Option<u16>) -> Result<(), LedgerError> {
        self.within_limit(async {
            let changed = sqlx::query("UPDATE fairdrop.items SET max_unpaid = $2 WHERE item_id = $1")
                .bind(item_id.as_str())
                .bind(limit.map(|limit| i16::try_from(limit).unwrap_or(i16::MAX)))
                .execute(&self.pool)
                .await?;
            if changed.rows_affected() == 0 {
                return Err(LedgerError::NoSuchItem(item_id.clone()));
            }
            Ok(())
        })
        .await
    }

    /// Deletes unpaid holds that ended more than 90 days ago, some at a time; returns how many. The names of buyers are not
    /// kept longer than a limit needs them.
    pub async fn prune_unpaid_holds(&self) -> Result<u64, LedgerError> {
        self.within_limit(async {
            let pruned = sqlx::query(
                "DELETE FROM fairdrop.unpaid_holds WHERE ctid = ANY (ARRAY(
                     SELECT ctid FROM fairdrop.unpaid_holds
                      WHERE ended_at < extract(epoch FROM clock_timestamp()) * 1000000 - $1
                      LIMIT $2 FOR UPDATE SKIP LOCKED))",
            )
            .bind(KEPT_MICROS)
            .bind(PRUNED)
            .execute(&self.pool)
            .await?;
            Ok(pruned.rows_affected())
        })
        .await
    }
}
