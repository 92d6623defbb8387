//! Writes main's heartbeat to the ledger. A standby measures its lag by the heartbeat's age.

use ledger::{HEARTBEAT_INTERVAL, Ledger};
use shared::item_runs;
use std::time::Instant;

/// Writes heartbeats until `until`, and goes on after a failed one. Logs only the first failure in a row.
pub(crate) async fn write_until(ledger: &Ledger, until: Instant) {
    let mut has_failed = false;
    while Instant::now() < until {
        let beat = tokio::time::timeout_at(until.into(), ledger.write_heartbeat()).await;
        if let Ok(Err(error)) = beat {
            metrics::counter!("heartbeats_failed").increment(1);
            if !has_failed {
                tracing::warn!(%error, "could not write the heartbeat to the ledger; trying again every second");
            }
            has_failed = true;
        } else {
            has_failed = false;
        }
        item_runs::pause(HEARTBEAT_INTERVAL, until).await;
    }
}
