//! Events of an API Gateway WebSocket API (Lambda proxy), as far as they are needed, and their answers.

use serde::{Deserialize, Deserializer, Serialize};
use shared::problem::Problem;
use std::collections::HashMap;

/// An event of a socket.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SocketEvent {
    /// Of `$connect` alone; names as the client wrote them.
    #[serde(default, deserialize_with = "or_default")]
    multi_value_headers: HashMap<String, Vec<String>>,
    #[serde(default, deserialize_with = "or_default")]
    headers: HashMap<String, String>,
    #[serde(rename = "requestContext")]
    pub(crate) context: Context,
    #[serde(default)]
    pub(crate) body: Option<String>,
    #[serde(default)]
    pub(crate) is_base64_encoded: bool,
}

/// Which socket, and what of it.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Context {
    pub(crate) connection_id: String,
    pub(crate) event_type: Kind,
}

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Kind {
    Connect,
    Message,
    Disconnect,
}

impl std::fmt::Debug for SocketEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Headers carry the token.
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

/// An answer to an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Of `$connect`: whether the client is let in.
    pub status_code: u16,
    /// Of `$connect`: the subprotocol.
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    pub headers: HashMap<&'static str, &'static str>,
    /// What goes back to the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

impl Answer {
    /// All right, and nothing is said.
    pub(crate) fn ok() -> Self {
        Self { status_code: 200, headers: HashMap::new(), body: None }
    }

    /// The client is let in, and `protocol` is spoken.
    pub(crate) fn speaks(protocol: &'static str) -> Self {
        Self { headers: [("Sec-WebSocket-Protocol", protocol)].into(), ..Self::ok() }
    }

    /// This is said.
    pub(crate) fn says(text: String) -> Self {
        Self { body: Some(text), ..Self::ok() }
    }

    /// The client is not let in.
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
    fn protocols_are_found_however_they_are_written() {
        let one = event(json!({ "Sec-WebSocket-Protocol": "a, bearer.x" }), json!(null));
        assert_eq!(one.protocols(), ["a", "bearer.x"]);
        let two = event(json!(null), json!({ "sec-websocket-protocol": ["a", "b,c"], "Host": ["x"] }));
        assert_eq!(two.protocols(), ["a", "b", "c"]);
        assert_eq!(event(json!({ "Host": "x" }), json!(null)).protocols(), Vec::<&str>::new());
    }

    #[test]
    fn an_event_shows_no_headers() {
        let shown = format!("{:?}", event(json!({ "Sec-WebSocket-Protocol": "bearer.secret" }), json!(null)));
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn other_events_are_no_socket_s() {
        for other in [json!(null), json!([]), json!({}), json!({ "requestContext": { "eventType": "X" } })] {
            assert!(serde_json::from_value::<SocketEvent>(other).is_err());
        }
    }
}
