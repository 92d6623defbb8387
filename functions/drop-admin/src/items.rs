//! Items: written to the ledger first and then to Redis, so that no item is lost with Redis.

use crate::{AdminError, App, archive};
use ledger::{LedgerError, LedgerItem, NEVER_OVERSOLD, UnpaidHolds};
use serde_json::{Value, json};
use shared::item::{ItemChanges, ItemFieldError, ItemId, NewItem};
use shared::queue::{ItemError, MAX_ITEMS};

/// Archived ids in one answer.
const MAX_ARCHIVED: u32 = 10_000;

/// Puts a new item on sale. If an earlier creation was interrupted, so that only the ledger has
/// the item, the same command completes it.
pub(crate) async fn create(app: &App, new: &NewItem) -> Result<(), AdminError> {
    new.check().map_err(ItemError::from)?;
    refuse_elsewhere(app).await?;
    let ids = app.queue.item_ids().await.map_err(ItemError::from)?;
    if ids.len() >= MAX_ITEMS {
        return Err(ItemError::TooMany.into());
    }
    if ids.contains(&new.item_id) && app.queue.item(&new.item_id).await.is_ok() {
        return Err(ItemError::Exists(new.item_id.clone()).into());
    }
    if !app.ledger.create_item(new).await? {
        let known = app.ledger.item(&new.item_id).await?;
        if known.archived_at.is_some() {
            return Err(AdminError::Archived(new.item_id.clone()));
        }
        if known.item != *new || known.units_taken > 0 || known.paused {
            return Err(AdminError::OnlyInLedger(new.item_id.clone()));
        }
    }
    Ok(app.queue.create_item(new, app.ledger.epoch().await?).await?)
}

