//! The public state of an item, for browsers and caches.

use lambda_http::http::{HeaderValue, StatusCode, header};
use lambda_http::{Body, Request, Response};
use schemars::JsonSchema;
use serde::Serialize;
use shared::http;
use shared::item::{Item, Phase};
use shared::problem::Problem;
use shared::stamp::Stamp;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The same age limit as the cached copy behind it.
const CACHE_CONTROL: &str = "public, max-age=1";

/// An item on sale. Times are in microseconds since the Unix epoch.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ItemResponse<'a> {
    #[schemars(with = "shared::item::ItemId")]
    item_id: &'a str,
    name: &'a str,
    phase: Phase,
    stock_total: u32,
    stock_left: u32,
    opens_at: Stamp,
    closes_at: Option<Stamp>,
    hold_seconds: u32,
    settle_window_ms: u32,
    /// How long an order waits at the moment before it is served: longer than the settle window while orders take long to
    /// reach main.
    settle_delay_ms: u32,
}

/// The state of `item` at `now`: `200`, or `304` if the caller already has it.
pub(crate) fn answer(item: &Item, now: Stamp, request: &Request) -> Result<Response<Body>, Problem> {
    let item = ItemResponse {
        item_id: item.item_id.as_str(),
        name: &item.name,
        phase: item.phase(now),
        stock_total: item.stock_total,
        stock_left: item.stock_left,
        opens_at: item.opens_at,
        closes_at: item.closes_at,
        hold_seconds: item.hold_seconds,
        settle_window_ms: item.settle_window_ms,
        settle_delay_ms: item.settle_delay_ms,
    };
    let mut response = http::json(StatusCode::OK, &item)?;
    let mut hasher = DefaultHasher::new();
    response.body().as_ref().hash(&mut hasher);
    let etag = format!("\"{:016x}\"", hasher.finish());
    if is_not_modified(request, &etag) {
        *response.body_mut() = Body::Empty;
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response.headers_mut().remove(header::CONTENT_TYPE);
    }
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(CACHE_CONTROL));
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, etag);
    }
    Ok(response)
}

/// RFC 9110 §13.1.2: `*`, or a list in which weak and strong tags compare alike.
fn is_not_modified(request: &Request, etag: &str) -> bool {
    let Some(known) = request.headers().get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    known.trim() == "*" || known.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag)
}
