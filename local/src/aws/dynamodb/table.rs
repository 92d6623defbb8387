//! A table: its items in the order of their keys, its throughput, and its stream.

use super::expression::{Change, Condition, Operand};
use super::failure::Failure;
use super::stream::Stream;
use super::throughput::{Throughput, Units};
use super::value::{self, Item};
use rand::Rng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::{Duration, Instant};

/// How old a value an eventually consistent read may return: usually a second or less, says the developer guide.
const STALE: Duration = Duration::from_secs(1);
const MAX_PARTITION_KEY_BYTES: usize = 2_048;
const MAX_SORT_KEY_BYTES: usize = 1_024;

/// The values of an item's keys. Without a sort key, its value is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) partition: String,
    pub(super) sort: String,
}

/// An item and what it was before.
#[derive(Debug)]
struct Stored {
    item: Option<Item>,
    before: Option<Item>,
    at: Instant,
}

impl Stored {
    /// What a read finds.
    fn read(&self, is_consistent: bool, chance: &mut SmallRng) -> Option<&Item> {
        let is_stale = !is_consistent && self.at.elapsed() < STALE && chance.random_bool(0.5);
        if is_stale { self.before.as_ref() } else { self.item.as_ref() }
    }
}

#[derive(Debug)]
pub(super) struct Table {
    pub(super) arn: String,
    /// The names of the partition key and the sort key.
    pub(super) keys: (String, Option<String>),
    /// The request that created it.
    pub(super) created: Value,
    pub(super) created_seconds: u64,
    pub(super) stream: Option<Stream>,
    pub(super) throughput: Throughput,
    /// Of the calls, the share that is throttled whatever the throughput is.
    pub(super) throttled: f64,
    items: BTreeMap<String, BTreeMap<String, Stored>>,
}

impl Table {
    pub(super) fn new(
        arn: String,
        keys: (String, Option<String>),
        created: Value,
        stream: Option<Stream>,
        throughput: Throughput,
    ) -> Self {
        let created_seconds = crate::system::clock::micros_now() / 1_000_000;
        Self {
            arn,
            keys,
            created,
            created_seconds,
            stream,
            throughput,
            throttled: 0.0,
            items: BTreeMap::new(),
        }
    }

    /// The key that `attributes` have.
    pub(super) fn key_of(&self, attributes: &Item) -> Result<Key, Failure> {
        let text = |name: &str, most: usize| {
            let wrong = |what| {
                Failure::validation(format!(
                    "The provided key element does not match the schema: {name} {what}"
                ))
            };
            let value = attributes.get(name).ok_or_else(|| wrong("is missing"))?;
            match value::parts(value)? {
                ("S", Value::String(text)) if text.is_empty() => Err(wrong("is an empty string value")),
                ("S", Value::String(text)) if text.len() > most => Err(wrong("is too long")),
                ("S", Value::String(text)) => Ok(text.clone()),
                _ => Err(wrong("has another type")),
            }
        };
        let partition = text(&self.keys.0, MAX_PARTITION_KEY_BYTES)?;
        let sort = self.keys.1.as_ref().map_or(Ok(String::new()), |name| text(name, MAX_SORT_KEY_BYTES))?;
        Ok(Key { partition, sort })
    }

    /// The key in the member `name` of a request. It must have the table's keys and nothing else.
    pub(super) fn key_in(&self, request: &Value, name: &str) -> Result<Key, Failure> {
        let key = request.get(name).and_then(Value::as_object);
        let key = key.ok_or_else(|| Failure::validation(format!("{name} must not be null")))?;
        if key.len() != 1 + usize::from(self.keys.1.is_some()) {
            return Err(Failure::validation("The provided key element does not match the schema"));
        }
        self.key_of(key)
    }

    pub(super) fn key_attributes(&self, key: &Key) -> Item {
        let mut attributes = Item::new();
        attributes.insert(self.keys.0.clone(), json!({ "S": key.partition }));
        if let Some(name) = &self.keys.1 {
            attributes.insert(name.clone(), json!({ "S": key.sort }));
        }
        attributes
    }

    pub(super) fn is_key(&self, attribute: &str) -> bool {
        self.keys.0 == attribute || self.keys.1.as_deref() == Some(attribute)
    }

    /// Takes the units of a call on a partition key, or says why it is throttled.
    pub(super) fn admit(
        &mut self,
        partition_key: &str,
        kind: Units,
        units: f64,
        chance: &mut SmallRng,
    ) -> Result<(), Failure> {
        let partition = self.throughput.partition_of(partition_key);
        let is_admitted = !chance.random_bool(self.throttled)
            && self.throughput.take(partition, kind, units, Instant::now());
        if is_admitted { Ok(()) } else { Err(Failure::throttled(kind.reason(), &self.arn, chance.random())) }
    }

