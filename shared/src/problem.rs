//! Every refusal a client can meet, as problem documents (RFC 9457).
//!
//! The `type` is stable and documented in `docs/PROBLEMS.md`; its last part is also
//! the `Reason` of the `orders_refused` metric. What goes wrong inside says
//! nothing of the inside.

use crate::stamp::Stamp;
use crate::token::TokenError;
use lambda_http::http::{HeaderValue, StatusCode, header};
use lambda_http::{Body, Response};
use serde_json::{Map, Value, json};

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The path names no possible item.
    BadItemId,
    /// The body is no JSON object, or has members that mean nothing.
    BadBody,
    /// The body is longer than `limit_bytes`.
    BodyTooLarge {
        /// The limit.
        limit_bytes: usize,
    },
    /// There is no bearer token.
    NoToken,
    /// The bearer token does not prove who the buyer is.
    BadToken(TokenError),
    /// There is no such item.
    NoSuchItem,
    /// The path has no such method.
    MethodNotAllowed {
        /// What the path has, as in the `Allow` header.
        allow: &'static str,
    },
    /// The buyer has a reservation.
    AlreadyReserved,
    /// The buyer has bought.
    AlreadySold,
    /// The buyer has no order that could be withdrawn.
    NoOrder,
    /// A payment is not described as it must be.
    BadPayment,
    /// The buyer has no reservation that could be paid.
    NoReservation,
    /// The reservation had ended before the payment came.
    ReservationEnded,
    /// The unit was bought with another payment.
    AlreadyPaid,
    /// The payment has bought another buyer's unit.
    PaymentUsed,
    /// The hold was extended before, for another payment.
    AlreadyExtended,
    /// The reservation is not in the ledger yet; nothing has changed.
    NotRecordedYet,
    /// The ledger did not answer; the payment may have been taken.
    LedgerUnavailable,
    /// The item opens later.
    NotOpenYet {
        /// When it opens.
        opens_at: Stamp,
        /// The moment of the order.
        placed_at: Stamp,
    },
    /// The item takes no more orders.
    Closed,
    /// Every unit is gone.
    SoldOut,
    /// Main could not be reached; nothing is queued.
    MainUnreachable,
    /// Main did not answer; the order may be queued.
    OutcomeUnknown,
    /// Main could not be asked what has become of an order, or of an item.
    StatusUnavailable,
    /// The order reached main after its settle window; nothing is queued.
    TooLate,
    /// The order is stamped in main's future; nothing is queued.
    ClockAhead,
    /// This region's clock cannot be trusted with a stamp; nothing is queued.
    ClockOff,
    /// What was said on a socket means nothing.
    BadMessage,
    /// A socket's handshake does not offer the subprotocol that is spoken here.
    BadSubprotocol,
    /// A connection watches as many items as it may.
    TooManySubscriptions,
    /// A connection says too much.
    TooManyMessages,
    /// The buyer has too many connections, or connects too often.
    TooManyConnections,
    /// The region has forgotten the connection.
    NotConnected,
    /// A fault of fairdrop's own.
    Internal,
}

/// What all refusals of a kind have in common.
struct ProblemKind {
    slug: &'static str,
    status: StatusCode,
    title: &'static str,
}

/// What `type` starts with.
pub const TYPE_PREFIX: &str = "urn:fairdrop:problem:";

/// The longest wait a `Retry-After` asks for, in seconds.
pub const MAX_RETRY_AFTER_SECONDS: u64 = 3_600;

impl Problem {
    /// One of each, with some value in what it carries: for documents and tests.
    pub fn one_of_each() -> Vec<Self> {
        vec![
            Self::BadItemId,
            Self::BadBody,
            Self::BodyTooLarge { limit_bytes: 4096 },
            Self::NoToken,
            Self::BadToken(TokenError::Expired),
            Self::NoSuchItem,
            Self::NoOrder,
            Self::MethodNotAllowed { allow: "POST" },
            Self::AlreadyReserved,
            Self::AlreadySold,
            Self::BadPayment,
            Self::NoReservation,
            Self::ReservationEnded,
            Self::AlreadyPaid,
            Self::PaymentUsed,
            Self::AlreadyExtended,
            Self::NotRecordedYet,
            Self::LedgerUnavailable,
            Self::NotOpenYet { opens_at: Stamp::EPOCH, placed_at: Stamp::EPOCH },
            Self::Closed,
            Self::SoldOut,
            Self::MainUnreachable,
            Self::OutcomeUnknown,
            Self::StatusUnavailable,
            Self::TooLate,
            Self::ClockAhead,
            Self::ClockOff,
            Self::BadMessage,
            Self::BadSubprotocol,
            Self::TooManySubscriptions,
            Self::TooManyMessages,
            Self::TooManyConnections,
            Self::NotConnected,
            Self::Internal,
        ]
    }

