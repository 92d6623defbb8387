//! Redis made anew from the ledger, after it was lost.

use crate::{App, CommandError};
use ledger::{LedgerItem, SaleState};
use reconcile::PAGE;
use redis::{AsyncCommands, Script};
use serde_json::{Value, json};
use shared::item::ItemId;
use shared::queue::{ITEMS, ItemError, Keys};
use std::sync::LazyLock;

static REBUILD: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("rebuild.lua")));

/// Writes item, stock, buyers and holds as the ledger has them, and then reconciles what
/// was committed meanwhile. Orders that waited are lost with the Redis that had them.
///
/// Refused while the item sells, or while reservations are on their way to the ledger.
pub(crate) async fn rebuild(app: &App, item_id: &ItemId) -> Result<Value, CommandError> {
    let known = app.ledger.item(item_id).await?;
    match app.queue.item(item_id).await {
        Ok(item) if !item.paused => return Err(CommandError::Selling(item_id.clone())),
        Ok(_) | Err(ItemError::NoSuchItem(_) | ItemError::Corrupt { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let tasks = app.queue.waiting_tasks(item_id).await.map_err(ItemError::from)?;
    if tasks > 0 {
        return Err(CommandError::TasksWaiting(tasks));
    }
    let epoch = app.ledger.epoch().await?;
    let keys = Keys::of(item_id);
    write_reservations(app, item_id, &keys).await?;
    let fields = fields(&known, epoch);
    let taken: i64 = app
        .link
        .run(app.link.call_limit(), async |mut connection| {
            let _: () = connection.sadd(ITEMS, item_id.as_str()).await?;
            let mut script = REBUILD.key(&keys.item);
            script.key(&keys.reservations).key(&keys.rebuild);
            for (field, value) in &fields {
                script.arg(field).arg(value);
            }
            script.invoke_async(&mut connection).await
        })
        .await
        .map_err(ItemError::from)?;
    if taken < 0 {
        return Err(CommandError::Selling(item_id.clone()));
    }
    let reconciled = reconcile::reconcile(&app.witnesses(), item_id, true).await?;
    Ok(json!({ "item_id": item_id, "units_taken": taken, "reconciled": reconciled }))
}

async fn write_reservations(app: &App, item_id: &ItemId, keys: &Keys) -> Result<(), CommandError> {
    let rebuild = &keys.rebuild;
    let run = |batch: Option<Vec<(f64, String)>>| {
        app.link.run(app.link.call_limit(), async move |mut connection| match batch {
            None => connection.del::<_, ()>(rebuild).await,
            Some(batch) => connection.zadd_multiple::<_, _, _, ()>(rebuild, &batch).await,
        })
    };
    run(None).await.map_err(ItemError::from)?;
    let mut last = None;
    loop {
        let page = app.ledger.sales(item_id, last.as_ref(), PAGE).await?;
        let Some(end) = page.last().cloned() else { return Ok(()) };
        let scores = page.iter().map(|sale| {
            let score = match sale.state {
                SaleState::Sold => f64::INFINITY,
                SaleState::Reserved => sale.hold_until.as_micros() as f64,
                SaleState::Released => -(sale.reserved_at.as_micros() as f64),
            };
            (score, sale.user_token.as_str().to_owned())
        });
        run(Some(scores.collect())).await.map_err(ItemError::from)?;
        last = Some(end);
    }
}

fn fields(known: &LedgerItem, epoch: u64) -> [(&'static str, String); 9] {
    let item = &known.item;
    [
        ("stock_total", item.stock_total.to_string()),
        ("held_back", known.held_back.to_string()),
        ("name", item.name.clone()),
        ("opens_at", item.opens_at.as_micros().to_string()),
        ("closes_at", item.closes_at.map(|stamp| stamp.as_micros().to_string()).unwrap_or_default()),
        ("hold_seconds", item.hold_seconds.to_string()),
        ("settle_window_ms", item.settle_window_ms.to_string()),
        ("paused", u8::from(known.paused).to_string()),
        ("epoch", epoch.to_string()),
    ]
}
