//! An event source mapping: it reads the stream of a table, and invokes a function with batches of records.
//!
//! From the documents of AWS (`docs/AWS_FACTS.md`, *event source mapping*): a shard is read to its end before its child.
//! Records of a shard stay in order; with a `ParallelizationFactor` above 1, only those with the same partition key and
//! sort key. A batch that fails is delivered again, in halves; a batch that fails in part, from the lowest failed sequence
//! number on. Every record is delivered at least once, and sometimes again.

mod delivery;
mod shards;

pub use delivery::{Delivered, next_batches};

use crate::aws::lambda::{INVOKE_LIMIT, Invoke, timeout_of};
use shards::Reader;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// How long the mapping waits after it could not read the stream's description.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// A mapping's settings, and what the documents leave open.
#[derive(Clone, Debug)]
pub struct MappingOptions {
    pub function: &'static str,
    /// The most records of a batch.
    pub batch_size: usize,
    /// How long the mapping gathers records for a batch that is not full.
    pub window: Duration,
    /// `ParallelizationFactor`: batches of one shard at the same time. Records with the same partition key and sort key
    /// are never in two of them.
    pub parallel: u64,
    /// Whether the mapping's filter passes new items only.
    pub inserts_only: bool,
    /// The function's timeout.
    pub invoke_limit: Duration,
    /// The share of batches that are delivered again after they succeeded.
    pub repeated: f64,
    /// Of the reads of a shard, the share after which the mapping stops for a time, and that time.
    pub stalled: f64,
    pub stall: Range<Duration>,
    pub seed: u64,
}

impl MappingOptions {
    /// As template.yaml has it: order-place, with batches of new items.
    pub fn order_place() -> Self {
        Self {
            function: "order-place",
            batch_size: 1_000,
            window: Duration::ZERO,
            parallel: 1,
            inserts_only: true,
            invoke_limit: timeout_of("order-place").unwrap_or(INVOKE_LIMIT),
            repeated: 0.0,
            stalled: 0.0,
            stall: Duration::from_secs(1)..Duration::from_secs(5),
            seed: rand::random(),
        }
    }
}

/// A running mapping. Dropping it stops it.
#[derive(Debug)]
pub struct EventSourceMapping {
    delivered: Arc<Mutex<Delivered>>,
    paused: Arc<AtomicBool>,
    again: Arc<Notify>,
    task: JoinHandle<()>,
}

impl EventSourceMapping {
    /// Maps the stream of `table` in `region` of the DynamoDB at `url`, from its first record on.
    pub fn start(
        url: String,
        region: &'static str,
        table: &'static str,
        invoke: Invoke,
        options: MappingOptions,
    ) -> Self {
        eprintln!("seed of the mapping in {region}: {}", options.seed);
        let delivered: Arc<Mutex<Delivered>> = Arc::default();
        let paused = Arc::new(AtomicBool::new(false));
        let again = Arc::new(Notify::new());
        let reader = Reader::new((url, region, table), invoke, options, delivered.clone(), paused.clone());
        let wanted = again.clone();
        let task = tokio::spawn(async move {
            loop {
                let read = tokio::select! {
                    read = reader.read() => read,
                    () = wanted.notified() => Ok(()),
                };
                if let Err(error) = read {
                    eprintln!(
                        "the stream of {table} cannot be read: {error:#}; it is read again from its start"
                    );
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
            }
        });
        Self { delivered, paused, again, task }
    }

    /// Stops reading the stream, or goes on.
    pub fn pause(&self, is_paused: bool) {
        self.paused.store(is_paused, Ordering::Relaxed);
    }

    /// Delivers every record of the stream again.
    pub fn deliver_again(&self) {
        self.again.notify_one();
    }

    /// What was delivered so far.
    pub fn delivered(&self) -> Delivered {
        self.delivered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for EventSourceMapping {
    fn drop(&mut self) {
        self.task.abort();
    }
}
