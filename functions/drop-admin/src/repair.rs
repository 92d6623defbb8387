//! What restores an item's Redis, its queue, and what the shop has heard of it.

use crate::{AdminError, App, items};
use replay::{ReplayError, ReplayOptions};
use serde_json::{Value, json};
use shared::item::ItemId;
use shared::queue::{ItemError, RestoreEnd};
use std::time::Duration;

/// The time limit of a replay: shorter than the function's.
const REPLAY_LIMIT: Duration = Duration::from_secs(280);
/// A republish changes at most this many batches of 1,000 events, and returns where the next one begins.
const MOST_REPUBLISHED: u32 = 50;

/// Restores an item in Redis from the ledger.
pub(crate) async fn rebuild(app: &App, item_id: &ItemId) -> Result<Value, AdminError> {
    items::refuse_elsewhere(app).await?;
    items::not_archived(app, item_id).await?;
    let (taken, reconciled) = reconcile::rebuild(&app.stores(), item_id).await?;
    // With order logs the worker restores the queue, which begins within seconds.
    let is_restoring = app.queue.is_restoring(item_id).await.map_err(ItemError::from)?;
    Ok(json!({
        "item_id": item_id, "units_taken": taken, "reconciled": reconciled, "restoring": is_restoring,
    }))
}

/// Sends the shop the events of an item again, from the sequence `from` on.
pub(crate) async fn republish(app: &App, item_id: &ItemId, from: u64) -> Result<Value, AdminError> {
    items::refuse_elsewhere(app).await?;
    app.ledger.item(item_id).await?;
    let (mut events, mut next) = (0, Some(from));
    for _ in 0..MOST_REPUBLISHED {
        let Some(from) = next else { break };
        let batch = app.ledger.republish(item_id, from).await?;
        events += batch.events;
        next = batch.next;
    }
    Ok(json!({ "item_id": item_id, "events": events, "next": next }))
}

/// Restores the queue of an item. An operator who leaves a region out takes over from the worker, which would go on
/// failing to read it.
pub(crate) async fn replay(app: &App, item_id: &ItemId, without: Vec<String>) -> Result<Value, AdminError> {
    if app.logs.is_empty() {
        return end_restore(app, item_id).await;
    }
    let mut options = ReplayOptions { limit: REPLAY_LIMIT, without, ..ReplayOptions::default() };
    if !options.without.is_empty() {
        options.take_over_after = Duration::ZERO;
    }
    let report = replay::replay(item_id, &app.queue, &app.ledger, &app.logs, &options).await?;
    Ok(serde_json::to_value(report)?)
}

/// Ends the wait of an item for a replay that no component of a stack without order logs does.
async fn end_restore(app: &App, item_id: &ItemId) -> Result<Value, AdminError> {
    const TOKEN: &str = "without-logs";
    if !app.queue.is_restoring(item_id).await.map_err(ItemError::from)? {
        return Err(AdminError::NoOrderLogs);
    }
    app.queue.restore_begin(item_id, TOKEN, Duration::ZERO).await?;
    match app.queue.restore_end(item_id, TOKEN, None).await.map_err(ItemError::from)? {
        RestoreEnd::Ended => Ok(json!({ "item_id": item_id, "restoring": false, "without_logs": true })),
        RestoreEnd::NotMine => Err(ReplayError::TakenOver.into()),
        RestoreEnd::PrimaryChanged => Err(ReplayError::PrimaryChanged.into()),
    }
}
