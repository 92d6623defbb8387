//! Items whose end is pending: `finish` has not emptied their queue yet, an archived item is to be deleted again, or a
//! failover may have brought them back.

use crate::App;
use ledger::ItemEnd;
use reconcile::{ReconcileError, end_item};
use shared::item_runs;
use std::time::{Duration, Instant};

/// How often the worker looks for items whose end is pending.
const INTERVAL: Duration = Duration::from_secs(5);
/// After this time for one item the next one has its turn.
const TURN: Duration = Duration::from_secs(1);

/// Goes on with the end of items until `until`.
pub(crate) async fn end_until(app: &App, until: Instant) {
    while Instant::now() < until {
        let is_more = app.context.lease.permit().is_ok() && end_items(app, until).await;
        item_runs::pause(if is_more { Duration::ZERO } else { INTERVAL }, until).await;
    }
}

/// One turn for each item whose end is pending; returns whether an item needs another one.
async fn end_items(app: &App, until: Instant) -> bool {
    let ends = match app.context.ledger.pending_ends().await {
        Ok(ends) => ends,
        // The heartbeats log that the ledger is unavailable.
        Err(error) => {
            tracing::debug!(%error, "could not look for items whose end is pending; trying again in 5 s");
            return false;
        }
    };
    let mut is_more = false;
    for end in ends {
        if Instant::now() >= until {
            break;
        }
        match turn(app, &end).await {
            Ok(left) => is_more |= left > 0,
            Err(error) => {
                tracing::warn!(%error, item_id = %end.item_id, "could not go on with the end of an item; trying again in 5 s");
            }
        }
    }
    is_more
}

/// Returns the orders that are left.
async fn turn(app: &App, end: &ItemEnd) -> Result<u64, ReconcileError> {
    let ended = end_item(&app.stores(), end, TURN).await?;
    if ended.left == 0 {
        let is_archived = end.archived_at.is_some();
        tracing::info!(item_id = %end.item_id, removed = ended.removed, is_archived, "the end of an item is complete in Redis");
    }
    Ok(ended.left)
}
