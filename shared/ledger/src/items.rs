//! Items in the ledger. They are written here first and to Redis after.

use crate::{Ledger, LedgerError};
use shared::item::{ItemId, NewItem};
use shared::stamp::Stamp;
use sqlx::postgres::PgRow;
use sqlx::{Postgres, Row, Transaction};

/// An item as the ledger has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerItem {
    /// What was announced, with all changes since.
    pub item: NewItem,
    /// Units reserved or sold.
    pub units_taken: u32,
    /// While true nothing is popped.
    pub paused: bool,
}

/// The constraint by which the database refuses to oversell.
pub const NEVER_OVERSOLD: &str = "never_oversold";

const COLUMNS: &str =
    "item_id, name, stock_total, units_taken, opens_at, closes_at, hold_seconds, settle_window_ms, paused";

impl Ledger {
    /// Today's epoch.
    pub async fn epoch(&self) -> Result<u64, LedgerError> {
        self.within_limit(async {
            let epoch: i64 =
                sqlx::query_scalar("SELECT epoch FROM fairdrop.reign").fetch_one(&self.pool).await?;
            Ok(epoch.unsigned_abs())
        })
        .await
    }

    /// Writes a new item; says whether it is new. One that exists stays as it is.
    pub async fn create_item(&self, new: &NewItem) -> Result<bool, LedgerError> {
        self.within_limit(async {
            let done = sqlx::query(
                "INSERT INTO fairdrop.items
                     (item_id, name, stock_total, opens_at, closes_at, hold_seconds, settle_window_ms)
                 VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (item_id) DO NOTHING",
            )
            .bind(new.item_id.as_str())
            .bind(&new.name)
            .bind(i32::try_from(new.stock_total).unwrap_or(i32::MAX))
            .bind(moment(new.opens_at))
            .bind(new.closes_at.map(moment))
            .bind(i32::try_from(new.hold_seconds).unwrap_or(i32::MAX))
            .bind(i32::try_from(new.settle_window_ms).unwrap_or(i32::MAX))
            .execute(&self.pool)
            .await?;
            Ok(done.rows_affected() == 1)
        })
        .await
    }

    /// One item.
    pub async fn item(&self, item_id: &ItemId) -> Result<LedgerItem, LedgerError> {
        self.within_limit(async {
            let row = sqlx::query(sqlx::AssertSqlSafe(format!(
                "SELECT {COLUMNS} FROM fairdrop.items WHERE item_id = $1"
            )))
            .bind(item_id.as_str())
            .fetch_optional(&self.pool)
            .await?;
            read(&row.ok_or_else(|| LedgerError::NoSuchItem(item_id.clone()))?)
        })
        .await
    }

    /// The ids of all items, in order.
    pub async fn item_ids(&self) -> Result<Vec<ItemId>, LedgerError> {
        self.within_limit(async {
            let ids: Vec<String> = sqlx::query_scalar("SELECT item_id FROM fairdrop.items ORDER BY item_id")
                .fetch_all(&self.pool)
                .await?;
            Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
        })
        .await
    }

    /// Writes what may change in an item. The database refuses a stock below what is
    /// taken: [`LedgerError::Refused`] of [`NEVER_OVERSOLD`].
    pub async fn write_item(&self, item: &LedgerItem) -> Result<(), LedgerError> {
        let LedgerItem { item, paused, .. } = item;
        self.within_limit(async {
            let done = sqlx::query(
                "UPDATE fairdrop.items SET name = $2, stock_total = $3, opens_at = $4, closes_at = $5,
                        hold_seconds = $6, paused = $7 WHERE item_id = $1",
            )
            .bind(item.item_id.as_str())
            .bind(&item.name)
            .bind(i32::try_from(item.stock_total).unwrap_or(i32::MAX))
            .bind(moment(item.opens_at))
            .bind(item.closes_at.map(moment))
            .bind(i32::try_from(item.hold_seconds).unwrap_or(i32::MAX))
            .bind(paused)
            .execute(&self.pool)
            .await?;
            if done.rows_affected() == 1 {
                Ok(())
            } else {
                Err(LedgerError::NoSuchItem(item.item_id.clone()))
            }
        })
        .await
    }
}

/// Locks an item's row until the end of the transaction; returns the units that are left.
pub(crate) async fn lock(
    transaction: &mut Transaction<'static, Postgres>,
    item_id: &ItemId,
) -> Result<i32, LedgerError> {
    let left: Option<i32> = sqlx::query_scalar(
        "SELECT stock_total - units_taken FROM fairdrop.items WHERE item_id = $1 FOR NO KEY UPDATE",
    )
    .bind(item_id.as_str())
    .fetch_optional(&mut **transaction)
    .await?;
    left.ok_or_else(|| LedgerError::NoSuchItem(item_id.clone()))
}

/// A moment as the ledger keeps it.
pub(crate) fn moment(stamp: Stamp) -> i64 {
    stamp.as_micros().cast_signed()
}

/// A moment that the ledger kept.
pub(crate) fn stamp(micros: i64) -> Result<Stamp, LedgerError> {
    Stamp::from_micros(micros.cast_unsigned())
        .map_err(|_| LedgerError::Refused("a moment that is none".into()))
}

fn read(row: &PgRow) -> Result<LedgerItem, LedgerError> {
    let unreadable = |_| LedgerError::Refused("an item that cannot be read".into());
    let item_id: String = row.try_get("item_id")?;
    let units = |column| row.try_get::<i32, _>(column).map(i32::unsigned_abs);
    Ok(LedgerItem {
        item: NewItem {
            item_id: item_id.parse().map_err(unreadable)?,
            name: row.try_get("name")?,
            stock_total: units("stock_total")?,
            opens_at: stamp(row.try_get("opens_at")?)?,
            closes_at: row.try_get::<Option<i64>, _>("closes_at")?.map(stamp).transpose()?,
            hold_seconds: units("hold_seconds")?,
            settle_window_ms: units("settle_window_ms")?,
        },
        units_taken: units("units_taken")?,
        paused: row.try_get("paused")?,
    })
}
