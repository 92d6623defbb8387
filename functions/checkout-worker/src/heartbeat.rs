//! Main's heartbeat in the ledger, by whose age a standby knows how far behind it is.

use ledger::{BEAT_INTERVAL, Ledger};
use std::time::Instant;

/// Writes it until `until`, whatever becomes of a single beat.
pub(crate) async fn beat_until(ledger: &Ledger, until: Instant) {
    let mut was_missed = false;
    while Instant::now() < until {
        let beat = tokio::time::timeout_at(until.into(), ledger.beat()).await;
        if let Ok(Err(error)) = beat {
            metrics::counter!("heartbeats_missed").increment(1);
            if !was_missed {
                tracing::warn!(%error, "the ledger takes no heartbeat");
            }
            was_missed = true;
        } else {
            was_missed = false;
        }
        let left = until.saturating_duration_since(Instant::now());
        tokio::time::sleep(BEAT_INTERVAL.min(left)).await;
    }
}
