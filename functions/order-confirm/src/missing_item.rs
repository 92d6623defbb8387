//! A notice about an item that Redis does not have.

use crate::App;
use crate::apply::ledger_problem;
use ledger::{LedgerError, LedgerItem};
use shared::item::{Item, ItemId};
use shared::problem::Problem;

/// What the ledger says about an item that Redis does not have. An archived item has sold and released what it had, so
/// that the ledger alone decides. If Redis has lost an item, an operator rebuilds it. Until then the answer must be
/// temporary, so that no shop refunds a payment.
pub(crate) async fn missing_item(app: &App, item_id: &ItemId) -> Result<Item, Problem> {
    let known = match app.ledger.item(item_id).await {
        Err(LedgerError::NoSuchItem(_)) => return Err(Problem::NoSuchItem),
        Err(_) => return Err(Problem::LedgerUnavailable),
        Ok(known) => known,
    };
    if known.archived_at.is_none() {
        tracing::error!(%item_id, "Redis has lost an item that the ledger has: run drop-admin's rebuild");
        return Err(Problem::StatusUnavailable);
    }
    let epoch = app.ledger.epoch().await.map_err(ledger_problem)?;
    let LedgerItem { item, units_taken, withheld, paused, finished_at, .. } = known;
    Ok(Item {
        item_id: item.item_id,
        name: item.name,
        stock_total: item.stock_total,
        stock_left: 0,
        units_sold: units_taken,
        withheld,
        opens_at: item.opens_at,
        closes_at: item.closes_at,
        hold_seconds: item.hold_seconds,
        settle_window_ms: item.settle_window_ms,
        settle_delay_ms: item.settle_window_ms,
        paused,
        epoch,
        finished_at,
    })
}
