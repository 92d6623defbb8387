//! The end of an item: a buyer without a unit gets none, and the queue is emptied.

use crate::items::{describe, known, pause};
use crate::{AdminError, App};
use ledger::LedgerItem;
use reconcile::end_item;
use serde_json::Value;
use shared::item::ItemId;
use shared::queue::{ItemError, MAX_WINDOW};
use shared::stamp::Stamp;
use std::time::Duration;

/// The time for which one command empties the queue. The checkout worker goes on.
const EMPTY_LIMIT: Duration = Duration::from_secs(20);

/// Finishes an item, and empties its queue as far as the time allows: the answer says how many orders are `left`. A
/// repetition goes on.
///
/// The item is paused first. So every reservation of it is older than the end, which the ledger compares, and a buyer who saw
/// a reservation keeps it.
pub(crate) async fn finish(app: &App, item_id: &ItemId) -> Result<Value, AdminError> {
    let before = known(app, item_id).await?;
    let end = match before.end() {
        Some(end) => end,
        None => {
            let now = app.queue.main_time().await.map_err(ItemError::from)?;
            if let Some(from) = finishable_from(&before).filter(|from| now < *from) {
                return Err(AdminError::NotClosed { item_id: item_id.clone(), from: Some(from) });
            } else if before.item.closes_at.is_none() {
                return Err(AdminError::NotClosed { item_id: item_id.clone(), from: None });
            }
            pause(app, item_id, true).await?;
            let at = app.queue.main_time().await.map_err(ItemError::from)?;
            app.ledger.finish_item(item_id, at).await?
        }
    };
    let ended = end_item(&app.stores(), &end, EMPTY_LIMIT).await?;
    let mut answer = describe(app, item_id).await?;
    answer["removed"] = ended.removed.into();
    answer["left"] = ended.left.into();
    Ok(answer)
}

/// From when on no order of the item can arrive any more. `None` if it never closes.
fn finishable_from(known: &LedgerItem) -> Option<Stamp> {
    // An item of an earlier version may have a longer window.
    let window = MAX_WINDOW.max(Duration::from_millis(known.item.settle_window_ms.into()));
    known.item.closes_at.map(|closes_at| closes_at.saturating_add(window))
}
