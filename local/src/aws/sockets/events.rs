//! Events of a WebSocket API, as AWS writes them.

use crate::aws::sockets::STAGE;
use crate::system::clock::micros_now;
use axum::http::HeaderMap;
use serde_json::{Map, Value, json};

/// The event of a handshake.
pub(super) fn connect(region: &str, id: &str, connected_at_ms: u64, headers: &HeaderMap) -> Value {
    let mut event = event(region, id, connected_at_ms, "$connect", "CONNECT");
    let mut single = Map::new();
    let mut several = Map::new();
    for name in headers.keys() {
        let values: Vec<String> = headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into())
            .collect();
        let name = as_written(name.as_str());
        // AWS passes on the last of several headers of one name.
        single.insert(name.clone(), values.last().cloned().unwrap_or_default().into());
        several.insert(name, values.into());
    }
    event["headers"] = single.into();
    event["multiValueHeaders"] = several.into();
    event
}

/// The event of a client's message.
pub(super) fn message(region: &str, id: &str, connected_at_ms: u64, text: &str) -> Value {
    let mut event = event(region, id, connected_at_ms, "$default", "MESSAGE");
    event["requestContext"]["messageId"] = id.into();
    event["body"] = text.into();
    event
}

/// The event of a connection that has ended.
pub(super) fn disconnect(region: &str, id: &str, connected_at_ms: u64, code: u16, reason: &str) -> Value {
    let mut event = event(region, id, connected_at_ms, "$disconnect", "DISCONNECT");
    event["requestContext"]["disconnectStatusCode"] = code.into();
    event["requestContext"]["disconnectReason"] = reason.into();
    event
}

fn event(region: &str, id: &str, connected_at_ms: u64, route: &str, kind: &str) -> Value {
    let request_id = format!("{:016x}", rand::random::<u64>());
    json!({
        "requestContext": {
            "routeKey": route,
            "eventType": kind,
            "extendedRequestId": request_id,
            "requestTime": "01/Jan/2026:00:00:00 +0000",
            "messageDirection": "IN",
            "stage": STAGE,
            "connectedAt": connected_at_ms,
            "requestTimeEpoch": micros_now() / 1_000,
            "identity": { "sourceIp": "127.0.0.1" },
            "requestId": request_id,
            "domainName": format!("local.execute-api.{region}.amazonaws.com"),
            "connectionId": id,
            "apiId": "local",
        },
        "isBase64Encoded": false,
    })
}

/// A header's name as browsers write it.
fn as_written(name: &str) -> String {
    let words = name.split('-').map(|word| {
        let mut letters = word.chars();
        letters
            .next()
            .map(|first| first.to_ascii_uppercase().to_string() + letters.as_str())
            .unwrap_or_default()
    });
    words.collect::<Vec<_>>().join("-").replace("Websocket", "WebSocket")
}
