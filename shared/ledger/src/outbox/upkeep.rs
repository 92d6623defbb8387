//! What the outbox needs beside its turns: the wish for events, closings that are due, its state, and its pruning.

use super::moment;
use crate::items::stamp;
use crate::{Ledger, LedgerError};
use shared::item::ItemId;
use shared::permit::Permit;
use shared::stamp::Stamp;
use sqlx::Row;

/// Events are written this long after the last publisher, and published ones are kept as long: 14 days, in microseconds.
const KEPT_MICROS: i64 = 14 * 86_400 * 1_000_000;
/// The wish is renewed when it has become this much shorter: an hour, in microseconds.
const RENEWED_AFTER_MICROS: i64 = 3_600_000_000;
/// The most rows that one call changes.
const BATCH: i64 = 1_000;
/// Dead letters are counted up to this number.
const DEAD_LETTERS_COUNTED: i64 = 10_000;

/// The state of the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxState {
    /// By the ledger's clock.
    pub now: Stamp,
    /// When the oldest pending event was decided.
    pub pending_since: Option<Stamp>,
    /// Events that EventBridge refused permanently.
    pub dead_letters: u64,
}

/// A batch of events that are published again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Republished {
    pub events: u64,
    /// The sequence at which the next batch begins, if there may be one.
    pub next: Option<u64>,
}

impl Ledger {
    /// Has events written for the next 14 days. If none were written before, items that have closed already are not
    /// reported, and each item's next event skips a sequence, so that a shop that knew earlier events sees the gap.
    pub async fn want_events(&self) -> Result<(), LedgerError> {
        self.within_limit(async {
            let mut transaction = self.pool.begin().await?;
            let row = sqlx::query(
                "SELECT until, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now
                   FROM fairdrop.outbox_wanted",
            )
            .fetch_one(&mut *transaction)
            .await?;
            let (until, now): (i64, i64) = (row.try_get("until")?, row.try_get("now")?);
            if until - now > KEPT_MICROS - RENEWED_AFTER_MICROS {
                return Ok(());
            }
            // Another publisher may have done it since.
            let done = sqlx::query("UPDATE fairdrop.outbox_wanted SET until = $1 WHERE until = $2")
                .bind(now + KEPT_MICROS)
                .bind(until)
                .execute(&mut *transaction)
                .await?;
            if until <= now && done.rows_affected() == 1 {
                sqlx::query(
                    "UPDATE fairdrop.items
                        SET last_event = last_event + (last_event > 0)::int,
                            closed_event_for = CASE WHEN closes_at <= $1 THEN closes_at ELSE closed_event_for END
                      WHERE last_event > 0 OR closes_at <= $1",
                )
                .bind(now)
                .execute(&mut *transaction)
                .await?;
            }
            Ok(transaction.commit().await?)
        })
        .await
    }

    /// Writes the events of items whose closing time has passed since the last call, at most 1,000; returns their number.
    pub async fn report_closings(&self, permit: Permit) -> Result<u64, LedgerError> {
        self.within_limit(async {
            let mut transaction = self.begin_before(permit.until()).await?;
            let done = sqlx::query(
                "WITH due AS (
                     SELECT item_id FROM fairdrop.items
                      WHERE closes_at <= extract(epoch FROM clock_timestamp()) * 1000000
                        AND closed_event_for IS DISTINCT FROM closes_at AND fairdrop.events_are_wanted()
                      ORDER BY closes_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
                 ), numbered AS (
                     UPDATE fairdrop.items SET last_event = last_event + 1, closed_event_for = closes_at
                       FROM due WHERE items.item_id = due.item_id
                     RETURNING items.item_id, last_event, closes_at
                 )
                 INSERT INTO fairdrop.outbox (item_id, sequence, kind, epoch, at, closes_at)
                 SELECT item_id, last_event, 'closed', epoch,
                        (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, closes_at
                   FROM numbered, fairdrop.current_epoch",
            )
            .bind(BATCH)
            .execute(&mut *transaction)
            .await?;
            transaction.commit().await?;
            Ok(done.rows_affected())
        })
        .await
    }

