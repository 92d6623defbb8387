//! Items in the ledger. An item is written here first, and then to Redis.

use crate::{Ledger, LedgerError};
use shared::item::{ItemChanges, ItemId, NewItem};
use shared::stamp::Stamp;
use sqlx::postgres::PgRow;
use sqlx::{Postgres, Row, Transaction};

/// An item as the ledger has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerItem {
    /// With all changes so far.
    pub item: NewItem,
    /// Units reserved or sold.
    pub units_taken: u32,
    /// Units that are not sold until an operator puts them on sale.
    pub withheld: u32,
    /// While true no order is drained.
    pub paused: bool,
    /// Whether reservations from before the last failover stay reserved until an operator has compared.
    pub keeps_old_holds: bool,
    /// The epoch whose failover withheld units last, or in which the item was created. An older one than the ledger's: the
    /// newest failover has not reconciled the item.
    pub withheld_in_epoch: u64,
    /// The units that this failover has withheld.
    pub withheld_for_epoch: u32,
    /// When the item was finished: no unit is reserved after this moment.
    pub finished_at: Option<Stamp>,
    /// When the item was archived: Redis no longer has it.
    pub archived_at: Option<Stamp>,
    /// Whether Redis may still have to do what `finish` or `archive` asked for.
    pub is_end_pending: bool,
}

/// The constraint by which the database refuses to oversell.
pub const NEVER_OVERSOLD: &str = "never_oversold";

const COLUMNS: &str = "item_id, name, stock_total, units_taken, withheld, opens_at, closes_at, hold_seconds, max_hold_seconds, settle_window_ms, paused, old_holds_before > 0 AS keeps_old_holds, withheld_in_epoch, withheld_for_epoch, finished_at, archived_at, end_pending";

impl Ledger {
    /// Lowers the withheld units of an item to `most`, unless fewer are withheld; returns how many are withheld now. With
    /// 0, holds from before the failover end like any others again. A repetition changes nothing.
    pub async fn withhold_at_most(&self, item_id: &ItemId, most: u32) -> Result<u32, LedgerError> {
        self.within_limit(async {
            let held: Option<i32> = sqlx::query_scalar(
                "UPDATE fairdrop.items SET withheld = least(withheld, $2),
                        old_holds_before = CASE WHEN $2 > 0 THEN old_holds_before ELSE 0 END
                  WHERE item_id = $1 RETURNING withheld",
            )
            .bind(item_id.as_str())
            .bind(i32::try_from(most).unwrap_or(i32::MAX))
            .fetch_optional(&self.pool)
            .await?;
            held.map(i32::unsigned_abs).ok_or_else(|| LedgerError::NoSuchItem(item_id.clone()))
        })
        .await
    }

    /// Withholds `units` units of an item for the failover to `epoch`, or as many as are left. With `keeps_old_holds`,
    /// reservations from before the failover stay reserved. Units that were withheld for the same epoch count: a
    /// repetition changes nothing. Returns the total number of withheld units.
    pub async fn withhold(
        &self,
        item_id: &ItemId,
        units: u32,
        keeps_old_holds: bool,
        epoch: u64,
    ) -> Result<u32, LedgerError> {
        self.within_limit(async {
            sqlx::query(
                "UPDATE fairdrop.items AS item
                    SET withheld = item.withheld + due.units, withheld_for_epoch = due.already + due.units,
                        withheld_in_epoch = $3,
                        old_holds_before = CASE WHEN $4
                            THEN (SELECT (extract(epoch FROM since) * 1000000)::bigint FROM fairdrop.current_epoch)
                            ELSE item.old_holds_before END
                   FROM (SELECT already, least($2 - already, stock_total - units_taken - withheld) AS units
                           FROM (SELECT *, CASE WHEN withheld_in_epoch < $3 THEN 0 ELSE withheld_for_epoch END AS already
                                   FROM fairdrop.items WHERE item_id = $1 FOR UPDATE) AS known) AS due
                  WHERE item.item_id = $1
                    AND (item.withheld_in_epoch < $3 OR item.withheld_in_epoch = $3 AND due.units > 0)",
            )
            .bind(item_id.as_str())
            .bind(i32::try_from(units).unwrap_or(i32::MAX / 2))
            .bind(epoch.cast_signed())
            .bind(keeps_old_holds)
            .execute(&self.pool)
            .await?;
            let held: Option<i32> =
                sqlx::query_scalar("SELECT withheld FROM fairdrop.items WHERE item_id = $1")
                    .bind(item_id.as_str())
                    .fetch_optional(&self.pool)
                    .await?;
            held.map(i32::unsigned_abs).ok_or_else(|| LedgerError::NoSuchItem(item_id.clone()))
        })
        .await
    }

