//! The heartbeat, and what a standby makes of it.

use crate::items::stamp;
use crate::{Ledger, LedgerError};
use shared::stamp::Stamp;
use sqlx::Row;
use std::time::Duration;

/// How often main's heartbeat is written.
pub const BEAT_INTERVAL: Duration = Duration::from_secs(1);

/// A ledger as a standby sees it: its own copy of main's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Whether it still follows main; a promoted one does not.
    pub follows: bool,
    /// When this was true, by the replica's clock.
    pub at: Stamp,
    /// Main's newest heartbeat that is replayed here.
    pub beat_at: Option<Stamp>,
    /// How far main's log has been received, as PostgreSQL writes it. A promotion replays all
    /// of it first.
    pub received: Option<String>,
    /// What is received and not replayed yet, in bytes.
    pub unreplayed_bytes: Option<i64>,
    /// Whether replaying is paused by hand.
    pub is_paused: bool,
    /// Whether a line to main is open, where the user may know.
    pub is_streaming: Option<bool>,
}

/// What a promotion would lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtRisk {
    /// Everything that was committed on main before this is safe.
    pub safe_until: Stamp,
    /// When this was true, by main's clock.
    pub at: Stamp,
    /// Sales that were recorded, paid or released since.
    pub sales: u64,
}

impl AtRisk {
    /// How much of main's time would be lost, in microseconds: never too little, and too much by
    /// [`BEAT_INTERVAL`] at most.
    pub fn micros(&self) -> u64 {
        self.at.as_micros().saturating_sub(self.safe_until.as_micros())
    }
}

impl Replica {
    /// The most that would be lost, by what is replayed here alone: for a main that does not
    /// answer. What is received and not replayed is counted as lost, though it is not.
    pub fn lag_micros(&self) -> Option<u64> {
        Some(self.at.as_micros().saturating_sub(self.beat_at?.as_micros()))
    }
}

impl Ledger {
    /// Writes a heartbeat, unless somebody else has in this second.
    pub async fn beat(&self) -> Result<(), LedgerError> {
        self.within_limit(async {
            sqlx::query(
                "INSERT INTO fairdrop.heartbeats AS heart (place, beat_at, log_end, oldest_transaction, epoch)
                 SELECT (beat_at / 1000000 % 900)::smallint, beat_at, pg_current_wal_insert_lsn(),
                        pg_snapshot_xmin(pg_current_snapshot())::xid, epoch
                   FROM fairdrop.reign, (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS beat_at) AS now
                     ON CONFLICT (place) DO UPDATE
                    SET beat_at = excluded.beat_at, log_end = excluded.log_end,
                        oldest_transaction = excluded.oldest_transaction, epoch = excluded.epoch
                  WHERE heart.beat_at < excluded.beat_at - 1000000",
            )
            .execute(&self.pool)
            .await?;
            Ok(())
        })
        .await
    }

    /// The ledger as a standby sees it, at one moment.
    pub async fn replica(&self) -> Result<Replica, LedgerError> {
        self.within_limit(async {
            let row = sqlx::query(
                "SELECT follows,
                        (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS at,
                        (SELECT max(beat_at) FROM fairdrop.heartbeats) AS beat_at,
                        CASE WHEN follows THEN pg_last_wal_receive_lsn()::text END AS received,
                        CASE WHEN follows THEN
                            (pg_last_wal_receive_lsn() - pg_last_wal_replay_lsn())::bigint END AS unreplayed_bytes,
                        CASE WHEN follows THEN pg_is_wal_replay_paused() ELSE false END AS is_paused,
                        (SELECT status = 'streaming' FROM pg_stat_wal_receiver LIMIT 1) AS is_streaming
                   FROM (SELECT pg_is_in_recovery() AS follows) AS state",
            )
            .fetch_one(&self.pool)
            .await?;
            let beat_at: Option<i64> = row.try_get("beat_at")?;
            Ok(Replica {
                follows: row.try_get("follows")?,
                at: stamp(row.try_get("at")?)?,
                beat_at: beat_at.map(stamp).transpose()?,
                received: row.try_get("received")?,
                unreplayed_bytes: row.try_get("unreplayed_bytes")?,
                is_paused: row.try_get("is_paused")?,
                is_streaming: row.try_get("is_streaming")?,
            })
        })
        .await
    }

    /// What a promotion of a replica that has `received` would lose of this ledger, main's.
    /// Nothing where all heartbeats are younger: it is more than a quarter of an hour behind.
    pub async fn at_risk(&self, received: &str) -> Result<Option<AtRisk>, LedgerError> {
        self.within_limit(async {
            let row = sqlx::query(
                "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS at, heart.beat_at,
                        (SELECT count(*) FROM fairdrop.sales
                          WHERE age(sales.xmin) <= age(heart.oldest_transaction)) AS sales
                   FROM (SELECT beat_at, oldest_transaction FROM fairdrop.heartbeats
                          WHERE log_end <= $1::pg_lsn ORDER BY beat_at DESC LIMIT 1) AS heart",
            )
            .bind(received)
            .fetch_optional(&self.pool)
            .await?;
            row.map(|row| {
                Ok(AtRisk {
                    safe_until: stamp(row.try_get("beat_at")?)?,
                    at: stamp(row.try_get("at")?)?,
                    sales: row.try_get::<i64, _>("sales")?.unsigned_abs(),
                })
            })
            .transpose()
        })
        .await
    }
}
