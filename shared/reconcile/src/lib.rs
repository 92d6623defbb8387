//! Comparing Redis with the ledger, and repairing Redis.
//!
//! A unit is free only if both stores say so: a unit that one of them has as reserved or sold stays taken. Both change
//! during the comparison. So a difference counts only if a second comparison still finds it.

mod end;
mod exclusions;
mod rebuild;
mod voids;

pub use end::{Ended, end_item};
pub use exclusions::mark_excluded;
pub use rebuild::{RebuildError, rebuild, restore};
pub use voids::settle_void;

use ledger::{EpochStart, Ledger, LedgerError, Sale, SaleState};
use redis::{AsyncCommands, Script};
use serde::Serialize;
use shared::item::{ItemId, NewItem};
use shared::queue::{
    CANCELLED_OFFSET_MICROS, ItemError, Keys, Link, LinkError, Queue, ReservationOutcome, Settlement,
};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// The number of sales in one read or write.
pub const PAGE: u32 = 5_000;

static RESTOCK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("restock.lua")));

/// Between the first comparison and the second: a worker's round and a call to the ledger.
const SECOND_COMPARISON: Duration = Duration::from_millis(1_500);

/// How long to wait for the checkout worker to finish the unfinished tasks.
const QUIET_LIMIT: Duration = Duration::from_secs(5);

/// The two stores that are compared.
#[derive(Clone, Debug)]
pub struct Stores {
    /// Redis, for commands that the queue does not have.
    pub link: Link,
    /// The queue on this Redis.
    pub queue: Queue,
    pub ledger: Ledger,
}

/// Why the two stores could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error(transparent)]
    Item(#[from] ItemError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(
        "item {0} was not written to Redis: a key with its buyers was lost during the rebuild; repeat the command"
    )]
    Incomplete(ItemId),
}

/// The differences between the two stores, and the repairs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reconciled {
    /// Tasks in transit to the ledger. While there are any, the comparison is incomplete.
    pub tasks_waiting: u64,
    /// The number of buyers by kind of difference.
    pub differences: BTreeMap<&'static str, u64>,
    /// Fields of the item that differ between Redis and the ledger.
    pub item_fields: Vec<&'static str>,
    /// Units left in Redis.
    pub stock_left: i64,
    /// Units left according to the count of reservations.
    pub stock_counted: i64,
    /// Reservations changed in Redis.
    pub repaired: u64,
}

/// A difference about one buyer.
#[derive(Clone, Debug, PartialEq)]
struct Difference {
    buyer: UserToken,
    kind: &'static str,
    /// The repair; `None` if an operator has to decide.
    remedy: Option<(Option<String>, ReservationOutcome)>,
}

/// Compares one item that may be selling, and repairs Redis if `repair`.
pub async fn reconcile(
    stores: &Stores,
    item_id: &ItemId,
    repair: bool,
) -> Result<Reconciled, ReconcileError> {
    compare_and_repair(
        stores,
        item_id,
        repair,
        ReconcileTiming { quiet: QUIET_LIMIT, second_comparison: Some(SECOND_COMPARISON) },
    )
    .await
}

/// Compares one item while no region sells, and repairs Redis. There is no worker to wait for.
pub async fn reconcile_at_rest(stores: &Stores, item_id: &ItemId) -> Result<Reconciled, ReconcileError> {
    compare_and_repair(
        stores,
        item_id,
        true,
        ReconcileTiming { quiet: Duration::ZERO, second_comparison: None },
    )
    .await
}

#[derive(Clone, Copy, Debug)]
struct ReconcileTiming {
    /// The time for the worker to finish.
    quiet: Duration,
    /// A difference counts if it persists after this time.
    second_comparison: Option<Duration>,
}

