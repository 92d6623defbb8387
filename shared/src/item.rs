//! An item, and when it sells.

use crate::stamp::Stamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The name of an item: 1 to 64 characters of `A-Z a-z 0-9 . _ -`.
///
/// The alphabet has no braces, colons or spaces, so that a Redis key and its hash tag can contain an id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("pattern" = "^(?!\\.\\.?$)[A-Za-z0-9._-]{1,64}$"))]
pub struct ItemId(String);

/// A text that is not an [`ItemId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an item id is 1 to 64 characters of A-Z a-z 0-9 . _ -")]
pub struct ItemIdError;

impl ItemId {
    /// The longest id, in characters.
    pub const MAX_LEN: usize = 64;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ItemId {
    type Err = ItemIdError;

    fn from_str(text: &str) -> Result<Self, ItemIdError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let well_formed = (1..=Self::MAX_LEN).contains(&text.len()) && text.bytes().all(allowed);
        // "." and ".." would be path segments in every URL of the item.
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
    pub item_id: ItemId,
    /// As buyers see it.
    pub name: String,
    /// Units of this drop.
    pub stock_total: u32,
    /// Units without a reservation.
    pub stock_left: u32,
    /// Units whose sale is final.
    pub units_sold: u32,
    /// Units that a failover withholds until an operator puts them on sale.
    pub withheld: u32,
    /// Orders stamped before this moment are not served.
    pub opens_at: Stamp,
    /// Orders stamped at this moment or later are not served; `None` never closes.
    pub closes_at: Option<Stamp>,
    /// Seconds a reservation waits for payment; 0 sells at once.
    pub hold_seconds: u32,
    /// Milliseconds from an order's stamp until it is served, while orders arrive in time.
    pub settle_window_ms: u32,
    /// The same at the moment: longer than the settle window while orders take long to reach main.
    pub settle_delay_ms: u32,
    /// While true no order is drained and every order keeps its place.
    pub paused: bool,
    /// The epoch under which the item was last written.
    pub epoch: u64,
    /// When the item was finished: from then on no unit of it is reserved, whatever waits.
    pub finished_at: Option<Stamp>,
}

/// Whether the gates `opens_at` and `closes_at` admit an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    NotOpenYet,
    Open,
    /// Stamped at or after `closes_at`, even if that is before `opens_at`.
    Closed,
}

impl Gate {
    /// Whether an item with these times admits an order stamped `placed_at`.
    pub fn at(opens_at: Stamp, closes_at: Option<Stamp>, placed_at: Stamp) -> Self {
        // First, since an item can be closed before it has opened.
        if closes_at.is_some_and(|closes_at| placed_at >= closes_at) {
            Self::Closed
        } else if placed_at < opens_at {
            Self::NotOpenYet
        } else {
            Self::Open
        }
    }
}

/// The phase of an item, as buyers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It opens later.
    Upcoming,
    /// It takes orders and sells.
    Open,
    /// It takes orders, but sells no unit until it is resumed.
    Paused,
    /// Every unit is sold or withheld: one returns only if an operator takes it back or adds stock.
    SoldOut,
    /// It takes no more orders.
    Closed,
}

impl Item {
    pub fn settle_window(&self) -> std::time::Duration {
        std::time::Duration::from_millis(self.settle_window_ms.into())
    }

    /// Whether the gates admit an order stamped `placed_at`.
    pub fn gate(&self, placed_at: Stamp) -> Gate {
        Gate::at(self.opens_at, self.closes_at, placed_at)
    }

    /// Whether the item has ended: a buyer without a unit gets none, unless it opens again.
    pub fn is_finished(&self) -> bool {
        self.finished_at.is_some()
    }

    /// Whether every unit is sold or withheld. A reservation does not count until the ledger has sold it, even if
    /// `hold_seconds` is 0 now: it may have been made with a hold, and its unit could return.
    pub fn is_sold_out(&self) -> bool {
        self.units_sold.saturating_add(self.withheld) >= self.stock_total
    }

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

/// The data of a new item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewItem {
    pub item_id: ItemId,
    /// As buyers see it: 1 to 200 characters.
    pub name: String,
    /// Units for sale, at most [`NewItem::MAX_STOCK`].
    pub stock_total: u32,
    /// Opening moment, microseconds since the Unix epoch.
    pub opens_at: Stamp,
    /// Closing moment, microseconds since the Unix epoch; an item without it never closes.
    #[serde(default)]
    pub closes_at: Option<Stamp>,
    /// Seconds a reservation waits for payment, at most a day; 0 sells at once.
    #[serde(default)]
    pub hold_seconds: u32,
    /// The longest time, in seconds, from a reservation to the end of its hold, for a pending payment that names a
    /// later end: at most 14 days. 0 extends a hold once, by `hold_seconds`.
    #[serde(default)]
    pub max_hold_seconds: u32,
    /// Milliseconds from an order's stamp until it is served, 50 to 10,000; the default is 2,000.
    #[serde(default = "default_settle_window_ms")]
    pub settle_window_ms: u32,
}

