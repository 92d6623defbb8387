//! The shop's HTTP API and its checkout page, with the same strict headers as the other pages.

mod files;

use crate::books::{Event, Hearing, Reservation, ReservationState};
use crate::payment::{Payment, PaymentNews, PaymentStatus};
use crate::shop::{PRICE, Shop, now};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use shared::item::ItemId;
use shared::token::TokenVerifier;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// The longest body: an event of EventBridge is below 256 KB.
const MAX_BODY_BYTES: usize = 256 * 1_024;
/// Requests at the same time; more are asked to come again.
const MAX_REQUESTS: usize = 4_096;
/// How long a buyer's request waits for the result of a payment, before the answer is 202.
const PAY_LIMIT: Duration = Duration::from_secs(20);
/// The longest name of a card.
const MAX_CARD_BYTES: usize = 64;
/// Letters in an answer.
const MAX_LETTERS: usize = 1_000;
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";
const HEADERS: [(&str, &str); 6] = [
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
];

type Answer = Result<Response<Body>, Refusal>;

struct Refusal {
    status: StatusCode,
    problem: &'static str,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, problem: &'static str, message: impl Into<String>) -> Self {
        Self { status, problem, message: message.into() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        let mut response =
            answered(self.status, &json!({ "problem": self.problem, "message": self.message }));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

pub(crate) struct Web {
    pub(crate) shop: Arc<Shop>,
    pub(crate) tokens: TokenVerifier,
    /// What the bus sends with each event, as the API key of its connection.
    pub(crate) key: String,
    pub(crate) port: u16,
}

struct Serving {
    web: Web,
    hosts: [String; 2],
    requests: Semaphore,
}

impl Web {
    pub(crate) fn router(self) -> Router {
        let hosts = [format!("localhost:{}", self.port), format!("127.0.0.1:{}", self.port)];
        let serving = Arc::new(Serving { web: self, hosts, requests: Semaphore::new(MAX_REQUESTS) });
        Router::new()
            .route("/shop/", get(|| async { files::read("index.html") }))
            .route("/shop/{file}", get(|Path(file): Path<String>| async move { files::read(&file) }))
            .route("/shop/api/items/{item_id}", get(checkout))
            .route("/shop/api/items/{item_id}/payments", post(pay))
            .route("/shop/events", post(hear))
            .route("/shop/webhooks/cards", post(hear_of_card))
            .route("/shop/letters/{after}", get(letters))
            .layer(from_fn_with_state(serving.clone(), guard))
            .with_state(serving)
    }
}

/// Refuses requests with another host name (DNS rebinding), and adds the strict headers to every answer.
async fn guard(State(serving): State<Arc<Serving>>, request: Request, next: Next) -> Response<Body> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let is_ours = serving.hosts.iter().any(|ours| ours == host);
    let mut response = match serving.requests.try_acquire() {
        Err(_) => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "too many requests").into_response(),
        Ok(_) if !is_ours => {
            Refusal::new(StatusCode::MISDIRECTED_REQUEST, "host", "this host name is not served")
                .into_response()
        }
        Ok(_request) => next.run(request).await,
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

/// The checkout of the buyer whom the token names.
async fn checkout(
    State(serving): State<Arc<Serving>>,
    Path(item_id): Path<String>,
    headers: HeaderMap,
) -> Answer {
    let (item_id, buyer) = (item(&item_id)?, buyer(&serving, &headers)?);
    let newest = newest(&serving, &item_id, &buyer).await;
    let mut shown = document(&serving, &item_id, &buyer, newest.as_ref());
    // The name is for the buyer's eyes alone.
    let name = serving.web.shop.fairdrop.name(&item_id).await;
    shown["name"] = name.unwrap_or_else(|_| item_id.to_string()).into();
    Ok(answered(StatusCode::OK, &shown))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pay {
    card: String,
}

/// Charges a card for the buyer's reservation. Sent twice, it charges once.
async fn pay(
    State(serving): State<Arc<Serving>>,
    Path(item_id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let (item_id, buyer) = (item(&item_id)?, buyer(&serving, &headers)?);
    let is_json = headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes() == b"application/json");
    let wish: Option<Pay> = serde_json::from_slice(&read(body).await?).ok().filter(|_| is_json);
    let wish = wish.filter(|wish| (1..=MAX_CARD_BYTES).contains(&wish.card.len()));
    let wish = wish.ok_or_else(|| {
        Refusal::new(StatusCode::BAD_REQUEST, "bad-request", "send {\"card\": NAME} as application/json")
    })?;
    let shop = &serving.web.shop;
    let first = |one: &Reservation| Payment::new(&item_id, &buyer, one.reserved_at, &wish.card);
    let can_pay = |one: &Reservation| {
        // A payment that has begun is shown, however the reservation has ended.
        one.is_payable(now())
            || shop.read(|books| books.payment(&first(one).reference).is_some_and(Payment::has_begun))
    };
    let reservation = newest(&serving, &item_id, &buyer).await.filter(can_pay).ok_or_else(|| {
        let text = "no unit is reserved for you now; no money was taken";
        Refusal::new(StatusCode::CONFLICT, "not-reserved", text)
    })?;
    let paying = shop.pay(first(&reservation), PAY_LIMIT).await.map_err(|error| {
        eprintln!("a payment did not begin: {error:#}");
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the shop could not take the payment")
    })?;
    let status = match &paying {
        None => return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "full", "the shop is full")),
        Some(payment) if payment.is_settled() => StatusCode::OK,
        Some(_) => StatusCode::ACCEPTED,
    };
    Ok(answered(status, &document(&serving, &item_id, &buyer, Some(&reservation))))
}

/// The buyer's newest reservation: as events say, if that cannot be out of date to the buyer's harm; otherwise as the
/// ledger has it, since an event may come late.
async fn newest(serving: &Serving, item_id: &ItemId, buyer: &str) -> Option<Reservation> {
    let known = serving.web.shop.read(|books| books.reservation(item_id, buyer).cloned());
    let is_enough = |one: &Reservation| one.is_payable(now()) || one.state == ReservationState::Sold;
    if known.as_ref().is_some_and(is_enough) {
        return known;
    }
    match serving.web.shop.fairdrop.reservation(item_id, buyer).await {
        Ok(read) => read.or(known),
        Err(error) => {
            eprintln!("could not read a reservation from fairdrop; events must do: {error:#}");
            known
        }
    }
}

/// What the page shows.
fn document(serving: &Serving, item_id: &ItemId, buyer: &str, reservation: Option<&Reservation>) -> Value {
    let shop = &serving.web.shop;
    let reference = reservation.map(|one| Payment::new(item_id, buyer, one.reserved_at, "").reference);
    let payment = shop.read(|books| books.payment(reference.as_deref()?).cloned());
    let is_sold = payment.as_ref().is_some_and(|payment| payment.status == PaymentStatus::Sold);
    let state = match reservation {
        // fairdrop's answer may be quicker than its event.
        Some(_) if is_sold => json!("sold"),
        Some(one) => json!(one.state),
        None => json!("none"),
    };
    let payment = payment.map(|payment| {
        json!({ "reference": payment.reference, "status": payment.status, "attempt": payment.attempt,
            "refused": payment.refused })
    });
    json!({
        "item_id": item_id, "price_cents": PRICE, "currency": "EUR", "status": state,
        "reserved_until": reservation.map(|one| one.hold_until).filter(|_| state == "reserved"),
        "payment": payment, "at": now(),
    })
}

#[derive(Deserialize)]
struct Envelope {
    detail: Value,
}

/// Takes an event from the bus. An answer other than 2xx lets the bus deliver it again, if that can help.
async fn hear(State(serving): State<Arc<Serving>>, headers: HeaderMap, body: Body) -> Answer {
    must_have_key(&serving, &headers)?;
    let envelope: Result<Envelope, _> = serde_json::from_slice(&read(body).await?);
    let event = envelope.and_then(|envelope| serde_json::from_value::<Event>(envelope.detail));
    let event = event
        .map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "bad-event", "this is no event of fairdrop"))?;
    match serving.web.shop.hear(event).await {
        Ok(Hearing::New | Hearing::Known) => Ok(answered(StatusCode::OK, &json!({}))),
        Ok(Hearing::Full) | Err(_) => {
            Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "full", "send the event again later"))
        }
    }
}

