//! Turns over the outbox until the run ends.

use crate::{App, Summary};
use futures::future::join_all;
use ledger::{Decided, LedgerError, OutboxEvent, TURN_LIMIT};
use shared::item::ItemId;
use shared::item_runs::pause;
use std::time::{Duration, Instant};

/// The pause after a turn without events.
const IDLE_PAUSE: Duration = Duration::from_millis(100);
/// The pause while another run has the turn: it may end or die at any time.
const OTHERS_PAUSE: Duration = Duration::from_millis(500);
/// The pause after a turn that failed, or in which nothing was accepted.
const FAILURE_PAUSE: Duration = Duration::from_millis(500);

/// How often a run asks whether the bus exists.
const BUS_INTERVAL: Duration = Duration::from_secs(60);
/// The pause after the run could not find the bus.
const BUS_PAUSE: Duration = Duration::from_secs(5);

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TurnEnd {
    /// Another run has the turn.
    Others,
    /// There was no event.
    Idle,
    /// There may be more events to send at once.
    Progress,
    /// EventBridge accepted no event.
    Stuck,
    /// The bus does not exist, or EventBridge did not answer whether it does: no event was sent.
    NoBus,
}

/// Publishes until `until`, while this region is main.
pub(crate) async fn publish_until(app: &App, until: Instant) -> Summary {
    let mut summary = Summary::default();
    // The items are taken in turns: one that EventBridge does not accept must not hold up those after it.
    let mut after = None;
    let mut bus_found_at = None;
    while Instant::now() < until {
        // The lease keeper logs this.
        let is_main = app.lease.permit().is_ok();
        let end = if !is_main {
            Ok(TurnEnd::Others)
        } else if !has_bus(app, &mut bus_found_at, &mut summary).await {
            Ok(TurnEnd::NoBus)
        } else {
            turn(app, &mut after, until, &mut summary).await
        };
        let time = match end {
            Ok(TurnEnd::Progress) => Duration::ZERO,
            Ok(TurnEnd::Idle) => IDLE_PAUSE,
            Ok(TurnEnd::Others) => OTHERS_PAUSE,
            Ok(TurnEnd::Stuck) => FAILURE_PAUSE,
            Ok(TurnEnd::NoBus) => BUS_PAUSE,
            Err(error) => {
                summary.failures += 1;
                metrics::counter!("event_failures").increment(1);
                tracing::warn!(%error, "could not read or mark events in the ledger; the next turn sends them again");
                FAILURE_PAUSE
            }
        };
        pause(time, until).await;
    }
    summary
}

/// Whether the bus existed within the last minute.
async fn has_bus(app: &App, found_at: &mut Option<Instant>, summary: &mut Summary) -> bool {
    if found_at.is_some_and(|at| at.elapsed() < BUS_INTERVAL) {
        return true;
    }
    *found_at = match app.publisher.find_bus().await {
        Ok(()) => Some(Instant::now()),
        Err(reason) => {
            summary.failures += 1;
            metrics::counter!("event_failures").increment(1);
            tracing::error!(
                reason,
                "could not find the event bus, which would drop events without an error; no event is sent, and the run asks again in 5 s"
            );
            None
        }
    };
    found_at.is_some()
}

async fn turn(
    app: &App,
    after: &mut Option<ItemId>,
    until: Instant,
    summary: &mut Summary,
) -> Result<TurnEnd, LedgerError> {
    let Some(turn) = app.ledger.outbox_turn(after.as_ref()).await? else {
        *after = None;
        return Ok(TurnEnd::Others);
    };
    let began_at_first = after.is_none();
    after.clone_from(&turn.last_item);
    let events = turn.events.clone();
    let ends_at = until.min(Instant::now() + TURN_LIMIT);
    let items = events.chunk_by(|one, next| one.item_id == next.item_id);
    let sent = join_all(items.map(|events| app.publisher.publish_item(events, ends_at))).await;
    let decided: Vec<(&OutboxEvent, Decided)> =
        sent.iter().flat_map(|sent| sent.decided.iter().copied()).collect();
    turn.finish(&decided).await?;

    let dead = decided.iter().filter(|(_, decided)| *decided != Decided::Published).count() as u64;
    let published = decided.len() as u64 - dead;
    summary.published += published;
    summary.dead_lettered += dead;
    metrics::counter!("events_published").increment(published);
    let failed: Vec<_> = sent.iter().filter_map(|sent| sent.failure.as_ref()).collect();
    if let Some((event, reason)) = failed.first() {
        summary.failures += 1;
        metrics::counter!("event_failures").increment(1);
        tracing::warn!(
            items = failed.len(), item_id = %event.item_id, sequence = event.sequence, reason,
            "EventBridge did not accept an event; it and its item's later ones are sent again"
        );
    }
    Ok(match (events.is_empty(), decided.is_empty()) {
        // There may be events of items before the last turn's.
        (true, _) if !began_at_first => TurnEnd::Progress,
        (true, _) => TurnEnd::Idle,
        (false, true) => TurnEnd::Stuck,
        (false, false) => TurnEnd::Progress,
    })
}