    /// The last part of the problem's `type`.
    pub fn slug(&self) -> &'static str {
        self.kind().slug
    }

    /// The HTTP status of the answer.
    pub fn status(&self) -> StatusCode {
        self.kind().status
    }

    fn kind(&self) -> ProblemKind {
        let (slug, status, title) = match self {
            Self::BadItemId => ("bad-item-id", 400, "The item id is not well formed"),
            Self::BadBody => ("bad-body", 400, "The body must be empty or an empty JSON object"),
            Self::NoToken => ("no-token", 401, "An access token is needed"),
            Self::BadToken(_) => ("bad-token", 401, "The access token is not valid"),
            Self::NoSuchItem => ("no-such-item", 404, "There is no such item"),
            Self::NoOrder => ("no-order", 404, "You have no order for this item"),
            Self::MethodNotAllowed { .. } => ("method-not-allowed", 405, "This path has no such method"),
            Self::AlreadyReserved => ("already-reserved", 409, "A unit is reserved for you already"),
            Self::AlreadySold => ("already-sold", 409, "You have bought this item already"),
            Self::BadPayment => ("bad-payment", 400, "The payment is not described as it must be"),
            Self::NoReservation => ("no-reservation", 404, "The buyer has no reservation of this item"),
            Self::ReservationEnded => ("reservation-ended", 409, "The reservation has ended"),
            Self::AlreadyPaid => ("already-paid", 409, "The unit was bought with another payment"),
            Self::PaymentUsed => ("payment-used", 409, "The payment has bought another buyer's unit"),
            Self::AlreadyExtended => ("already-extended", 409, "The hold has been extended before"),
            Self::NotRecordedYet => ("not-recorded-yet", 503, "The reservation is not in the ledger yet"),
            Self::LedgerUnavailable => ("ledger-unavailable", 503, "The ledger did not answer"),
            Self::NotOpenYet { .. } => ("not-open-yet", 409, "The item is not open yet"),
            Self::Closed => ("closed", 410, "The item is closed"),
            Self::SoldOut => ("sold-out", 410, "The item is sold out"),
            Self::BodyTooLarge { .. } => ("body-too-large", 413, "The body is too large"),
            Self::Internal => ("internal", 500, "Something went wrong on our side"),
            Self::MainUnreachable => {
                ("main-unreachable", 503, "The checkout cannot be reached from this region")
            }
            Self::OutcomeUnknown => ("outcome-unknown", 503, "The checkout did not answer"),
            Self::StatusUnavailable => {
                ("status-unavailable", 503, "The checkout cannot be asked from this region")
            }
            Self::TooLate => ("too-late", 503, "The order took too long to reach the checkout"),
            Self::ClockAhead => ("clock-ahead", 503, "The order was stamped ahead of the checkout's clock"),
            Self::ClockOff => ("clock-off", 503, "This region's clock cannot be trusted at the moment"),
            Self::BadMessage => ("bad-message", 400, "The message means nothing here"),
            Self::BadSubprotocol => ("bad-subprotocol", 400, "The handshake offers no subprotocol of ours"),
            Self::TooManySubscriptions => {
                ("too-many-subscriptions", 429, "This connection watches as many items as it may")
            }
            Self::TooManyMessages => ("too-many-messages", 429, "This connection says too much"),
            Self::TooManyConnections => ("too-many-connections", 429, "You have too many connections"),
            Self::NotConnected => ("not-connected", 410, "This connection is not known any more"),
        };
        // Every number above is a status; the table test below reads them all.
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        ProblemKind { slug, status, title }
    }

    fn detail(&self) -> String {
        match self {
            Self::BadItemId => "An item id is 1 to 64 characters of A-Z a-z 0-9 . _ -".into(),
            Self::BadBody => "An order needs no body: item and buyer come from path and token.".into(),
            Self::BodyTooLarge { limit_bytes } => format!("The body may have at most {limit_bytes} bytes."),
            Self::NoToken => "Send the header `Authorization: Bearer <access token>`.".into(),
            Self::BadToken(error) => error.to_string(),
            Self::NoSuchItem => "Check the item id in the path.".into(),
            Self::NoOrder => "Nothing was withdrawn.".into(),
            Self::MethodNotAllowed { allow } => format!("Allowed here: {allow}."),
            Self::AlreadyReserved => {
                "One unit per buyer. Ask for your order to see until when it is held.".into()
            }
            Self::AlreadySold => "One unit per buyer.".into(),
            Self::BadPayment => {
                "Send user_token (1 to 255 visible ASCII characters), payment_reference (the \
                                 same) and outcome (paid, pending or failed), and nothing else."
                    .into()
            }
            Self::NoReservation => "Nothing is sold. Give the payment back.".into(),
            Self::ReservationEnded => "The unit has gone back to the stock. Give the payment back.".into(),
            Self::AlreadyPaid => "One unit per buyer. Give this payment back.".into(),
            Self::PaymentUsed => "One payment buys one unit of an item. Nothing is sold.".into(),
            Self::AlreadyExtended => "A hold is extended once. It ends as it was said.".into(),
            Self::NotRecordedYet => "Nothing has changed. Send the same payment again.".into(),
            Self::LedgerUnavailable => "Send the same payment again: it counts once.".into(),
            Self::NotOpenYet { .. } => "Nothing is queued. Order again once it is open.".into(),
            Self::Closed => "Nothing is queued.".into(),
            Self::SoldOut => "Nothing is queued.".into(),
            Self::Internal => "Nothing is known to be queued. Ask for your order, then try again.".into(),
            Self::MainUnreachable => "Nothing is queued. Try again.".into(),
            Self::OutcomeUnknown => "Your order may be queued. Ask for it before you order again; if you do \
                                     order again, an order that is queued keeps its place."
                .into(),
            Self::StatusUnavailable => "Nothing has changed. Ask again.".into(),
            Self::TooLate => "Nothing of this try is queued. Try again.".into(),
            Self::ClockAhead | Self::ClockOff => "Nothing is queued. Try again.".into(),
            Self::BadMessage => {
                "Send a JSON object with action: subscribe or unsubscribe and an item_id, or ping; and \
                 nothing else."
                    .into()
            }
            Self::BadSubprotocol => {
                "Offer the subprotocols fairdrop.live.v1 and bearer.<access token>.".into()
            }
            Self::TooManySubscriptions => "Unsubscribe from an item first.".into(),
            Self::TooManyMessages => {
                "Wait for some seconds. Changes are told without being asked for.".into()
            }
            Self::TooManyConnections => "Keep to the newest of them.".into(),
            Self::NotConnected => "Connect again, and subscribe again.".into(),
        }
    }

    fn extra(&self) -> Map<String, Value> {
        let members = match self {
            Self::NotOpenYet { opens_at, .. } => json!({ "opens_at": opens_at }),
            Self::OutcomeUnknown | Self::LedgerUnavailable => json!({ "outcome": "unknown" }),
            // Not the answer to an order, or to one that changed nothing.
            Self::StatusUnavailable | Self::NotRecordedYet => Value::Null,
            _ if self.status() == StatusCode::SERVICE_UNAVAILABLE => json!({ "outcome": "not_queued" }),
            _ => Value::Null,
        };
        match members {
            Value::Object(members) => members,
            _ => Map::new(),
        }
    }

    /// Seconds after which a client may try again, where trying again can help.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        match self {
            Self::NotOpenYet { opens_at, placed_at } => {
                let wait_seconds = opens_at.saturating_since(*placed_at).as_secs() + 1;
                Some(wait_seconds.min(MAX_RETRY_AFTER_SECONDS))
            }
            _ => (self.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(1),
        }
    }

    /// The problem document.
    pub fn document(&self) -> Value {
        let ProblemKind { slug, status, title } = self.kind();
        let mut document = json!({
            "type": format!("{TYPE_PREFIX}{slug}"),
            "title": title,
            "status": status.as_u16(),
            "detail": self.detail(),
        });
        if let Value::Object(members) = &mut document {
            members.extend(self.extra());
        }
        document
    }
}

