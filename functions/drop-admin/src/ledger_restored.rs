//! `ledger_restored`: a new epoch, after main's ledger was restored from a snapshot or to a point in time.
//!
//! Redis then has sales that the ledger lacks. Under a new epoch, reconcile and worker treat them as after a failover that
//! lost them: their units stay taken. The ids of events contain the epoch, so that the shop takes no new one for a
//! repetition.

use crate::{AdminError, App};
use lease::LeaseError;
use serde_json::{Value, json};
use shared::item::{Item, ItemId, NewItem};
use shared::queue::ItemError;
use std::collections::BTreeSet;

const NEXT: &str = "repeat the commands on items, exclusions and voids since the recovery point; have the shop repeat its \
                    payment notices since then; then, for each item: reconcile, decide about the differences, reconcile \
                    --repair, sell-withheld --keep 0, resume";

/// Why no epoch was begun.
#[derive(Debug, thiserror::Error)]
pub enum NoNewEpoch {
    #[error("no epoch was begun: {items} items are not paused, {first} among them; pause them first")]
    Selling { items: usize, first: ItemId },
    #[error(
        "no epoch was begun: {tasks} tasks of item {item_id} are in transit to the ledger; try again when the checkout \
         worker has finished them"
    )]
    TasksWaiting { item_id: ItemId, tasks: u64 },
    #[error("no epoch was begun: a failover has closed the main lease")]
    LeaseClosed,
    #[error(
        "the ledger is under epoch {epoch} and the lease is not, so that nothing is sold: {why}; repeat the command"
    )]
    LeaseNotRaised { epoch: u64, why: LeaseError },
}

impl NoNewEpoch {
    pub(crate) fn error_type(&self) -> &'static str {
        match self {
            Self::Selling { .. } => "ItemSelling",
            Self::TasksWaiting { .. } => "TasksWaiting",
            Self::LeaseNotRaised { why: LeaseError::Table(_), .. } => "LeaseUnavailable",
            Self::LeaseClosed | Self::LeaseNotRaised { .. } => "LeaseOver",
        }
    }
}

/// Begins an epoch above those of ledger, lease and items. Every item is paused, and stays so.
///
/// The ledger first: from then on it refuses what a process does under an older epoch. Then the lease, and last the items,
/// which no drain serves before. A run that dies in between leaves them with different epochs, so that nothing is sold; the
/// next one begins an epoch above all of them.
pub(crate) async fn begin_epoch(app: &App) -> Result<Value, AdminError> {
    let leased = open_lease(app).await?;
    let InRedis { items, missing } = read_redis(app).await?;
    let known: BTreeSet<ItemId> = app.ledger.item_ids().await?.into_iter().collect();
    let (known, created): (Vec<Item>, Vec<Item>) =
        items.into_iter().partition(|item| known.contains(&item.item_id));
    refuse_selling(&known)?;
    for item in &created {
        write_to_ledger(app, item).await?;
    }
    let items: Vec<&Item> = known.iter().chain(&created).collect();
    if leased.is_none() {
        refuse_tasks(app, &items).await?;
    }
    let newest = items.iter().map(|item| item.epoch).chain(leased).max().unwrap_or_default();
    let epoch = newest.max(app.ledger.epoch().await?) + 1;
    app.ledger.begin_restored_epoch(epoch).await?;
    app.lease.raise_epoch(epoch).await.map_err(|why| NoNewEpoch::LeaseNotRaised { epoch, why })?;
    let fields = [("paused", "1".to_owned()), ("epoch", epoch.to_string())];
    for item in &items {
        app.queue.repair_item(&item.item_id, &fields).await?;
    }
    let created: Vec<&ItemId> = created.iter().map(|item| &item.item_id).collect();
    Ok(json!({
        "epoch": epoch, "items": items.len(), "written_to_ledger": created, "not_in_redis": missing, "next": NEXT,
    }))
}

/// The lease's epoch, if there is a lease: this region's, and open.
async fn open_lease(app: &App) -> Result<Option<u64>, AdminError> {
    let Some(lease) = app.lease.status().await? else { return Ok(None) };
    if Some(lease.record.region.as_str()) != app.lease.region() {
        return Err(AdminError::NotMain(lease.record.region));
    }
    if !lease.record.is_open {
        return Err(NoNewEpoch::LeaseClosed.into());
    }
    Ok(Some(lease.record.epoch))
}

struct InRedis {
    items: Vec<Item>,
    /// Items that only the ledger has.
    missing: Vec<ItemId>,
}

async fn read_redis(app: &App) -> Result<InRedis, AdminError> {
    let mut ids: BTreeSet<ItemId> = app.ledger.item_ids().await?.into_iter().collect();
    ids.extend(app.queue.item_ids().await.map_err(ItemError::from)?);
    let mut found = InRedis { items: Vec::new(), missing: Vec::new() };
    for item_id in ids {
        match app.queue.item(&item_id).await {
            Ok(item) => found.items.push(item),
            Err(ItemError::NoSuchItem(item_id)) => found.missing.push(item_id),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// Writes an item that was created after the recovery point to the ledger, and pauses it. Redis does not have how long
/// payments may extend its holds.
async fn write_to_ledger(app: &App, item: &Item) -> Result<(), AdminError> {
    let new = NewItem {
        item_id: item.item_id.clone(),
        name: item.name.clone(),
        stock_total: item.stock_total,
        opens_at: item.opens_at,
        closes_at: item.closes_at,
        hold_seconds: item.hold_seconds,
        max_hold_seconds: 0,
        settle_window_ms: item.settle_window_ms,
    };
    app.queue.pause_item(&item.item_id, true).await?;
    app.ledger.create_item(&new).await?;
    tracing::warn!(item_id = %item.item_id, "wrote an item that only Redis had to the ledger; its max_hold_seconds is 0");
    Ok(())
}

fn refuse_selling(items: &[Item]) -> Result<(), NoNewEpoch> {
    let mut selling = items.iter().filter(|item| !item.paused);
    match selling.next() {
        Some(item) => Err(NoNewEpoch::Selling { first: item.item_id.clone(), items: 1 + selling.count() }),
        None => Ok(()),
    }
}

/// Fails while reservations are in transit: without a lease, the ledger would refuse them under the new epoch. With a lease
/// they are recorded under its epoch.
async fn refuse_tasks(app: &App, items: &[&Item]) -> Result<(), AdminError> {
    for item in items {
        let tasks = app.queue.waiting_tasks(&item.item_id).await.map_err(ItemError::from)?;
        if tasks > 0 {
            return Err(NoNewEpoch::TasksWaiting { item_id: item.item_id.clone(), tasks }.into());
        }
    }
    Ok(())
}
