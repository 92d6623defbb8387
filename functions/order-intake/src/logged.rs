//! An order that goes through the region's order log. It needs no answer of main.

use crate::{AcceptedOrder, App, confirm_refusal, gate_problem};
use order_log::{LogRecord, OrderLog, OrderLogError, RecordKind};
use shared::main_use::REFUSAL_LIMIT;
use shared::problem::Problem;
use shared::queue::Order;
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
    {
        // Main is asked before a final refusal. If it does not answer, it decides later.
        match timeout(REFUSAL_LIMIT, confirm_refusal(app, order, refusal)).await {
            Ok(Ok(Some(accepted))) => return Ok(accepted),
            Ok(Ok(None) | Err(Problem::StatusUnavailable)) | Err(_) => {}
            Ok(Err(refusal)) => return Err(refusal),
        }
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