impl From<Problem> for Response<Body> {
    fn from(problem: Problem) -> Self {
        let mut response = Response::new(Body::Text(problem.document().to_string()));
        *response.status_mut() = problem.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = problem.retry_after_seconds() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        match problem {
            Problem::NoToken => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Problem::BadToken(_) => {
                let challenge = HeaderValue::from_static(r#"Bearer error="invalid_token""#);
                headers.insert(header::WWW_AUTHENTICATE, challenge);
            }
            Problem::MethodNotAllowed { allow } => {
                headers.insert(header::ALLOW, HeaderValue::from_static(allow));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_documented_with_its_status() {
        let page = include_str!("../../docs/PROBLEMS.md");
        for problem in Problem::one_of_each() {
            let row = format!("| `{}` | {} |", problem.slug(), problem.status().as_u16());
            assert!(page.contains(&row), "docs/PROBLEMS.md has no row {row}");
        }
        let rows = page.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows, Problem::one_of_each().len(), "docs/PROBLEMS.md has a row too many");
    }

    #[test]
    fn whoever_may_try_again_is_told_when() {
        for problem in Problem::one_of_each() {
            let told = problem.retry_after_seconds().is_some();
            let may = problem.status().as_u16() == 503 || matches!(problem, Problem::NotOpenYet { .. });
            assert_eq!(told, may, "{problem:?}");
        }
        let moment = |micros| Stamp::from_micros(micros).unwrap();
        let early = Problem::NotOpenYet { opens_at: moment(5_500_000), placed_at: moment(1_000_000) };
        assert_eq!(early.retry_after_seconds(), Some(5));
        assert_eq!(early.document()["opens_at"], 5_500_000);
    }

    #[test]
    fn only_the_unknown_outcome_is_unknown() {
        for problem in Problem::one_of_each() {
            let outcome = problem.document().get("outcome").and_then(Value::as_str).map(str::to_owned);
            let expected = match (&problem, problem.status().as_u16()) {
                (Problem::OutcomeUnknown | Problem::LedgerUnavailable, _) => Some("unknown"),
                (Problem::StatusUnavailable | Problem::NotRecordedYet, _) => None,
                (_, 503) => Some("not_queued"),
                _ => None,
            };
            assert_eq!(outcome.as_deref(), expected, "{problem:?}");
        }
    }
}
