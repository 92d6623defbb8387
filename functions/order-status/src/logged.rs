//! What the region's order log says about an order, and a withdrawal that goes through it.

use crate::OrderResponse;
use lambda_http::http::StatusCode;
use lambda_http::{Body, Request, Response};
use order_log::{Accepted, LogRecord, OrderLog, RecordKind, decided_by};
use shared::edge::Edge;
use shared::http;
use shared::item::Item;
use shared::problem::Problem;
use shared::queue::OrderState;
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::time::Duration;
use tokio::time::timeout;

/// The longest that a withdrawal waits for a copy of the item.
const ITEM_WAIT: Duration = Duration::from_millis(100);

/// The buyer's newest order, if the region has accepted it and main does not have it. `None`: main's state is the answer.
pub(crate) async fn accepted(
    edge: &Edge,
    log: &OrderLog,
    item: &Item,
    buyer: &UserToken,
    (main, released_at): (OrderState, Option<Stamp>),
) -> Result<Option<Accepted>, Problem> {
    let newest = log.latest_of(&item.item_id, buyer).await.map_err(|error| {
        tracing::error!(%error, item_id = %item.item_id, "could not read an order's state from the region's order log");
        Problem::StatusUnavailable
    })?;
    let now = edge.clock.now();
    Ok(newest.and_then(|record| record.accepted(main, released_at, item.gate(record.placed_at), now)))
}

/// `accepted` as the buyer sees it at `now`.
pub(crate) fn shown<'a>(accepted: Accepted, now: Stamp, response: OrderResponse<'a>) -> OrderResponse<'a> {
    match accepted {
        Accepted::Undecided { placed_at, decided_by } => OrderResponse {
            status: "accepted",
            placed_at: Some(placed_at),
            decided_by: Some(decided_by),
            overdue: now >= decided_by,
            ..response
        },
        Accepted::Refused { placed_at, reason } => {
            OrderResponse { status: "refused", placed_at: Some(placed_at), reason: Some(reason), ..response }
        }
    }
}

/// Stores a withdrawal behind the order that it withdraws, so that it cannot overtake the order.
pub(crate) async fn leave(
    edge: &Edge,
    log: &OrderLog,
    request: &Request,
    arrived_at: Stamp,
) -> Result<Response<Body>, Problem> {
    let item_id = http::item_id(request)?;
    let buyer = edge.buyer(http::bearer_token(request)?, Problem::StatusUnavailable).await?;
    if let Ok(Err(Problem::NoSuchItem)) =
        timeout(ITEM_WAIT, edge.item(&item_id, Problem::StatusUnavailable)).await
    {
        return Err(Problem::NoSuchItem);
    }
    let record = LogRecord::new(RecordKind::Leave, item_id.clone(), buyer, arrived_at);
    log.append(&record).await.map_err(|error| {
        tracing::error!(%error, %item_id, "could not store a withdrawal in the region's order log; it is refused");
        if error.may_be_executed() { Problem::OutcomeUnknown } else { Problem::StatusUnavailable }
    })?;
    let response = OrderResponse {
        item_id: item_id.as_str(),
        status: "accepted",
        cancelling: true,
        decided_by: Some(decided_by(arrived_at)),
        ..OrderResponse::default()
    };
    http::json(StatusCode::ACCEPTED, &response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_without_a_decision_is_shown_as_accepted_and_then_as_overdue() {
        let at = |micros| Stamp::from_micros(micros).unwrap();
        let undecided = Accepted::Undecided { placed_at: at(5), decided_by: at(20) };
        let show = |now| {
            let shown = shown(undecided, now, OrderResponse::default());
            (shown.status, shown.placed_at, shown.decided_by, shown.overdue)
        };
        assert_eq!(show(at(19)), ("accepted", Some(at(5)), Some(at(20)), false));
        assert_eq!(show(at(20)), ("accepted", Some(at(5)), Some(at(20)), true));
    }
}
