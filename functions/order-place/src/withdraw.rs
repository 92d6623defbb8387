//! A buyer's withdrawal.

use crate::App;
use order_log::{LogRecord, OrderLogError};
use shared::queue::{LinkError, OrderState};

/// Why a withdrawal is undecided.
#[derive(Debug)]
pub(crate) enum Undecided {
    Queue(LinkError),
    Log(OrderLogError),
}

impl std::fmt::Display for Undecided {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Queue(error) => error.fmt(f),
            Self::Log(error) => error.fmt(f),
        }
    }
}

/// Removes the buyer's order from the queue, or cancels the reservation.
///
/// The stream may deliver a withdrawal again after the buyer has ordered again. It must not reach the newer order: a
/// queued order shows its stamp, and for a reservation the log shows whether the buyer has done something since.
pub(crate) async fn withdraw(app: &App, leave: &LogRecord) -> Result<(), Undecided> {
    let (item_id, buyer) = (&leave.item_id, &leave.user_token);
    match app.queue.order_state(item_id, buyer).await.map_err(Undecided::Queue)? {
        OrderState::None | OrderState::Sold | OrderState::Released => return Ok(()),
        OrderState::Queued { placed_at, .. } if placed_at > leave.placed_at => return Ok(()),
        OrderState::Queued { .. } => {}
        OrderState::Reserved(_) => {
            let latest = app.log.latest_of(item_id, buyer).await.map_err(Undecided::Log)?;
            if latest.is_some_and(|latest| latest.placed_at > leave.placed_at) {
                return Ok(());
            }
        }
    }
    app.queue.leave(item_id, buyer).await.map(drop).map_err(Undecided::Queue)?;
    metrics::counter!("orders_withdrawn").increment(1);
    Ok(())
}