fn default_settle_window_ms() -> u32 {
    NewItem::DEFAULT_SETTLE_WINDOW_MS
}

/// Changes of an existing item. An absent field stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ItemChanges {
    /// As buyers see it: 1 to 200 characters.
    pub name: Option<String>,
    /// Units for sale, at least the number that is already taken.
    pub stock_total: Option<u32>,
    /// Opening moment, microseconds since the Unix epoch.
    pub opens_at: Option<Stamp>,
    /// Closing moment, microseconds since the Unix epoch.
    pub closes_at: Option<Stamp>,
    /// Seconds that a later reservation waits for payment.
    pub hold_seconds: Option<u32>,
    /// Seconds from a reservation to the latest end of its hold; also for reservations that exist.
    pub max_hold_seconds: Option<u32>,
    /// Milliseconds from an order's stamp until it is served, 50 to 10,000.
    pub settle_window_ms: Option<u32>,
}

/// A value that an item must not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ItemFieldError {
    #[error("name must be 1 to 200 characters without control characters")]
    Name,
    #[error("stock_total must be at most {}", NewItem::MAX_STOCK)]
    Stock,
    /// A moment before 2020: probably seconds or milliseconds.
    #[error("opens_at and closes_at are microseconds since 1970, and later than 2020")]
    Moment,
    #[error("closes_at must be later than opens_at")]
    Gates,
    #[error("hold_seconds must be at most {}", NewItem::MAX_HOLD_SECONDS)]
    Hold,
    #[error("max_hold_seconds must be at most {}", NewItem::LONGEST_HOLD_SECONDS)]
    LongHold,
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
    /// The latest end of a hold that payments extend: 14 days, as for a payment in a shop or by bank transfer.
    pub const LONGEST_HOLD_SECONDS: u32 = 1_209_600;
    /// A shorter window would refuse orders because of the jitter of an idle machine.
    pub const MIN_SETTLE_WINDOW_MS: u32 = 50;
    /// [`MAX_WINDOW`](crate::queue::MAX_WINDOW), to which the delay may grow.
    pub const MAX_SETTLE_WINDOW_MS: u32 = 10_000;
    /// The first moment of 2020, in microseconds since the Unix epoch.
    const YEAR_2020: u64 = 1_577_836_800_000_000;
    /// The default settle window.
    pub const DEFAULT_SETTLE_WINDOW_MS: u32 = 2_000;

    /// Checks every value that its type does not check.
    pub fn check(&self) -> Result<(), ItemFieldError> {
        check_values(Some(&self.name), Some(self.stock_total), Some(self.hold_seconds))?;
        check_long_hold(self.max_hold_seconds)?;
        if self.closes_at.is_some_and(|closes_at| closes_at <= self.opens_at) {
            return Err(ItemFieldError::Gates);
        }
        check_moments([Some(self.opens_at), self.closes_at])?;
        check_window(self.settle_window_ms)
    }
}

impl ItemChanges {
    /// Checks every given value. Ledger and Redis compare the gates when they change the item.
    pub fn check(&self) -> Result<(), ItemFieldError> {
        check_values(self.name.as_deref(), self.stock_total, self.hold_seconds)?;
        self.max_hold_seconds.map_or(Ok(()), check_long_hold)?;
        self.settle_window_ms.map_or(Ok(()), check_window)?;
        check_moments([self.opens_at, self.closes_at])
    }
}

fn check_long_hold(seconds: u32) -> Result<(), ItemFieldError> {
    if seconds <= NewItem::LONGEST_HOLD_SECONDS { Ok(()) } else { Err(ItemFieldError::LongHold) }
}

fn check_window(settle_window_ms: u32) -> Result<(), ItemFieldError> {
    if (NewItem::MIN_SETTLE_WINDOW_MS..=NewItem::MAX_SETTLE_WINDOW_MS).contains(&settle_window_ms) {
        Ok(())
    } else {
        Err(ItemFieldError::SettleWindow)
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
            settle_delay_ms: 2_000,
            paused: false,
            epoch: 1,
            finished_at: None,
        }
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
            (NewItem { max_hold_seconds: 1_209_601, ..new.clone() }, ItemFieldError::LongHold),
            (NewItem { settle_window_ms: 49, ..new.clone() }, ItemFieldError::SettleWindow),
            (NewItem { settle_window_ms: 10_001, ..new }, ItemFieldError::SettleWindow),
        ];
        for (bad, why) in cases {
            assert_eq!(bad.check(), Err(why));
        }
    }
}
