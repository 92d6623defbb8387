//! The state of an item and of a buyer's order, and leaving the queue.

mod item_response;
mod logged;

pub use item_response::ItemResponse;

use lambda_http::http::{Method, StatusCode};
use lambda_http::{Body, Request, RequestExt, Response};
use order_log::{OrderLog, may_be_accepted};
use schemars::JsonSchema;
use serde::Serialize;
use shared::config::{self, ConfigError, Source};
use shared::edge::Edge;
use shared::http;
use shared::item::ItemId;
use shared::main_use::MainUse;
use shared::problem::Problem;
use shared::queue::{Hold, ItemCopy, ItemError, Leave, LinkError, OrderState};
use shared::region::RegionNumber;
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// The longest that main and the order log are asked about an order. Lambda stops the function after 10 s, and the buyer
/// would get an answer without a problem document.
const ANSWER_LIMIT: Duration = Duration::from_secs(9);

/// State that one process of the function keeps between requests.
#[derive(Debug)]
pub struct App {
    edge: Edge,
    region: RegionNumber,
    /// The region's order log, if orders go through it.
    log: Option<OrderLog>,
}

impl App {
    /// Reads the configuration. Opens no connection.
    pub fn from_config(source: Source) -> Result<Self, ConfigError> {
        Ok(Self {
            edge: Edge::from_config(source, MainUse::Always)?,
            region: RegionNumber::named(&config::region(source)?),
            log: OrderLog::from_config(source)?,
        })
    }

    /// Starts connecting in the background.
    pub fn open(&self) {
        self.edge.open();
    }
}

/// Answers one request.
pub async fn handle(app: &App, request: &Request) -> Result<Response<Body>, Problem> {
    // As an order's stamp, before any await.
    let arrived_at = app.region.encode_in(app.edge.clock.arrival(http::gateway_epoch_ms(request)));
    // An item ID contains no slash, so the end of the path distinguishes the two routes.
    let about_order = request.raw_http_path().ends_with("/orders/me");
    let allow = if about_order { "GET, DELETE, OPTIONS" } else { "GET, OPTIONS" };
    match (request.method(), about_order) {
        (&Method::OPTIONS, _) => Ok(http::options(allow)),
        (&Method::GET, false) => show_item(&app.edge, request).await,
        (&Method::GET, true) => {
            let shown = timeout(ANSWER_LIMIT, show_order(app, request)).await;
            shown.unwrap_or(Err(Problem::StatusUnavailable))
        }
        (&Method::DELETE, true) => match &app.log {
            Some(log) => logged::leave(&app.edge, log, request, arrived_at).await,
            None => leave(&app.edge, request).await,
        },
        _ => Err(Problem::MethodNotAllowed { allow }),
    }
}

async fn show_item(edge: &Edge, request: &Request) -> Result<Response<Body>, Problem> {
    let copy = edge.item(&http::item_id(request)?, Problem::StatusUnavailable).await?;
    item_response::answer(&copy.item, edge.clock.now(), request)
}

/// The request's item and its verified buyer.
async fn whose_order(edge: &Edge, request: &Request) -> Result<(ItemId, UserToken, Arc<ItemCopy>), Problem> {
    let item_id = http::item_id(request)?;
    let buyer = edge.buyer(http::bearer_token(request)?, Problem::StatusUnavailable).await?;
    let copy = edge.item(&item_id, Problem::StatusUnavailable).await?;
    Ok((item_id, buyer, copy))
}

/// The state of a buyer's order. Times are in microseconds since the Unix epoch.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct OrderResponse<'a> {
    #[schemars(with = "ItemId")]
    item_id: &'a str,
    /// `accepted`: the region has stored the order, and main has not decided yet. `refused`: it is not in the queue.
    /// `voided`: the shop has taken the unit back. `excluded`: the buyer gets no unit of the item.
    /// `over`: the item was finished, and the buyer, if none of the two, has no unit.
    #[schemars(extend("enum" = ["none", "accepted", "refused", "queued", "reserved", "sold", "released", "voided", "excluded", "over"]))]
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// If `accepted`, `refused` or `queued`: its stamp.
    placed_at: Option<Stamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// If `accepted`: when main has decided about the order.
    decided_by: Option<Stamp>,
    /// If `accepted`: whether `decided_by` has passed, since main cannot be reached or was lost. The order may still be
    /// queued or refused. The buyer may order again meanwhile: the order that main gets first counts.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schemars(default)]
    overdue: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// If `refused`: the last part of the type of the problem that says why.
    #[schemars(extend("enum" = ["too-late", "clock-ahead", "no-such-item", "not-open-yet", "closed"]))]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// If `queued`: the number of orders before it.
    ahead: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// If `queued`: the units that are neither reserved nor sold at this moment. If they are more than the orders before
    /// it, one is left for this order.
    units_left: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// If `reserved`: when the hold ends.
    reserved_until: Option<Stamp>,
    /// Whether the buyer has cancelled the order or the reservation, and fairdrop has not decided yet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schemars(default)]
    cancelling: bool,
}

