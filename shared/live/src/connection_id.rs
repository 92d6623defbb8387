//! The id of a connection.

use std::fmt;
use std::str::FromStr;

/// A connection's id, as API Gateway gives it: 1 to 128 characters of base64.
///
/// The alphabet has no braces, so that a Redis key and its hash tag can contain an id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(String);

/// A text that is not a [`ConnectionId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a connection id is 1 to 128 characters of base64")]
pub struct ConnectionIdError;

impl ConnectionId {
    /// The longest id, in characters; AWS's have 16.
    pub const MAX_LEN: usize = 128;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ConnectionId {
    type Err = ConnectionIdError;

    fn from_str(text: &str) -> Result<Self, ConnectionIdError> {
        let allowed =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'=' | b'-' | b'_' | b'+' | b'/');
        let well_formed = (1..=Self::MAX_LEN).contains(&text.len()) && text.bytes().all(allowed);
        if well_formed { Ok(Self(text.to_owned())) } else { Err(ConnectionIdError) }
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        for good in ["L0SM9cOFvHcCIhw=", "a", "a-_+/="] {
            assert_eq!(good.parse::<ConnectionId>().unwrap().as_str(), good);
        }
        for bad in ["", "a b", "{a}", "a\0", "\u{fc}", &"a".repeat(129)] {
            assert_eq!(bad.parse::<ConnectionId>(), Err(ConnectionIdError), "{bad:?}");
        }
    }
}
