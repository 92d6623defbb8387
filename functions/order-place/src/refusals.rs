//! Refusals that did not stay true.
//!
//! Between main's answer and the refusal in the record, main's Redis may be lost, and a replay may read the record without
//! the refusal: then it puts the order back into the queue. A record must not say `refused` then, because the next replay
//! would leave the order out.

use crate::undecided::Undecided;
use crate::{App, PARALLEL, Pass};
use futures::stream::{self, StreamExt};
use order_log::LogRecord;
use shared::item::ItemId;
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::time::{Duration, Instant};

/// How often a replay in progress is looked at.
const POLL: Duration = Duration::from_millis(200);

/// Removes the refusals of `refused`, records of one item with their positions, whose orders wait after all, or whose
/// buyers have a unit. Waits for a replay in progress, but no longer than the item may keep others waiting: then the
/// refusals stay. Returns the positions about which nothing is known: they are undecided.
pub(crate) async fn confirm(
    app: &App,
    item_id: &ItemId,
    refused: &[(usize, &LogRecord)],
    pass: &Pass<'_>,
) -> Vec<usize> {
    if refused.is_empty() {
        return Vec::new();
    }
    let states = match pass.within(states_after_replay(app, item_id, refused, pass.item_until)).await {
        Ok(Some(states)) => states,
        Ok(None) => {
            tracing::warn!(%item_id, refused = refused.len(), "could not check refused orders, because their item is still being restored; the refusals stay, and other items go on");
            return Vec::new();
        }
        Err(error) => {
            tracing::warn!(%error, %item_id, refused = refused.len(), "could not ask main whether refused orders are in its queue; they are tried again");
            return refused.iter().map(|(position, _)| *position).collect();
        }
    };
    let waits = |((_, record), (waiting, has_unit)): &(&(usize, &LogRecord), (Option<Stamp>, bool))| {
        *has_unit || *waiting == Some(record.placed_at)
    };
    let untrue: Vec<(usize, &LogRecord)> =
        refused.iter().zip(states).filter(waits).map(|(refused, _)| *refused).collect();
    if !untrue.is_empty() {
        tracing::warn!(%item_id, orders = untrue.len(), "orders that main had refused are in its queue, or were served, after a replay; their refusals are removed");
    }
    remove(app, item_id, &untrue, pass.until).await
}

/// Removes the refusals of `orders`, records with their positions, where there are any. Begins no write after `until`.
/// Returns the positions about which nothing is known.
pub(crate) async fn remove(
    app: &App,
    item_id: &ItemId,
    orders: &[(usize, &LogRecord)],
    until: Instant,
) -> Vec<usize> {
    let removed = orders.iter().map(|(position, record)| async move {
        if Instant::now() >= until {
            return Some(*position);
        }
        let error = app.log.accept_again(record).await.err()?;
        tracing::warn!(%error, %item_id, "could not remove a refusal from the order log; it is tried again");
        Some(*position)
    });
    stream::iter(removed).buffer_unordered(PARALLEL).filter_map(async |one| one).collect().await
}

/// The stamp of the order that waits, and whether the buyer has a unit, of each buyer: read when no replay of the item was
/// in progress. `None`: one was in progress all the time.
async fn states_after_replay(
    app: &App,
    item_id: &ItemId,
    refused: &[(usize, &LogRecord)],
    until: Instant,
) -> Result<Option<Vec<(Option<Stamp>, bool)>>, Undecided> {
    let buyers: Vec<&UserToken> = refused.iter().map(|(_, record)| &record.user_token).collect();
    loop {
        // In this order: a replay that has ended has put all its orders back.
        if !app.queue.is_restoring(item_id).await? {
            return Ok(Some(app.queue.stamps_and_units(item_id, &buyers).await?));
        }
        if Instant::now() + POLL >= until {
            return Ok(None);
        }
        tokio::time::sleep(POLL).await;
    }
}
