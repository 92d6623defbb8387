//! Turns over the outbox until the run ends.

use crate::publisher::BusAnswer;
use crate::{App, Summary};
use futures::future::join_all;
use ledger::{Decided, LedgerError, MalformedEvent, OutboxEvent, TURN_LIMIT};
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
/// How often a run reports that an event is malformed.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);
/// The pause while the bus does not exist.
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
    /// EventBridge accepted no event, or no pending event could be read.
    Stuck,
    /// The bus does not exist: no event was sent.
    NoBus,
}

/// Publishes until `until`, while this region is main.
pub(crate) async fn publish_until(app: &App, until: Instant) -> Summary {
    let mut summary = Summary::default();
    // The items are taken in turns: one that EventBridge does not accept must not hold up those after it.
    let mut turns = Turns::default();
    let mut bus_asked_at = None;
    while Instant::now() < until {
        // The lease keeper logs this.
        let is_main = app.lease.permit().is_ok();
        let end = if !is_main {
            Ok(TurnEnd::Others)
        } else if !has_bus(app, &mut bus_asked_at, &mut summary).await {
            Ok(TurnEnd::NoBus)
        } else {
            turn(app, &mut turns, until, &mut summary).await
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

/// Whether the bus exists, as EventBridge said within the last minute. Without an answer, an earlier one counts.
async fn has_bus(app: &App, asked_at: &mut Option<Instant>, summary: &mut Summary) -> bool {
    let publisher = &app.publisher;
    if !publisher.is_bus_missing() && asked_at.is_some_and(|at| at.elapsed() < BUS_INTERVAL) {
        return true;
    }
    *asked_at = Some(Instant::now());
    match publisher.find_bus().await {
        BusAnswer::Exists => {}
        BusAnswer::Missing => {
            summary.failures += 1;
            metrics::counter!("event_failures").increment(1);
            tracing::error!(
                "the event bus does not exist, and EventBridge would drop events without an error; no event is sent, and the run asks again in 5 s"
            );
        }
        BusAnswer::Unknown(reason) => {
            let is_missing = publisher.is_bus_missing();
            tracing::warn!(
                reason,
                is_missing,
                "could not ask EventBridge whether the event bus exists; its last answer counts, and the run asks again"
            );
        }
    }
    !publisher.is_bus_missing()
}

/// What one turn leaves to the next.
#[derive(Default)]
struct Turns {
    /// The last item of the turn before, if there may be items after it.
    after: Option<ItemId>,
    /// When a malformed event was reported.
    reported_at: Option<Instant>,
}

async fn turn(
    app: &App,
    turns: &mut Turns,
    until: Instant,
    summary: &mut Summary,
) -> Result<TurnEnd, LedgerError> {
    let Some(turn) = app.ledger.outbox_turn(turns.after.as_ref()).await? else {
        turns.after = None;
        return Ok(TurnEnd::Others);
    };
    let began_at_first = turns.after.is_none();
    turns.after.clone_from(&turn.last_item);
    let is_malformed = turn.malformed.is_some();
    if let Some(MalformedEvent { item_id, sequence, error }) = &turn.malformed
        && turns.reported_at.is_none_or(|at| at.elapsed() >= REPORT_INTERVAL)
    {
        turns.reported_at = Some(Instant::now());
        tracing::error!(
            %error, item_id, sequence,
            "could not read an event of the outbox; it and its item's later ones stay pending"
        );
    }
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
    Ok(turn_end(events.is_empty(), decided.is_empty(), began_at_first, is_malformed))
}

/// How a turn ended that read no event, or decided none.
fn turn_end(read_none: bool, decided_none: bool, began_at_first: bool, is_malformed: bool) -> TurnEnd {
    match (read_none, decided_none) {
        // There may be events of items before the last turn's.
        (true, _) if !began_at_first => TurnEnd::Progress,
        (true, _) if is_malformed => TurnEnd::Stuck,
        (true, _) => TurnEnd::Idle,
        (false, true) => TurnEnd::Stuck,
        (false, false) => TurnEnd::Progress,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_without_a_readable_event_is_no_reason_to_hurry() {
        assert_eq!(turn_end(true, true, true, false), TurnEnd::Idle);
        assert_eq!(turn_end(true, true, true, true), TurnEnd::Stuck);
        assert_eq!(turn_end(true, true, false, true), TurnEnd::Progress);
        assert_eq!(turn_end(false, true, true, false), TurnEnd::Stuck);
        assert_eq!(turn_end(false, false, true, true), TurnEnd::Progress);
    }
}
