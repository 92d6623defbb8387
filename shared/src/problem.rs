//! Every refusal that a client can get, as a problem document (RFC 9457).
//!
//! The `type` is stable and documented in `docs/PROBLEMS.md`. Its last part is also the dimension `Reason` of the
//! metric `orders_refused`. The document of an internal fault reveals no internals.

use crate::stamp::Stamp;
use crate::token::TokenError;
use lambda_http::http::{HeaderValue, StatusCode, header};
use lambda_http::{Body, Response};
use serde_json::{Map, Value, json};

/// A refusal. `docs/PROBLEMS.md` says when each occurs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    BadItemId,
    BadBody,
    BodyTooLarge {
        limit_bytes: usize,
    },
    NoToken,
    BadToken(TokenError),
    NoSuchItem,
    MethodNotAllowed {
        /// The methods of the path, as in the header `Allow`.
        allow: &'static str,
    },
    AlreadyReserved,
    AlreadySold,
    NoOrder,
    BadPayment,
    BadQuery,
    NoReservation,
    ReservationEnded,
    AlreadyPaid,
    PaymentUsed,
    AlreadyExtended,
    UnitVoided,
    /// The reservation is not in the ledger yet; nothing has changed.
    NotRecordedYet,
    /// The ledger did not answer; the payment may have been recorded.
    LedgerUnavailable,
    NotOpenYet {
        opens_at: Stamp,
        placed_at: Stamp,
    },
    Closed,
    SoldOut,
    /// The order is not queued.
    MainUnreachable,
    /// The region's order log did not take the order, which is not queued.
    LogUnavailable,
    /// Main, or the region's order log, did not answer; the order may be queued.
    OutcomeUnknown,
    StatusUnavailable,
    /// A younger order may have been served; the order is not queued.
    TooLate,
    /// The stamp is ahead of main's clock; the order is not queued.
    ClockAhead,
    /// This region's clock is wrong; the order is not queued.
    ClockOff,
    BadMessage,
    BadSubprotocol,
    TooManySubscriptions,
    TooManyMessages,
    TooManyConnections,
    /// The region does not know the connection any more.
    NotConnected,
    /// A gateway sends events of a form that names no item.
    UnsupportedEvent,
    Internal,
}

/// What is the same in all refusals of one kind.
struct ProblemKind {
    slug: &'static str,
    status: StatusCode,
    title: &'static str,
}

/// The beginning of `type`.
pub const TYPE_PREFIX: &str = "urn:fairdrop:problem:";

/// The longest wait that a `Retry-After` asks for, in seconds.
pub const MAX_RETRY_AFTER_SECONDS: u64 = 3_600;

