//! The end of an item in Redis, as the ledger has decided it.

use crate::{ReconcileError, Stores};
use ledger::ItemEnd;
use serde::Serialize;
use shared::queue::ItemError;
use std::time::{Duration, Instant};

/// What was done for the end of an item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ended {
    /// Orders that waited, and were removed.
    pub removed: u64,
    /// Orders that still wait to be removed. With 0, the end is complete.
    pub left: u64,
}

/// Does in Redis what `end` asks for, for about `limit`. Safe to repeat after a crash at any point, and at the same time:
/// each step is one script, and the ledger has the end until it is complete.
pub async fn end_item(stores: &Stores, end: &ItemEnd, limit: Duration) -> Result<Ended, ReconcileError> {
    if end.archived_at.is_some() {
        stores.queue.delete_item(&end.item_id).await.map_err(ItemError::from)?;
        stores.ledger.end_done(end).await?;
        return Ok(Ended::default());
    }
    let started = Instant::now();
    let mut ended = Ended::default();
    loop {
        let step = stores.queue.finish_step(&end.item_id, end.finished_at).await.map_err(ItemError::from)?;
        ended = Ended { removed: ended.removed + step.removed, left: step.left };
        if step.left == 0 {
            stores.ledger.end_done(end).await?;
            return Ok(ended);
        }
        if started.elapsed() >= limit {
            return Ok(ended);
        }
    }
}
