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
mod rounds;
mod undecided;
mod withdraw;

use decide::{Items, decide, record_decision};
use event::{BatchResponse, Entry, StreamEvent};
use futures::future::join_all;
use futures::stream::{self, StreamExt};
use order_log::OrderLog;
use rounds::{Round, rounds};
use shared::clock::Clock;
use shared::config::{ConfigError, RedisConfig, Source};
use shared::item::ItemId;
use shared::queue::{BATCH_SCRIPTS, Link, MAX_PLACED, Queue, random_part_of};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use undecided::Undecided;

/// No attempt starts later than this in an invocation. An attempt takes 10 s at most: the longest window of its orders.
pub const RUN_LIMIT: Duration = Duration::from_secs(12);
/// The longest pause before the first repetition; it doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// The longest that the records of an item that main cannot process keep the others of their shard waiting.
const ITEM_LIMIT: Duration = Duration::from_secs(1);
/// Refusals of one item that are written at the same time.
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
    let items = rounds(&entries);
    let applied = items.iter().map(|(item_id, rounds)| apply_item(app, item_id, rounds, &entries, until));
    let undecided: Vec<usize> = join_all(applied).await.concat();
    metrics::counter!("log_records_undecided").increment(undecided.len() as u64);
    let first = undecided.iter().min().and_then(|position| entries.get(*position));
    BatchResponse::again_from(first.map(|entry| entry.sequence_number.as_str()))
}

/// Applies the records of one item. Returns the positions of those that are undecided, and must be delivered again.
async fn apply_item(
    app: &App,
    item_id: &ItemId,
    rounds: &[Round],
    entries: &[Entry],
    until: Instant,
) -> Vec<usize> {
    let began = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut left: Vec<Round> = rounds.to_vec();
    loop {
        let mut undecided = Vec::new();
        let mut fault = None;
        for round in &left {
            // Where a round is not done, a later round would overtake it.
            let next = if undecided.is_empty() {
                apply_round(app, item_id, round, entries, until, &mut fault).await
            } else {
                round.clone()
            };
            if next != Round::default() {
                undecided.push(next);
            }
        }
        left = undecided;
        let positions = || left.iter().flat_map(|round| [&round.orders[..], &round.leaves].concat());
        if left.is_empty() {
            return Vec::new();
        }
        if let Some(fault) = fault
            && began.elapsed() + pause >= ITEM_LIMIT
        {
            set_aside(item_id, positions().count(), &fault);
            return Vec::new();
        }
        if Instant::now() + pause >= until {
            return positions().collect();
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

/// Applies one round; returns what is still undecided of it. If the item alone is the cause, `fault` says why.
async fn apply_round(
    app: &App,
    item_id: &ItemId,
    round: &Round,
    entries: &[Entry],
    until: Instant,
    fault: &mut Option<String>,
) -> Round {
    let mut undecided = Round::default();
    for positions in round.orders.chunks(MAX_PLACED) {
        // Main does not answer: the rest would take as long.
        if !undecided.orders.is_empty() || Instant::now() >= until {
            undecided.orders.extend_from_slice(positions);
            continue;
        }
        let orders: Vec<(usize, &Entry)> =
            positions.iter().filter_map(|position| Some((*position, entries.get(*position)?))).collect();
        undecided.orders.extend(place(app, item_id, &orders, fault).await);
    }
    for position in &round.leaves {
        let Some(Entry { record, .. }) = entries.get(*position) else { continue };
        if undecided != Round::default() || Instant::now() >= until {
            undecided.leaves.push(*position);
            continue;
        }
        if let Err(cause) = withdraw::withdraw(app, record).await {
            tracing::warn!(%cause, %item_id, "could not withdraw an order; it is tried again");
            note(fault, cause);
            undecided.leaves.push(*position);
        }
    }
    undecided
}

/// Places orders of one item; returns the positions of those that are undecided.
async fn place(
    app: &App,
    item_id: &ItemId,
    orders: &[(usize, &Entry)],
    fault: &mut Option<String>,
) -> Vec<usize> {
    let entries: Vec<&Entry> = orders.iter().map(|(_, entry)| *entry).collect();
    let decisions = match decide(app, item_id, &entries).await {
        Ok(decisions) => decisions,
        Err(cause) => {
            tracing::warn!(%cause, %item_id, orders = orders.len(), "could not place orders in main's queue; they are tried again");
            note(fault, cause);
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
                note(fault, cause);
            }
        }
    }
    for cause in causes {
        tracing::warn!(cause, %item_id, orders = undecided.len(), "could not place orders in main's queue; they are tried again");
    }
    let recorded = decided.into_iter().map(|(position, record, decision)| async move {
        (!record_decision(app, record, decision).await).then_some(position)
    });
    let unrecorded = stream::iter(recorded).buffer_unordered(PARALLEL).filter_map(async |one| one);
    undecided.extend(unrecorded.collect::<Vec<_>>().await);
    undecided
}

fn note(fault: &mut Option<String>, cause: Undecided) {
    if let Undecided::Item(text) = cause {
        *fault = Some(text);
    }
}