/// Changes the fields that `changes` names of an item that is `known`.
pub(crate) async fn update(app: &App, known: &LedgerItem, changes: &ItemChanges) -> Result<(), AdminError> {
    let item_id = &known.item.item_id;
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
    // A lower stock is written to Redis first: otherwise the drain could reserve units that the ledger no longer has. The
    // stock alone: if the ledger does not take the change, Redis must have none of the other fields.
    let stock = |stock_total| ItemChanges { stock_total, ..ItemChanges::default() };
    app.queue.update_item(item_id, &stock(changes.stock_total)).await?;
    match write(app, item_id, changes).await {
        Ok(()) => {
            let others = ItemChanges { stock_total: None, ..changes.clone() };
            Ok(app.queue.update_item(item_id, &others).await?)
        }
        // The ledger may have taken the change. Until the command is repeated, Redis sells no more than both have.
        Err(error @ AdminError::Ledger(LedgerError::Unavailable(_))) => Err(error),
        Err(refusal) => {
            app.queue.update_item(item_id, &stock(Some(known.item.stock_total))).await?;
            Err(match refusal {
                AdminError::Ledger(LedgerError::Refused(rule)) if rule == NEVER_OVERSOLD => {
                    ItemError::Taken { taken: known.units_taken.into() }.into()
                }
                other => other,
            })
        }
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
    if known(app, item_id).await?.finished_at.is_some() && !paused {
        return Err(AdminError::Finished(item_id.clone()));
    }
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

/// The item as the ledger has it, for a command that changes it. Fails if Redis does not have it, or if this region is not
/// main.
pub(crate) async fn known(app: &App, item_id: &ItemId) -> Result<LedgerItem, AdminError> {
    refuse_elsewhere(app).await?;
    let known = app.ledger.item(item_id).await.map_err(|error| match error {
        LedgerError::NoSuchItem(item_id) => AdminError::Item(ItemError::NoSuchItem(item_id)),
        error => error.into(),
    })?;
    if known.archived_at.is_some() {
        return Err(AdminError::Archived(item_id.clone()));
    }
    match app.queue.item(item_id).await {
        Ok(_) => Ok(known),
        Err(ItemError::NoSuchItem(item_id)) => Err(AdminError::OnlyInLedger(item_id)),
        Err(error) => Err(error.into()),
    }
}

/// Fails if another region is main: this region's stores take writes until a failover has fenced them, and the new main
/// sells on. If the lease cannot be read, the command goes on: an operator can pause an item without it.
pub(crate) async fn refuse_elsewhere(app: &App) -> Result<(), AdminError> {
    let main = app.lease.status().await.ok().flatten().map(|lease| lease.record.region);
    match main {
        Some(main) if app.lease.region() != Some(main.as_str()) => Err(AdminError::NotMain(main)),
        _ => Ok(()),
    }
}

async fn read_ledger(app: &App, item_id: &ItemId) -> Result<(LedgerItem, UnpaidHolds), LedgerError> {
    Ok((app.ledger.item(item_id).await?, app.ledger.unpaid_holds(item_id).await?))
}

/// Fails if the item was archived.
pub(crate) async fn not_archived(app: &App, item_id: &ItemId) -> Result<(), AdminError> {
    let known = app.ledger.item(item_id).await?;
    if known.archived_at.is_some() { Err(AdminError::Archived(item_id.clone())) } else { Ok(()) }
}

/// An item with all its counts; an archived one as the ledger has it. If the ledger is unavailable, `ledger` contains the
/// error.
pub(crate) async fn describe(app: &App, item_id: &ItemId) -> Result<Value, AdminError> {
    let item = match app.queue.item(item_id).await {
        Err(ItemError::NoSuchItem(_)) => return describe_archived(app, item_id).await,
        item => item?,
    };
    let (waiting, reservations, sold) = app.queue.counts(item_id).await.map_err(ItemError::from)?;
    let tasks = app.queue.waiting_tasks(item_id).await.map_err(ItemError::from)?;
    let now = app.queue.main_time().await.map_err(ItemError::from)?;
    let is_restoring = app.queue.is_restoring(item_id).await.map_err(ItemError::from)?;
    let ledger = match read_ledger(app, item_id).await {
        Ok((known, unpaid)) => {
            let mut ledger = in_ledger(&known);
            ledger["unpaid_holds"] = unpaid.holds.into();
            ledger["unpaid_buyers"] = unpaid.buyers.into();
            ledger["unpaid_limit"] = json!(unpaid.limit);
            ledger
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
        "finished_at": item.finished_at,
        "epoch": item.epoch,
        "orders_waiting": waiting,
        "reservations": reservations,
        "sold": sold,
        "tasks_waiting": tasks,
        "ledger": ledger,
        "main_time": now,
    }))
}

/// What only the ledger has of an item.
pub(crate) fn in_ledger(known: &LedgerItem) -> Value {
    json!({
        "stock_total": known.item.stock_total,
        "units_taken": known.units_taken,
        "max_hold_seconds": known.item.max_hold_seconds,
        "withheld": known.withheld,
        "keeps_old_holds": known.keeps_old_holds,
        "finished_at": known.finished_at,
        "archived_at": known.archived_at,
        "end_pending": known.is_end_pending,
    })
}

async fn describe_archived(app: &App, item_id: &ItemId) -> Result<Value, AdminError> {
    match app.ledger.item(item_id).await {
        Ok(known) if known.archived_at.is_some() => {
            let now = app.queue.main_time().await.map_err(ItemError::from)?;
            Ok(archive::description(&known, now))
        }
        _ => Err(ItemError::NoSuchItem(item_id.clone()).into()),
    }
}

/// The ids of all items in Redis; or those of archived ones after `after`.
pub(crate) async fn list(app: &App, archived: bool, after: Option<&ItemId>) -> Result<Value, AdminError> {
    if !archived {
        let ids = app.queue.item_ids().await.map_err(ItemError::from)?;
        return Ok(json!({ "items": ids }));
    }
    let ids = app.ledger.archived_item_ids(after, MAX_ARCHIVED).await?;
    let next = ids.last().filter(|_| ids.len() == MAX_ARCHIVED as usize);
    Ok(json!({ "items": ids, "next": next }))
}
