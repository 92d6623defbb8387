//! Attribute values as DynamoDB's JSON has them, for example `{"S": "text"}`: what is valid, how large it is, and how two
//! of them compare.

use super::failure::Failure;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use std::cmp::Ordering;
use std::collections::BTreeSet;

/// Attributes by their names.
pub(super) type Item = Map<String, Value>;

/// The largest item, with the names of its attributes.
const MAX_ITEM_BYTES: usize = 400 * 1024;
/// The precision of a number.
const MAX_DIGITS: usize = 38;

/// The type and the content of a value.
pub(super) fn parts(value: &Value) -> Result<(&str, &Value), Failure> {
    let mut members = value.as_object().into_iter().flatten();
    match (members.next(), members.next()) {
        (Some((kind, content)), None) => Ok((kind, content)),
        _ => Err(Failure::validation(
            "Supplied AttributeValue is empty or has more than one type, must contain exactly one of the supported types",
        )),
    }
}

pub(super) fn check(value: &Value) -> Result<(), Failure> {
    let wrong = |what: &str| Err(Failure::validation(format!("An attribute value is not valid: {what}")));
    let (kind, content) = parts(value)?;
    match (kind, content) {
        ("S", Value::String(_)) | ("BOOL", Value::Bool(_)) | ("NULL", Value::Bool(true)) => Ok(()),
        ("N", Value::String(digits)) => check_number(digits),
        ("B", Value::String(bytes)) if STANDARD.decode(bytes).is_ok() => Ok(()),
        ("L", Value::Array(values)) => values.iter().try_for_each(check),
        ("M", Value::Object(values)) => values.values().try_for_each(check),
        ("SS" | "NS" | "BS", Value::Array(values)) => {
            let members: Option<Vec<&str>> = values.iter().map(Value::as_str).collect();
            let Some(members) = members else { return wrong("a set of something else than texts") };
            if members.is_empty() || members.iter().collect::<BTreeSet<_>>().len() < members.len() {
                return wrong("a set is empty or has a member twice");
            }
            if kind == "NS" { members.into_iter().try_for_each(check_number) } else { Ok(()) }
        }
        _ => wrong(kind),
    }
}

fn check_number(text: &str) -> Result<(), Failure> {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    if digits == 0 || text.parse::<f64>().is_err() {
        return Err(Failure::validation(
            "A value provided cannot be converted into a number: ".to_owned() + text,
        ));
    }
    if digits > MAX_DIGITS {
        return Err(Failure::validation("Attempting to store more than 38 significant digits in a Number"));
    }
    Ok(())
}

/// Checks a whole item.
pub(super) fn check_item(item: &Item) -> Result<(), Failure> {
    item.values().try_for_each(check)?;
    if item_bytes(item) > MAX_ITEM_BYTES {
        return Err(Failure::validation("Item size has exceeded the maximum allowed size"));
    }
    Ok(())
}

/// The size of an item by the developer guide, *Item sizes and formats*.
pub(super) fn item_bytes(item: &Item) -> usize {
    item.iter().map(|(name, value)| name.len() + value_bytes(value)).sum()
}

fn value_bytes(value: &Value) -> usize {
    match parts(value) {
        Ok(("S", Value::String(text))) => text.len(),
        Ok(("N", Value::String(digits))) => number_bytes(digits),
        Ok(("B", Value::String(bytes))) => bytes.len() / 4 * 3,
        Ok(("L", Value::Array(values))) => {
            3 + values.iter().map(|value| 1 + value_bytes(value)).sum::<usize>()
        }
        Ok(("M", Value::Object(values))) => 3 + values.len() + item_bytes(values),
        Ok(("NS", Value::Array(values))) => values.iter().filter_map(Value::as_str).map(number_bytes).sum(),
        Ok(("SS" | "BS", Value::Array(values))) => {
            values.iter().filter_map(Value::as_str).map(str::len).sum()
        }
        _ => 1,
    }
}

fn number_bytes(digits: &str) -> usize {
    digits.len().div_ceil(2) + 1
}

/// How two values compare; `None` if they are of different types or have no order.
pub(super) fn compare(one: &Value, other: &Value) -> Option<Ordering> {
    let ((kind, one), (other_kind, other)) = (parts(one).ok()?, parts(other).ok()?);
    match (kind, one, other) {
        _ if kind != other_kind => None,
        ("N", Value::String(one), Value::String(other)) => compare_numbers(one, other),
        ("S", Value::String(one), Value::String(other)) => Some(one.as_bytes().cmp(other.as_bytes())),
        ("B", Value::String(one), Value::String(other)) => {
            Some(STANDARD.decode(one).ok()?.cmp(&STANDARD.decode(other).ok()?))
        }
        _ => (one == other).then_some(Ordering::Equal),
    }
}

/// Whole numbers are compared exactly, as stamps need it.
fn compare_numbers(one: &str, other: &str) -> Option<Ordering> {
    match (one.parse::<i128>(), other.parse::<i128>()) {
        (Ok(one), Ok(other)) => Some(one.cmp(&other)),
        _ => one.parse::<f64>().ok()?.partial_cmp(&other.parse::<f64>().ok()?),
    }
}

/// The sum of two numbers, or the first less the second.
pub(super) fn sum(one: &Value, other: &Value, is_less: bool) -> Result<Value, Failure> {
    let wrong = || Failure::validation("An operand in the update expression has an incorrect data type");
    let number = |value| match parts(value)? {
        ("N", Value::String(digits)) => {
            digits.parse::<i128>().map_err(|_| Failure::unsupported("sums of fractions"))
        }
        _ => Err(wrong()),
    };
    let (one, other): (i128, i128) = (number(one)?, number(other)?);
    let sum = if is_less { one.checked_sub(other) } else { one.checked_add(other) };
    Ok(json!({ "N": sum.ok_or_else(wrong)?.to_string() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked_measured_and_compared() {
        for good in [
            json!({ "S": "" }),
            json!({ "N": "-1.5e3" }),
            json!({ "L": [{ "NULL": true }] }),
            json!({ "NS": ["1", "2"] }),
        ] {
            assert_eq!(check(&good), Ok(()), "{good}");
        }
        for bad in [
            json!({}),
            json!({ "S": "a", "N": "1" }),
            json!({ "N": 1 }),
            json!({ "N": "one" }),
            json!({ "N": "1".repeat(39) }),
            json!({ "SS": [] }),
            json!({ "SS": ["a", "a"] }),
            json!({ "NULL": false }),
            json!({ "X": "a" }),
        ] {
            assert!(check(&bad).is_err(), "{bad}");
        }
        let item = json!({ "ab": { "S": "äb" }, "n": { "N": "1795000000000000" } });
        assert_eq!(item_bytes(item.as_object().unwrap()), 2 + 3 + 1 + 9);
        let number = |digits: &str| json!({ "N": digits });
        let (low, high) = (number("9007199254740992"), number("9007199254740993"));
        assert_eq!(compare(&low, &high), Some(Ordering::Less));
        assert_eq!(compare(&low, &json!({ "S": "1" })), None);
        assert_eq!(compare(&number("10"), &number("9.5")), Some(Ordering::Greater));
        assert_eq!(sum(&high, &number("1"), false), Ok(number("9007199254740994")));
        assert!(sum(&json!({ "S": "1" }), &number("1"), false).is_err());
    }
}
