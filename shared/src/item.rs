//! What is on sale, and when.

use crate::stamp::Stamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The name of an item: 1 to 64 characters of `A-Z a-z 0-9 . _ -`.
///
/// The alphabet has no braces, colons or spaces, so that an id can stand inside a
/// Redis key and its hash tag.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("pattern" = "^(?!\\.\\.?$)[A-Za-z0-9._-]{1,64}$"))]
pub struct ItemId(String);

/// A text that is no [`ItemId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an item id is 1 to 64 characters of A-Z a-z 0-9 . _ -")]
pub struct ItemIdError;

impl ItemId {
    /// The longest id, in characters.
    pub const MAX_LEN: usize = 64;

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ItemId {
    type Err = ItemIdError;

    fn from_str(text: &str) -> Result<Self, ItemIdError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let well_formed = (1..=Self::MAX_LEN).contains(&text.len()) && text.bytes().all(allowed);
        // "." and ".." would be path steps in every URL that names the item.
        if well_formed && text != "." && text != ".." { Ok(Self(text.to_owned())) } else { Err(ItemIdError) }
    }
}

impl TryFrom<String> for ItemId {
    type Error = ItemIdError;

    fn try_from(text: String) -> Result<Self, ItemIdError> {
        text.parse()
    }
}

impl From<ItemId> for String {
    fn from(id: ItemId) -> String {
        id.0
    }
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An item as Redis has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Which item.
    pub item_id: ItemId,
    /// What buyers see.
    pub name: String,
    /// Units that exist for this drop.
    pub stock_total: u32,
    /// Units that no reservation has taken.
    pub stock_left: u32,
    /// Units that are sold for good.
    pub units_sold: u32,
    /// Units that a failover keeps back until a person puts them on sale.
    pub withheld: u32,
    /// Orders stamped before this moment are not served.
    pub opens_at: Stamp,
    /// Orders stamped from this moment on are not served; `None` stays open.
    pub closes_at: Option<Stamp>,
    /// Seconds a reservation waits for payment; 0 sells at once.
    pub hold_seconds: u32,
    /// Milliseconds an order may travel from its stamp to main. Never changes.
    pub settle_window_ms: u32,
    /// While true nothing is popped and every order keeps its place.
    pub paused: bool,
    /// The reign of the main region under which the item was last written.
    pub epoch: u64,
    /// Until when main may sell it, as main has last said; `None` where no lease is kept.
    pub leased_until: Option<Stamp>,
}

/// What the gates say to an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Stamped before the item opens.
    NotOpenYet,
    /// Stamped while the item is open.
    Open,
    /// Stamped after the item closed.
    Closed,
}

/// Where an item is in its life, as buyers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It opens later.
    Upcoming,
    /// It sells.
    Open,
    /// It takes orders and sells none until it is resumed.
    Paused,
    /// Every unit is taken and none can come back.
    SoldOut,
    /// It takes no more orders.
    Closed,
}

impl Item {
    /// How long an order may travel.
    pub fn settle_window(&self) -> std::time::Duration {
        std::time::Duration::from_millis(self.settle_window_ms.into())
    }

    /// Whether main may sell it at `now`, as far as this copy knows. A main that has lost its lease
    /// is main no more: what it would queue nobody would serve.
    pub fn may_be_sold(&self, now: Stamp) -> bool {
        self.leased_until.is_none_or(|until| now < until)
    }

    /// What the gates say to an order stamped `placed_at`.
    pub fn gate(&self, placed_at: Stamp) -> Gate {
        // An item can be closed before it ever opened.
        if self.closes_at.is_some_and(|closes_at| placed_at >= closes_at) {
            Gate::Closed
        } else if placed_at < self.opens_at {
            Gate::NotOpenYet
        } else {
            Gate::Open
        }
    }

    /// Whether every unit is gone for good. A reservation is not, until the ledger has it as sold, whatever
    /// `hold_seconds` says now: it may have been made with a hold, and come back.
    pub fn is_sold_out(&self) -> bool {
        self.units_sold.saturating_add(self.withheld) >= self.stock_total
    }

    /// Where the item is in its life at `now`.
    pub fn phase(&self, now: Stamp) -> Phase {
        match self.gate(now) {
            Gate::Closed => Phase::Closed,
            Gate::NotOpenYet => Phase::Upcoming,
            Gate::Open if self.is_sold_out() => Phase::SoldOut,
            Gate::Open if self.paused => Phase::Paused,
            Gate::Open => Phase::Open,
        }
    }
}