    /// Writes a new item; returns whether it is new. An existing item stays as it is.
    pub async fn create_item(&self, new: &NewItem) -> Result<bool, LedgerError> {
        self.within_limit(async {
            let done = sqlx::query(
                "INSERT INTO fairdrop.items
                     (item_id, name, stock_total, opens_at, closes_at, hold_seconds, settle_window_ms,
                      max_hold_seconds, withheld_in_epoch)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, (SELECT epoch FROM fairdrop.current_epoch))
                 ON CONFLICT (item_id) DO NOTHING",
            )
            .bind(new.item_id.as_str())
            .bind(&new.name)
            .bind(i32::try_from(new.stock_total).unwrap_or(i32::MAX))
            .bind(moment(new.opens_at))
            .bind(new.closes_at.map(moment))
            .bind(i32::try_from(new.hold_seconds).unwrap_or(i32::MAX))
            .bind(i32::try_from(new.settle_window_ms).unwrap_or(i32::MAX))
            .bind(i32::try_from(new.max_hold_seconds).unwrap_or(i32::MAX))
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

    /// The ids of all items that are not archived, in order.
    pub async fn item_ids(&self) -> Result<Vec<ItemId>, LedgerError> {
        self.within_limit(async {
            let ids: Vec<String> = sqlx::query_scalar(
                "SELECT item_id FROM fairdrop.items WHERE archived_at IS NULL ORDER BY item_id",
            )
            .fetch_all(&self.pool)
            .await?;
            Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
        })
        .await
    }

    /// Up to `most` ids of archived items after `after`, in order.
    pub async fn archived_item_ids(
        &self,
        after: Option<&ItemId>,
        most: u32,
    ) -> Result<Vec<ItemId>, LedgerError> {
        self.within_limit(async {
            let ids: Vec<String> = sqlx::query_scalar(
                "SELECT item_id FROM fairdrop.items
                  WHERE archived_at IS NOT NULL AND item_id > $1 ORDER BY item_id LIMIT $2",
            )
            .bind(after.map_or("", ItemId::as_str))
            .bind(i64::from(most))
            .fetch_all(&self.pool)
            .await?;
            Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
        })
        .await
    }

    /// Changes the fields in `changes` and no others, so that two concurrent changes both take effect; returns the
    /// changed item. If the item would close before it opens, nothing is changed, and the result is `None`. The
    /// database refuses a stock below the units that are reserved, sold or withheld: [`LedgerError::Refused`] of
    /// [`NEVER_OVERSOLD`].
    pub async fn change_item(
        &self,
        item_id: &ItemId,
        changes: &ItemChanges,
    ) -> Result<Option<LedgerItem>, LedgerError> {
        let changed = self
            .write_changes(
                item_id,
                changes,
                "",
                "$4 IS NULL AND $5 IS NULL OR coalesce(coalesce($5, closes_at) > coalesce($4, opens_at), true)",
            )
            .await?;
        if changed.is_none() {
            // This is an error if the item does not exist. Otherwise the gates are the reason.
            self.item(item_id).await?;
        }
        Ok(changed)
    }

    /// Lets an item that was finished open again, with `changes`, which name both gates; returns the changed item. Nothing is
    /// changed, and the result is `None`, if the item is not finished, its end is pending, or it is archived.
    pub async fn reopen_item(
        &self,
        item_id: &ItemId,
        changes: &ItemChanges,
    ) -> Result<Option<LedgerItem>, LedgerError> {
        self.write_changes(
            item_id,
            changes,
            ", finished_at = NULL, paused = false",
            "finished_at IS NOT NULL AND NOT end_pending AND archived_at IS NULL AND $5 > $4",
        )
        .await
    }

    /// Writes `changes`, and what `also` sets, if the item meets `condition`; returns the changed item. Both are constants,
    /// in which $4 is the new opening and $5 the new closing moment.
    async fn write_changes(
        &self,
        item_id: &ItemId,
        changes: &ItemChanges,
        also: &'static str,
        condition: &'static str,
    ) -> Result<Option<LedgerItem>, LedgerError> {
        let number = |units: u32| i32::try_from(units).unwrap_or(i32::MAX);
        self.within_limit(async {
            let row = sqlx::query(sqlx::AssertSqlSafe(format!(
                "UPDATE fairdrop.items
                    SET name = coalesce($2, name), stock_total = coalesce($3, stock_total),
                        opens_at = coalesce($4, opens_at), closes_at = coalesce($5, closes_at),
                        hold_seconds = coalesce($6, hold_seconds),
                        settle_window_ms = coalesce($7, settle_window_ms),
                        max_hold_seconds = coalesce($8, max_hold_seconds){also}
                  WHERE item_id = $1 AND ({condition})
                 RETURNING {COLUMNS}"
            )))
            .bind(item_id.as_str())
            .bind(changes.name.as_deref())
            .bind(changes.stock_total.map(number))
            .bind(changes.opens_at.map(moment))
            .bind(changes.closes_at.map(moment))
            .bind(changes.hold_seconds.map(number))
            .bind(changes.settle_window_ms.map(number))
            .bind(changes.max_hold_seconds.map(number))
            .fetch_optional(&self.pool)
            .await?;
            row.as_ref().map(read).transpose()
        })
        .await
    }

    /// Pauses or resumes an item and changes nothing else; returns the changed item.
    pub async fn pause_item(&self, item_id: &ItemId, paused: bool) -> Result<LedgerItem, LedgerError> {
        self.within_limit(async {
            let row = sqlx::query(sqlx::AssertSqlSafe(format!(
                "UPDATE fairdrop.items SET paused = $2 WHERE item_id = $1 RETURNING {COLUMNS}"
            )))
            .bind(item_id.as_str())
            .bind(paused)
            .fetch_optional(&self.pool)
            .await?;
            read(&row.ok_or_else(|| LedgerError::NoSuchItem(item_id.clone()))?)
        })
        .await
    }

    /// Closes an item at `at`, unless it closes earlier, and changes nothing else; returns the changed item.
    pub async fn close_item(&self, item_id: &ItemId, at: Stamp) -> Result<LedgerItem, LedgerError> {
        self.within_limit(async {
            // `least` ignores NULL.
            let row = sqlx::query(sqlx::AssertSqlSafe(format!(
                "UPDATE fairdrop.items SET closes_at = least(closes_at, $2) WHERE item_id = $1
                 RETURNING {COLUMNS}"
            )))
            .bind(item_id.as_str())
            .bind(moment(at))
            .fetch_optional(&self.pool)
            .await?;
            read(&row.ok_or_else(|| LedgerError::NoSuchItem(item_id.clone()))?)
        })
        .await
    }
}

impl Ledger {
    /// Begins a transaction that the ledger refuses unless it commits before `until`.
    pub(crate) async fn begin_before(
        &self,
        until: Option<Stamp>,
    ) -> Result<Transaction<'static, Postgres>, LedgerError> {
        let mut transaction = self.pool.begin().await?;
        if until.is_some() {
            sqlx::query("SELECT set_config('fairdrop.until', $1, true)")
                .bind(until_setting(until))
                .execute(&mut *transaction)
                .await?;
        }
        Ok(transaction)
    }
}

impl Ledger {
    /// As [`begin_before`](Self::begin_before), for a transaction that may write an event. If events are wanted, it locks
    /// the item's row before any sale's row, as all transactions do: the event gets its sequence from that row. Otherwise
    /// payments of one item need not wait for each other.
    pub(crate) async fn begin_with_events(
        &self,
        item_id: &ItemId,
        until: Option<Stamp>,
    ) -> Result<Transaction<'static, Postgres>, LedgerError> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query(
            "SELECT set_config('fairdrop.until', $2, true),
                    (SELECT true FROM fairdrop.items
                      WHERE item_id = $1 AND fairdrop.events_are_wanted() FOR NO KEY UPDATE)",
        )
        .bind(item_id.as_str())
        .bind(until_setting(until))
        .execute(&mut *transaction)
        .await?;
        Ok(transaction)
    }
}

