//! A buyer's withdrawal.

use crate::App;
use crate::undecided::Undecided;
use order_log::{LogRecord, WITHDRAWAL_SKEW};
use shared::queue::OrderState;
use shared::stamp::Stamp;

/// Removes the buyer's order from the queue, or cancels the reservation.
///
/// The stream may deliver a withdrawal again after the buyer has ordered again. It must not reach the newer order: a
/// queued order shows its stamp, and for a reservation the log shows whether the buyer has done something since.
pub(crate) async fn withdraw(app: &App, leave: &LogRecord) -> Result<(), Undecided> {
    let (item_id, buyer) = (&leave.item_id, &leave.user_token);
    match app.queue.order_state(item_id, buyer).await? {
        OrderState::None | OrderState::Sold | OrderState::Released => return Ok(()),
        OrderState::Queued { placed_at, .. } if is_newer(placed_at, leave) => return Ok(()),
        OrderState::Queued { .. } => {}
        OrderState::Reserved(_) => {
            let latest = app.log.latest_of(item_id, buyer).await?;
            if latest.is_some_and(|latest| is_newer(latest.placed_at, leave)) {
                return Ok(());
            }
        }
    }
    app.queue.leave(item_id, buyer).await?;
    metrics::counter!("orders_withdrawn").increment(1);
    Ok(())
}

/// Whether a record stamped `placed_at` was made after the withdrawal `leave`. Within [`WITHDRAWAL_SKEW`] it may be the order that the
/// buyer withdraws.
fn is_newer(placed_at: Stamp, leave: &LogRecord) -> bool {
    placed_at > leave.placed_at.saturating_add(WITHDRAWAL_SKEW)
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