async fn compare_and_repair(
    stores: &Stores,
    item_id: &ItemId,
    repair: bool,
    timing: ReconcileTiming,
) -> Result<Reconciled, ReconcileError> {
    let tasks_waiting = wait_for_tasks(stores, item_id, timing.quiet).await?;
    let (mut found, mut served_to) = differences(stores, item_id).await?;
    if let Some(pause) = timing.second_comparison.filter(|_| !found.is_empty()) {
        tokio::time::sleep(pause).await;
        let again;
        (again, served_to) = differences(stores, item_id).await?;
        let seen: HashSet<(UserToken, &str)> = found.into_iter().map(|one| (one.buyer, one.kind)).collect();
        found = again.into_iter().filter(|one| seen.contains(&(one.buyer.clone(), one.kind))).collect();
    }
    let mut reconciled = Reconciled { tasks_waiting, ..Reconciled::default() };
    for one in &found {
        *reconciled.differences.entry(one.kind).or_default() += 1;
    }
    reconciled.item_fields = compare_item(stores, item_id, repair).await?;
    // No second comparison: buyers are marked after the ledger's commit, and a mark too early does no harm.
    let unmarked = exclusions::compare(stores, item_id, repair).await?;
    if unmarked > 0 {
        reconciled.differences.insert("excluded in the ledger alone", unmarked);
    }
    if repair {
        let settlements: Vec<Settlement> = found
            .into_iter()
            .filter_map(|one| {
                one.remedy.map(|(expected, outcome)| Settlement { user_token: one.buyer, expected, outcome })
            })
            .collect();
        reconciled.repaired = stores.queue.settle(item_id, &settlements).await.map_err(ItemError::from)?;
    }
    (reconciled.stock_left, reconciled.stock_counted) =
        restock_to(stores, item_id, repair, served_to).await?;
    Ok(reconciled)
}

