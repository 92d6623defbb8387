//! The answer to an order that is in the queue, or in the order log.

use lambda_http::http::StatusCode;
use lambda_http::{Body, Response};
use schemars::JsonSchema;
use serde::Serialize;
use shared::http;
use shared::item::ItemId;
use shared::problem::Problem;
use shared::queue::Order;
use shared::stamp::Stamp;

/// The body of `202` and `200`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AcceptedOrder {
    item_id: ItemId,
    /// `queued`: the order is in main's queue. `accepted`: the region has stored it durably, and main decides by
    /// `decided_by` whether it is queued; the order's status shows it.
    #[schemars(extend("enum" = ["queued", "accepted"]))]
    status: &'static str,
    /// The stamp that counts, in microseconds since the Unix epoch.
    placed_at: Stamp,
    /// If `accepted`: when main has decided about the order, in microseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    decided_by: Option<Stamp>,
    links: Links,
    #[serde(skip)]
    code: StatusCode,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Links {
    /// The path of the order's status.
    status: String,
}

impl AcceptedOrder {
    /// The order was queued by this request.
    pub(crate) fn now(order: &Order) -> Self {
        Self::new(order, order.placed_at, StatusCode::ACCEPTED)
    }

    /// The buyer's order was queued by an earlier request, whose stamp counts.
    pub(crate) fn before(order: &Order, placed_at: Stamp) -> Self {
        Self::new(order, placed_at, StatusCode::OK)
    }

    /// The order is in the region's order log.
    pub(crate) fn logged(order: &Order) -> Self {
        let decided_by = Some(order_log::decided_by(order.placed_at));
        Self { status: "accepted", decided_by, ..Self::now(order) }
    }

    /// Whether the order is in main's queue.
    pub(crate) fn is_queued(&self) -> bool {
        self.decided_by.is_none()
    }

    fn new(order: &Order, placed_at: Stamp, code: StatusCode) -> Self {
        let links = Links { status: format!("/items/{}/orders/me", order.item_id) };
        Self { item_id: order.item_id.clone(), status: "queued", placed_at, decided_by: None, links, code }
    }

    pub(crate) fn into_response(self) -> Result<Response<Body>, Problem> {
        http::json(self.code, &self)
    }
}
