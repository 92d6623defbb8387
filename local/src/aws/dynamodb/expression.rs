//! Expressions: conditions and updates, as far as this code uses them. Paths lead to attributes of the first level only.

mod parse;

pub(super) use parse::Placeholders;

use super::failure::Failure;
use super::value::{self, Item};
use serde_json::Value;
use std::cmp::Ordering;

/// What a name stands for, or a value of the request.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Operand {
    Attribute(String),
    Value(Value),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    Exists(String),
    BeginsWith(Operand, Operand),
    Compare(Operand, String, Operand),
    Between(Operand, Operand, Operand),
}

/// One change of an update.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    Set(String, Operand),
    SetIfMissing(String, String, Operand),
    SetSum(String, Operand, Operand, bool),
    Add(String, Value),
    Remove(String),
}

impl Operand {
    fn of<'a>(&'a self, item: &'a Item) -> Option<&'a Value> {
        match self {
            Self::Attribute(name) => item.get(name),
            Self::Value(value) => Some(value),
        }
    }
}

impl Condition {
    /// Whether `item` fulfils it. An item that does not exist has no attribute.
    pub(super) fn holds(&self, item: &Item) -> bool {
        let compared = |one: &Operand, other: &Operand| value::compare(one.of(item)?, other.of(item)?);
        match self {
            Self::All(parts) => parts.iter().all(|part| part.holds(item)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(item)),
            Self::Not(part) => !part.holds(item),
            Self::Exists(name) => item.contains_key(name),
            Self::BeginsWith(whole, start) => {
                let text = |operand: &Operand| Some(operand.of(item)?.get("S")?.as_str()?.to_owned());
                text(whole).zip(text(start)).is_some_and(|(whole, start)| whole.starts_with(&start))
            }
            Self::Between(one, low, high) => {
                compared(one, low).is_some_and(Ordering::is_ge)
                    && compared(one, high).is_some_and(Ordering::is_le)
            }
            Self::Compare(one, sign, other) => {
                let order = compared(one, other);
                match sign.as_str() {
                    "=" => order == Some(Ordering::Equal),
                    "<>" => order != Some(Ordering::Equal),
                    "<" => order.is_some_and(Ordering::is_lt),
                    "<=" => order.is_some_and(Ordering::is_le),
                    ">" => order.is_some_and(Ordering::is_gt),
                    _ => order.is_some_and(Ordering::is_ge),
                }
            }
        }
    }
}

impl Change {
    pub(super) fn attribute(&self) -> &str {
        match self {
            Self::Set(name, _)
            | Self::SetIfMissing(name, ..)
            | Self::SetSum(name, ..)
            | Self::Add(name, _)
            | Self::Remove(name) => name,
        }
    }

    /// Changes `item` by what it was `before`.
    pub(super) fn apply(&self, before: &Item, item: &mut Item) -> Result<(), Failure> {
        let existing = |operand: &Operand| {
            operand.of(before).cloned().ok_or_else(|| {
                Failure::validation(
                    "The provided expression refers to an attribute that does not exist in the item",
                )
            })
        };
        let value = match self {
            Self::Remove(name) => {
                item.remove(name);
                return Ok(());
            }
            Self::Set(_, value) => existing(value)?,
            Self::SetIfMissing(_, other, value) => match before.get(other) {
                Some(found) => found.clone(),
                None => existing(value)?,
            },
            Self::SetSum(_, one, other, is_less) => value::sum(&existing(one)?, &existing(other)?, *is_less)?,
            Self::Add(name, value) => match before.get(name) {
                Some(found) => value::sum(found, value, false)?,
                None => value.clone(),
            },
        };
        item.insert(self.attribute().to_owned(), value);
        Ok(())
    }
}

#[cfg(test)]
#[path = "expression_tests.rs"]
mod tests;
