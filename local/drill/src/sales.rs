//! Reads sales and queue after a run from the servers themselves: both ledgers and the new main's Redis.

use crate::two_regions::TwoRegions;
use anyhow::Result;
use ledger::{Ledger, SaleState};
use redis::AsyncCommands;
use shared::item::ItemId;
use shared::queue::Keys;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Row};
use std::collections::HashSet;

/// Sales in one read.
const PAGE: u32 = 5_000;

/// The buyers with a unit of an item in a ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ItemSales {
    pub(super) sold: HashSet<String>,
    pub(super) reserved: HashSet<String>,
}

/// Reads the sales of an item.
pub(super) async fn read(ledger: &Ledger, item_id: &ItemId) -> Result<ItemSales> {
    let mut sales = ItemSales::default();
    let mut last = None;
    loop {
        let page = ledger.sales(item_id, last.as_ref(), PAGE).await?;
        let Some(end) = page.last().cloned() else { break };
        for sale in page {
            let buyer = sale.user_token.as_str().to_owned();
            match sale.state {
                SaleState::Sold => sales.sold.insert(buyer),
                SaleState::Reserved => sales.reserved.insert(buyer),
                SaleState::Released | SaleState::Voided => false,
            };
        }
        last = Some(end);
    }
    Ok(sales)
}

/// When a ledger committed sales, by its commit timestamps, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Commits {
    pub(super) first_ms: Option<u64>,
    pub(super) last_ms: Option<u64>,
    /// The number of sales.
    pub(super) sales: u64,
}

/// The commits of sales under `epoch` in a region's ledger, after `since_ms`.
pub(super) async fn commits(two: &TwoRegions, region: usize, epoch: i64, since_ms: u64) -> Result<Commits> {
    let mut connection = PgConnection::connect(&two.ledger_url(region).await?).await?;
    let row = sqlx::query(
        "SELECT min(at) AS first, max(at) AS last, count(*) AS sales
           FROM (SELECT (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000)::bigint AS at
                   FROM fairdrop.sales WHERE epoch = $1) AS commits
          WHERE at > $2",
    )
    .bind(epoch)
    .bind(i64::try_from(since_ms)?)
    .fetch_one(&mut connection)
    .await?;
    let moment = |name: &str| -> Result<Option<u64>> {
        Ok(row.try_get::<Option<i64>, _>(name)?.map(i64::unsigned_abs))
    };
    Ok(Commits {
        first_ms: moment("first")?,
        last_ms: moment("last")?,
        sales: row.try_get::<i64, _>("sales")?.unsigned_abs(),
    })
}

/// When the first sale of these buyers was committed in a region's ledger, in milliseconds since the Unix epoch.
pub(super) async fn first_commit_of(
    two: &TwoRegions,
    region: usize,
    buyers: &[String],
) -> Result<Option<u64>> {
    let mut connection = PgConnection::connect(&two.ledger_url(region).await?).await?;
    let first: Option<i64> = sqlx::query_scalar(
        "SELECT min((extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000)::bigint)
           FROM fairdrop.sales WHERE user_token = ANY($1)",
    )
    .bind(buyers)
    .fetch_one(&mut connection)
    .await?;
    Ok(first.map(i64::unsigned_abs))
}

/// Buyers in the queue or with a unit of an item in a region's Redis.
pub(super) async fn in_queue(two: &TwoRegions, region: usize, item_id: &ItemId) -> Result<HashSet<String>> {
    let keys = Keys::of(item_id);
    let mut connection = two.redis(region).await?;
    let waiting: Vec<String> = connection.zrange(&keys.orders, 0, -1).await?;
    let taken: Vec<String> = connection.zrangebyscore(&keys.reservations, 0, "+inf").await?;
    Ok(waiting.into_iter().chain(taken).collect())
}
