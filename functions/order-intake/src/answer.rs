//! The answer to an order that is in the queue.

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
    #[schemars(extend("enum" = ["queued"]))]
    status: &'static str,
    /// The stamp that counts, in microseconds since the Unix epoch.
    placed_at: Stamp,
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

    fn new(order: &Order, placed_at: Stamp, code: StatusCode) -> Self {
        let status = format!("/items/{}/orders/me", order.item_id);
        Self { item_id: order.item_id.clone(), status: "queued", placed_at, links: Links { status }, code }
    }

    pub(crate) fn into_response(self) -> Result<Response<Body>, Problem> {
        http::json(self.code, &self)
    }
}
