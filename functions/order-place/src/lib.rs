//! Places the orders of a region's order log in main's queue.
//!
//! An event source mapping delivers the records of the log's stream in batches: at least once, and in order for each
//! shard, since the mapping's `ParallelizationFactor` is 1. Each record is applied with its own stamp. Main decides: it
//! queues an order once, whatever is repeated, and refuses it if its stamp is at or before what main has served. A refusal
//! is written back to the record.
//!
//! A record that main has not decided is delivered again, with all that follow it. That does nothing to those that are
//! decided.

pub mod event;
mod rounds;
mod withdraw;

use event::{BatchResponse, Entry, StreamEvent};
use futures::future::join_all;
use futures::stream::{self, StreamExt};
use order_log::{LogRecord, OrderLog, Refusal, RefusalReason};
use rounds::{Round, rounds};
use shared::clock::Clock;
use shared::config::{ConfigError, RedisConfig, Source};
use shared::item::ItemId;
use shared::item_cache::ItemCache;
use shared::queue::{
    BATCH_SCRIPTS, BatchOrder, Link, MAX_PLACED, PlaceError, Placement, Placing, Queue, random_part_of,
};
use std::time::{Duration, Instant};

/// No attempt starts later than this in an invocation. An attempt takes 10 s at most: the longest window of its orders.
pub const RUN_LIMIT: Duration = Duration::from_secs(12);
/// The longest pause before the first repetition; it doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// Refusals of one item that are written at the same time.
const PARALLEL: usize = 16;

