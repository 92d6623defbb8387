//! An order that goes through the region's order log. It needs no answer of main.

use crate::{AcceptedOrder, App, gate_problem};
use order_log::{LogRecord, OrderLog, OrderLogError, RecordKind};
use shared::item::Item;
use shared::main_use::REFUSAL_LIMIT;
use shared::problem::Problem;
use shared::queue::{Order, OrderState};
use std::time::Duration;
use tokio::time::timeout;

/// Stores the order. Nothing that fails in Redis refuses it: main decides later, by the order's stamp.
///
/// Waits at most `gates_wait` for the region's copy of the item: the gates are a courtesy here, and law in main.
pub(crate) async fn take_order(
    app: &App,
    log: &OrderLog,
    order: &Order,
    gates_wait: Duration,
) -> Result<AcceptedOrder, Problem> {
    if let Some(copy) = app.edge.nearby_item(&order.item_id, gates_wait).await?
        && let Some(refusal) = gate_problem(&copy.item, order.placed_at)
        && let Some(refusal) = confirm_nearby(app, log, order, refusal).await
    {
        return Err(refusal);
    }
    let Order { item_id, user_token, placed_at } = order.clone();
    let record = LogRecord::new(RecordKind::Order, item_id, user_token, placed_at);
    match log.append(&record).await {
        Ok(()) => Ok(AcceptedOrder::logged(order)),
        Err(error) => {
            tracing::error!(%error, item_id = %order.item_id, "could not store an order in the region's order log; the order is refused");
            let throttled = matches!(error, OrderLogError::Throttled(_));
            metrics::counter!("log_writes_throttled").increment(u64::from(throttled));
            Err(if error.may_be_executed() { Problem::OutcomeUnknown } else { Problem::LogUnavailable })
        }
    }
}

/// The refusal, if the region itself knows enough for it. Main is not asked: after a sale, Lambda starts a process for
/// each order that comes too late, and each of them would open a connection to main.
///
/// It says that the buyer has no order and no unit, and the region's own data are seconds old. So where they show any, or
/// are not known in time, the order is stored instead: main decides, and the buyer reads main's own answer.
async fn confirm_nearby(app: &App, log: &OrderLog, order: &Order, refusal: Problem) -> Option<Problem> {
    if matches!(refusal, Problem::NotOpenYet { .. }) {
        return Some(refusal);
    }
    let (item_id, buyer) = (&order.item_id, &order.user_token);
    let known = async { tokio::join!(app.edge.nearby_order(item_id, buyer), log.latest_of(item_id, buyer)) };
    let (replica, newest) = timeout(REFUSAL_LIMIT, known).await.ok()?;
    let (item, state) = replica?;
    let newest = newest.ok()?;
    if newest.is_some_and(|record| is_pending(&record, &item, state, app)) {
        return None;
    }
    match state {
        OrderState::None | OrderState::Released | OrderState::Voided | OrderState::Excluded => {
            gate_problem(&item, order.placed_at)
        }
        OrderState::Queued { .. } | OrderState::Reserved(_) | OrderState::Sold => None,
    }
}

/// Whether the buyer's newest record is an order that main may still queue.
fn is_pending(newest: &LogRecord, item: &Item, state: OrderState, app: &App) -> bool {
    newest.is_pending(state, item.gate(newest.placed_at), app.edge.clock.now())
}
