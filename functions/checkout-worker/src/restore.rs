//! Items that wait for their queue to be restored: after Redis was lost, or another server has become the primary.

use crate::App;
use futures::stream::{self, StreamExt};
use replay::{AGAIN_AFTER, ReplayError, ReplayOptions, by_urgency};
use shared::item::ItemId;
use shared::item_runs;
use shared::queue::{ItemError, LinkError, RestoreCause};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How often the worker looks for items that wait.
const INTERVAL: Duration = Duration::from_secs(1);
/// The pause after a replay that failed: a log that cannot be read is not read again at once.
const FAILURE_PAUSE: Duration = Duration::from_secs(5);
/// Items that are restored at the same time. Each reads the buckets of all logs.
const PARALLEL_ITEMS: usize = 4;
/// No replay begins with less time. One that a run's end stops begins again in the next run. A run starts every minute and
/// lasts for three, so that one of them has as much.
const SHORTEST: Duration = Duration::from_secs(120);

/// Restores the items that wait for it until `until`. Does nothing without order logs.
pub(crate) async fn restore_until(app: &App, until: Instant) {
    if app.logs.is_empty() {
        return;
    }
    // A run on one machine is shorter.
    let latest_start = until - SHORTEST.min(app.longest_run / 2);
    while Instant::now() < until {
        let pause = match waiting(app).await {
            Ok(items) => {
                let unsold = items.iter().filter(|(_, cause)| *cause != RestoreCause::Again).count();
                metrics::gauge!("items_restoring").set(unsold as f64);
                let may_begin = Instant::now() < latest_start && app.context.lease.permit().is_ok();
                if may_begin && restore_all(app, &items, until).await > 0 { FAILURE_PAUSE } else { INTERVAL }
            }
            Err(error) => {
                tracing::warn!(%error, "could not look for items that wait to be restored; trying again in 1 s");
                INTERVAL
            }
        };
        item_runs::pause(pause, until).await;
    }
}

async fn waiting(app: &App) -> Result<Vec<(ItemId, RestoreCause)>, LinkError> {
    let queue = &app.context.queue;
    queue.restores_due(&queue.active_item_ids(Duration::ZERO).await?).await
}

/// Restores `items`, those on sale first; returns how many failed. Each is sold as soon as it is restored.
async fn restore_all(app: &App, items: &[(ItemId, RestoreCause)], until: Instant) -> u64 {
    let causes: HashMap<&ItemId, RestoreCause> =
        items.iter().map(|(item_id, cause)| (item_id, *cause)).collect();
    let ids = items.iter().map(|(item_id, _)| item_id.clone()).collect();
    let items = match by_urgency(&app.context.queue, ids).await {
        Ok(items) => items,
        Err(error) => {
            tracing::warn!(%error, "could not look which items to restore first; trying again in 5 s");
            return 1;
        }
    };
    let due = items.iter().filter_map(|item_id| Some((item_id, *causes.get(item_id)?)));
    let restored = stream::iter(due.map(|(item_id, cause)| restore(app, item_id, cause, until)));
    let failed = restored.buffer_unordered(PARALLEL_ITEMS).filter(|is_restored| {
        let has_failed = !is_restored;
        async move { has_failed }
    });
    failed.count().await as u64
}

/// Restores one item. Another run of the worker may be at it.
async fn restore(app: &App, item_id: &ItemId, cause: RestoreCause, until: Instant) -> bool {
    // The new primary may lack reservations that the ledger has. An order of such a buyer must not be served again. The run
    // that is at the item has reconciled it.
    if cause != RestoreCause::InProgress
        && let Err(error) = reconcile::reconcile(&app.stores(), item_id, true).await
    {
        tracing::warn!(%error, %item_id, "could not reconcile an item before its queue is restored; the ledger refuses what it has already");
    }
    let limit = until.saturating_duration_since(Instant::now());
    let again_after = (cause != RestoreCause::Again).then_some(AGAIN_AFTER);
    let options = ReplayOptions { cause: Some(cause), limit, again_after, ..ReplayOptions::default() };
    let crate::WorkerContext { queue, ledger, .. } = &app.context;
    match replay::replay(item_id, queue, ledger, &app.logs, &options).await {
        Ok(report) => {
            tracing::info!(%item_id, ?cause, ?report, "the queue of an item was restored from the order logs");
            true
        }
        Err(
            ReplayError::InProgress
            | ReplayError::NotDue
            | ReplayError::TakenOver
            | ReplayError::Item(ItemError::Finished(_)),
        ) => true,
        Err(error) => {
            count_failure(item_id, &error);
            false
        }
    }
}

fn count_failure(item_id: &ItemId, error: &ReplayError) {
    metrics::counter!("replays_failed", "Item" => item_id.to_string()).increment(1);
    match error {
        ReplayError::SalesGoOn { is_repeated: true, .. } => {
            tracing::error!(%error, %item_id, "could not replay an item again; trying again later");
        }
        ReplayError::SalesGoOn { is_repeated: false, .. } => {
            metrics::counter!("replays_abandoned", "Item" => item_id.to_string()).increment(1);
            tracing::error!(%error, %item_id, "could not replay an item again, and the worker does not try any more: orders that an old primary accepted may be missing; `fairdrop replay` puts them back");
        }
        error => {
            tracing::error!(%error, %item_id, "could not restore the queue of an item from the order logs; trying again, and nothing of the item is sold until then");
        }
    }
}