/// State that one process of the function keeps between batches.
#[derive(Debug)]
pub struct App {
    queue: Queue,
    items: ItemCache,
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
        Self { items: ItemCache::new(None, queue.clone()), queue, log, clock: Clock::machine() }
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

/// Applies the records of one item. Returns the positions of those that are undecided.
async fn apply_item(
    app: &App,
    item_id: &ItemId,
    rounds: &[Round],
    entries: &[Entry],
    until: Instant,
) -> Vec<usize> {
    let record = |position: usize| entries.get(position).map(|entry| &entry.record);
    let mut pause = FIRST_PAUSE;
    let mut left: Vec<Round> = rounds.to_vec();
    loop {
        let mut undecided = Vec::new();
        for round in &left {
            // Where a round is not done, a later round would overtake it.
            let next = if undecided.is_empty() {
                apply_round(app, item_id, round, &record, until).await
            } else {
                round.clone()
            };
            if next != Round::default() {
                undecided.push(next);
            }
        }
        left = undecided;
        if left.is_empty() || Instant::now() + pause >= until {
            return left.into_iter().flat_map(|round| [round.orders, round.leaves].concat()).collect();
        }
        tokio::time::sleep(random_part_of(pause)).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

/// Applies one round; returns what is still undecided of it.
async fn apply_round<'a>(
    app: &App,
    item_id: &ItemId,
    round: &Round,
    record: &impl Fn(usize) -> Option<&'a LogRecord>,
    until: Instant,
) -> Round {
    let mut undecided = Round::default();
    for positions in round.orders.chunks(MAX_PLACED) {
        // Main does not answer: the rest would take as long.
        if !undecided.orders.is_empty() || Instant::now() >= until {
            undecided.orders.extend_from_slice(positions);
            continue;
        }
        let orders: Vec<(usize, &LogRecord)> =
            positions.iter().filter_map(|position| Some((*position, record(*position)?))).collect();
        undecided.orders.extend(place(app, item_id, &orders).await);
    }
    for position in &round.leaves {
        let Some(record) = record(*position) else { continue };
        if undecided != Round::default() || Instant::now() >= until {
            undecided.leaves.push(*position);
            continue;
        }
        if let Err(error) = withdraw::withdraw(app, record).await {
            tracing::warn!(%error, %item_id, "could not withdraw an order; it is tried again");
            undecided.leaves.push(*position);
        }
    }
    undecided
}

/// Places orders of one item; returns the positions of those that are undecided.
async fn place(app: &App, item_id: &ItemId, orders: &[(usize, &LogRecord)]) -> Vec<usize> {
    let decisions = match decide(app, item_id, orders).await {
        Ok(decisions) => decisions,
        Err(error) => {
            tracing::warn!(%error, %item_id, orders = orders.len(), "could not place orders in main's queue; they are tried again");
            return orders.iter().map(|(position, _)| *position).collect();
        }
    };
    let recorded = orders.iter().zip(decisions).map(|((position, record), decision)| async move {
        match decision {
            Ok(decided) => (!record_decision(app, record, decided).await).then_some(*position),
            Err(error) => {
                tracing::warn!(%error, %item_id, "could not place an order in main's queue; it is tried again");
                Some(*position)
            }
        }
    });
    let undecided = stream::iter(recorded).buffer_unordered(PARALLEL).filter_map(async |one| one);
    undecided.collect().await
}

/// What main has decided about an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// It is queued since it was stamped so many microseconds ago.
    Placed {
        age_micros: i64,
    },
    /// The buyer has an order or a unit already.
    Superseded,
    Refused(RefusalReason),
}

/// Main's decisions about orders of one item, in their order.
async fn decide(
    app: &App,
    item_id: &ItemId,
    orders: &[(usize, &LogRecord)],
) -> Result<Vec<Result<Decision, PlaceError>>, String> {
    let limit = app.queue.call_limit() * 2;
    let Some(copy) = app.items.get(item_id, limit).await.map_err(|error| error.to_string())? else {
        return Ok(orders.iter().map(|_| Ok(Decision::Refused(RefusalReason::NoSuchItem))).collect());
    };
    let batch: Vec<BatchOrder> = orders
        .iter()
        .map(|(_, record)| BatchOrder { user_token: record.user_token.clone(), placed_at: record.placed_at })
        .collect();
    let placed = app.queue.place_batch(item_id, &batch, copy.item.settle_window(), &app.clock).await;
    // order-intake has no answer of main to compare the region's clock with.
    if let Some(bounds) = placed.iter().flatten().next().map(|placing| placing.clock_offset) {
        bounds.set_metrics();
        if !bounds.is_tolerable() {
            tracing::error!(
                offset_low_ms = bounds.low / 1000,
                offset_high_ms = bounds.high / 1000,
                "the clock of this machine differs from main's by more than the tolerance; the region's orders may have wrong stamps"
            );
        }
    }
    let decision = |placing: Placing| match placing.placement {
        Placement::Queued => Decision::Placed { age_micros: placing.transit_micros },
        Placement::AlreadyQueued { .. } | Placement::AlreadyTaken { .. } => Decision::Superseded,
        Placement::TooLate => Decision::Refused(RefusalReason::TooLate),
        Placement::ClockAhead => Decision::Refused(RefusalReason::ClockAhead),
    };
    Ok(placed.into_iter().map(|placing| placing.map(decision)).collect())
}

/// Records a decision. Returns whether that was possible.
async fn record_decision(app: &App, record: &LogRecord, decision: Decision) -> bool {
    if let Decision::Refused(reason) = decision {
        let refusal = Refusal { reason, decided_at: app.clock.now() };
        if let Err(error) = app.log.refuse(record, refusal).await {
            tracing::warn!(%error, item_id = %record.item_id, reason = reason.slug(), "could not write a refusal to the order log; it is tried again");
            return false;
        }
    }
    // In one line, for the alarm.
    metrics::counter!("log_orders_decided").increment(1);
    metrics::counter!("log_orders_lost").increment(u64::from(is_lost(decision)));
    match decision {
        Decision::Placed { age_micros } => {
            metrics::counter!("orders_placed").increment(1);
            metrics::histogram!("placement_age_ms").record(age_micros as f64 / 1000.0);
        }
        Decision::Superseded => {}
        Decision::Refused(reason) => {
            metrics::counter!("log_orders_refused", "Reason" => reason.slug()).increment(1);
        }
    }
    true
}

/// Whether an order is refused for a reason that is not the buyer's.
fn is_lost(decision: Decision) -> bool {
    matches!(decision, Decision::Refused(RefusalReason::TooLate | RefusalReason::ClockAhead))
}
