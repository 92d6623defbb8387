//! Buyers who get no unit of an item.

use crate::items::{lock, stamp};
use crate::records::buyer;
use crate::{Ledger, LedgerError};
use shared::item::ItemId;
use shared::permit::Fence;
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use sqlx::postgres::PgRow;
use sqlx::{Postgres, Row, Transaction};
use std::collections::HashSet;

/// What an operator asks for.
#[derive(Clone, Copy, Debug)]
pub struct ExclusionOrder<'a> {
    pub buyers: &'a [UserToken],
    /// 1 to 500 characters.
    pub reason: &'a str,
    /// The operator, as they named themselves: 1 to 100 characters.
    pub by: Option<&'a str>,
}

/// The result of an exclusion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excluded {
    /// How many buyers were not excluded before.
    pub new: u64,
    /// Those who have a unit, reserved or sold. They keep it.
    pub with_unit: Vec<UserToken>,
}

/// An excluded buyer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exclusion {
    pub user_token: UserToken,
    pub reason: String,
    /// By the ledger's clock: one moment for all buyers of a command.
    pub excluded_at: Stamp,
}

impl Ledger {
    /// Excludes buyers of an item. A repetition changes nothing; the first reason stays.
    ///
    /// A reservation that is in transit to the ledger comes before, and is in `with_unit`, or after, and is refused.
    pub async fn exclude(
        &self,
        item_id: &ItemId,
        order: ExclusionOrder<'_>,
        fence: Fence,
    ) -> Result<Excluded, LedgerError> {
        self.within_limit(async {
            let mut transaction = self.pool.begin().await?;
            lock(&mut transaction, item_id, fence.until).await?;
            let buyers: Vec<&str> = order.buyers.iter().map(UserToken::as_str).collect();
            let new = insert(&mut transaction, item_id, order, fence).await?;
            let rows = sqlx::query(
                "SELECT user_token FROM fairdrop.sales
                  WHERE item_id = $1 AND user_token = ANY ($2) AND state IN ('reserved', 'sold') ORDER BY user_token",
            )
            .bind(item_id.as_str())
            .bind(&buyers)
            .fetch_all(&mut *transaction)
            .await?;
            let with_unit = rows.iter().map(buyer).collect::<Result<_, _>>()?;
            transaction.commit().await?;
            Ok(Excluded { new, with_unit })
        })
        .await
    }

    /// Up to `most` excluded buyers of an item after `after`, by name.
    pub async fn exclusions(
        &self,
        item_id: &ItemId,
        after: Option<&UserToken>,
        most: u32,
    ) -> Result<Vec<Exclusion>, LedgerError> {
        self.within_limit(async {
            let rows = sqlx::query(
                "SELECT user_token, reason, excluded_at FROM fairdrop.exclusions
                  WHERE item_id = $1 AND user_token > $2 ORDER BY user_token LIMIT $3",
            )
            .bind(item_id.as_str())
            .bind(after.map_or("", UserToken::as_str))
            .bind(i64::from(most))
            .fetch_all(&self.pool)
            .await?;
            rows.iter().map(read).collect()
        })
        .await
    }

    /// Up to `most` exclusions of an item after the first `skip`, oldest first.
    pub async fn exclusions_in_order(
        &self,
        item_id: &ItemId,
        skip: u32,
        most: u32,
    ) -> Result<Vec<Exclusion>, LedgerError> {
        self.within_limit(async {
            let rows = sqlx::query(
                "SELECT user_token, reason, excluded_at FROM fairdrop.exclusions
                  WHERE item_id = $1 ORDER BY excluded_at, user_token OFFSET $2 LIMIT $3",
            )
            .bind(item_id.as_str())
            .bind(i64::from(skip))
            .bind(i64::from(most))
            .fetch_all(&self.pool)
            .await?;
            rows.iter().map(read).collect()
        })
        .await
    }

    /// The excluded ones of `buyers`.
    pub async fn excluded_among(
        &self,
        item_id: &ItemId,
        buyers: &[&UserToken],
    ) -> Result<HashSet<UserToken>, LedgerError> {
        let buyers: Vec<&str> = buyers.iter().map(|buyer| buyer.as_str()).collect();
        self.within_limit(async {
            let rows = sqlx::query(
                "SELECT user_token FROM fairdrop.exclusions WHERE item_id = $1 AND user_token = ANY ($2)",
            )
            .bind(item_id.as_str())
            .bind(&buyers)
            .fetch_all(&self.pool)
            .await?;
            rows.iter().map(buyer).collect()
        })
        .await
    }
}

fn read(row: &PgRow) -> Result<Exclusion, LedgerError> {
    Ok(Exclusion {
        user_token: buyer(row)?,
        reason: row.try_get("reason")?,
        excluded_at: stamp(row.try_get("excluded_at")?)?,
    })
}

/// Writes the exclusions that are new; returns how many.
pub(crate) async fn insert(
    transaction: &mut Transaction<'static, Postgres>,
    item_id: &ItemId,
    order: ExclusionOrder<'_>,
    fence: Fence,
) -> Result<u64, LedgerError> {
    let buyers: Vec<&str> = order.buyers.iter().map(UserToken::as_str).collect();
    let written = sqlx::query(
        "INSERT INTO fairdrop.exclusions (item_id, user_token, reason, excluded_by, epoch, excluded_at)
         SELECT $1, user_token, $3, $4, $5, (extract(epoch FROM now()) * 1000000)::bigint
           FROM unnest($2::text[]) AS asked (user_token) ON CONFLICT DO NOTHING",
    )
    .bind(item_id.as_str())
    .bind(&buyers)
    .bind(order.reason)
    .bind(order.by)
    .bind(fence.epoch.cast_signed())
    .execute(&mut **transaction)
    .await?;
    Ok(written.rows_affected())
}
