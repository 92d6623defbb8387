//! The drain of one item.

use shared::item::ItemId;
use shared::queue::{DrainBatch, LinkError, MAX_BATCH, Queue};
use std::time::{Duration, Instant};

/// The pause between two looks at an item with orders waiting.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// The pause where nothing waits or nothing is left. An order that comes meanwhile
/// has its settle window to wait for anyway.
const IDLE_PAUSE: Duration = Duration::from_millis(250);
/// The pause after a failure.
const FAILURE_PAUSE: Duration = Duration::from_millis(500);
/// Full batches taken in a row before other commands of this process get their turn.
const MAX_BATCHES_IN_A_ROW: u32 = 20;
/// How long a replica may take to acknowledge.
const REPLICA_LIMIT: Duration = Duration::from_millis(100);

/// How the drain of an item ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) item_id: ItemId,
    pub(crate) reserved: u64,
    pub(crate) dropped: u64,
    pub(crate) failures: u64,
    /// There was no item under the id; there may be one later.
    pub(crate) look_again: bool,
}

/// Drains `item_id` until `until`.
pub(crate) async fn run(queue: Queue, item_id: ItemId, wait_replicas: u32, until: Instant) -> Ended {
    let mut ended = Ended { item_id, reserved: 0, dropped: 0, failures: 0, look_again: false };
    let mut full_batches = 0;
    while Instant::now() < until {
        let pause = match drain_once(&queue, &ended.item_id, wait_replicas).await {
            Ok(batch) => {
                ended.reserved += batch.reserved;
                ended.dropped += batch.looked_at - batch.reserved;
                full_batches = if batch.looked_at == u64::from(MAX_BATCH) { full_batches + 1 } else { 0 };
                pause_after(&batch, &mut full_batches)
            }
            Err(LinkError::Refused(code)) if code == "NOITEM" => {
                ended.look_again = true;
                return ended;
            }
            Err(error) => {
                ended.failures += 1;
                metrics::counter!("drain_failures", "Item" => ended.item_id.to_string()).increment(1);
                tracing::warn!(%error, item_id = %ended.item_id, "an item cannot be drained");
                FAILURE_PAUSE
            }
        };
        let left = until.saturating_duration_since(Instant::now());
        tokio::time::sleep(pause.min(left)).await;
    }
    ended
}

fn pause_after(batch: &DrainBatch, full_batches: &mut u32) -> Duration {
    if *full_batches > 0 && *full_batches < MAX_BATCHES_IN_A_ROW {
        return Duration::ZERO;
    }
    *full_batches = 0;
    if batch.waiting == 0 || batch.stock_left <= 0 { IDLE_PAUSE } else { BUSY_PAUSE }
}

async fn drain_once(queue: &Queue, item_id: &ItemId, wait_replicas: u32) -> Result<DrainBatch, LinkError> {
    let batch = queue.drain(item_id, MAX_BATCH).await?;
    record(item_id, &batch);
    if batch.reserved > 0
        && wait_replicas > 0
        && !queue.wait_for_replicas(wait_replicas, REPLICA_LIMIT).await?
    {
        return Err(LinkError::Unanswered("too few replicas acknowledged the reservations".into()));
    }
    Ok(batch)
}

fn record(item_id: &ItemId, batch: &DrainBatch) {
    let item = || item_id.to_string();
    metrics::gauge!("orders_waiting", "Item" => item()).set(batch.waiting as f64);
    if batch.reserved > 0 {
        metrics::counter!("reservations", "Item" => item()).increment(batch.reserved);
    }
    if let Some(lag_micros) = batch.lag_micros {
        metrics::gauge!("drain_lag_ms", "Item" => item()).set(lag_micros as f64 / 1000.0);
    }
    for (reason, orders) in [
        ("before-opening", batch.dropped_before_opening),
        ("after-closing", batch.dropped_after_closing),
        ("already-taken", batch.dropped_already_taken),
    ] {
        if orders > 0 {
            metrics::counter!("orders_dropped", "Item" => item(), "Reason" => reason).increment(orders);
        }
    }
}
