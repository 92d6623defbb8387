//! The body of an order: it has no members.

use lambda_http::Body;
use shared::problem::Problem;

/// The longest body that is parsed, in bytes.
pub(crate) const MAX_BODY_BYTES: usize = 4_096;

/// Accepts an empty body and an empty JSON object. The buyer comes from the token and the item
/// from the path, so a member here would be ignored: refusing it shows the mistake.
pub(crate) fn check(body: &Body) -> Result<(), Problem> {
    if body.len() > MAX_BODY_BYTES {
        return Err(Problem::BodyTooLarge { limit_bytes: MAX_BODY_BYTES });
    }
    let text = body.trim_ascii();
    if text.is_empty() {
        return Ok(());
    }
    match serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(text) {
        Ok(members) if members.is_empty() => Ok(()),
        _ => Err(Problem::BadBody),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_body_and_an_empty_object_are_accepted() {
        for text in ["", " ", "{}", " { } \n"] {
            assert_eq!(check(&Body::from(text)), Ok(()), "{text:?}");
        }
    }

    #[test]
    fn any_other_body_is_refused() {
        for text in ["{", "[]", "null", "7", r#"{"user_token":"bob"}"#, "\u{0}", "%%%"] {
            assert_eq!(check(&Body::from(text)), Err(Problem::BadBody), "{text:?}");
        }
        assert_eq!(check(&Body::from(vec![0xff_u8])), Err(Problem::BadBody));
    }

    #[test]
    fn a_long_body_is_refused_before_parsing() {
        let limit = Err(Problem::BodyTooLarge { limit_bytes: MAX_BODY_BYTES });
        assert_eq!(check(&Body::from(" ".repeat(MAX_BODY_BYTES))), Ok(()));
        assert_eq!(check(&Body::from(" ".repeat(MAX_BODY_BYTES + 1))), limit);
        assert_eq!(check(&Body::from("x".repeat(6_000_000))), limit);
    }
}
