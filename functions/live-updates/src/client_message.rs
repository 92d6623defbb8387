//! Messages from clients.

use serde::Deserialize;
use serde::de::IgnoredAny;
use shared::item::ItemId;
use shared::problem::Problem;
use std::collections::HashMap;

/// The longest message that is parsed, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 1_024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientMessage {
    /// Asks for changes of an item and of the buyer's own order.
    Subscribe(ItemId),
    Unsubscribe(ItemId),
    /// Checks that the connection and its subscriptions still exist.
    Ping,
}

#[derive(Deserialize)]
struct RawMessage {
    action: String,
    item_id: Option<String>,
    #[serde(flatten)]
    more: HashMap<String, IgnoredAny>,
}

impl ClientMessage {
    pub fn parse(text: &str, is_base64: bool) -> Result<Self, Problem> {
        if text.len() > MAX_MESSAGE_BYTES {
            return Err(Problem::BodyTooLarge { limit_bytes: MAX_MESSAGE_BYTES });
        }
        let raw: RawMessage = serde_json::from_str(text).map_err(|_| Problem::BadMessage)?;
        if is_base64 || !raw.more.is_empty() {
            return Err(Problem::BadMessage);
        }
        let item = |id: Option<String>| -> Result<ItemId, Problem> {
            id.ok_or(Problem::BadMessage)?.parse().map_err(|_| Problem::BadItemId)
        };
        match (raw.action.as_str(), raw.item_id) {
            ("subscribe", id) => item(id).map(Self::Subscribe),
            ("unsubscribe", id) => item(id).map(Self::Unsubscribe),
            ("ping", None) => Ok(Self::Ping),
            _ => Err(Problem::BadMessage),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_actions_with_their_members_are_accepted() {
        let item: ItemId = "a".parse().unwrap();
        let parse = |text: &str| ClientMessage::parse(text, false);
        let subscribe = r#"{"action":"subscribe","item_id":"a"}"#;
        assert_eq!(parse(subscribe), Ok(ClientMessage::Subscribe(item.clone())));
        assert_eq!(parse(r#"{"action":"unsubscribe","item_id":"a"}"#), Ok(ClientMessage::Unsubscribe(item)));
        assert_eq!(parse(r#"{"action":"ping"}"#), Ok(ClientMessage::Ping));
        assert_eq!(ClientMessage::parse(subscribe, true), Err(Problem::BadMessage));
        let bad = [
            "",
            "ping",
            "null",
            "[]",
            "7",
            "{}",
            r#"{"action":"dance"}"#,
            r#"{"action":["ping"]}"#,
            r#"{"action":"subscribe"}"#,
            r#"{"action":"ping","item_id":"a"}"#,
            r#"{"action":"ping","user_token":"bob"}"#,
            r#"{"action":"subscribe","item_id":"a","user_token":"bob"}"#,
        ];
        for text in bad {
            assert_eq!(parse(text), Err(Problem::BadMessage), "{text}");
        }
        assert_eq!(parse(r#"{"action":"subscribe","item_id":"a/b"}"#), Err(Problem::BadItemId));
        let long = format!(r#"{{"action":"ping"}}{}"#, " ".repeat(MAX_MESSAGE_BYTES));
        assert_eq!(parse(&long), Err(Problem::BodyTooLarge { limit_bytes: MAX_MESSAGE_BYTES }));
    }
}
