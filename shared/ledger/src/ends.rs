//! The end of an item: finished, then archived. Both are written here first, and then to Redis. Until Redis has done its
//! part, the end is pending: drop-admin does it, and the checkout worker goes on if drop-admin could not finish.

use crate::items::{moment, stamp};
use crate::{Ledger, LedgerError, LedgerItem};
use shared::item::ItemId;
use shared::stamp::Stamp;
use sqlx::Row as _;

/// The maximum number of ends in one read.
const MAX_PENDING: i64 = 100;

/// After a failover: the new main's Redis may lack the newest ends of the old one. A finished item is in Redis until it is
/// archived, and an older archive was replicated long ago.
pub(crate) const REPEAT_ENDS: &str = "
    UPDATE fairdrop.items SET end_pending = true
     WHERE finished_at IS NOT NULL AND NOT end_pending
       AND coalesce(archived_at > extract(epoch FROM now() - interval '1 day') * 1000000, true)";

/// Redis deletes an archived item again after this time: a process may have been at work on it.
const DELETED_AGAIN_AFTER: &str = "1 minute";

/// The end of an item, as far as the ledger has decided it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemEnd {
    pub item_id: ItemId,
    pub finished_at: Stamp,
    pub archived_at: Option<Stamp>,
}

/// Why an item is not archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotArchivable {
    /// Whether it was finished, and its queue is empty.
    pub is_ended: bool,
    /// Reservations that wait for their payment.
    pub holds: u64,
    /// Whether events of it have not been published yet.
    pub has_events: bool,
}

/// Events count only while a publisher wants them.
const ARCHIVE: &str = "
    UPDATE fairdrop.items SET archived_at = coalesce(archived_at, $2), end_pending = true
     WHERE item_id = $1 AND finished_at IS NOT NULL
       AND (archived_at IS NOT NULL
            OR NOT end_pending
               AND NOT EXISTS (SELECT FROM fairdrop.sales WHERE item_id = $1 AND state = 'reserved')
               AND NOT (fairdrop.events_are_wanted()
                        AND (closed_event_for IS DISTINCT FROM closes_at
                             OR EXISTS (SELECT FROM fairdrop.outbox
                                         WHERE item_id = $1 AND published_at IS NULL AND dead_letter IS NULL))))
    RETURNING item_id, finished_at, archived_at";

const OBSTACLES: &str = "
    SELECT finished_at IS NOT NULL AND NOT end_pending AS is_ended,
           (SELECT count(*) FROM fairdrop.sales WHERE item_id = $1 AND state = 'reserved') AS holds,
           fairdrop.events_are_wanted()
           AND (closed_event_for IS DISTINCT FROM closes_at
                OR EXISTS (SELECT FROM fairdrop.outbox
                            WHERE item_id = $1 AND published_at IS NULL AND dead_letter IS NULL)) AS has_events
      FROM fairdrop.items WHERE item_id = $1";

impl LedgerItem {
    /// Its end, if it was finished.
    pub fn end(&self) -> Option<ItemEnd> {
        let item_id = self.item.item_id.clone();
        self.finished_at.map(|finished_at| ItemEnd { item_id, finished_at, archived_at: self.archived_at })
    }
}

impl Ledger {
    /// Finishes an item at `at`, unless it was finished before; returns its end. The database refuses an item that has not
    /// closed or is not paused.
    pub async fn finish_item(&self, item_id: &ItemId, at: Stamp) -> Result<ItemEnd, LedgerError> {
        self.within_limit(async {
            let row = sqlx::query(
                "UPDATE fairdrop.items SET finished_at = coalesce(finished_at, $2), end_pending = true
                  WHERE item_id = $1 RETURNING item_id, finished_at, archived_at",
            )
            .bind(item_id.as_str())
            .bind(moment(at))
            .fetch_optional(&self.pool)
            .await?;
            read_end(&row.ok_or_else(|| LedgerError::NoSuchItem(item_id.clone()))?)
        })
        .await
    }

    /// Archives an item at `at`, unless it was archived before; returns its end, or why it stays.
    pub async fn archive_item(
        &self,
        item_id: &ItemId,
        at: Stamp,
    ) -> Result<Result<ItemEnd, NotArchivable>, LedgerError> {
        self.within_limit(async {
            let row = sqlx::query(ARCHIVE)
                .bind(item_id.as_str())
                .bind(moment(at))
                .fetch_optional(&self.pool)
                .await?;
            if let Some(row) = row {
                return Ok(Ok(read_end(&row)?));
            }
            let row = sqlx::query(OBSTACLES).bind(item_id.as_str()).fetch_optional(&self.pool).await?;
            let row = row.ok_or_else(|| LedgerError::NoSuchItem(item_id.clone()))?;
            Ok(Err(NotArchivable {
                is_ended: row.try_get("is_ended")?,
                holds: row.try_get::<i64, _>("holds")?.unsigned_abs(),
                has_events: row.try_get("has_events")?,
            }))
        })
        .await
    }

    /// The first ends that are pending, at most 100. drop-admin deletes an archived item at once; its deletion is due again
    /// a minute later.
    pub async fn pending_ends(&self) -> Result<Vec<ItemEnd>, LedgerError> {
        self.within_limit(async {
            let rows = sqlx::query(
                "SELECT item_id, finished_at, archived_at FROM fairdrop.items
                  WHERE end_pending
                    AND coalesce(archived_at < extract(epoch FROM now() - $2::text::interval) * 1000000, true)
                  ORDER BY item_id LIMIT $1",
            )
            .bind(MAX_PENDING)
            .bind(DELETED_AGAIN_AFTER)
            .fetch_all(&self.pool)
            .await?;
            rows.iter().map(read_end).collect()
        })
        .await
    }

    /// Redis has done what `end` asks for. Changes nothing if the item's end is another one by now.
    pub async fn end_done(&self, end: &ItemEnd) -> Result<(), LedgerError> {
        self.within_limit(async {
            sqlx::query(
                "UPDATE fairdrop.items SET end_pending = false
                  WHERE item_id = $1 AND finished_at = $2 AND archived_at IS NOT DISTINCT FROM $3",
            )
            .bind(end.item_id.as_str())
            .bind(moment(end.finished_at))
            .bind(end.archived_at.map(moment))
            .execute(&self.pool)
            .await?;
            Ok(())
        })
        .await
    }

    /// Redis has lost the end of an item, or orders have come back: the end is pending again.
    pub async fn repeat_end(&self, item_id: &ItemId) -> Result<(), LedgerError> {
        self.within_limit(async {
            sqlx::query(
                "UPDATE fairdrop.items SET end_pending = true WHERE item_id = $1 AND finished_at IS NOT NULL",
            )
            .bind(item_id.as_str())
            .execute(&self.pool)
            .await?;
            Ok(())
        })
        .await
    }
}

fn read_end(row: &sqlx::postgres::PgRow) -> Result<ItemEnd, LedgerError> {
    let item_id: String = row.try_get("item_id")?;
    let malformed = |_| LedgerError::Refused("the id of an item is malformed".into());
    Ok(ItemEnd {
        item_id: item_id.parse().map_err(malformed)?,
        finished_at: stamp(row.try_get("finished_at")?)?,
        archived_at: row.try_get::<Option<i64>, _>("archived_at")?.map(stamp).transpose()?,
    })
}