    /// The state of the outbox.
    pub async fn outbox_state(&self) -> Result<OutboxState, LedgerError> {
        self.within_limit(async {
            let row = sqlx::query(
                "WITH RECURSIVE item (item_id) AS (
                     SELECT min(item_id) FROM fairdrop.outbox WHERE published_at IS NULL AND dead_letter IS NULL
                     UNION ALL
                     SELECT (SELECT min(outbox.item_id) FROM fairdrop.outbox
                              WHERE outbox.item_id > item.item_id AND published_at IS NULL AND dead_letter IS NULL)
                       FROM item WHERE item.item_id IS NOT NULL
                 )
                 SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now,
                        (SELECT min(event.at) FROM item CROSS JOIN LATERAL (
                            SELECT at FROM fairdrop.outbox
                             WHERE outbox.item_id = item.item_id AND published_at IS NULL AND dead_letter IS NULL
                             ORDER BY sequence LIMIT 1) AS event) AS pending_since,
                        (SELECT count(*) FROM (SELECT FROM fairdrop.outbox WHERE dead_letter IS NOT NULL LIMIT $1)
                            AS dead) AS dead_letters",
            )
            .bind(DEAD_LETTERS_COUNTED)
            .fetch_one(&self.pool)
            .await?;
            Ok(OutboxState {
                now: stamp(row.try_get("now")?)?,
                pending_since: row.try_get::<Option<i64>, _>("pending_since")?.map(stamp).transpose()?,
                dead_letters: row.try_get::<i64, _>("dead_letters")?.unsigned_abs(),
            })
        })
        .await
    }

    /// Deletes events that were published more than 14 days before `now`, at most 1,000; returns their number.
    pub async fn prune_outbox(&self, now: Stamp) -> Result<u64, LedgerError> {
        self.within_limit(async {
            let done = sqlx::query(
                "DELETE FROM fairdrop.outbox AS event
                  USING (SELECT item_id, sequence FROM fairdrop.outbox WHERE published_at < $1
                          ORDER BY published_at LIMIT $2 FOR UPDATE SKIP LOCKED) AS old
                  WHERE event.item_id = old.item_id AND event.sequence = old.sequence",
            )
            .bind(moment(now) - KEPT_MICROS)
            .bind(BATCH)
            .execute(&self.pool)
            .await?;
            Ok(done.rows_affected())
        })
        .await
    }

    /// Has an item's events from `from` on published again, dead letters included, at most 1,000.
    pub async fn republish(&self, item_id: &ItemId, from: u64) -> Result<Republished, LedgerError> {
        self.within_limit(async {
            let row = sqlx::query(
                "WITH batch AS (
                     SELECT item_id, sequence FROM fairdrop.outbox
                      WHERE item_id = $1 AND sequence >= $2
                        AND (published_at IS NOT NULL OR dead_letter IS NOT NULL)
                      ORDER BY sequence LIMIT $3
                 ), changed AS (
                     UPDATE fairdrop.outbox AS event SET published_at = NULL, dead_letter = NULL
                       FROM batch WHERE event.item_id = batch.item_id AND event.sequence = batch.sequence
                 )
                 SELECT count(*) AS events, max(sequence) AS last FROM batch",
            )
            .bind(item_id.as_str())
            .bind(i64::try_from(from).unwrap_or(i64::MAX))
            .bind(BATCH)
            .fetch_one(&self.pool)
            .await?;
            let (events, last): (i64, Option<i64>) = (row.try_get("events")?, row.try_get("last")?);
            let next = last.filter(|_| events == BATCH).map(|last| last.unsigned_abs() + 1);
            Ok(Republished { events: events.unsigned_abs(), next })
        })
        .await
    }
}
