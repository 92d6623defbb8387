//! Units that an operator takes back.

use crate::items::{lock, stamp};
use crate::records::{buyer, state, unreadable};
use crate::{ExclusionOrder, Ledger, LedgerError, SaleState, exclusions};
use shared::item::ItemId;
use shared::permit::Fence;
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use sqlx::postgres::PgRow;
use sqlx::{Postgres, Row, Transaction};
use std::time::Duration;

/// What an operator asks for.
#[derive(Clone, Copy, Debug)]
pub struct VoidOrder<'a> {
    pub buyer: &'a UserToken,
    /// 1 to 500 characters.
    pub reason: &'a str,
    /// The operator, as they named themselves: 1 to 100 characters.
    pub by: Option<&'a str>,
    /// Whether the buyer gets no unit of the item any more.
    pub bars: bool,
}

/// A unit that was taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Void {
    pub void_id: i64,
    pub item_id: ItemId,
    pub user_token: UserToken,
    /// Reserved or sold.
    pub was: SaleState,
    pub placed_at: Stamp,
    pub reserved_at: Stamp,
    /// The payment that had bought the unit.
    pub payment_reference: Option<String>,
    /// The ends that the hold has had. Redis has one of them, unless the unit was sold.
    pub ends: Vec<Stamp>,
    pub reason: String,
    pub by: Option<String>,
    /// By the ledger's clock.
    pub voided_at: Stamp,
}

impl Ledger {
    /// Takes the buyer's unit back, whether it is reserved or sold. `None` if the buyer has no unit: then nothing is
    /// written. A repetition returns the same void; it bars the buyer if that is asked for now.
    ///
    /// The payment that had bought the unit is answered from now on as one that bought nothing.
    pub async fn void(
        &self,
        item_id: &ItemId,
        order: VoidOrder<'_>,
        fence: Fence,
    ) -> Result<Option<Void>, LedgerError> {
        self.within_limit(async {
            let mut transaction = self.pool.begin().await?;
            lock(&mut transaction, item_id, fence.until).await?;
            let sale = sqlx::query(
                "SELECT state, payment_reference FROM fairdrop.sales
                  WHERE item_id = $1 AND user_token = $2 FOR NO KEY UPDATE",
            )
            .bind(item_id.as_str())
            .bind(order.buyer.as_str())
            .fetch_optional(&mut *transaction)
            .await?;
            let Some(sale) = sale else { return Ok(None) };
            match state(&sale)? {
                SaleState::Reserved | SaleState::Sold => {
                    let reference: Option<String> = sale.try_get("payment_reference")?;
                    write(&mut transaction, item_id, order, reference.as_deref(), fence).await?;
                }
                SaleState::Voided => {}
                SaleState::Released => return Ok(None),
            }
            if order.bars {
                let VoidOrder { buyer, reason, by, .. } = order;
                let exclusion = ExclusionOrder { buyers: std::slice::from_ref(buyer), reason, by };
                exclusions::insert(&mut transaction, item_id, exclusion, fence).await?;
            }
            let row = sqlx::query(sqlx::AssertSqlSafe(format!(
                "SELECT {COLUMNS} FROM fairdrop.voids WHERE item_id = $1 AND user_token = $2
                  ORDER BY void_id DESC LIMIT 1"
            )))
            .bind(item_id.as_str())
            .bind(order.buyer.as_str())
            .fetch_one(&mut *transaction)
            .await?;
            transaction.commit().await?;
            read(&row).map(Some)
        })
        .await
    }

