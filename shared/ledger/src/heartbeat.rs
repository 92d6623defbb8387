//! The heartbeat, and how a standby measures its lag with it.
//!
//! Main writes a heartbeat every second, with its WAL position. A replica that has replayed a heartbeat has every commit
//! before it. A replica that has *received* the WAL up to a heartbeat will have them after a promotion, which replays all
//! received WAL first. So a promotion would lose what main committed after the newest received heartbeat. Main itself
//! counts these sales.

use crate::items::{moment, stamp};
use crate::{Ledger, LedgerError};
use serde::{Deserialize, Serialize};
use shared::stamp::Stamp;
use sqlx::Row;
use sqlx::postgres::PgRow;
use std::time::Duration;

/// How often main's heartbeat is written.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// Orders that were placed before an item closed are sold after it, too. The queue of an item that is not paused is
/// probably drained this long after its closing, in microseconds. This is not certain: an order still waits after a
/// sell-out, and gets a unit that a hold's end, a cancellation, added stock or a resumption frees later.
const DRAINED_AFTER_MICROS: i64 = 3_600_000_000;
/// An overload at the opening makes orders wait up to [`shared::queue::MAX_WINDOW`] before the first sale.
const LONGEST_DELAY_MICROS: i64 = shared::queue::MAX_WINDOW.as_micros() as i64;

/// The state of a standby's ledger: its own copy of main's ledger.
///
/// WAL positions are in bytes since the beginning of main's WAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaState {
    /// Whether it still follows main. A promoted ledger does not.
    pub follows: bool,
    /// When this state was true, by the replica's clock.
    pub at: Stamp,
    /// Main's newest heartbeat that is replayed here.
    pub beat_at: Option<Stamp>,
    /// The received WAL position; `None` if it does not follow main.
    pub received: Option<u64>,
    /// The replayed WAL position.
    pub replayed: Option<u64>,
    /// Whether an operator has paused the replay.
    pub is_paused: bool,
    /// Whether a connection to main is open; `None` if the database user may not know.
    pub is_streaming: Option<bool>,
    /// Reservations in the busiest second of the last minute that is replayed here.
    pub peak_sales_per_second: u64,
    /// Units that main can have sold since that heartbeat: those that wait for payment, and the free units of all items
    /// that have opened. Orders may wait however long ago an item closed.
    pub units_unsold: u64,
    /// Those of them that main may well have sold: without the free units of items that closed long before.
    pub units_on_sale: u64,
    /// Units of `units_unsold` whose item had sold nothing yet by that heartbeat, because its first orders were not settled: their
    /// rate is unknown.
    pub units_opening: u64,
}

/// The state of main's ledger, for a function that monitors a standby.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MainState {
    /// When this state was true, by main's clock.
    pub at: Stamp,
    /// Its newest heartbeat; `None` if there has never been one.
    pub beat_at: Option<Stamp>,
    /// The written WAL position.
    pub written: u64,
    /// The standby's replication slot.
    pub slot: Option<ReplicationSlot>,
    /// What main committed and the standby has not received. Absent if all heartbeats are younger than what the
    /// standby has received: then it is more than a quarter of an hour behind.
    pub counted_loss: Option<CountedLoss>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicationSlot {
    /// Whether the standby's connection to it is open.
    pub is_active: bool,
    /// The WAL that main keeps for it, in bytes.
    pub kept_bytes: u64,
}

/// Main's own count of what a promotion of the standby would lose; [`at_risk`](crate::at_risk()) returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountedLoss {
    /// A period of main's time, in microseconds. Never too short; too long by at most [`HEARTBEAT_INTERVAL`] while main
    /// writes heartbeats.
    pub micros: u64,
    /// Sales that were recorded, paid or released in that period.
    pub sales: u64,
}

/// The newest activity of main in this ledger. Milliseconds since the Unix epoch, by main's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastSigns {
    pub heartbeat_ms: Option<u64>,
    /// When the unit of the newest sale was reserved.
    pub sale_ms: Option<u64>,
}

impl ReplicaState {
    /// The age of the newest replayed heartbeat by the replica's own clock, in microseconds.
    pub fn beat_age_micros(&self) -> Option<u64> {
        Some(self.at.micros_since(self.beat_at?).max(0).unsigned_abs())
    }
}