/// Always reads from main: a replica may lack recent reservations.
async fn show_order(app: &App, request: &Request) -> Result<Response<Body>, Problem> {
    let edge = &app.edge;
    let (item_id, buyer, _) = whose_order(edge, request).await?;
    let (item, state, released_at) = edge.queue.item_and_order(&item_id, &buyer).await.map_err(unread)?;
    let response = OrderResponse { item_id: item_id.as_str(), ..OrderResponse::default() };
    if item.is_finished() && state.could_be_served() {
        return http::json(StatusCode::OK, &OrderResponse { status: "over", ..response });
    }
    // Where main has no order, it may be on its path to main, or refused.
    if let Some(log) = app.log.as_ref().filter(|_| may_be_accepted(state))
        && let Some(accepted) = logged::accepted(edge, log, &item, &buyer, (state, released_at)).await?
    {
        return http::json(StatusCode::OK, &logged::shown(accepted, edge.clock.now(), response));
    }
    let response = match state {
        OrderState::None => OrderResponse { status: "none", ..response },
        OrderState::Queued { placed_at, ahead } => OrderResponse {
            status: "queued",
            placed_at: Some(placed_at),
            ahead: Some(ahead),
            units_left: Some(item.stock_left),
            ..response
        },
        OrderState::Reserved(Hold::Until(until)) => {
            OrderResponse { status: "reserved", reserved_until: Some(until), ..response }
        }
        OrderState::Reserved(Hold::Sale) => OrderResponse { status: "reserved", ..response },
        OrderState::Reserved(Hold::Release) => {
            OrderResponse { status: "reserved", cancelling: true, ..response }
        }
        OrderState::Sold => OrderResponse { status: "sold", ..response },
        OrderState::Released => OrderResponse { status: "released", ..response },
        OrderState::Voided => OrderResponse { status: "voided", ..response },
        OrderState::Excluded => OrderResponse { status: "excluded", ..response },
    };
    http::json(StatusCode::OK, &response)
}

/// Why main's own item and order could not be read.
fn unread(error: ItemError) -> Problem {
    match error {
        ItemError::Link(_) => Problem::StatusUnavailable,
        ItemError::NoSuchItem(_) => Problem::NoSuchItem,
        error => {
            tracing::error!(%error, "could not use an item of main's Redis; the buyer gets the problem `internal`");
            Problem::Internal
        }
    }
}

async fn leave(edge: &Edge, request: &Request) -> Result<Response<Body>, Problem> {
    let (item_id, buyer, copy) = whose_order(edge, request).await?;
    if !copy.may_be_sold() {
        return Err(Problem::StatusUnavailable);
    }
    let left = edge.queue.leave(&item_id, &buyer).await.map_err(|error| match error {
        LinkError::Unanswered(_) => Problem::OutcomeUnknown,
        LinkError::NotSent(_) | LinkError::BreakerOpen | LinkError::Refused(_) => Problem::StatusUnavailable,
    })?;
    match left {
        Leave::Left => http::json(
            StatusCode::OK,
            &OrderResponse { item_id: item_id.as_str(), status: "none", ..OrderResponse::default() },
        ),
        // The ledger decides whether a payment or this cancellation came first.
        Leave::Cancelling => http::json(
            StatusCode::ACCEPTED,
            &OrderResponse {
                item_id: item_id.as_str(),
                status: "reserved",
                cancelling: true,
                ..OrderResponse::default()
            },
        ),
        Leave::Stays(OrderState::Sold) => Err(Problem::AlreadySold),
        Leave::Stays(OrderState::Reserved(_)) => Err(Problem::AlreadyReserved),
        Leave::Stays(_) => Err(Problem::NoOrder),
    }
}