    /// Up to `most` voids that Redis may not have, of units that were taken back at least `age` ago: until then,
    /// drop-admin writes them.
    pub async fn unsettled_voids(&self, age: Duration, most: u32) -> Result<Vec<Void>, LedgerError> {
        self.within_limit(async {
            let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
                "SELECT {COLUMNS} FROM fairdrop.voids
                  WHERE NOT settled AND voided_at <= extract(epoch FROM clock_timestamp()) * 1000000 - $1
                  ORDER BY random() LIMIT $2"
            )))
            .bind(i64::try_from(age.as_micros()).unwrap_or(i64::MAX))
            .bind(i64::from(most))
            .fetch_all(&self.pool)
            .await?;
            rows.iter().map(read).collect()
        })
        .await
    }

    /// Notes that Redis has a void.
    pub async fn void_is_settled(&self, void: &Void) -> Result<(), LedgerError> {
        self.within_limit(async {
            sqlx::query("UPDATE fairdrop.voids SET settled = true WHERE void_id = $1")
                .bind(void.void_id)
                .execute(&self.pool)
                .await?;
            Ok(())
        })
        .await
    }

    /// Up to `most` voids of an item after the first `skip`, oldest first.
    pub async fn voids(&self, item_id: &ItemId, skip: u32, most: u32) -> Result<Vec<Void>, LedgerError> {
        self.within_limit(async {
            let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
                "SELECT {COLUMNS} FROM fairdrop.voids WHERE item_id = $1 ORDER BY void_id OFFSET $2 LIMIT $3"
            )))
            .bind(item_id.as_str())
            .bind(i64::from(skip))
            .bind(i64::from(most))
            .fetch_all(&self.pool)
            .await?;
            rows.iter().map(read).collect()
        })
        .await
    }
}

/// The locks are taken as everywhere: the item's and the sale's rows, then the payment's reference, then the epoch.
async fn write(
    transaction: &mut Transaction<'static, Postgres>,
    item_id: &ItemId,
    order: VoidOrder<'_>,
    reference: Option<&str>,
    fence: Fence,
) -> Result<(), LedgerError> {
    let (item_id, buyer, epoch) = (item_id.as_str(), order.buyer.as_str(), fence.epoch.cast_signed());
    if let Some(reference) = reference {
        sqlx::query("SELECT pg_advisory_xact_lock(hashtext($1), hashtext($2))")
            .bind(item_id)
            .bind(reference)
            .execute(&mut **transaction)
            .await?;
    }
    sqlx::query(
        "INSERT INTO fairdrop.voids (item_id, user_token, was, placed_at, reserved_at, payment_reference, ends, reason,
                                     voided_by, epoch)
         SELECT item_id, user_token, state, placed_at, reserved_at, payment_reference, earlier_ends || hold_until, $3,
                $4, $5
           FROM fairdrop.sales WHERE item_id = $1 AND user_token = $2",
    )
    .bind(item_id)
    .bind(buyer)
    .bind(order.reason)
    .bind(order.by)
    .bind(epoch)
    .execute(&mut **transaction)
    .await?;
    sqlx::query(
        "UPDATE fairdrop.sales SET state = 'voided', epoch = $3 WHERE item_id = $1 AND user_token = $2",
    )
    .bind(item_id)
    .bind(buyer)
    .bind(epoch)
    .execute(&mut **transaction)
    .await?;
    if let Some(reference) = reference {
        sqlx::query(
            "INSERT INTO fairdrop.payments (item_id, payment_reference, user_token, answer, epoch)
             VALUES ($1, $2, $3, 'unit-voided', $4)",
        )
        .bind(item_id)
        .bind(reference)
        .bind(buyer)
        .bind(epoch)
        .execute(&mut **transaction)
        .await?;
    }
    Ok(())
}

const COLUMNS: &str = "void_id, item_id, user_token, was AS state, placed_at, reserved_at, payment_reference, ends, reason, voided_by, voided_at";

fn read(row: &PgRow) -> Result<Void, LedgerError> {
    Ok(Void {
        void_id: row.try_get("void_id")?,
        item_id: row.try_get::<String, _>("item_id")?.parse().map_err(|_| unreadable())?,
        user_token: buyer(row)?,
        was: state(row)?,
        placed_at: stamp(row.try_get("placed_at")?)?,
        reserved_at: stamp(row.try_get("reserved_at")?)?,
        payment_reference: row.try_get("payment_reference")?,
        ends: row.try_get::<Vec<i64>, _>("ends")?.into_iter().map(stamp).collect::<Result<_, _>>()?,
        reason: row.try_get("reason")?,
        by: row.try_get("voided_by")?,
        voided_at: stamp(row.try_get("voided_at")?)?,
    })
}