impl Ledger {
    /// Writes a heartbeat, unless another process has written one in this second.
    pub async fn write_heartbeat(&self) -> Result<(), LedgerError> {
        self.within_limit(async {
            sqlx::query(
                "INSERT INTO fairdrop.heartbeats AS heartbeat (place, beat_at, wal_position, oldest_transaction, epoch)
                 SELECT (beat_at / 1000000 % 900)::smallint, beat_at, pg_current_wal_insert_lsn(),
                        pg_snapshot_xmin(pg_current_snapshot()), epoch
                   FROM fairdrop.current_epoch, (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS beat_at) AS now
                     ON CONFLICT (place) DO UPDATE
                    SET beat_at = excluded.beat_at, wal_position = excluded.wal_position,
                        oldest_transaction = excluded.oldest_transaction, epoch = excluded.epoch
                  WHERE heartbeat.beat_at < excluded.beat_at - 1000000",
            )
            .execute(&self.pool)
            .await?;
            Ok(())
        })
        .await
    }

    /// Whether this ledger follows another one and accepts no writes.
    pub async fn follows(&self) -> Result<bool, LedgerError> {
        self.within_limit(async {
            Ok(sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(&self.pool).await?)
        })
        .await
    }

    pub async fn last_signs(&self) -> Result<LastSigns, LedgerError> {
        self.within_limit(async {
            let row = sqlx::query(
                "SELECT (SELECT max(beat_at) / 1000 FROM fairdrop.heartbeats) AS heartbeat,
                        (SELECT max(newest.reserved_at) / 1000
                           FROM fairdrop.items
                          CROSS JOIN LATERAL (SELECT max(reserved_at) AS reserved_at FROM fairdrop.sales
                                               WHERE sales.item_id = items.item_id) AS newest) AS sale",
            )
            .fetch_one(&self.pool)
            .await?;
            Ok(LastSigns {
                heartbeat_ms: optional_count(&row, "heartbeat")?,
                sale_ms: optional_count(&row, "sale")?,
            })
        })
        .await
    }

