//! A record of the order log, as it is written and read. Pure: nothing here calls the table.

use aws_lc_rs::digest::{SHA256, digest};
use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::{Map, Value};
use shared::item::ItemId;
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::collections::HashMap;
use std::time::Duration;

/// How long a record is kept after its stamp.
pub const RETENTION: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Digits of a stamp: every stamp is below 2^53.
const STAMP_DIGITS: usize = 16;

/// The names of the attributes.
pub(crate) mod name {
    pub(crate) const PARTITION: &str = "item_bucket";
    pub(crate) const SORT: &str = "buyer_stamp";
    pub(crate) const KIND: &str = "kind";
    pub(crate) const EXPIRES_AT: &str = "expires_at";
    pub(crate) const OUTCOME: &str = "outcome";
    pub(crate) const REASON: &str = "reason";
    pub(crate) const DECIDED_AT: &str = "decided_at";
}

/// The only value of `outcome`.
pub(crate) const REFUSED: &str = "refused";

/// What a buyer asked for, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    pub item_id: ItemId,
    pub user_token: UserToken,
    /// The arrival in the buyer's region, by that region's clock.
    pub placed_at: Stamp,
    pub kind: RecordKind,
    /// Main's refusal of an order, if there is one.
    pub refusal: Option<Refusal>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// The buyer orders one unit.
    Order,
    /// The buyer withdraws the order.
    Leave,
}

/// Why and when an order was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: RefusalReason,
    pub decided_at: Stamp,
}

/// Why main does not queue an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalReason {
    /// The queue was closed up to a later stamp.
    TooLate,
    /// The stamp was ahead of main's clock.
    ClockAhead,
    /// There is no such item.
    NoSuchItem,
    /// The stamp is before the item's opening.
    NotOpenYet,
    /// The stamp is not before the item's closing, or the item was finished.
    Closed,
}

/// An attribute is missing, has another type, or a value that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the attribute {0} is missing or has a wrong value")]
pub struct Malformed(pub &'static str);

impl RefusalReason {
    const ALL: [Self; 5] =
        [Self::TooLate, Self::ClockAhead, Self::NoSuchItem, Self::NotOpenYet, Self::Closed];

    /// The last part of the type of the problem that an order gets in direct mode.
    pub fn slug(self) -> &'static str {
        match self {
            Self::TooLate => "too-late",
            Self::ClockAhead => "clock-ahead",
            Self::NoSuchItem => "no-such-item",
            Self::NotOpenYet => "not-open-yet",
            Self::Closed => "closed",
        }
    }
}

impl RecordKind {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Leave => "leave",
        }
    }
}

/// Where attributes are read from: the SDK's answer, or a record of the stream.
trait Attributes {
    /// A value of type string.
    fn text(&self, name: &str) -> Option<&str>;
    /// A value of type number, in digits.
    fn digits(&self, name: &str) -> Option<&str>;
}

impl Attributes for HashMap<String, AttributeValue> {
    fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_s().ok().map(String::as_str)
    }

    fn digits(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_n().ok().map(String::as_str)
    }
}

/// As Lambda delivers an image: `{"kind": {"S": "order"}}`.
impl Attributes for Map<String, Value> {
    fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.get("S")?.as_str()
    }

    fn digits(&self, name: &str) -> Option<&str> {
        self.get(name)?.get("N")?.as_str()
    }
}

impl LogRecord {
    /// A record without an outcome.
    pub fn new(kind: RecordKind, item_id: ItemId, user_token: UserToken, placed_at: Stamp) -> Self {
        Self { item_id, user_token, placed_at, kind, refusal: None }
    }

    /// Reads the new image of a record of the table's stream.
    pub fn from_image(image: &Map<String, Value>) -> Result<Self, Malformed> {
        read(image)
    }

    pub(crate) fn from_item(item: &HashMap<String, AttributeValue>) -> Result<Self, Malformed> {
        read(item)
    }

