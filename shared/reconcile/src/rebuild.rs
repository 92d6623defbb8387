//! Rebuilding Redis from the ledger after a loss.

use crate::{PAGE, ReconcileError, Reconciled, Stores, exclusions, reconcile};
use ledger::{LedgerItem, Sale, SaleState};
use redis::{AsyncCommands, Script};
use shared::item::ItemId;
use shared::queue::{ITEMS, ItemError, Keys};
use shared::stamp::Stamp;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::LazyLock;

/// Seconds after its last page that an unfinished rebuild leaves its key in Redis: more than a call to the ledger takes,
/// and than Redis stays unavailable for a moment.
const KEY_SECONDS: i64 = 300;

static REBUILD: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("rebuild.lua")));

/// The script's answer if its temporary key is incomplete.
const INCOMPLETE: i64 = -2;

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
/// reservations had as taken are free afterwards. A drain sells the item at once if `epoch` is the ledger's epoch. Rebuilds
/// of one item may overlap: as soon as the first one has written an item that is not paused, the others write nothing.
pub async fn restore(stores: &Stores, item_id: &ItemId, epoch: u64) -> Result<i64, ReconcileError> {
    let known = stores.ledger.item(item_id).await?;
    let keys = Keys::of(item_id);
    let token = format!("{:016x}", RandomState::new().build_hasher().finish());
    let rebuild = Keys::rebuild(item_id, &token);
    let written = write_reservations(stores, item_id, &rebuild).await?;
    let mut fields = item_fields(&known);
    fields.push(("epoch", epoch.to_string()));
    fields.extend(known.finished_at.map(|at| ("finished", at.to_string())));
    stores.queue.activate(item_id).await.map_err(unanswered)?;
    let taken: i64 = stores
        .link
        .call(async |mut connection| {
            let _: () = connection.sadd(ITEMS, item_id.as_str()).await?;
            let mut script = REBUILD.key(&keys.item);
            script.key(&keys.reservations).key(&rebuild).arg(written.served_to.as_micros());
            script.arg(u8::from(stores.queue.has_order_logs())).arg(written.buyers);
            for (field, value) in &fields {
                script.arg(field).arg(value);
            }
            script.invoke_async(&mut connection).await
        })
        .await
        .map_err(unanswered)?;
    if taken == INCOMPLETE { Err(ReconcileError::Incomplete(item_id.clone())) } else { Ok(taken) }
}

fn unanswered(error: shared::queue::LinkError) -> ReconcileError {
    ItemError::from(error).into()
}

/// The ledger's sales of an item, in a temporary key.
struct Written {
    /// The newest stamp of the sales, at least 1 µs: the watermark starts there.
    served_to: Stamp,
    buyers: u64,
}

async fn write_reservations(
    stores: &Stores,
    item_id: &ItemId,
    rebuild: &str,
) -> Result<Written, ReconcileError> {
    let mut written = Written { served_to: Stamp::EPOCH.saturating_add_micros(1), buyers: 0 };
    let mut last = None;
    loop {
        let page = stores.ledger.sales(item_id, last.as_ref(), PAGE).await?;
        let Some(end) = page.last().cloned() else { break };
        written.served_to = page.iter().map(|sale| sale.placed_at).fold(written.served_to, Stamp::max);
        let scores = page.iter().map(|sale| {
            let score = match sale.state {
                SaleState::Sold => f64::INFINITY,
                SaleState::Reserved => sale.hold_until.as_micros() as f64,
                // As in settle.lua: not before the stamp, if the clock was set back.
                SaleState::Released => -ended_at(sale),
                SaleState::Voided => -ended_at(sale) - 0.5,
            };
            (score, sale.user_token.as_str().to_owned())
        });
        // A buyer who has reserved again meanwhile is in two pages, and once in the key.
        written.buyers += add(stores, rebuild, &scores.collect::<Vec<_>>()).await?;
        last = Some(end);
    }
    // Before anything is drained.
    let mut last = None;
    loop {
        let (marks, end) = exclusions::marks(stores, item_id, last.as_ref()).await?;
        if !marks.is_empty() {
            written.buyers += add(stores, rebuild, &marks).await?;
        }
        if end.is_none() {
            return Ok(written);
        }
        last = end;
    }
}

/// Returns how many were not in the key.
async fn add(stores: &Stores, rebuild: &str, scores: &[(f64, String)]) -> Result<u64, ReconcileError> {
    let (added,): (u64,) = stores
        .link
        .call(async |mut connection| {
            let mut pipe = redis::pipe();
            pipe.zadd_multiple(rebuild, scores).expire(rebuild, KEY_SECONDS).ignore();
            pipe.query_async(&mut connection).await
        })
        .await
        .map_err(unanswered)?;
    Ok(added)
}

/// The moment of a release or a void in a score.
fn ended_at(sale: &Sale) -> f64 {
    let known = sale.released_at.unwrap_or(sale.reserved_at);
    known.max(sale.reserved_at).max(sale.placed_at).as_micros() as f64
}

/// The item's fields in Redis as the ledger has them, stock_total and withheld first.
pub(crate) fn item_fields(known: &LedgerItem) -> Vec<(&'static str, String)> {
    let item = &known.item;
    vec![
        ("stock_total", item.stock_total.to_string()),
        ("withheld", known.withheld.to_string()),
        ("name", item.name.clone()),
        ("opens_at", item.opens_at.to_string()),
        ("closes_at", item.closes_at.map(|stamp| stamp.to_string()).unwrap_or_default()),
        ("hold_seconds", item.hold_seconds.to_string()),
        ("settle_window_ms", item.settle_window_ms.to_string()),
        ("paused", u8::from(known.paused).to_string()),
    ]
}