    /// The state of this ledger, a standby's, at one moment. `sells_until` is the last moment at which main may sell: an
    /// item that opens later is not at risk.
    ///
    /// The limit makes PostgreSQL read the newest sales by their index. Without it, it may read all sales if most are of
    /// one item.
    pub async fn replica(&self, sells_until: Stamp) -> Result<ReplicaState, LedgerError> {
        self.within_limit(async {
            let row = sqlx::query(
                "SELECT follows,
                        (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS at,
                        beats.newest AS beat_at,
                        CASE WHEN follows THEN (pg_last_wal_receive_lsn() - '0/0')::bigint END AS received,
                        CASE WHEN follows THEN (pg_last_wal_replay_lsn() - '0/0')::bigint END AS replayed,
                        CASE WHEN follows THEN pg_is_wal_replay_paused() ELSE false END AS is_paused,
                        (SELECT status = 'streaming' FROM pg_stat_wal_receiver LIMIT 1) AS is_streaming,
                        (SELECT coalesce(max(sold), 0) FROM
                            (SELECT count(*) OVER (ORDER BY recent.reserved_at
                                                   RANGE BETWEEN 999999 PRECEDING AND CURRENT ROW) AS sold
                               FROM fairdrop.items
                              CROSS JOIN LATERAL (SELECT reserved_at FROM fairdrop.sales
                                                   WHERE sales.item_id = items.item_id
                                                     AND reserved_at > beats.newest - 60000000
                                                   ORDER BY reserved_at DESC LIMIT 100000) AS recent
                            ) AS seconds) AS peak,
                        free.units + unpaid.units AS units_unsold,
                        free.on_sale + unpaid.units AS units_on_sale,
                        free.of_no_known_rate AS units_opening
                   FROM (SELECT pg_is_in_recovery() AS follows) AS state
                  CROSS JOIN (SELECT max(beat_at) AS newest FROM fairdrop.heartbeats) AS beats
                  CROSS JOIN (SELECT count(*) AS units FROM fairdrop.sales WHERE state = 'reserved') AS unpaid
                  CROSS JOIN LATERAL
                        (SELECT coalesce(sum(units), 0)::bigint AS units,
                                coalesce(sum(units) FILTER (WHERE paused OR coalesce(closes_at > beats.newest - $2, true)),
                                         0)::bigint AS on_sale,
                                coalesce(sum(units) FILTER (WHERE opens_at + greatest(settle_window_ms * 1000::bigint, $3) > beats.newest),
                                         0)::bigint AS of_no_known_rate
                           FROM (SELECT *, stock_total - units_taken - withheld AS units FROM fairdrop.items) AS items
                          WHERE opens_at < $1) AS free",
            )
            .bind(moment(sells_until))
            .bind(DRAINED_AFTER_MICROS)
            .bind(LONGEST_DELAY_MICROS)
            .fetch_one(&self.pool)
            .await?;
            Ok(ReplicaState {
                follows: row.try_get("follows")?,
                at: stamp(row.try_get("at")?)?,
                beat_at: row.try_get::<Option<i64>, _>("beat_at")?.map(stamp).transpose()?,
                received: optional_count(&row, "received")?,
                replayed: optional_count(&row, "replayed")?,
                is_paused: row.try_get("is_paused")?,
                is_streaming: row.try_get("is_streaming")?,
                peak_sales_per_second: count(&row, "peak")?,
                units_unsold: count(&row, "units_unsold")?,
                units_on_sale: count(&row, "units_on_sale")?,
                units_opening: count(&row, "units_opening")?,
            })
        })
        .await
    }

    /// The state of this ledger, main's, for a replica that has `received` this WAL position. The replica's slot is the
    /// only physical one, or else the one whose name ends in `resource_id`, as RDS names slots. Otherwise it is
    /// unknown.
    pub async fn main(&self, received: Option<u64>, resource_id: &str) -> Result<MainState, LedgerError> {
        let ending = resource_id.to_ascii_lowercase().replace('-', "_");
        let received = received.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        self.within_limit(async {
            let row = sqlx::query(
                "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS at,
                        (SELECT max(beat_at) FROM fairdrop.heartbeats) AS beat_at,
                        (pg_current_wal_insert_lsn() - '0/0')::bigint AS written,
                        slot.active AS slot_active, slot.kept AS slot_kept,
                        heartbeat.beat_at AS safe_until,
                        CASE WHEN heartbeat.beat_at IS NOT NULL THEN
                            (SELECT count(*) FROM fairdrop.sales
                              WHERE changed_in >= heartbeat.oldest_transaction) END AS sales
                   FROM (SELECT 1) AS one
                   LEFT JOIN (SELECT beat_at, oldest_transaction FROM fairdrop.heartbeats
                               WHERE (wal_position - '0/0')::bigint <= $1 ORDER BY beat_at DESC LIMIT 1) AS heartbeat ON true
                   LEFT JOIN (SELECT active, (pg_current_wal_lsn() - restart_lsn)::bigint AS kept
                                FROM pg_replication_slots
                               WHERE slot_type = 'physical'
                                 AND (($2 <> '' AND right(slot_name, length($2)) = $2)
                                      OR (SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'physical') = 1)
                               LIMIT 1) AS slot ON true",
            )
            .bind(received)
            .bind(ending)
            .fetch_one(&self.pool)
            .await?;
            let at = stamp(row.try_get("at")?)?;
            let safe_until: Option<i64> = row.try_get("safe_until")?;
            let counted_loss = safe_until.map(stamp).transpose()?.map(|safe_until| {
                let micros = at.micros_since(safe_until).max(0).unsigned_abs();
                Ok::<_, LedgerError>(CountedLoss { micros, sales: count(&row, "sales")? })
            });
            let is_active: Option<bool> = row.try_get("slot_active")?;
            let kept_bytes = optional_count(&row, "slot_kept")?.unwrap_or(0);
            Ok(MainState {
                at,
                beat_at: row.try_get::<Option<i64>, _>("beat_at")?.map(stamp).transpose()?,
                written: count(&row, "written")?,
                slot: is_active.map(|is_active| ReplicationSlot { is_active, kept_bytes }),
                counted_loss: counted_loss.transpose()?,
            })
        })
        .await
    }
}

fn count(row: &PgRow, name: &str) -> Result<u64, LedgerError> {
    Ok(row.try_get::<i64, _>(name)?.unsigned_abs())
}

fn optional_count(row: &PgRow, name: &str) -> Result<Option<u64>, LedgerError> {
    Ok(row.try_get::<Option<i64>, _>(name)?.map(i64::unsigned_abs))
}
