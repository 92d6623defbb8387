//! What the region's order log says about an order, and a withdrawal that goes through it.

use crate::OrderResponse;
use lambda_http::http::StatusCode;
use lambda_http::{Body, Request, Response};
use order_log::{LogRecord, OrderLog, RecordKind, decided_by};
use shared::edge::Edge;
use shared::http;
use shared::item::ItemId;
use shared::problem::Problem;
use shared::queue::OrderState;
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::time::Duration;
use tokio::time::timeout;

/// The longest that a withdrawal waits for a copy of the item.
const ITEM_WAIT: Duration = Duration::from_millis(100);

/// The buyer's newest order, if main has not decided about it or has refused it. `None`: main's state is the answer.
pub(crate) async fn undecided_or_refused<'a>(
    edge: &Edge,
    log: &OrderLog,
    (item_id, buyer, main): (&ItemId, &UserToken, OrderState),
    response: &OrderResponse<'a>,
) -> Result<Option<OrderResponse<'a>>, Problem> {
    let newest = log.latest_of(item_id, buyer).await.map_err(|error| {
        tracing::error!(%error, %item_id, "could not read an order's state from the region's order log");
        Problem::StatusUnavailable
    })?;
    Ok(newest.and_then(|record| state_of(&record, main, edge.clock.now(), response)))
}

/// What the buyer's newest record says where `main` has no order. A released order was decided: it is not `accepted` again.
/// (The buyer's next order shows when main has it.)
fn state_of<'a>(
    record: &LogRecord,
    main: OrderState,
    now: Stamp,
    response: &OrderResponse<'a>,
) -> Option<OrderResponse<'a>> {
    let response = OrderResponse { placed_at: Some(record.placed_at), ..response.clone() };
    match (record.kind, record.refusal) {
        (RecordKind::Leave, _) => None,
        (RecordKind::Order, Some(refusal)) => {
            Some(OrderResponse { status: "refused", reason: Some(refusal.reason.slug()), ..response })
        }
        (RecordKind::Order, None) => {
            let decided_by = decided_by(record.placed_at);
            let accepted = OrderResponse { status: "accepted", decided_by: Some(decided_by), ..response };
            (now < decided_by && main != OrderState::Released).then_some(accepted)
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
    use order_log::{Refusal, RefusalReason};

    #[test]
    fn an_order_is_accepted_until_it_is_decided() {
        let at = |micros| Stamp::from_micros(micros).unwrap();
        let buyer = UserToken::parse("alice").unwrap();
        let record = |kind, refusal| LogRecord {
            refusal,
            ..LogRecord::new(kind, "shoe".parse().unwrap(), buyer.clone(), at(5))
        };
        let until = decided_by(at(5));
        let state_beside = |main, record: &LogRecord, now| {
            state_of(record, main, now, &OrderResponse::default())
                .map(|one| (one.status, one.reason, one.decided_by))
        };
        let state = |record: &LogRecord, now| state_beside(OrderState::None, record, now);
        let order = record(RecordKind::Order, None);
        assert_eq!(state_beside(OrderState::Released, &order, at(5)), None, "main has decided about it");
        assert_eq!(state(&order, at(5)), Some(("accepted", None, Some(until))));
        assert_eq!(state(&order, until), None, "main's state is the truth from then on");
        assert_eq!(state(&record(RecordKind::Leave, None), at(5)), None);
        let refusal = Refusal { reason: RefusalReason::TooLate, decided_at: at(9) };
        let refused = record(RecordKind::Order, Some(refusal));
        for now in [at(5), until] {
            assert_eq!(state(&refused, now), Some(("refused", Some("too-late"), None)));
        }
    }
}