/// What is needed to put an item on sale.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewItem {
    /// Which item.
    pub item_id: ItemId,
    /// What buyers see: 1 to 200 characters.
    pub name: String,
    /// Units for sale, at most [`NewItem::MAX_STOCK`].
    pub stock_total: u32,
    /// Opening moment, microseconds since the Unix epoch.
    pub opens_at: Stamp,
    /// Closing moment, microseconds since the Unix epoch; absent stays open.
    #[serde(default)]
    pub closes_at: Option<Stamp>,
    /// Seconds a reservation waits for payment, at most a day; 0 sells at once.
    #[serde(default)]
    pub hold_seconds: u32,
    /// Milliseconds an order may travel to main, 50 to 25,000; 2,000 where absent.
    #[serde(default = "default_settle_window_ms")]
    pub settle_window_ms: u32,
}

fn default_settle_window_ms() -> u32 {
    NewItem::DEFAULT_SETTLE_WINDOW_MS
}

/// What may be changed in an item that exists; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ItemChanges {
    /// What buyers see: 1 to 200 characters.
    pub name: Option<String>,
    /// Units for sale, no fewer than are taken already.
    pub stock_total: Option<u32>,
    /// Opening moment, microseconds since the Unix epoch.
    pub opens_at: Option<Stamp>,
    /// Closing moment, microseconds since the Unix epoch.
    pub closes_at: Option<Stamp>,
    /// Seconds a reservation made from now on waits for payment.
    pub hold_seconds: Option<u32>,
}

/// A value that no item may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ItemFieldError {
    /// The name is empty, too long or has control characters.
    #[error("name must be 1 to 200 characters without control characters")]
    Name,
    /// More units than one drop may have.
    #[error("stock_total must be at most {}", NewItem::MAX_STOCK)]
    Stock,
    /// A moment before 2020: seconds or milliseconds, most likely.
    #[error("opens_at and closes_at are microseconds since 1970, and later than 2020")]
    Moment,
    /// It would close before it opens.
    #[error("closes_at must be later than opens_at")]
    Gates,
    /// A hold longer than a day.
    #[error("hold_seconds must be at most {}", NewItem::MAX_HOLD_SECONDS)]
    Hold,
    /// A settle window out of range.
    #[error(
        "settle_window_ms must be {} to {}",
        NewItem::MIN_SETTLE_WINDOW_MS,
        NewItem::MAX_SETTLE_WINDOW_MS
    )]
    SettleWindow,
}

impl NewItem {
    /// The most units one item can have.
    pub const MAX_STOCK: u32 = 10_000_000;
    /// The longest hold: one day.
    pub const MAX_HOLD_SECONDS: u32 = 86_400;
    /// Less would refuse orders for the jitter of a quiet machine.
    pub const MIN_SETTLE_WINDOW_MS: u32 = 50;
    /// More would outlast API Gateway's patience (30 s) with the function that waits.
    pub const MAX_SETTLE_WINDOW_MS: u32 = 25_000;
    /// The first moment of 2020, in microseconds since the Unix epoch.
    const YEAR_2020: u64 = 1_577_836_800_000_000;
    /// The settle window of an item that names none.
    pub const DEFAULT_SETTLE_WINDOW_MS: u32 = 2_000;

    /// Checks every value that its type alone does not.
    pub fn check(&self) -> Result<(), ItemFieldError> {
        check_values(Some(&self.name), Some(self.stock_total), Some(self.hold_seconds))?;
        if self.closes_at.is_some_and(|closes_at| closes_at <= self.opens_at) {
            return Err(ItemFieldError::Gates);
        }
        check_moments([Some(self.opens_at), self.closes_at])?;
        if !(Self::MIN_SETTLE_WINDOW_MS..=Self::MAX_SETTLE_WINDOW_MS).contains(&self.settle_window_ms) {
            return Err(ItemFieldError::SettleWindow);
        }
        Ok(())
    }
}

impl ItemChanges {
    /// Checks every value given. The gates are compared where the item is changed.
    pub fn check(&self) -> Result<(), ItemFieldError> {
        check_values(self.name.as_deref(), self.stock_total, self.hold_seconds)?;
        check_moments([self.opens_at, self.closes_at])
    }
}

fn check_moments(moments: [Option<Stamp>; 2]) -> Result<(), ItemFieldError> {
    let too_early = |moment: Stamp| moment.as_micros() < NewItem::YEAR_2020;
    if moments.into_iter().flatten().any(too_early) { Err(ItemFieldError::Moment) } else { Ok(()) }
}

