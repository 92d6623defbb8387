//! The identity of a buyer.

use serde::Deserialize;
use std::fmt;

/// The verified subject (`sub`) of a buyer's access token.
///
/// 1 to 255 visible ASCII characters (OpenID Connect Core §2 gives the upper bound). It is personal data and never
/// appears in logs: `Debug` hides it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct UserToken(String);

/// A subject that is not a valid [`UserToken`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token's subject must be 1 to 255 visible ASCII characters")]
pub struct UserTokenError;

impl UserToken {
    /// The longest subject accepted, in bytes.
    pub const MAX_LEN: usize = 255;

    /// Accepts `subject` if it is well formed.
    pub fn parse(subject: impl Into<String>) -> Result<Self, UserTokenError> {
        let subject = subject.into();
        let well_formed = (1..=Self::MAX_LEN).contains(&subject.len())
            && subject.bytes().all(|byte| byte.is_ascii_graphic());
        if well_formed { Ok(Self(subject)) } else { Err(UserTokenError) }
    }

    /// The subject itself, for Redis and the ledger. Not for logs.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for UserToken {
    type Error = UserTokenError;

    fn try_from(subject: String) -> Result<Self, UserTokenError> {
        Self::parse(subject)
    }
}

impl fmt::Debug for UserToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserToken(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_identity_providers_issue() {
        for subject in ["a", "auth0|5f7c8ec7c33c6c004bbafe82", "1f9c1b2e-7d0e-4c2e-9c53-0d8f3a0d7c11"] {
            assert_eq!(UserToken::parse(subject).unwrap().as_str(), subject);
        }
        assert!(UserToken::parse("x".repeat(255)).is_ok());
    }

    #[test]
    fn refuses_what_cannot_be_a_subject() {
        for subject in ["", "two words", "tab\t", "nul\0", "gr\u{fc}n", &"x".repeat(256)] {
            assert_eq!(UserToken::parse(subject), Err(UserTokenError), "{subject:?}");
        }
    }

    #[test]
    fn debug_hides_the_subject() {
        let buyer = UserToken::parse("alice@example.org").unwrap();
        assert!(!format!("{buyer:?}").contains("alice"));
    }
}
