//! The figures that check a ledger after a restore.

use crate::items::stamp;
use crate::{Ledger, LedgerError};
use shared::stamp::Stamp;
use sqlx::Row;
use std::time::Duration;
use tokio::time::timeout;

/// The time limit of the check, which counts all rows; a restored disk is slow at first.
const VITALS_LIMIT: Duration = Duration::from_secs(120);

/// Figures of a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vitals {
    /// The number of its latest migration; 0 if there is none.
    pub version: i64,
    pub items: i64,
    /// In any state.
    pub sales: i64,
    /// The sum of the items' column `units_taken`.
    pub units_taken: i64,
    /// The number of sales that are reserved or sold. It must equal `units_taken`.
    pub units_counted: i64,
    /// When a unit was last reserved.
    pub newest_reservation: Option<Stamp>,
}

impl Ledger {
    /// Counts the rows. Changes nothing.
    pub async fn vitals(&self) -> Result<Vitals, LedgerError> {
        self.ready().await?;
        let unavailable =
            |_| LedgerError::Unavailable("counting its rows took longer than the time limit".into());
        timeout(VITALS_LIMIT, Box::pin(self.count())).await.map_err(unavailable)?
    }

    async fn count(&self) -> Result<Vitals, LedgerError> {
        let mut connection = self.pool.acquire().await?.detach();
        sqlx::query("SELECT set_config('statement_timeout', '110s', false)").execute(&mut connection).await?;
        let schema: Option<String> = sqlx::query_scalar("SELECT to_regclass('fairdrop.sales')::text")
            .fetch_one(&mut connection)
            .await?;
        if schema.is_none() {
            let nothing = Vitals {
                version: 0,
                items: 0,
                sales: 0,
                units_taken: 0,
                units_counted: 0,
                newest_reservation: None,
            };
            return Ok(nothing);
        }
        // Not by sqlx's migrator, which first creates the table if it is missing: this user may only read.
        let version: i64 = sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM fairdrop.migrations")
            .fetch_one(&mut connection)
            .await?;
        let row = sqlx::query(
            "SELECT items.items, items.units_taken, sales.sales, sales.units_counted, sales.newest
               FROM (SELECT count(*) AS items, coalesce(sum(units_taken), 0)::bigint AS units_taken
                       FROM fairdrop.items) AS items,
                    (SELECT count(*) AS sales, count(*) FILTER (WHERE state IN ('reserved', 'sold')) AS units_counted,
                            max(reserved_at) AS newest
                       FROM fairdrop.sales) AS sales",
        )
        .fetch_one(&mut connection)
        .await?;
        let newest: Option<i64> = row.try_get("newest")?;
        Ok(Vitals {
            version,
            items: row.try_get("items")?,
            sales: row.try_get("sales")?,
            units_taken: row.try_get("units_taken")?,
            units_counted: row.try_get("units_counted")?,
            newest_reservation: newest.map(stamp).transpose()?,
        })
    }
}
