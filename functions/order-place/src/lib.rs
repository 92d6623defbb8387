//! Places the orders of a region's order log in main's queue.
//!
//! An event source mapping delivers the records of the log's stream in batches: at least once, and in order for each
//! shard, since the mapping's `ParallelizationFactor` is 1. Each record is applied with its own stamp. Main decides: it
//! queues an order once, whatever is repeated, and refuses it if its stamp is at or before what main has served. A refusal
//! is written back to the record.
//!
//! A record that main has not decided is delivered again, with all that follow it. That does nothing to those that are
//! decided: a refusal is written only if no later delivery can queue the order. Where the cause is one item alone, its
//! records are set aside, so that those of other items go on.

mod decide;
pub mod event;
mod refusals;
mod undecided;
mod withdraw;
mod work;

use decide::{Decision, Items, decide, record_decision};
use event::{BatchResponse, Entry, StreamEvent};
use futures::future::{join, join_all};
use futures::stream::{self, StreamExt};
use order_log::{LogRecord, OrderLog};
use shared::clock::Clock;
use shared::config::{ConfigError, RedisConfig, Source};
use shared::item::ItemId;
use shared::queue::{BATCH_SCRIPTS, Link, MAX_PLACED, MAX_WINDOW, Queue, random_part_of};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::timeout_at;
use undecided::Undecided;
use work::{Work, work};

/// No attempt and no write starts later than this in an invocation. An attempt takes 10 s at most, the longest window of its
/// orders, with all calls that belong to it.
pub const RUN_LIMIT: Duration = Duration::from_secs(12);
/// The longest pause before the first repetition; it doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// The longest that the records of an item that main cannot process keep the others of their shard waiting.
const ITEM_LIMIT: Duration = Duration::from_secs(1);
/// Calls of the order log for one item at the same time.
const PARALLEL: usize = 16;

/// State that one process of the function keeps between batches.
#[derive(Debug)]
pub struct App {
    queue: Queue,
    items: Items,
    log: OrderLog,
    clock: Clock,
}

impl App {
    /// Reads the configuration. Opens no connection.
    pub fn from_config(source: Source) -> Result<Self, ConfigError> {
        let queue = Queue::new(Link::with_scripts(RedisConfig::main(source)?, BATCH_SCRIPTS));
        let log = OrderLog::from_config(source)?.ok_or(ConfigError::Missing("FAIRDROP_ORDER_LOG_TABLE"))?;
        Ok(Self::new(queue, log))
    }

    /// Takes orders from `log` to `queue`.
    pub fn new(queue: Queue, log: OrderLog) -> Self {
        Self { items: Items::new(queue.clone()), queue, log, clock: Clock::machine() }
    }

    /// Starts connecting in the background.
    pub fn open(&self) {
        self.queue.open();
    }
}

/// Applies the records of a batch within `time`.
pub async fn handle(app: &App, event: &StreamEvent, time: Duration) -> BatchResponse {
    let until = Instant::now() + time;
    let (entries, malformed) = event.entries();
    for (sequence_number, error) in &malformed {
        metrics::counter!("log_records_malformed").increment(1);
        tracing::error!(%error, sequence_number, "a record of the order log is malformed; it is passed over, and no order is placed for it");
    }
    let (items, withdrawn) = work(&entries);
    let applied = items.iter().map(|(item_id, work)| apply_item(app, item_id, work.clone(), &entries, until));
    let undecided: Vec<usize> = join_all(applied).await.concat();
    metrics::counter!("log_records_undecided").increment(undecided.len() as u64);
    // A batch that main does not decide is delivered again: it must not look like progress each time.
    let withdrawn = if undecided.is_empty() { withdrawn } else { 0 };
    metrics::counter!("log_orders_decided").increment(withdrawn);
    let first = undecided.iter().min().and_then(|position| entries.get(*position));
    BatchResponse::again_from(first.map(|entry| entry.sequence_number.as_str()))
}