impl Problem {
    /// One of each kind, for documents and tests.
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
            Self::BadQuery,
            Self::NoReservation,
            Self::ReservationEnded,
            Self::AlreadyPaid,
            Self::PaymentUsed,
            Self::AlreadyExtended,
            Self::UnitVoided,
            Self::NotRecordedYet,
            Self::LedgerUnavailable,
            Self::NotOpenYet { opens_at: Stamp::EPOCH, placed_at: Stamp::EPOCH },
            Self::Closed,
            Self::SoldOut,
            Self::MainUnreachable,
            Self::LogUnavailable,
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
            Self::UnsupportedEvent,
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
            Self::BadItemId => ("bad-item-id", 400, "The item id is malformed"),
            Self::BadBody => ("bad-body", 400, "The body must be empty or an empty JSON object"),
            Self::NoToken => ("no-token", 401, "An access token is required"),
            Self::BadToken(_) => ("bad-token", 401, "The access token is not valid"),
            Self::NoSuchItem => ("no-such-item", 404, "The item does not exist"),
            Self::NoOrder => ("no-order", 404, "You have no order for this item"),
            Self::MethodNotAllowed { .. } => {
                ("method-not-allowed", 405, "The path does not support this method")
            }
            Self::AlreadyReserved => ("already-reserved", 409, "A unit is already reserved for you"),
            Self::AlreadySold => ("already-sold", 409, "You have already bought this item"),
            Self::BadPayment => ("bad-payment", 400, "The description of the payment is malformed"),
            Self::BadQuery => ("bad-query", 400, "The query is malformed"),
            Self::NoReservation => ("no-reservation", 404, "The buyer has no reservation of this item"),
            Self::ReservationEnded => ("reservation-ended", 409, "The reservation has ended"),
            Self::AlreadyPaid => ("already-paid", 409, "The unit was bought with another payment"),
            Self::PaymentUsed => ("payment-used", 409, "The payment has bought another buyer's unit"),
            Self::AlreadyExtended => ("already-extended", 409, "The hold was extended for another payment"),
            Self::UnitVoided => ("unit-voided", 409, "The shop has taken the unit back"),
            Self::NotRecordedYet => ("not-recorded-yet", 503, "The reservation is not in the ledger yet"),
            Self::LedgerUnavailable => ("ledger-unavailable", 503, "The ledger did not answer"),
            Self::NotOpenYet { .. } => ("not-open-yet", 409, "The item is not open yet"),
            Self::Closed => ("closed", 410, "The item is closed"),
            Self::SoldOut => ("sold-out", 410, "The item is sold out"),
            Self::BodyTooLarge { .. } => ("body-too-large", 413, "The body is too large"),
            Self::UnsupportedEvent => {
                ("unsupported-event", 501, "The gateway sends events that the function cannot read")
            }
            Self::Internal => ("internal", 500, "An internal error occurred"),
            Self::MainUnreachable => {
                ("main-unreachable", 503, "The checkout cannot be reached from this region")
            }
            Self::LogUnavailable => ("log-unavailable", 503, "The order could not be stored in this region"),
            Self::OutcomeUnknown => ("outcome-unknown", 503, "The checkout did not answer"),
            Self::StatusUnavailable => {
                ("status-unavailable", 503, "The checkout's status cannot be read from this region")
            }
            Self::TooLate => ("too-late", 503, "The order took too long to reach the checkout"),
            Self::ClockAhead => {
                ("clock-ahead", 503, "The order's time stamp is ahead of the checkout's clock")
            }
            Self::ClockOff => ("clock-off", 503, "The clock of this region is wrong at the moment"),
            Self::BadMessage => ("bad-message", 400, "The message is malformed or unknown"),
            Self::BadSubprotocol => {
                ("bad-subprotocol", 400, "The handshake does not offer the required subprotocol")
            }
            Self::TooManySubscriptions => {
                ("too-many-subscriptions", 429, "This connection watches the maximum number of items")
            }
            Self::TooManyMessages => ("too-many-messages", 429, "This connection sends too many messages"),
            Self::TooManyConnections => ("too-many-connections", 429, "You have too many connections"),
            Self::NotConnected => ("not-connected", 410, "This connection is not known any more"),
        };
        // Every number above is a status; the table test below reads them all.
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        ProblemKind { slug, status, title }
    }

    fn detail(&self) -> String {
        match self {
            Self::BadItemId => "An item id has 1 to 64 characters of A-Z a-z 0-9 . _ -".into(),
            Self::BadBody => "An order needs no body: the path names the item, and the token names the buyer.".into(),
            Self::BodyTooLarge { limit_bytes } => format!("The body may have at most {limit_bytes} bytes."),
            Self::NoToken => "Send the header `Authorization: Bearer <access token>`.".into(),
            Self::BadToken(error) => error.to_string(),
            Self::NoSuchItem => "Check the item id in the path.".into(),
            Self::NoOrder => "Nothing was cancelled.".into(),
            Self::MethodNotAllowed { allow } => format!("Supported methods: {allow}."),
            Self::AlreadyReserved => {
                "Each buyer can have one unit. The status of your order shows when the hold ends.".into()
            }
            Self::AlreadySold => "Each buyer can have one unit.".into(),
            Self::BadPayment => {
                "Send user_token (1 to 255 visible ASCII characters), payment_reference (likewise) and \
                 outcome (paid, pending, declined, failed or cancelled), and nothing else."
                    .into()
            }
            Self::BadQuery => {
                "A reservation is read with user_token; sales with limit (1 to 1000) and after (the next of the last \
                 page), or without."
                    .into()
            }
            Self::NoReservation => "Nothing was sold. Please return the money.".into(),
            Self::ReservationEnded => "The unit has returned to the stock. Please return the money.".into(),
            Self::AlreadyPaid => "Each buyer can have one unit. Please return the money of this payment.".into(),
            Self::PaymentUsed => "One payment buys one unit of an item. Nothing was sold.".into(),
            Self::AlreadyExtended => "The first payment that is pending extends the hold. It ends at the time that was shown.".into(),
            Self::UnitVoided => "The payment has no unit. Please return the money.".into(),
            Self::NotRecordedYet => "Nothing has changed. Please send the same payment again.".into(),
            Self::LedgerUnavailable => "Please send the same payment again: it counts once.".into(),
            Self::NotOpenYet { .. } => "The order was not queued. Please order again when the item is open.".into(),
            Self::Closed => "The order was not queued.".into(),
            Self::SoldOut => "The order was not queued.".into(),
            Self::Internal => "Please check the status of your order, then try again.".into(),
            Self::MainUnreachable | Self::LogUnavailable => "The order was not queued. Please try again.".into(),
            Self::OutcomeUnknown => "Your order may be queued. Please check its status before you order again. If you \
                                     order again, a queued order keeps its place."
                .into(),
            Self::StatusUnavailable => "Nothing has changed. Please try again.".into(),
            Self::TooLate => "The order was not queued. Please try again.".into(),
            Self::ClockAhead | Self::ClockOff => "The order was not queued. Please try again.".into(),
            Self::BadMessage => {
                "Send a JSON object with the action subscribe or unsubscribe and an item_id, or with the action ping, \
                 and no other members."
                    .into()
            }
            Self::BadSubprotocol => {
                "Offer the subprotocols fairdrop.live.v1 and bearer.<access token>.".into()
            }
            Self::TooManySubscriptions => "Unsubscribe from an item first.".into(),
            Self::TooManyMessages => {
                "Please wait some seconds. The server sends changes without being asked.".into()
            }
            Self::TooManyConnections => "Please use the newest connection.".into(),
            Self::NotConnected => "Please connect and subscribe again.".into(),
            Self::UnsupportedEvent => {
                "Nothing was decided. The route must be one of an HTTP API, with payload format 2.0.".into()
            }
        }
    }

    fn extra(&self) -> Map<String, Value> {
        let members = match self {
            Self::NotOpenYet { opens_at, .. } => json!({ "opens_at": opens_at }),
            Self::OutcomeUnknown | Self::LedgerUnavailable => json!({ "outcome": "unknown" }),
            // These do not answer an order.
            Self::StatusUnavailable | Self::NotRecordedYet => Value::Null,
            _ if self.status() == StatusCode::SERVICE_UNAVAILABLE => json!({ "outcome": "not_queued" }),
            _ => Value::Null,
        };
        match members {
            Value::Object(members) => members,
            _ => Map::new(),
        }
    }

    /// Seconds after which a client may try again, if that can help.
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
    fn every_problem_that_can_be_retried_has_retry_after() {
        for problem in Problem::one_of_each() {
            let has_retry_after = problem.retry_after_seconds().is_some();
            let may = problem.status().as_u16() == 503 || matches!(problem, Problem::NotOpenYet { .. });
            assert_eq!(has_retry_after, may, "{problem:?}");
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