/// Waits for the checkout worker to finish its tasks; returns the number of unfinished ones.
async fn wait_for_tasks(stores: &Stores, item_id: &ItemId, limit: Duration) -> Result<u64, ReconcileError> {
    let started = Instant::now();
    loop {
        let tasks = stores.queue.waiting_tasks(item_id).await.map_err(ItemError::from)?;
        if tasks == 0 || started.elapsed() >= limit {
            return Ok(tasks);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The differences about buyers, and the newest stamp of the ledger's sales.
async fn differences(stores: &Stores, item_id: &ItemId) -> Result<(Vec<Difference>, Stamp), ReconcileError> {
    let (mut found, mut served_to) = (Vec::new(), Stamp::EPOCH);
    let epoch = stores.ledger.epoch_start().await?;
    // Reservations in transit to the ledger are not differences.
    let is_quiet = stores.queue.waiting_tasks(item_id).await.map_err(ItemError::from)? == 0;
    let mut last = None;
    loop {
        let page = stores.ledger.sales(item_id, last.as_ref(), PAGE).await?;
        let Some(end) = page.last().cloned() else { break };
        served_to = page.iter().map(|sale| sale.placed_at).fold(served_to, Stamp::max);
        let scores = scores(stores, item_id, &page).await.map_err(ItemError::from)?;
        found.extend(
            page.iter().zip(scores).filter_map(|(sale, score)| compare(sale, score, is_quiet, epoch)),
        );
        last = Some(end);
    }
    if is_quiet {
        found.extend(only_in_redis(stores, item_id).await?);
    }
    Ok((found, served_to))
}

/// Compares a buyer's score in Redis with their sale in the ledger, which is under `epoch`.
fn compare(sale: &Sale, score: Option<f64>, is_quiet: bool, epoch: EpochStart) -> Option<Difference> {
    let hold_end = sale.hold_until.as_micros() as f64;
    let cancelled = hold_end - CANCELLED_OFFSET_MICROS as f64;
    let expected = score.map(|score| score.to_string());
    let difference = |kind, outcome| {
        Some(Difference { buyer: sale.user_token.clone(), kind, remedy: Some((expected.clone(), outcome)) })
    };
    let for_the_operator = |kind| Some(Difference { buyer: sale.user_token.clone(), kind, remedy: None });
    let held = ReservationOutcome::Reserved { until: sale.hold_until };
    let is_older = epoch.epoch > 1 && sale.reserved_at < epoch.since;
    match (sale.state, score) {
        (SaleState::Sold, Some(f64::INFINITY)) => None,
        (SaleState::Sold, _) => difference("sold in the ledger alone", ReservationOutcome::Sold),
        // Redis has a sale only after the ledger's commit: a sale of an earlier epoch that was not replicated.
        (SaleState::Reserved, Some(f64::INFINITY)) if is_older => {
            for_the_operator("sold by the old main, by Redis alone")
        }
        (SaleState::Reserved, Some(f64::INFINITY)) => difference("sold in Redis and not in the ledger", held),
        (SaleState::Reserved, Some(score)) if score == hold_end || score == cancelled => None,
        (SaleState::Reserved, Some(score)) if score > 0.0 => difference("held until another moment", held),
        (SaleState::Reserved, _) => difference("reserved in the ledger alone", held),
        // A later reservation or its sale, which was not replicated to this copy of the ledger.
        (SaleState::Released | SaleState::Voided, Some(score))
            if is_older && score > 0.0 && !is_end_of(sale, score) =>
        {
            for_the_operator("taken again in Redis alone")
        }
        (SaleState::Released, Some(score)) if score >= 0.0 && is_quiet => {
            difference("released in the ledger alone", ReservationOutcome::Released { returns_unit: true })
        }
        (SaleState::Voided, Some(score)) if score >= 0.0 && is_quiet => {
            difference("voided in the ledger alone", ReservationOutcome::Voided)
        }
        (SaleState::Released | SaleState::Voided, _) => None,
    }
}

/// Whether Redis has `score` for the reservation `sale`, held or cancelled. Redis may lack an extension of the hold.
fn is_end_of(sale: &Sale, score: f64) -> bool {
    sale.earlier_ends.iter().chain([&sale.hold_until]).any(|end| {
        let end = end.as_micros() as f64;
        score == end || score == end - CANCELLED_OFFSET_MICROS as f64
    })
}

async fn scores(stores: &Stores, item_id: &ItemId, page: &[Sale]) -> Result<Vec<Option<f64>>, LinkError> {
    let buyers: Vec<&str> = page.iter().map(|sale| sale.user_token.as_str()).collect();
    scores_of(stores, item_id, &buyers).await
}

async fn scores_of(
    stores: &Stores,
    item_id: &ItemId,
    buyers: &[&str],
) -> Result<Vec<Option<f64>>, LinkError> {
    let key = &Keys::of(item_id).reservations;
    stores
        .link
        .call(async |mut connection| {
            redis::cmd("ZMSCORE").arg(key).arg(buyers).query_async(&mut connection).await
        })
        .await
}

/// Buyers with a unit in Redis and without a row in the ledger. The unit stays taken; when its hold has ended, it
/// returns to the stock.
async fn only_in_redis(stores: &Stores, item_id: &ItemId) -> Result<Vec<Difference>, ReconcileError> {
    let key = Keys::of(item_id).reservations;
    let now = stores.queue.main_time().await.map_err(ItemError::from)?;
    // The old main may have sold the unit in a transaction that was not replicated.
    let keeps = stores.ledger.item(item_id).await?.keeps_old_holds;
    let mut found = Vec::new();
    for page in 0_isize.. {
        let key = &key;
        let first = page * PAGE as isize;
        let taken: Vec<(String, f64)> = stores
            .link
            .call(async |mut connection| {
                connection.zrangebyscore_limit_withscores(key, 0, "+inf", first, PAGE as isize).await
            })
            .await
            .map_err(ItemError::from)?;
        let is_last = taken.len() < PAGE as usize;
        let scores: HashMap<UserToken, f64> = taken
            .into_iter()
            .filter_map(|(buyer, score)| Some((UserToken::parse(buyer).ok()?, score)))
            .collect();
        let unknown = stores.ledger.unknown_among(item_id, scores.keys()).await?;
        found.extend(unknown.into_iter().map(|buyer| {
            let score = scores.get(&buyer).copied().unwrap_or(f64::INFINITY);
            let ended = !keeps && score <= now.as_micros() as f64;
            let release = (Some(format!("{score:.0}")), ReservationOutcome::Released { returns_unit: true });
            Difference { buyer, kind: "taken in Redis alone", remedy: ended.then_some(release) }
        }));
        if is_last {
            break;
        }
    }
    Ok(found)
}

/// Compares the item's own fields; the ledger's values are right.
async fn compare_item(
    stores: &Stores,
    item_id: &ItemId,
    repair: bool,
) -> Result<Vec<&'static str>, ReconcileError> {
    let known = stores.ledger.item(item_id).await?;
    let item = stores.queue.item(item_id).await?;
    let fields = [
        ("name", known.item.name == item.name),
        ("stock_total", known.item.stock_total == item.stock_total),
        ("opens_at", known.item.opens_at == item.opens_at),
        ("closes_at", known.item.closes_at == item.closes_at),
        ("hold_seconds", known.item.hold_seconds == item.hold_seconds),
        ("settle_window_ms", known.item.settle_window_ms == item.settle_window_ms),
        ("paused", known.paused == item.paused),
        ("finished", known.finished_at == item.finished_at),
    ];
    let different: Vec<&str> = fields.into_iter().filter(|(_, same)| !same).map(|(field, _)| field).collect();
    if repair && !different.is_empty() {
        let mut fields = rebuild::item_fields(&known);
        // Only if it differs: to write it gives an item of an earlier version a watermark. A longer window than today's
        // longest is that of such an item.
        let window_ms = known.item.settle_window_ms;
        let writes_window = window_ms != item.settle_window_ms && window_ms <= NewItem::MAX_SETTLE_WINDOW_MS;
        // The units withheld, and with them those left, are written with the stock.
        fields.retain(|(field, _)| *field != "withheld" && (*field != "settle_window_ms" || writes_window));
        // If Redis alone has the end of the item, an operator repeats the command: a failover has lost it, or the item was
        // about to open again. Until then it sells nothing.
        if item.finished_at.is_some() {
            fields.retain(|(field, _)| *field != "paused");
            fields.push(("paused", "1".to_owned()));
        }
        stores.queue.repair_item(item_id, &fields).await?;
    }
    if let Some(finished_at) = known.finished_at.filter(|_| repair) {
        let step = stores.queue.finish_step(item_id, finished_at).await.map_err(ItemError::from)?;
        if step.left > 0 {
            stores.ledger.repeat_end(item_id).await?;
        }
    }
    Ok(different)
}

/// Compares the stock in Redis with the taken and withheld units, and repairs it if `repair`. Returns the units left
/// that Redis has, and the right number.
pub async fn restock(stores: &Stores, item_id: &ItemId, repair: bool) -> Result<(i64, i64), ReconcileError> {
    restock_to(stores, item_id, repair, Stamp::EPOCH).await
}

/// The same. If `repair`, the watermark becomes at least `served_to`.
async fn restock_to(
    stores: &Stores,
    item_id: &ItemId,
    repair: bool,
    served_to: Stamp,
) -> Result<(i64, i64), ReconcileError> {
    if repair {
        stores.queue.activate(item_id).await.map_err(ItemError::from)?;
    }
    let keys = Keys::of(item_id);
    let withheld = stores.ledger.item(item_id).await?.withheld;
    let counted = stores.link.call(async |mut connection| {
        let mut script = RESTOCK.key(&keys.item);
        script.key(&keys.reservations).arg(u8::from(repair)).arg(withheld).arg(served_to.as_micros());
        script.invoke_async(&mut connection).await
    });
    Ok(counted.await.map_err(ItemError::from)?)
}
