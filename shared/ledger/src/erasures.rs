//! Removing a buyer's name. The rows stay, with a pseudonym: the stock, the order of the sales and the payments can still
//! be checked.

use crate::items::{lock, stamp};
use crate::{Ledger, LedgerError};
use shared::item::ItemId;
use shared::permit::Fence;
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use sqlx::Row;

/// The tables that have buyers.
const TABLES: [&str; 7] = ["sales", "payments", "voids", "exclusions", "unpaid_holds", "attempts", "outbox"];

/// What an operator asks for.
#[derive(Clone, Copy, Debug)]
pub struct Erasure<'a> {
    pub buyer: &'a UserToken,
    /// `erased-` and 32 hexadecimal digits.
    pub pseudonym: &'a str,
    /// The operator, as they named themselves: 1 to 100 characters.
    pub by: &'a str,
}

/// An item of the ledger, archived or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedItem {
    pub item_id: ItemId,
    /// When it closed, or was archived if that was later. An order log may have records of it from until then: a buyer may
    /// withdraw an order after the closing.
    pub ended_at: Option<Stamp>,
    pub is_archived: bool,
}

impl Ledger {
    /// Up to `most` items after `after`, in the order of their ids, archived ones included.
    pub async fn named_items(
        &self,
        after: Option<&ItemId>,
        most: u32,
    ) -> Result<Vec<NamedItem>, LedgerError> {
        self.within_limit(async {
            let rows = sqlx::query(
                "SELECT item_id, greatest(closes_at, archived_at) AS ended_at, archived_at IS NOT NULL AS is_archived
                   FROM fairdrop.items WHERE item_id > $1 ORDER BY item_id LIMIT $2",
            )
            .bind(after.map_or("", ItemId::as_str))
            .bind(i64::from(most))
            .fetch_all(&self.pool)
            .await?;
            let malformed = |_| LedgerError::Refused("the id of an item is malformed".into());
            rows.iter()
                .map(|row| {
                    Ok(NamedItem {
                        item_id: row.try_get::<String, _>("item_id")?.parse().map_err(malformed)?,
                        ended_at: row.try_get::<Option<i64>, _>("ended_at")?.map(stamp).transpose()?,
                        is_archived: row.try_get("is_archived")?,
                    })
                })
                .collect()
        })
        .await
    }

    /// Whether the ledger has the buyer's name in rows of an item.
    pub async fn names_buyer(&self, item_id: &ItemId, buyer: &UserToken) -> Result<bool, LedgerError> {
        self.within_limit(async {
            let of_table = |table: &str| {
                format!("EXISTS (SELECT FROM fairdrop.{table} WHERE item_id = $1 AND user_token = $2)")
            };
            let question = format!("SELECT {}", TABLES.map(of_table).join(" OR "));
            Ok(sqlx::query_scalar(sqlx::AssertSqlSafe(question))
                .bind(item_id.as_str())
                .bind(buyer.as_str())
                .fetch_one(&self.pool)
                .await?)
        })
        .await
    }

    /// Writes the pseudonym in place of the buyer's name in all rows of an archived item; returns their number. The
    /// database refuses another item.
    pub async fn erase(
        &self,
        item_id: &ItemId,
        erasure: Erasure<'_>,
        fence: Fence,
    ) -> Result<u64, LedgerError> {
        self.within_limit(async {
            let mut transaction = self.pool.begin().await?;
            lock(&mut transaction, item_id, fence.until).await?;
            sqlx::query(
                "INSERT INTO fairdrop.erasures (pseudonym, erased_by, epoch) VALUES ($1, $2, $3)
                     ON CONFLICT DO NOTHING",
            )
            .bind(erasure.pseudonym)
            .bind(erasure.by)
            .bind(fence.epoch.cast_signed())
            .execute(&mut *transaction)
            .await?;
            let mut rows = 0;
            for table in TABLES {
                let rename = format!(
                    "UPDATE fairdrop.{table} SET user_token = $3 WHERE item_id = $1 AND user_token = $2"
                );
                let renamed = sqlx::query(sqlx::AssertSqlSafe(rename))
                    .bind(item_id.as_str())
                    .bind(erasure.buyer.as_str())
                    .bind(erasure.pseudonym)
                    .execute(&mut *transaction)
                    .await?;
                rows += renamed.rows_affected();
            }
            transaction.commit().await?;
            Ok(rows)
        })
        .await
    }
}