    /// Reads a record of which a query of `item_id`'s buckets has left out the partition key.
    pub(crate) fn of_item(
        item: &HashMap<String, AttributeValue>,
        item_id: &ItemId,
    ) -> Result<Self, Malformed> {
        let (user_token, placed_at) = read_sort_key(item)?;
        Self::with_key(item, item_id.clone(), user_token, placed_at)
    }

    fn with_key(
        from: &impl Attributes,
        item_id: ItemId,
        user_token: UserToken,
        placed_at: Stamp,
    ) -> Result<Self, Malformed> {
        let kind = match from.text(name::KIND) {
            Some("order") => RecordKind::Order,
            Some("leave") => RecordKind::Leave,
            _ => return Err(Malformed(name::KIND)),
        };
        Ok(Self { item_id, user_token, placed_at, kind, refusal: read_refusal(from)? })
    }

    pub(crate) fn key(&self) -> [(&'static str, AttributeValue); 2] {
        [
            (name::PARTITION, AttributeValue::S(partition(&self.item_id, bucket(&self.user_token)))),
            (name::SORT, AttributeValue::S(sort_key(&self.user_token, self.placed_at))),
        ]
    }

    pub(crate) fn expires_at(&self) -> AttributeValue {
        expires_at(self.placed_at)
    }
}

/// The time to live of a record stamped `placed_at`.
pub(crate) fn expires_at(placed_at: Stamp) -> AttributeValue {
    AttributeValue::N(placed_at.saturating_add(RETENTION).as_secs().to_string())
}

/// The bucket of a buyer, 0 to 255.
pub(crate) fn bucket(user_token: &UserToken) -> u8 {
    digest(&SHA256, user_token.as_str().as_bytes()).as_ref().first().copied().unwrap_or_default()
}

pub(crate) fn partition(item_id: &ItemId, bucket: u8) -> String {
    format!("{item_id}#{bucket:02x}")
}

pub(crate) fn sort_key(user_token: &UserToken, placed_at: Stamp) -> String {
    format!("{}#{:016}", user_token.as_str(), placed_at.as_micros())
}

fn read(from: &impl Attributes) -> Result<LogRecord, Malformed> {
    let (user_token, placed_at) = read_sort_key(from)?;
    let item_id = from.text(name::PARTITION).and_then(|key| parse_partition(key, &user_token));
    LogRecord::with_key(from, item_id.ok_or(Malformed(name::PARTITION))?, user_token, placed_at)
}

fn read_sort_key(from: &impl Attributes) -> Result<(UserToken, Stamp), Malformed> {
    from.text(name::SORT).and_then(parse_sort_key).ok_or(Malformed(name::SORT))
}

fn read_refusal(from: &impl Attributes) -> Result<Option<Refusal>, Malformed> {
    match from.text(name::OUTCOME) {
        None => return Ok(None),
        Some(REFUSED) => {}
        Some(_) => return Err(Malformed(name::OUTCOME)),
    }
    let reason = from.text(name::REASON);
    let reason = RefusalReason::ALL.into_iter().find(|known| Some(known.slug()) == reason);
    let decided_at = from.digits(name::DECIDED_AT).and_then(parse_stamp);
    Ok(Some(Refusal {
        reason: reason.ok_or(Malformed(name::REASON))?,
        decided_at: decided_at.ok_or(Malformed(name::DECIDED_AT))?,
    }))
}

fn parse_partition(key: &str, user_token: &UserToken) -> Option<ItemId> {
    // An item id has no '#'.
    let item_id: ItemId = key.split_once('#')?.0.parse().ok()?;
    (partition(&item_id, bucket(user_token)) == key).then_some(item_id)
}

fn parse_sort_key(key: &str) -> Option<(UserToken, Stamp)> {
    // A buyer's token may have a '#'; a stamp has none.
    let (user_token, stamp) = key.rsplit_once('#')?;
    let stamp = (stamp.len() == STAMP_DIGITS).then(|| parse_stamp(stamp)).flatten()?;
    Some((UserToken::parse(user_token).ok()?, stamp))
}

fn parse_stamp(digits: &str) -> Option<Stamp> {
    let is_plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| digits.parse().ok()).flatten().and_then(|micros| Stamp::from_micros(micros).ok())
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
