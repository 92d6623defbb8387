//! Rebuilding Redis from the ledger after a loss.

use crate::{PAGE, ReconcileError, Reconciled, Stores, reconcile};
use ledger::{LedgerItem, SaleState};
use redis::{AsyncCommands, Script};
use shared::item::ItemId;
use shared::queue::{ITEMS, ItemError, Keys};
use shared::stamp::Stamp;
use std::sync::LazyLock;

static REBUILD: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("rebuild.lua")));

/// Why an item was not rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// A drain could reserve units in the meantime.
    #[error("item {0} was not rebuilt: it sells at the moment; pause it first")]
    Selling(ItemId),
    #[error(
        "the item was not rebuilt: {0} tasks are in transit to the ledger; try again when the checkout worker has finished them"
    )]
    TasksWaiting(u64),
    #[error(transparent)]
    Store(#[from] ReconcileError),
}

/// Writes item, stock, buyers and holds as the ledger has them, and then reconciles sales that were committed in the
/// meantime. Waiting orders are lost with the old Redis; with order logs, the item waits for their replay. Returns the
/// taken units and the remaining differences.
///
/// Refused while the item sells, or while reservations are in transit to the ledger. An item that the newest failover has
/// set aside stays under the old epoch, so that it is not sold before the failover has reconciled it and withheld units.
pub async fn rebuild(stores: &Stores, item_id: &ItemId) -> Result<(i64, Reconciled), RebuildError> {
    match stores.queue.item(item_id).await {
        Ok(item) if !item.paused => return Err(RebuildError::Selling(item_id.clone())),
        Ok(_) | Err(ItemError::NoSuchItem(_) | ItemError::Corrupt { .. }) => {}
        Err(error) => return Err(ReconcileError::from(error).into()),
    }
    let tasks = stores.queue.waiting_tasks(item_id).await.map_err(unanswered)?;
    if tasks > 0 {
        return Err(RebuildError::TasksWaiting(tasks));
    }
    let epoch = stores.ledger.epoch().await.map_err(ReconcileError::from)?;
    let known = stores.ledger.item(item_id).await.map_err(ReconcileError::from)?;
    let is_set_aside = epoch > 1 && known.withheld_in_epoch < epoch;
    let taken = restore(stores, item_id, if is_set_aside { epoch - 1 } else { epoch }).await?;
    if taken < 0 {
        return Err(RebuildError::Selling(item_id.clone()));
    }
    Ok((taken, reconcile(stores, item_id, true).await?))
}

/// Writes item, stock, buyers and holds as the ledger has them, and returns the taken units. If the item exists and sells,
/// it writes nothing and returns -1. No other process may sell the item in the meantime. Units that only the old
/// reservations had as taken are free afterwards. A drain sells the item at once if `epoch` is the ledger's epoch.
pub async fn restore(stores: &Stores, item_id: &ItemId, epoch: u64) -> Result<i64, ReconcileError> {
    let known = stores.ledger.item(item_id).await?;
    let keys = Keys::of(item_id);
    let served_to = write_reservations(stores, item_id, &keys).await?;
    let fields = fields(&known, epoch);
    stores.queue.activate(item_id).await.map_err(unanswered)?;
    stores
        .link
        .call(async |mut connection| {
            let _: () = connection.sadd(ITEMS, item_id.as_str()).await?;
            let mut script = REBUILD.key(&keys.item);
            script.key(&keys.reservations).key(&keys.rebuild).arg(served_to.as_micros());
            script.arg(u8::from(stores.queue.has_order_logs()));
            for (field, value) in &fields {
                script.arg(field).arg(value);
            }
            script.invoke_async(&mut connection).await
        })
        .await
        .map_err(unanswered)
}

fn unanswered(error: shared::queue::LinkError) -> ReconcileError {
    ItemError::from(error).into()
}

/// Returns the newest stamp of the ledger's sales: the watermark starts there, at least at 1 µs.
async fn write_reservations(stores: &Stores, item_id: &ItemId, keys: &Keys) -> Result<Stamp, ReconcileError> {
    let rebuild = &keys.rebuild;
    let run = |batch: Option<Vec<(f64, String)>>| {
        stores.link.call(async move |mut connection| match batch {
            None => connection.del::<_, ()>(rebuild).await,
            Some(batch) => connection.zadd_multiple::<_, _, _, ()>(rebuild, &batch).await,
        })
    };
    run(None).await.map_err(unanswered)?;
    let mut served_to = Stamp::EPOCH.saturating_add_micros(1);
    let mut last = None;
    loop {
        let page = stores.ledger.sales(item_id, last.as_ref(), PAGE).await?;
        let Some(end) = page.last().cloned() else { return Ok(served_to) };
        served_to = page.iter().map(|sale| sale.placed_at).fold(served_to, Stamp::max);
        let scores = page.iter().map(|sale| {
            let score = match sale.state {
                SaleState::Sold => f64::INFINITY,
                SaleState::Reserved => sale.hold_until.as_micros() as f64,
                // As in settle.lua: not before the stamp, if the clock was set back.
                SaleState::Released => -(sale.reserved_at.max(sale.placed_at).as_micros() as f64),
            };
            (score, sale.user_token.as_str().to_owned())
        });
        run(Some(scores.collect())).await.map_err(unanswered)?;
        last = Some(end);
    }
}

fn fields(known: &LedgerItem, epoch: u64) -> [(&'static str, String); 9] {
    let item = &known.item;
    [
        ("stock_total", item.stock_total.to_string()),
        ("withheld", known.withheld.to_string()),
        ("name", item.name.clone()),
        ("opens_at", item.opens_at.to_string()),
        ("closes_at", item.closes_at.map(|stamp| stamp.to_string()).unwrap_or_default()),
        ("hold_seconds", item.hold_seconds.to_string()),
        ("settle_window_ms", item.settle_window_ms.to_string()),
        ("paused", u8::from(known.paused).to_string()),
        ("epoch", epoch.to_string()),
    ]
}
