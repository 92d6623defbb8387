//! What operators say about themselves and about their reasons, for the record.

use serde::Deserialize;

/// The longest name of an operator, in characters.
const MAX_NAME: usize = 100;
/// The longest reason, in characters.
const MAX_REASON: usize = 500;

/// Who gives a command: 1 to 100 characters, no control characters.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct OperatorName(String);

/// Why: 1 to 500 characters, no control characters.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Reason(String);

impl OperatorName {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Reason {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_line(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

impl TryFrom<String> for OperatorName {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        let why = "`by` must say who gives the command: 1 to 100 characters, no control characters";
        if is_line(&name, MAX_NAME) { Ok(Self(name)) } else { Err(why) }
    }
}

impl TryFrom<String> for Reason {
    type Error = &'static str;

    fn try_from(reason: String) -> Result<Self, Self::Error> {
        let why = "`reason` must have 1 to 500 characters, and no control characters";
        if is_line(&reason, MAX_REASON) { Ok(Self(reason)) } else { Err(why) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_reasons_are_one_line() {
        for name in ["", "a\nb", &"x".repeat(101)] {
            assert!(OperatorName::try_from(name.to_owned()).is_err(), "{name:?}");
        }
        assert!(OperatorName::try_from("Ann, shipping".to_owned()).is_ok());
        for reason in ["", "a\u{7}b", &"x".repeat(501)] {
            assert!(Reason::try_from(reason.to_owned()).is_err(), "{reason:?}");
        }
        assert!(Reason::try_from("\u{e9}".repeat(500)).is_ok());
    }
}
