//! Events of an API Gateway WebSocket API (Lambda proxy integration), and the responses to them.

use serde::{Deserialize, Deserializer, Serialize};
use shared::problem::Problem;
use std::collections::HashMap;

/// The parts of an event that are needed.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SocketEvent {
    /// Only in `$connect`; names as the client wrote them.
    #[serde(default, deserialize_with = "or_default")]
    multi_value_headers: HashMap<String, Vec<String>>,
    #[serde(default, deserialize_with = "or_default")]
    headers: HashMap<String, String>,
    #[serde(rename = "requestContext")]
    pub(crate) context: SocketContext,
    #[serde(default)]
    pub(crate) body: Option<String>,
    #[serde(default)]
    pub(crate) is_base64_encoded: bool,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SocketContext {
    pub(crate) connection_id: String,
    pub(crate) event_type: SocketEventType,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum SocketEventType {
    Connect,
    Message,
    Disconnect,
}

impl std::fmt::Debug for SocketEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The headers are left out, since they contain the token.
        f.debug_struct("SocketEvent").field("event_type", &self.context.event_type).finish_non_exhaustive()
    }
}

fn or_default<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(value: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(value).map(Option::unwrap_or_default)
}

impl SocketEvent {
    /// The subprotocols that the client offers.
    pub(crate) fn protocols(&self) -> Vec<&str> {
        let is_it = |name: &str| name.eq_ignore_ascii_case("sec-websocket-protocol");
        let several = self.multi_value_headers.iter().filter(|(name, _)| is_it(name));
        let mut lists: Vec<&str> = several.flat_map(|(_, values)| values).map(String::as_str).collect();
        if lists.is_empty() {
            lists = self.headers.iter().filter(|(name, _)| is_it(name)).map(|(_, value)| &**value).collect();
        }
        lists.into_iter().flat_map(|list| list.split(',')).map(str::trim).collect()
    }
}

/// The Lambda proxy response to an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SocketResponse {
    /// For `$connect`: 200 accepts the connection, anything else refuses it.
    pub status_code: u16,
    /// For `$connect`: the accepted subprotocol.
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    pub headers: HashMap<&'static str, &'static str>,
    /// The message to the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

impl SocketResponse {
    /// Success without a message.
    pub(crate) fn ok() -> Self {
        Self { status_code: 200, headers: HashMap::new(), body: None }
    }

    /// Accepts the connection with the subprotocol `protocol`.
    pub(crate) fn accepted(protocol: &'static str) -> Self {
        Self { headers: [("Sec-WebSocket-Protocol", protocol)].into(), ..Self::ok() }
    }

    pub(crate) fn with_body(text: String) -> Self {
        Self { body: Some(text), ..Self::ok() }
    }

    /// Refuses the connection.
    pub(crate) fn refusal(problem: &Problem) -> Self {
        let headers = [("Content-Type", "application/problem+json")].into();
        Self { status_code: problem.status().as_u16(), headers, body: Some(problem.document().to_string()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(headers: serde_json::Value, several: serde_json::Value) -> SocketEvent {
        serde_json::from_value(json!({
            "headers": headers, "multiValueHeaders": several, "isBase64Encoded": false,
            "requestContext": { "connectionId": "L0SM9cOFvHcCIhw=", "eventType": "CONNECT", "stage": "live" },
        }))
        .unwrap()
    }

    #[test]
    fn protocols_are_found_in_single_and_multi_value_headers() {
        let one = event(json!({ "Sec-WebSocket-Protocol": "a, bearer.x" }), json!(null));
        assert_eq!(one.protocols(), ["a", "bearer.x"]);
        let two = event(json!(null), json!({ "sec-websocket-protocol": ["a", "b,c"], "Host": ["x"] }));
        assert_eq!(two.protocols(), ["a", "b", "c"]);
        assert_eq!(event(json!({ "Host": "x" }), json!(null)).protocols(), Vec::<&str>::new());
    }

    #[test]
    fn debug_output_contains_no_headers() {
        let shown = format!("{:?}", event(json!({ "Sec-WebSocket-Protocol": "bearer.secret" }), json!(null)));
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn events_of_other_sources_are_rejected() {
        for other in [json!(null), json!([]), json!({}), json!({ "requestContext": { "eventType": "X" } })] {
            assert!(serde_json::from_value::<SocketEvent>(other).is_err());
        }
    }
}