    pub(super) fn get(&self, key: &Key, is_consistent: bool, chance: &mut SmallRng) -> Option<&Item> {
        self.items.get(&key.partition)?.get(&key.sort)?.read(is_consistent, chance)
    }

    /// Replaces the item at `key`, and writes the change to the stream. A write that changes nothing leaves no record
    /// there.
    pub(super) fn replace(&mut self, key: &Key, item: Option<Item>, chance: &mut SmallRng) {
        let stored = self.items.entry(key.partition.clone()).or_default();
        let before = stored.get_mut(&key.sort).and_then(|stored| stored.item.take());
        let change = (before.clone(), item.clone());
        stored.insert(key.sort.clone(), Stored { item, before, at: Instant::now() });
        if change.0 == change.1 {
            return;
        }
        let (keys, partition) = (self.key_attributes(key), self.throughput.partition_of(&key.partition));
        if let Some(stream) = &mut self.stream {
            stream.append(partition, &keys, change.0.as_ref(), change.1.as_ref(), chance);
        }
    }

    /// Items of one partition key from `from` on, in either direction.
    pub(super) fn range<'a>(
        &'a self,
        partition: &str,
        from: Option<&str>,
        is_forward: bool,
        is_consistent: bool,
        chance: &'a mut SmallRng,
    ) -> impl Iterator<Item = &'a Item> {
        let bounds = match from {
            None => (Bound::Unbounded, Bound::Unbounded),
            Some(last) if is_forward => (Bound::Excluded(last.to_owned()), Bound::Unbounded),
            Some(last) => (Bound::Unbounded, Bound::Excluded(last.to_owned())),
        };
        let mut found = self.items.get(partition).map(|items| items.range::<String, _>(bounds));
        let next = move || {
            let found = found.as_mut()?;
            let (_, stored) = if is_forward { found.next()? } else { found.next_back()? };
            Some(stored.read(is_consistent, chance))
        };
        std::iter::from_fn(next).flatten()
    }

    /// All items.
    pub(super) fn all(&self) -> impl Iterator<Item = &Item> {
        self.items.values().flat_map(BTreeMap::values).filter_map(|stored| stored.item.as_ref())
    }
}

/// The partition key that a key condition names, and its condition on the sort key.
pub(super) fn key_condition(
    table: &Table,
    condition: Condition,
) -> Result<(String, Vec<Condition>), Failure> {
    let wrong = || Failure::validation("Query key condition not supported");
    let parts = match condition {
        Condition::All(parts) => parts,
        one => vec![one],
    };
    let (mut partition, mut rest) = (None, Vec::new());
    for part in parts {
        match &part {
            Condition::Compare(Operand::Attribute(name), sign, Operand::Value(value))
                if *name == table.keys.0 && sign == "=" =>
            {
                partition = Some(value.get("S").and_then(Value::as_str).ok_or_else(wrong)?.to_owned());
            }
            Condition::Compare(Operand::Attribute(name), sign, Operand::Value(_))
                if sign != "<>" && table.keys.1.as_ref() == Some(name) =>
            {
                rest.push(part)
            }
            Condition::Between(Operand::Attribute(name), Operand::Value(low), Operand::Value(high))
                if table.keys.1.as_ref() == Some(name) =>
            {
                if value::compare(low, high).is_none_or(std::cmp::Ordering::is_gt) {
                    return Err(Failure::validation(
                        "The BETWEEN operator requires upper bound to be greater than or equal to lower bound",
                    ));
                }
                rest.push(part);
            }
            Condition::BeginsWith(Operand::Attribute(name), Operand::Value(_))
                if table.keys.1.as_ref() == Some(name) =>
            {
                rest.push(part)
            }
            _ => return Err(wrong()),
        }
    }
    if rest.len() > 1 {
        return Err(wrong());
    }
    let missed =
        || Failure::validation(format!("Query condition missed key schema element: {}", table.keys.0));
    Ok((partition.ok_or_else(missed)?, rest))
}

/// Refuses an update that changes a key.
pub(super) fn must_leave_keys(table: &Table, changes: &[Change]) -> Result<(), Failure> {
    match changes.iter().map(Change::attribute).find(|name| table.is_key(name)) {
        Some(name) => Err(Failure::validation(format!(
            "One or more parameter values were invalid: Cannot update attribute {name}. This attribute is part of the key"
        ))),
        None => Ok(()),
    }
}
