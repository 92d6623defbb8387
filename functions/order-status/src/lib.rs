//! What is on sale, and what has become of a buyer's order.

mod item_page;

use lambda_http::http::{Method, StatusCode};
use lambda_http::{Body, Request, RequestExt, Response};
use serde::Serialize;
use shared::clock::Clock;
use shared::config::{ConfigError, RedisConfig, Source};
use shared::http;
use shared::item::{Item, ItemId};
use shared::item_cache::ItemCache;
use shared::problem::Problem;
use shared::queue::{ItemError, Leave, Link, LinkError, OrderState, Queue};
use shared::stamp::Stamp;
use shared::token::TokenVerifier;
use shared::user_token::UserToken;
use std::sync::Arc;

/// What one process of the function keeps between requests.
#[derive(Debug)]
pub struct App {
    clock: Clock,
    tokens: TokenVerifier,
    items: ItemCache,
    queue: Queue,
}

impl App {
    /// Reads the configuration. Nothing is connected yet.
    pub fn from_config(source: Source) -> Result<Self, ConfigError> {
        let queue = Queue::new(Link::new(RedisConfig::main(source)?));
        let replica = RedisConfig::replica(source)?.map(|config| Queue::new(Link::new(config)));
        Ok(Self {
            clock: Clock::machine(),
            tokens: TokenVerifier::from_config(source)?,
            items: ItemCache::new(replica, queue.clone()),
            queue,
        })
    }

    /// Starts connecting in the background.
    pub fn open(&self) {
        self.queue.open();
        self.items.open();
    }

    async fn item(&self, item_id: &ItemId) -> Result<Arc<Item>, Problem> {
        let item = self.items.get(item_id).await.map_err(|error| match error {
            ItemError::Link(_) => Problem::StatusUnavailable,
            other => {
                tracing::error!(error = %other, "an item cannot be used");
                Problem::Internal
            }
        })?;
        item.ok_or(Problem::NoSuchItem)
    }
}

/// Answers one request.
pub async fn handle(app: &App, request: &Request) -> Result<Response<Body>, Problem> {
    // An item id has no slash, so that the path's end tells the two apart.
    let about_order = request.raw_http_path().ends_with("/orders/me");
    let allow = if about_order { "GET, DELETE, OPTIONS" } else { "GET, OPTIONS" };
    let method = request.method();
    if method == Method::OPTIONS {
        return Ok(http::options(allow));
    }
    if method != Method::GET && !(about_order && method == Method::DELETE) {
        return Err(Problem::MethodNotAllowed { allow });
    }
    let item_id = http::item_id(request)?;
    if !about_order {
        let item = app.item(&item_id).await?;
        return item_page::answer(&item, app.clock.now(), request);
    }
    let buyer = app.tokens.verify(http::bearer_token(request)?).map_err(Problem::BadToken)?;
    app.item(&item_id).await?;
    if method == Method::DELETE {
        leave(app, &item_id, &buyer).await
    } else {
        show(app, &item_id, &buyer).await
    }
}

/// The body of an answer about an order.
#[derive(Debug, Default, Serialize)]
struct OrderPage<'a> {
    item_id: &'a str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    placed_at: Option<Stamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ahead: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reserved_until: Option<Stamp>,
}

/// Always from main: a replica might not know yet what main has promised.
async fn show(app: &App, item_id: &ItemId, buyer: &UserToken) -> Result<Response<Body>, Problem> {
    let state = app.queue.order_state(item_id, buyer).await.map_err(|_| Problem::StatusUnavailable)?;
    let page = OrderPage { item_id: item_id.as_str(), ..OrderPage::default() };
    let page = match state {
        OrderState::None => OrderPage { status: "none", ..page },
        OrderState::Queued { placed_at, ahead } => {
            OrderPage { status: "queued", placed_at: Some(placed_at), ahead: Some(ahead), ..page }
        }
        OrderState::Reserved { until } => {
            OrderPage { status: "reserved", reserved_until: Some(until), ..page }
        }
        OrderState::Sold => OrderPage { status: "sold", ..page },
        OrderState::Released => OrderPage { status: "released", ..page },
    };
    http::json(StatusCode::OK, &page)
}

async fn leave(app: &App, item_id: &ItemId, buyer: &UserToken) -> Result<Response<Body>, Problem> {
    let left = app.queue.leave(item_id, buyer).await.map_err(|error| match error {
        LinkError::Unanswered(_) => Problem::OutcomeUnknown,
        LinkError::NotSent(_) | LinkError::Refused(_) => Problem::StatusUnavailable,
    })?;
    match left {
        Leave::Left => http::json(
            StatusCode::OK,
            &OrderPage { item_id: item_id.as_str(), status: "none", ..OrderPage::default() },
        ),
        Leave::Stays(OrderState::Sold) => Err(Problem::AlreadySold),
        Leave::Stays(OrderState::Reserved { .. }) => Err(Problem::AlreadyReserved),
        Leave::Stays(_) => Err(Problem::NoOrder),
    }
}
