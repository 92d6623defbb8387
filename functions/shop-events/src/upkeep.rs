//! What keeps the outbox in order beside the turns: the wish for events, closings, figures, and pruning. Each of the
//! overlapping runs does it, since each step can be repeated.

use crate::App;
use ledger::{LedgerError, OutboxState};
use shared::item_runs::pause;
use std::time::{Duration, Instant};

/// How late an item's closing is reported at most.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(2);
/// How often metrics are written during a run.
const FLUSH_INTERVAL: Duration = Duration::from_secs(10);
/// How often old events are deleted, up to 1,000 at a time: more than an item's events of a minute on average.
const PRUNE_INTERVAL: Duration = Duration::from_secs(20);

/// Keeps the outbox in order until `until`; goes on after a failure.
pub(crate) async fn keep_until(app: &App, until: Instant) {
    let (mut flushed, mut pruned) = (Instant::now(), None);
    let mut has_failed = false;
    while Instant::now() < until {
        match upkeep(app, &mut pruned).await {
            Ok(()) => has_failed = false,
            Err(error) => {
                if !has_failed {
                    tracing::warn!(%error, "could not keep the outbox in order; trying again every 2 s");
                }
                has_failed = true;
            }
        }
        if flushed.elapsed() >= FLUSH_INTERVAL {
            app.telemetry.flush();
            flushed = Instant::now();
        }
        pause(UPKEEP_INTERVAL, until).await;
    }
}

async fn upkeep(app: &App, pruned: &mut Option<Instant>) -> Result<(), LedgerError> {
    // The lease keeper reports that this region is not main.
    let Ok(permit) = app.lease.permit() else { return Ok(()) };
    app.ledger.want_events().await?;
    app.ledger.report_closings(permit).await?;
    let state = app.ledger.outbox_state().await?;
    metrics::gauge!("events_lag_ms").set(lag(&state).as_millis() as f64);
    metrics::gauge!("event_dead_letters").set(state.dead_letters as f64);
    if pruned.is_none_or(|at| at.elapsed() >= PRUNE_INTERVAL) {
        app.ledger.prune_outbox(state.now).await?;
        *pruned = Some(Instant::now());
    }
    Ok(())
}

/// The age of the oldest pending event.
fn lag(state: &OutboxState) -> Duration {
    state.pending_since.map_or(Duration::ZERO, |since| state.now.saturating_since(since))
}
