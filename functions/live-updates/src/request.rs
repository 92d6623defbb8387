//! What a client says.

use serde::Deserialize;
use serde::de::IgnoredAny;
use shared::item::ItemId;
use shared::problem::Problem;
use std::collections::HashMap;

/// The longest message that is looked at, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 1_024;

/// A client's wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// To hear of an item and of the own order.
    Subscribe(ItemId),
    /// To hear no more of them.
    Unsubscribe(ItemId),
    /// To hear that the line and the subscriptions stand.
    Ping,
}

#[derive(Deserialize)]
struct Raw {
    action: String,
    item_id: Option<String>,
    #[serde(flatten)]
    more: HashMap<String, IgnoredAny>,
}

impl Request {
    /// Reads a message.
    pub fn parse(text: &str, is_base64: bool) -> Result<Self, Problem> {
        if text.len() > MAX_MESSAGE_BYTES {
            return Err(Problem::BodyTooLarge { limit_bytes: MAX_MESSAGE_BYTES });
        }
        let raw: Raw = serde_json::from_str(text).map_err(|_| Problem::BadMessage)?;
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
    fn messages() {
        let item: ItemId = "a".parse().unwrap();
        let parse = |text: &str| Request::parse(text, false);
        let subscribe = r#"{"action":"subscribe","item_id":"a"}"#;
        assert_eq!(parse(subscribe), Ok(Request::Subscribe(item.clone())));
        assert_eq!(parse(r#"{"action":"unsubscribe","item_id":"a"}"#), Ok(Request::Unsubscribe(item)));
        assert_eq!(parse(r#"{"action":"ping"}"#), Ok(Request::Ping));
        assert_eq!(Request::parse(subscribe, true), Err(Problem::BadMessage));
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