/// Applies the records of one item. Returns the positions of those that are undecided, and must be delivered again.
async fn apply_item(
    app: &App,
    item_id: &ItemId,
    mut work: Work,
    entries: &[Entry],
    until: Instant,
) -> Vec<usize> {
    let began = Instant::now();
    let mut pause = FIRST_PAUSE;
    let refused = Mutex::default();
    loop {
        let item_until = until.min(began + ITEM_LIMIT);
        let pass = Pass { until, item_until, refused: &refused, fault: Mutex::default() };
        work = apply_once(app, item_id, work, entries, &pass).await;
        if work.is_done() {
            return Vec::new();
        }
        if let Some(fault) = pass.last_fault()
            && began.elapsed() + pause >= ITEM_LIMIT
        {
            set_aside(item_id, work.positions().count(), &fault);
            return Vec::new();
        }
        if Instant::now() + pause >= until {
            return work.positions().collect();
        }
        tokio::time::sleep(random_part_of(pause)).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

/// Gives up records of an item that main cannot process, so that the records behind them are not too late. They stay in
/// the log without an outcome: a replay of the item takes them from there.
fn set_aside(item_id: &ItemId, records: usize, fault: &str) {
    metrics::counter!("log_records_set_aside").increment(records as u64);
    tracing::error!(%item_id, records, fault, "main cannot process an item; its records are set aside without a decision, and other items go on. When the item is repaired, replay it");
}

/// Applies `work` once, and returns what is still undecided of it. Orders of buyers who withdraw nothing do not wait for
/// the withdrawals of others.
async fn apply_once(app: &App, item_id: &ItemId, work: Work, entries: &[Entry], pass: &Pass<'_>) -> Work {
    let orders = place_all(app, item_id, &work.orders, entries, pass);
    let withdrawals = async {
        let leaves = withdraw_all(app, item_id, &work.leaves, entries, pass).await;
        if !leaves.is_empty() {
            return (leaves, work.later.clone());
        }
        (leaves, place_all(app, item_id, &work.later, entries, pass).await)
    };
    let (orders, (leaves, later)) = join(orders, withdrawals).await;
    Work { orders, leaves, later }
}

/// Places orders of one item in calls of [`MAX_PLACED`]; returns the positions of those that are undecided.
async fn place_all(
    app: &App,
    item_id: &ItemId,
    positions: &[usize],
    entries: &[Entry],
    pass: &Pass<'_>,
) -> Vec<usize> {
    let mut undecided = Vec::new();
    for positions in positions.chunks(MAX_PLACED) {
        // Main does not answer: the rest would take as long.
        if !undecided.is_empty() || Instant::now() >= pass.until {
            undecided.extend_from_slice(positions);
            continue;
        }
        let orders: Vec<(usize, &Entry)> =
            positions.iter().filter_map(|position| Some((*position, entries.get(*position)?))).collect();
        undecided.extend(place(app, item_id, &orders, pass).await);
    }
    undecided
}

/// Places orders of one item; returns the positions of those that are undecided.
async fn place(app: &App, item_id: &ItemId, orders: &[(usize, &Entry)], pass: &Pass<'_>) -> Vec<usize> {
    let entries: Vec<&Entry> = orders.iter().map(|(_, entry)| *entry).collect();
    let decisions = match pass.within(decide(app, item_id, &entries)).await {
        Ok(decisions) => decisions,
        Err(cause) => {
            tracing::warn!(%cause, %item_id, orders = orders.len(), "could not place orders in main's queue; they are tried again");
            pass.note(cause);
            return orders.iter().map(|(position, _)| *position).collect();
        }
    };
    let (mut undecided, mut decided) = (Vec::new(), Vec::new());
    let mut causes = BTreeSet::new();
    for ((position, entry), decision) in orders.iter().zip(decisions) {
        match decision {
            Ok(decision) => decided.push((*position, &entry.record, decision)),
            Err(cause) => {
                undecided.push(*position);
                causes.insert(cause.to_string());
                pass.note(cause);
            }
        }
    }
    for cause in causes {
        tracing::warn!(cause, %item_id, orders = undecided.len(), "could not place orders in main's queue; they are tried again");
    }
    let recorded = decided.iter().map(|(position, record, decision)| async move {
        (!record_decision(app, record, *decision, pass.until).await).then_some(*position)
    });
    let unrecorded = stream::iter(recorded).buffer_unordered(PARALLEL).filter_map(async |one| one);
    let unrecorded: Vec<usize> = unrecorded.collect().await;
    let is_refused = |(position, _, decision): &&(usize, &LogRecord, Decision)| {
        decision.may_be_undone() && !unrecorded.contains(position)
    };
    let refused: Vec<(usize, &LogRecord)> =
        decided.iter().filter(is_refused).map(|(position, record, _)| (*position, *record)).collect();
    let accepted_again: Vec<(usize, &LogRecord)> = decided
        .iter()
        .filter(|(position, _, decision)| {
            decision.may_have_been_refused()
                || matches!(decision, Decision::Placed { .. }) && pass.was_refused(*position)
        })
        .map(|(position, record, _)| (*position, *record))
        .collect();
    pass.note_refused(&refused);
    undecided.extend(refusals::confirm(app, item_id, &refused, pass).await);
    undecided.extend(refusals::remove(app, item_id, &accepted_again, pass.until).await);
    undecided.extend(unrecorded);
    undecided
}

/// Applies withdrawals of one item in calls of [`MAX_PLACED`]; returns the positions of those that are undecided.
async fn withdraw_all(
    app: &App,
    item_id: &ItemId,
    positions: &[usize],
    entries: &[Entry],
    pass: &Pass<'_>,
) -> Vec<usize> {
    let mut undecided = Vec::new();
    for positions in positions.chunks(MAX_PLACED) {
        if !undecided.is_empty() || Instant::now() >= pass.until {
            undecided.extend_from_slice(positions);
            continue;
        }
        let leaves: Vec<(usize, &LogRecord)> = positions
            .iter()
            .filter_map(|position| Some((*position, &entries.get(*position)?.record)))
            .collect();
        match pass.within(withdraw::withdraw(app, item_id, &leaves, pass.until)).await {
            Ok(rest) => undecided.extend(rest),
            Err(cause) => {
                tracing::warn!(%cause, %item_id, withdrawals = positions.len(), "could not withdraw orders; they are tried again");
                pass.note(cause);
                undecided.extend_from_slice(positions);
            }
        }
    }
    undecided
}

/// One pass over the records of an item.
#[derive(Debug)]
struct Pass<'a> {
    /// No attempt and no write begins later.
    until: Instant,
    /// The records of this item do not keep the others of their shard waiting longer.
    item_until: Instant,
    /// Positions of orders that this invocation has refused.
    refused: &'a Mutex<BTreeSet<usize>>,
    /// Why main cannot process the item, if the cause is the item alone.
    fault: Mutex<Option<String>>,
}

impl Pass<'_> {
    /// The answer of a `call` to main that began in time. It may consist of several calls, each with its own time limit.
    async fn within<T, E>(&self, call: impl Future<Output = Result<T, E>>) -> Result<T, Undecided>
    where
        Undecided: From<E>,
    {
        match timeout_at((self.until + MAX_WINDOW).into(), call).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Undecided::Main("main did not answer within the invocation's time".into())),
        }
    }

    fn note_refused(&self, orders: &[(usize, &LogRecord)]) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.extend(orders.iter().map(|(position, _)| position));
    }

    fn was_refused(&self, position: usize) -> bool {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).contains(&position)
    }

    fn note(&self, cause: Undecided) {
        if let Undecided::Item(text) = cause {
            *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
        }
    }

    fn last_fault(self) -> Option<String> {
        self.fault.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn calls_to_main_end_before_lambda_ends_the_invocation() {
        let began = tokio::time::Instant::now();
        let until = began.into_std() + RUN_LIMIT;
        let refused = Mutex::default();
        let pass = Pass { until, item_until: until, refused: &refused, fault: Mutex::default() };
        // Each of the calls within a decision is in time.
        let slow = async {
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_secs(8)).await;
            }
            Ok::<(), Undecided>(())
        };
        assert!(matches!(pass.within(slow).await, Err(Undecided::Main(_))));
        assert_eq!(began.elapsed().as_secs(), 22);
    }
}
