//! Withdrawals of buyers.

use crate::undecided::Undecided;
use crate::{App, PARALLEL};
use futures::stream::{self, StreamExt};
use order_log::{LogRecord, WITHDRAWAL_SKEW};
use shared::item::ItemId;
use shared::queue::{Leave, Withdrawal, Withdrawn};
use shared::stamp::Stamp;
use std::time::Instant;

/// Removes the buyers' orders from the queue of the item, or cancels their reservations. Returns the positions of the
/// withdrawals that are undecided.
///
/// A withdrawal may be delivered after the buyer has ordered again. It must not reach the newer order: main compares the
/// stamps. If main does not know the stamp of a reservation's order any more, this region's log shows whether the buyer has
/// done something since.
pub(crate) async fn withdraw(
    app: &App,
    item_id: &ItemId,
    leaves: &[(usize, &LogRecord)],
    until: Instant,
) -> Result<Vec<usize>, Undecided> {
    let withdrawn = ask_main(app, item_id, leaves, false).await?;
    let unknown = leaves.iter().zip(withdrawn).filter(|(_, answer)| *answer == Withdrawn::Unknown);
    let asked = unknown.map(|((position, leave), _)| async move {
        let newest = if Instant::now() >= until { None } else { newest_of(app, leave).await };
        (*position, *leave, newest)
    });
    let asked: Vec<_> = stream::iter(asked).buffer_unordered(PARALLEL).collect().await;
    let (mut undecided, mut without_newer) = (Vec::new(), Vec::new());
    for (position, leave, newest) in asked {
        match newest {
            None => undecided.push(position),
            Some(newest) if is_newer(newest, leave) => {}
            Some(_) => without_newer.push((position, leave)),
        }
    }
    if !without_newer.is_empty() {
        ask_main(app, item_id, &without_newer, true).await?;
    }
    Ok(undecided)
}

async fn ask_main(
    app: &App,
    item_id: &ItemId,
    leaves: &[(usize, &LogRecord)],
    without_stamps: bool,
) -> Result<Vec<Withdrawn>, Undecided> {
    let withdrawal = |(_, leave): &(usize, &LogRecord)| Withdrawal {
        user_token: leave.user_token.clone(),
        left_at: leave.placed_at,
        newest: newest_withdrawn(leave),
    };
    let withdrawals: Vec<Withdrawal> = leaves.iter().map(withdrawal).collect();
    let withdrawn = app.queue.withdraw(item_id, &withdrawals, without_stamps).await?;
    let is_done = |answer: &&Withdrawn| matches!(answer, Withdrawn::Done(Leave::Left | Leave::Cancelling));
    metrics::counter!("orders_withdrawn").increment(withdrawn.iter().filter(is_done).count() as u64);
    Ok(withdrawn)
}

/// The stamp of the newest record of the buyer in this region's log; `None` if that cannot be read.
async fn newest_of(app: &App, leave: &LogRecord) -> Option<Stamp> {
    match app.log.latest_of(&leave.item_id, &leave.user_token).await {
        Ok(newest) => Some(newest.map_or(Stamp::EPOCH, |record| record.placed_at)),
        Err(error) => {
            tracing::warn!(%error, item_id = %leave.item_id, "could not read whether the buyer has ordered again since a withdrawal; it is tried again");
            None
        }
    }
}

/// The stamp of the newest order that `leave` withdraws. A record that was made after the withdrawal is newer; within
/// [`WITHDRAWAL_SKEW`] it may be the order that the buyer withdraws.
fn newest_withdrawn(leave: &LogRecord) -> Stamp {
    leave.placed_at.saturating_add(WITHDRAWAL_SKEW)
}

fn is_newer(stamp: Stamp, leave: &LogRecord) -> bool {
    stamp > newest_withdrawn(leave)
}

#[cfg(test)]
mod tests {
    use super::*;
    use order_log::RecordKind;
    use shared::user_token::UserToken;

    #[test]
    fn a_clock_that_is_a_little_ahead_does_not_save_an_order_from_its_withdrawal() {
        let at = |micros| Stamp::from_micros(micros).unwrap();
        let buyer = UserToken::parse("alice").unwrap();
        let leave = LogRecord::new(RecordKind::Leave, "shoe".parse().unwrap(), buyer, at(1_000_000));
        assert!(!is_newer(at(999_999), &leave));
        assert!(!is_newer(at(1_100_000), &leave));
        assert!(is_newer(at(1_100_001), &leave));
    }
}