fn check_values(
    name: Option<&str>,
    stock: Option<u32>,
    hold_seconds: Option<u32>,
) -> Result<(), ItemFieldError> {
    let bad_name =
        |name: &str| !(1..=200).contains(&name.chars().count()) || name.chars().any(char::is_control);
    if name.is_some_and(bad_name) {
        return Err(ItemFieldError::Name);
    }
    if stock.is_some_and(|units| units > NewItem::MAX_STOCK) {
        return Err(ItemFieldError::Stock);
    }
    if hold_seconds.is_some_and(|seconds| seconds > NewItem::MAX_HOLD_SECONDS) {
        return Err(ItemFieldError::Hold);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Stamp {
        Stamp::from_micros(micros).unwrap()
    }

    fn item() -> Item {
        Item {
            item_id: "sneaker-42".parse().unwrap(),
            name: "Sneaker 42".into(),
            stock_total: 10,
            stock_left: 10,
            units_sold: 0,
            withheld: 0,
            opens_at: at(100),
            closes_at: Some(at(200)),
            hold_seconds: 0,
            settle_window_ms: 2_000,
            paused: false,
            epoch: 1,
            leased_until: None,
        }
    }

    #[test]
    fn without_its_lease_it_is_not_sold() {
        let leased = Item { leased_until: Some(at(150)), ..item() };
        assert!(item().may_be_sold(at(9_999)) && leased.may_be_sold(at(149)));
        assert!(!leased.may_be_sold(at(150)));
    }

    #[test]
    fn ids() {
        for good in ["a", "sneaker-42", "A.b_C-9", "...", &"x".repeat(64)] {
            assert_eq!(good.parse::<ItemId>().unwrap().as_str(), good);
        }
        let bad =
            ["", ".", "..", "a/b", "../etc", "{x}", "a b", "a\0", "a:b", "\u{fc}", "%2e", &"x".repeat(65)];
        for text in bad {
            assert_eq!(text.parse::<ItemId>(), Err(ItemIdError), "{text:?}");
        }
    }

    #[test]
    fn gates_include_the_opening_and_exclude_the_closing() {
        for (micros, gate) in
            [(99, Gate::NotOpenYet), (100, Gate::Open), (199, Gate::Open), (200, Gate::Closed)]
        {
            assert_eq!(item().gate(at(micros)), gate, "{micros}");
        }
        assert_eq!(Item { closes_at: None, ..item() }.gate(at(u64::from(u32::MAX))), Gate::Open);
    }

    #[test]
    fn what_is_not_sold_may_still_come_back() {
        // Reserved to the last unit; the hold may have been longer when they were.
        for hold_seconds in [0, 60] {
            let empty = Item { stock_left: 0, units_sold: 9, hold_seconds, ..item() };
            assert_eq!(empty.phase(at(150)), Phase::Open);
            assert_eq!(Item { units_sold: 10, ..empty }.phase(at(150)), Phase::SoldOut);
        }
        let rest_withheld = Item { stock_left: 0, units_sold: 7, withheld: 3, ..item() };
        assert_eq!(rest_withheld.phase(at(150)), Phase::SoldOut);
        assert_eq!(Item { stock_left: 0, stock_total: 0, ..item() }.phase(at(150)), Phase::SoldOut);
    }

    #[test]
    fn values_have_limits() {
        let new: NewItem =
            serde_json::from_str(r#"{"item_id":"a","name":"A","stock_total":1,"opens_at":1795000000000000}"#)
                .unwrap();
        assert_eq!(new.check(), Ok(()));
        assert_eq!(new.settle_window_ms, 2_000);
        let cases = [
            (NewItem { name: String::new(), ..new.clone() }, ItemFieldError::Name),
            (NewItem { name: "a\nb".into(), ..new.clone() }, ItemFieldError::Name),
            (NewItem { stock_total: 10_000_001, ..new.clone() }, ItemFieldError::Stock),
            (NewItem { closes_at: Some(new.opens_at), ..new.clone() }, ItemFieldError::Gates),
            (NewItem { opens_at: at(1_795_000_000_000), ..new.clone() }, ItemFieldError::Moment),
            (NewItem { hold_seconds: 86_401, ..new.clone() }, ItemFieldError::Hold),
            (NewItem { settle_window_ms: 49, ..new.clone() }, ItemFieldError::SettleWindow),
            (NewItem { settle_window_ms: 25_001, ..new }, ItemFieldError::SettleWindow),
        ];
        for (bad, why) in cases {
            assert_eq!(bad.check(), Err(why));
        }
    }
}
