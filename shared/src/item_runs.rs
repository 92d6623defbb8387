//! A run over the listed items until a deadline. Each item has a task of its own, so that an item whose work fails or
//! hangs does not stop the others.

use crate::item::ItemId;
use crate::queue::LinkError;
use crate::telemetry::Telemetry;
use serde::Serialize;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::{Id, JoinError, JoinSet};

/// How often the list of items is read again.
const LIST_INTERVAL: Duration = Duration::from_secs(1);
/// How often metrics are written during a run.
const FLUSH_INTERVAL: Duration = Duration::from_secs(10);

/// How the work on one item ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ItemRunEnd<T> {
    pub done: T,
    /// The item does not exist, or needs no work now: the work starts again if the next list has it.
    pub restart: bool,
}

/// Whether the newest list that could be read has the item.
#[derive(Clone, Debug)]
pub struct Listed(Arc<AtomicBool>);

impl Listed {
    pub fn is_listed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The work on an item that was started.
#[derive(Debug)]
struct StartedWork {
    id: Id,
    listed: Listed,
}

/// The result of a run, over all items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary<T> {
    /// The number of times that the work on an item started.
    pub items: u64,
    /// The sum over all items.
    #[serde(flatten)]
    pub done: T,
    /// Lists that could not be read, and tasks that panicked.
    pub broken: u64,
}

/// Starts `work` on every item of `list`, which is read every second, until `until`. Work that panicked starts
/// again with the next list. The work on an item that is no longer listed goes on until it ends itself.
pub async fn run<T, Fut>(
    list: impl AsyncFn() -> Result<Vec<ItemId>, LinkError>,
    telemetry: &Telemetry,
    until: Instant,
    work: impl Fn(ItemId, Listed) -> Fut,
) -> Summary<T>
where
    T: std::ops::AddAssign + Default + Send + std::fmt::Debug + 'static,
    Fut: Future<Output = ItemRunEnd<T>> + Send + 'static,
{
    let mut summary = Summary::default();
    let mut works = JoinSet::new();
    let mut at_work: HashMap<ItemId, StartedWork> = HashMap::new();
    let mut flushed = Instant::now();
    while Instant::now() < until {
        match list().await {
            Ok(ids) => {
                let ids: HashSet<ItemId> = ids.into_iter().collect();
                for (item_id, started) in &at_work {
                    started.listed.0.store(ids.contains(item_id), Ordering::Relaxed);
                }
                for item_id in ids {
                    if let Entry::Vacant(entry) = at_work.entry(item_id) {
                        summary.items += 1;
                        let listed = Listed(Arc::new(AtomicBool::new(true)));
                        let id = works.spawn(work(entry.key().clone(), listed.clone())).id();
                        entry.insert(StartedWork { id, listed });
                    }
                }
            }
            Err(error) => {
                summary.broken += 1;
                tracing::warn!(%error, "could not read the list of items from Redis; trying again in 1 s");
            }
        }
        while let Some(ended) = works.try_join_next_with_id() {
            if let Some(id) = record_end(ended, &mut summary) {
                at_work.retain(|_, started| started.id != id);
            }
        }
        if flushed.elapsed() >= FLUSH_INTERVAL {
            telemetry.flush();
            flushed = Instant::now();
        }
        pause(LIST_INTERVAL, until).await;
    }
    while let Some(ended) = works.join_next_with_id().await {
        record_end(ended, &mut summary);
    }
    telemetry.invocation_done();
    tracing::info!(?summary, "the run over all items has ended");
    summary
}

/// Adds an end to the summary; returns the task's id if its work may start again.
fn record_end<T: std::ops::AddAssign>(
    ended: Result<(Id, ItemRunEnd<T>), JoinError>,
    summary: &mut Summary<T>,
) -> Option<Id> {
    match ended {
        Ok((id, ended)) => {
            summary.done += ended.done;
            ended.restart.then_some(id)
        }
        Err(error) => {
            summary.broken += 1;
            tracing::error!(%error, "the work on an item panicked; it starts again with the next list");
            Some(error.id())
        }
    }
}

/// Sleeps for `time`, but not longer than until `until`.
pub async fn pause(time: Duration, until: Instant) {
    tokio::time::sleep(time.min(until.saturating_duration_since(Instant::now()))).await;
}
