//! Draining one item.

use lease::{Lease, LeaseError};
use serde::Serialize;
use shared::item::ItemId;
use shared::item_runs::{self, ItemRunEnd, Listed};
use shared::queue::{DrainBatch, LinkError, MAX_BATCH, Queue};
use std::ops::AddAssign;
use std::time::{Duration, Instant};

/// The pause between two batches while orders are waiting.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// The pause if no order is waiting or no stock is left. A new order has to wait for its settle window anyway.
const IDLE_PAUSE: Duration = Duration::from_millis(250);
const FAILURE_PAUSE: Duration = Duration::from_millis(500);
/// Full batches in a row before the drain pauses, so that other commands of this process can run.
const MAX_BATCHES_IN_A_ROW: u32 = 20;

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Drained {
    /// Orders that became reservations.
    pub reserved: u64,
    /// Orders outside the gates, and orders of buyers who already had a unit.
    pub dropped: u64,
    /// Calls to Redis that failed.
    pub failures: u64,
}

impl AddAssign for Drained {
    fn add_assign(&mut self, more: Self) {
        self.reserved += more.reserved;
        self.dropped += more.dropped;
        self.failures += more.failures;
    }
}

/// Drains `item_id` until `until`, or until it is idle.
pub(crate) async fn run(
    queue: Queue,
    lease: Lease,
    item_id: ItemId,
    listed: Listed,
    until: Instant,
) -> ItemRunEnd<Drained> {
    let mut done = Drained::default();
    let mut full_batches = 0;
    let mut was_restoring = false;
    while Instant::now() < until && listed.is_listed() {
        let pause = match drain(&queue, &lease, &item_id).await {
            Ok(batch) => {
                if batch.is_restoring && !was_restoring {
                    tracing::warn!(%item_id, "the queue of an item is being restored from the order logs, or waits for it; nothing is sold until then");
                }
                was_restoring = batch.is_restoring;
                record(&item_id, &batch);
                done.reserved += batch.reserved;
                done.dropped += batch.taken - batch.reserved;
                full_batches = if batch.taken == u64::from(MAX_BATCH) { full_batches + 1 } else { 0 };
                pause_after(&batch, &mut full_batches)
            }
            Err(DrainError::Redis(LinkError::Refused(code))) if code == "NOITEM" => {
                return ItemRunEnd { done, restart: true };
            }
            // The lease keeper logs this once, for all items.
            Err(DrainError::LeaseError(_)) => FAILURE_PAUSE,
            Err(error) => {
                done.failures += 1;
                metrics::counter!("drain_failures", "Item" => item_id.to_string()).increment(1);
                tracing::warn!(%error, %item_id, "could not drain an item; trying again");
                FAILURE_PAUSE
            }
        };
        item_runs::pause(pause, until).await;
    }
    ItemRunEnd { done, restart: true }
}

#[derive(Debug, thiserror::Error)]
enum DrainError {
    /// This region may not sell at the moment.
    #[error(transparent)]
    LeaseError(#[from] LeaseError),
    #[error(transparent)]
    Redis(#[from] LinkError),
}

async fn drain(queue: &Queue, lease: &Lease, item_id: &ItemId) -> Result<DrainBatch, DrainError> {
    Ok(queue.drain(item_id, MAX_BATCH, lease.permit()?).await?)
}

fn pause_after(batch: &DrainBatch, full_batches: &mut u32) -> Duration {
    if *full_batches > 0 && *full_batches < MAX_BATCHES_IN_A_ROW {
        return Duration::ZERO;
    }
    *full_batches = 0;
    if batch.waiting == 0 || batch.stock_left <= 0 { IDLE_PAUSE } else { BUSY_PAUSE }
}

fn record(item_id: &ItemId, batch: &DrainBatch) {
    let item = || item_id.to_string();
    metrics::gauge!("orders_waiting", "Item" => item()).set(batch.waiting as f64);
    metrics::gauge!("settle_delay_ms", "Item" => item()).set(batch.settle_delay.as_secs_f64() * 1000.0);
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
        ("excluded", batch.dropped_excluded),
    ] {
        if orders > 0 {
            metrics::counter!("orders_dropped", "Item" => item(), "Reason" => reason).increment(orders);
        }
    }
}