fn until_setting(until: Option<Stamp>) -> String {
    until.map(|stamp| stamp.to_string()).unwrap_or_default()
}

/// Locks an item's row until the end of the transaction, which the ledger refuses unless it commits before `until`.
pub(crate) async fn lock(
    transaction: &mut Transaction<'static, Postgres>,
    item_id: &ItemId,
    until: Option<Stamp>,
) -> Result<LockedItem, LedgerError> {
    // Through JSON, because the column is missing before migration 16: a release that is not migrated yet records
    // reservations all the same.
    let found: Option<(i32, Option<i64>)> = sqlx::query_as(
        "SELECT stock_total - units_taken - withheld, (to_jsonb(items) ->> 'finished_at')::bigint
           FROM fairdrop.items, set_config('fairdrop.until', $2, true)
          WHERE item_id = $1 FOR NO KEY UPDATE OF items",
    )
    .bind(item_id.as_str())
    .bind(until_setting(until))
    .fetch_optional(&mut **transaction)
    .await?;
    let (units_left, finished_at) = found.ok_or_else(|| LedgerError::NoSuchItem(item_id.clone()))?;
    Ok(LockedItem { units_left, finished_at: finished_at.map(stamp).transpose()? })
}

/// An item whose row is locked.
pub(crate) struct LockedItem {
    /// The number of units that are left to sell.
    pub(crate) units_left: i32,
    pub(crate) finished_at: Option<Stamp>,
}

