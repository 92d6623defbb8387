//! Items: written to the ledger first and then to Redis, so that no item is lost with Redis.

use crate::{AdminError, App};
use ledger::{LedgerError, LedgerItem, NEVER_OVERSOLD};
use serde_json::{Value, json};
use shared::item::{ItemChanges, ItemFieldError, ItemId, NewItem};
use shared::queue::{ItemError, MAX_ITEMS};

/// Puts a new item on sale. If an earlier creation was interrupted, so that only the ledger has
/// the item, the same command completes it.
pub(crate) async fn create(app: &App, new: &NewItem) -> Result<(), AdminError> {
    new.check().map_err(ItemError::from)?;
    let ids = app.queue.item_ids().await.map_err(ItemError::from)?;
    if ids.len() >= MAX_ITEMS {
        return Err(ItemError::TooMany.into());
    }
    if ids.contains(&new.item_id) && app.queue.item(&new.item_id).await.is_ok() {
        return Err(ItemError::Exists(new.item_id.clone()).into());
    }
    if !app.ledger.create_item(new).await? {
        let known = app.ledger.item(&new.item_id).await?;
        if known.item != *new || known.units_taken > 0 || known.paused {
            return Err(AdminError::OnlyInLedger(new.item_id.clone()));
        }
    }
    Ok(app.queue.create_item(new, app.ledger.epoch().await?).await?)
}

/// Changes the fields of an item that `changes` names.
pub(crate) async fn update(app: &App, item_id: &ItemId, changes: &ItemChanges) -> Result<(), AdminError> {
    changes.check().map_err(ItemError::from)?;
    let known = known(app, item_id).await?;
    let moves_gates = changes.opens_at.is_some() || changes.closes_at.is_some();
    let opens_at = changes.opens_at.unwrap_or(known.item.opens_at);
    let closes_at = changes.closes_at.or(known.item.closes_at);
    if moves_gates && closes_at.is_some_and(|closes_at| closes_at <= opens_at) {
        return Err(ItemError::from(ItemFieldError::Gates).into());
    }
    if changes.stock_total.is_none_or(|units| units >= known.item.stock_total) {
        write(app, item_id, changes).await?;
        return Ok(app.queue.update_item(item_id, changes).await?);
    }
    // A lower stock is written to Redis first: otherwise the drain could reserve units that the
    // ledger no longer has.
    app.queue.update_item(item_id, changes).await?;
    match write(app, item_id, changes).await {
        Err(AdminError::Ledger(LedgerError::Refused(rule))) if rule == NEVER_OVERSOLD => {
            let as_before =
                ItemChanges { stock_total: Some(known.item.stock_total), ..ItemChanges::default() };
            app.queue.update_item(item_id, &as_before).await?;
            Err(ItemError::Taken { taken: known.units_taken.into() }.into())
        }
        written => written,
    }
}

/// Writes only the fields that `changes` names to the ledger: another command may be changing the others.
async fn write(app: &App, item_id: &ItemId, changes: &ItemChanges) -> Result<(), AdminError> {
    match app.ledger.change_item(item_id, changes).await? {
        Some(_) => Ok(()),
        None => Err(ItemError::from(ItemFieldError::Gates).into()),
    }
}

/// Puts withheld units on sale, except `keep` units. Safe to repeat.
pub(crate) async fn sell_withheld(app: &App, item_id: &ItemId, keep: u32) -> Result<(), AdminError> {
    known(app, item_id).await?;
    let withheld = app.ledger.withhold_at_most(item_id, keep).await?;
    if withheld < keep {
        return Err(AdminError::FewerWithheld { withheld, keep });
    }
    // Recompute Redis's stock from what the ledger withholds.
    reconcile::restock(&app.stores(), item_id, true).await?;
    Ok(())
}

/// Pauses an item (the drain pops nothing, every order keeps its position) or resumes it.
pub(crate) async fn pause(app: &App, item_id: &ItemId, paused: bool) -> Result<(), AdminError> {
    known(app, item_id).await?;
    app.ledger.pause_item(item_id, paused).await?;
    Ok(app.queue.pause_item(item_id, paused).await?)
}

/// Closes an item now, by main's clock. An item that has closed already keeps its time.
pub(crate) async fn close(app: &App, item_id: &ItemId) -> Result<(), AdminError> {
    known(app, item_id).await?;
    let now = app.queue.main_time().await.map_err(ItemError::from)?;
    let closed = app.ledger.close_item(item_id, now).await?;
    Ok(app.queue.close_item(item_id, closed.item.closes_at.unwrap_or(now)).await?)
}

/// The item as the ledger has it. Fails if Redis does not have it.
async fn known(app: &App, item_id: &ItemId) -> Result<LedgerItem, AdminError> {
    let known = app.ledger.item(item_id).await.map_err(|error| match error {
        LedgerError::NoSuchItem(item_id) => AdminError::Item(ItemError::NoSuchItem(item_id)),
        error => error.into(),
    })?;
    match app.queue.item(item_id).await {
        Ok(_) => Ok(known),
        Err(ItemError::NoSuchItem(item_id)) => Err(AdminError::OnlyInLedger(item_id)),
        Err(error) => Err(error.into()),
    }
}

/// An item with all its counts. If the ledger is unavailable, `ledger` contains the error.
pub(crate) async fn describe(app: &App, item_id: &ItemId) -> Result<Value, AdminError> {
    let item = app.queue.item(item_id).await?;
    let (waiting, reservations, sold) = app.queue.counts(item_id).await.map_err(ItemError::from)?;
    let tasks = app.queue.waiting_tasks(item_id).await.map_err(ItemError::from)?;
    let now = app.queue.main_time().await.map_err(ItemError::from)?;
    let is_restoring = app.queue.is_restoring(item_id).await.map_err(ItemError::from)?;
    let ledger = match app.ledger.item(item_id).await {
        Ok(known) => {
            json!({
                "stock_total": known.item.stock_total, "units_taken": known.units_taken,
                "max_hold_seconds": known.item.max_hold_seconds, "withheld": known.withheld, "keeps_old_holds": known.keeps_old_holds,
            })
        }
        Err(error) => json!({ "error": error.to_string() }),
    };
    Ok(json!({
        "item_id": item.item_id,
        "name": item.name,
        "phase": item.phase(now),
        "stock_total": item.stock_total,
        "stock_left": item.stock_left,
        "opens_at": item.opens_at,
        "closes_at": item.closes_at,
        "hold_seconds": item.hold_seconds,
        "settle_window_ms": item.settle_window_ms,
        "settle_delay_ms": item.settle_delay_ms,
        "paused": item.paused,
        "restoring": is_restoring,
        "epoch": item.epoch,
        "orders_waiting": waiting,
        "reservations": reservations,
        "sold": sold,
        "tasks_waiting": tasks,
        "ledger": ledger,
        "main_time": now,
    }))
}
