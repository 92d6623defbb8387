//! A run over all items until a deadline: each item has a task of its own, so that one
//! that fails or hangs does not stop the others.

use crate::item::ItemId;
use crate::queue::LinkError;
use crate::telemetry::Telemetry;
use serde::Serialize;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::time::{Duration, Instant};
use tokio::task::{Id, JoinError, JoinSet};

/// How often the list of items is read again.
const LIST_INTERVAL: Duration = Duration::from_secs(1);
/// How often metrics are written during a run.
const FLUSH_INTERVAL: Duration = Duration::from_secs(10);

/// How the work on one item ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ItemRunEnd<T> {
    /// What was done.
    pub done: T,
    /// There was no item under the id; there may be one later.
    pub restart: bool,
}

/// What a run came to, over all items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary<T> {
    /// Items worked on.
    pub items: u64,
    /// What was done to them together.
    #[serde(flatten)]
    pub done: T,
    /// Lists that could not be read, and works that died.
    pub broken: u64,
}

/// Starts `work` on every item that `list` names, and on every one that comes, until `until`.
/// A work that has died is started again with the next list.
pub async fn run<T, Fut>(
    list: impl AsyncFn() -> Result<Vec<ItemId>, LinkError>,
    telemetry: &Telemetry,
    until: Instant,
    work: impl Fn(ItemId) -> Fut,
) -> Summary<T>
where
    T: std::ops::AddAssign + Default + Send + std::fmt::Debug + 'static,
    Fut: Future<Output = ItemRunEnd<T>> + Send + 'static,
{
    let mut summary = Summary::default();
    let mut works = JoinSet::new();
    let mut at_work: HashMap<ItemId, Id> = HashMap::new();
    let mut flushed = Instant::now();
    while Instant::now() < until {
        match list().await {
            Ok(ids) => {
                for item_id in ids {
                    if let Entry::Vacant(place) = at_work.entry(item_id) {
                        summary.items += 1;
                        let started = works.spawn(work(place.key().clone()));
                        place.insert(started.id());
                    }
                }
            }
            Err(error) => {
                summary.broken += 1;
                tracing::warn!(%error, "the list of items cannot be read");
            }
        }
        while let Some(ended) = works.try_join_next_with_id() {
            if let Some(id) = note(ended, &mut summary) {
                at_work.retain(|_, at_work| *at_work != id);
            }
        }
        if flushed.elapsed() >= FLUSH_INTERVAL {
            telemetry.flush();
            flushed = Instant::now();
        }
        let left = until.saturating_duration_since(Instant::now());
        tokio::time::sleep(LIST_INTERVAL.min(left)).await;
    }
    while let Some(ended) = works.join_next_with_id().await {
        note(ended, &mut summary);
    }
    telemetry.invocation_done();
    tracing::info!(?summary, "the run is over");
    summary
}

/// Takes note of an end; returns the work's id where it is to be started again.
fn note<T: std::ops::AddAssign>(
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
            tracing::error!(%error, "the work on an item died");
            Some(error.id())
        }
    }
}