/// A moment as the ledger stores it.
pub(crate) fn moment(stamp: Stamp) -> i64 {
    stamp.as_micros().cast_signed()
}

/// A moment that the ledger has stored.
pub(crate) fn stamp(micros: i64) -> Result<Stamp, LedgerError> {
    Stamp::from_micros(micros.cast_unsigned())
        .map_err(|_| LedgerError::Refused("a stored moment is out of range".into()))
}

fn read(row: &PgRow) -> Result<LedgerItem, LedgerError> {
    let unreadable = |_| LedgerError::Refused("the row of an item is malformed".into());
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
            max_hold_seconds: units("max_hold_seconds")?,
            settle_window_ms: units("settle_window_ms")?,
        },
        units_taken: units("units_taken")?,
        withheld: units("withheld")?,
        paused: row.try_get("paused")?,
        keeps_old_holds: row.try_get("keeps_old_holds")?,
        withheld_in_epoch: row.try_get::<i64, _>("withheld_in_epoch")?.unsigned_abs(),
        withheld_for_epoch: units("withheld_for_epoch")?,
        finished_at: row.try_get::<Option<i64>, _>("finished_at")?.map(stamp).transpose()?,
        archived_at: row.try_get::<Option<i64>, _>("archived_at")?.map(stamp).transpose()?,
        is_end_pending: row.try_get("end_pending")?,
    })
}
