//! Archiving an item: it leaves Redis and every loop, and stays in the ledger.

use crate::{AdminError, App, items};
use ledger::{LedgerItem, NotArchivable};
use serde_json::{Value, json};
use shared::item::ItemId;
use shared::queue::ItemError;
use shared::stamp::Stamp;

/// Archives an item that has ended. A repetition completes what was interrupted, and so does the checkout worker.
pub(crate) async fn archive(app: &App, item_id: &ItemId) -> Result<(), AdminError> {
    let refused = |why| Err(AdminError::NotArchived { item_id: item_id.clone(), why });
    items::refuse_elsewhere(app).await?;
    let known = app.ledger.item(item_id).await?;
    if known.archived_at.is_none() {
        // What Redis has and the ledger does not have yet.
        let holds = app.queue.holds(item_id).await.map_err(ItemError::from)?;
        if holds > 0 {
            return refused(held(holds));
        }
        let tasks = app.queue.waiting_tasks(item_id).await.map_err(ItemError::from)?;
        if tasks > 0 {
            return refused(format!(
                "{tasks} tasks are in transit to the ledger; try again when the worker has finished them"
            ));
        }
    }
    let now = app.queue.main_time().await.map_err(ItemError::from)?;
    match app.ledger.archive_item(item_id, now).await? {
        Ok(_) => Ok(app.queue.delete_item(item_id).await.map_err(ItemError::from)?),
        Err(why) => refused(obstacle(why)),
    }
}

fn held(holds: u64) -> String {
    format!("{holds} reservations of it have not ended; try again when their holds are over")
}

fn obstacle(NotArchivable { is_ended, holds, has_events }: NotArchivable) -> String {
    if !is_ended {
        "run `finish` first, until it answers 0 left".into()
    } else if holds > 0 {
        held(holds)
    } else if has_events {
        "the shop has not got all its events; try again when shop-events has published them".into()
    } else {
        "it has changed in the meantime; try again".into()
    }
}

/// An archived item, as the ledger has it at `now`.
pub(crate) fn description(known: &LedgerItem, now: Stamp) -> Value {
    let item = &known.item;
    json!({
        "item_id": item.item_id,
        "name": item.name,
        "phase": "closed",
        "stock_total": item.stock_total,
        "stock_left": item.stock_total.saturating_sub(known.units_taken).saturating_sub(known.withheld),
        "opens_at": item.opens_at,
        "closes_at": item.closes_at,
        "hold_seconds": item.hold_seconds,
        "settle_window_ms": item.settle_window_ms,
        "finished_at": known.finished_at,
        "archived_at": known.archived_at,
        "ledger": crate::items::in_ledger(known),
        "main_time": now,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_that_is_not_archived_has_a_reason() {
        let why = |is_ended, holds, has_events| obstacle(NotArchivable { is_ended, holds, has_events });
        assert!(why(false, 1, true).contains("run `finish`"));
        assert!(why(true, 2, true).contains("2 reservations"));
        assert!(why(true, 0, true).contains("shop-events"));
        assert!(why(true, 0, false).contains("try again"));
    }
}