/// Takes a notice of the card provider, which repeats it until the answer is 2xx.
async fn hear_of_card(State(serving): State<Arc<Serving>>, headers: HeaderMap, body: Body) -> Answer {
    let (body, shop) = (read(body).await?, &serving.web.shop);
    let signature = headers.get("card-signature").and_then(|text| text.to_str().ok()).unwrap_or_default();
    let notice = shop.cards.notice(signature, &body, now() / 1_000_000);
    let notice =
        notice.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, "bad-notice", error.to_string()))?;
    if shop.read(|books| books.payment(&notice.reference).is_none()) {
        return Err(Refusal::new(StatusCode::NOT_FOUND, "no-payment", "the shop has no such payment"));
    }
    let news = PaymentNews::Charge { attempt: notice.attempt, status: notice.status };
    match shop.learn(&notice.reference, &news).await {
        Ok(()) => Ok(answered(StatusCode::OK, &json!({}))),
        Err(_) => Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "send the notice again later")),
    }
}

/// The letters by which a shop invites buyers to pay, for what stands for its mail.
async fn letters(State(serving): State<Arc<Serving>>, Path(after): Path<u64>, headers: HeaderMap) -> Answer {
    must_have_key(&serving, &headers)?;
    let letters: Vec<Value> = serving.web.shop.read(|books| {
        let letters = books.letters(after, MAX_LETTERS);
        let shown = |(number, item_id, buyer)| json!({ "number": number, "item_id": item_id, "to": buyer });
        letters.into_iter().map(shown).collect()
    });
    Ok(answered(StatusCode::OK, &json!({ "letters": letters })))
}

fn must_have_key(serving: &Serving, headers: &HeaderMap) -> Result<(), Refusal> {
    let shown = headers.get("x-shop-key").map(HeaderValue::as_bytes).unwrap_or_default();
    verify_slices_are_equal(shown, serving.web.key.as_bytes())
        .map_err(|_| Refusal::new(StatusCode::FORBIDDEN, "bad-key", "this is not the shop's key"))
}

/// The buyer in the request's token.
fn buyer(serving: &Serving, headers: &HeaderMap) -> Result<String, Refusal> {
    let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let verified = serving.web.tokens.verify(token.unwrap_or_default());
    verified
        .map(|buyer| buyer.as_str().to_owned())
        .map_err(|error| Refusal::new(StatusCode::UNAUTHORIZED, "bad-token", error.to_string()))
}

fn item(text: &str) -> Result<ItemId, Refusal> {
    text.parse().map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "bad-item-id", "this is no item"))
}

async fn read(body: Body) -> Result<axum::body::Bytes, Refusal> {
    axum::body::to_bytes(body, MAX_BODY_BYTES)
        .await
        .map_err(|_| Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "the body is too long"))
}

fn answered(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
