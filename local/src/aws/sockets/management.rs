//! `@connections`: the calls by which functions send to connections and close them.

use super::{ConnectionHub, Outgoing};
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, Response, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use percent_encoding::percent_decode_str;
use serde_json::json;
use time::OffsetDateTime;
use tokio::sync::mpsc::error::TrySendError;

/// Answers POST (sends a message), GET (returns the state) and DELETE (closes) for a connection.
pub(super) async fn answer(hub: &ConnectionHub, id: &str, request: Request) -> Response<Body> {
    let authorization = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    let is_signed = authorization.is_some_and(|value| {
        value.starts_with("AWS4-HMAC-SHA256 ") && value.contains("/execute-api/aws4_request")
    });
    if !is_signed {
        return refusal(
            StatusCode::FORBIDDEN,
            "MissingAuthenticationTokenException",
            "Missing Authentication Token",
        );
    }
    if !hub.requests.take() {
        return refusal(StatusCode::TOO_MANY_REQUESTS, "LimitExceededException", "Too Many Requests");
    }
    let id = percent_decode_str(id).decode_utf8_lossy().into_owned();
    if URL_SAFE.decode(&id).is_err() {
        return refusal(StatusCode::BAD_REQUEST, "BadRequestException", "Invalid connectionId");
    }
    let held = hub.held().get(&id).cloned();
    let Some(held) = held else {
        return refusal(StatusCode::GONE, "GoneException", "410");
    };
    match *request.method() {
        Method::POST => {
            let Ok(body) = axum::body::to_bytes(request.into_body(), hub.limits.message_bytes).await else {
                return refusal(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "PayloadTooLargeException",
                    "Message too long",
                );
            };
            let text = String::from_utf8_lossy(&body).into_owned();
            match held.out.try_send(Outgoing::Text(text)) {
                Ok(()) => done(StatusCode::OK, Body::empty()),
                Err(TrySendError::Full(_)) => refusal(
                    StatusCode::TOO_MANY_REQUESTS,
                    "LimitExceededException",
                    "The client's buffer is full",
                ),
                Err(TrySendError::Closed(_)) => refusal(StatusCode::GONE, "GoneException", "410"),
            }
        }
        Method::DELETE => {
            // The close frame follows the messages in the buffer.
            let _ = held.out.try_send(Outgoing::Close);
            done(StatusCode::NO_CONTENT, Body::empty())
        }
        Method::GET => {
            let state = json!({
                "connectedAt": moment(held.connected_at_ms),
                "lastActiveAt": moment(held.last_active_ms),
                "identity": { "sourceIp": "127.0.0.1", "userAgent": "" },
            });
            done(StatusCode::OK, Body::from(state.to_string()))
        }
        _ => refusal(StatusCode::FORBIDDEN, "ForbiddenException", "Forbidden"),
    }
}

/// A time in RFC 3339, as AWS writes it.
fn moment(ms: u64) -> String {
    let seconds = i64::try_from(ms / 1_000).unwrap_or_default();
    let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (date, (hour, minute, second)) = (at.date(), at.to_hms());
    format!("{date}T{hour:02}:{minute:02}:{second:02}Z")
}

fn done(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

fn refusal(status: StatusCode, kind: &'static str, text: &str) -> Response<Body> {
    let mut response = super::plain(status, text);
    response.headers_mut().insert("x-amzn-errortype", HeaderValue::from_static(kind));
    response
}
