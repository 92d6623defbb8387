//! What the server says on a socket. The versions' rule is here: a message says what was so at its
//! `version`, by main's clock, or is newer.

use serde::{Deserialize, Serialize};
use shared::item::{Item, ItemId, Phase};
use shared::problem::Problem;
use shared::queue::{Hold, OrderState};
use shared::stamp::Stamp;

/// The subprotocol that both sides speak.
pub const PROTOCOL: &str = "fairdrop.live.v1";
/// What the offered subprotocol that carries the access token begins with.
pub const BEARER: &str = "bearer.";

/// How an item stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ItemMessage {
    r#type: &'static str,
    /// Which item.
    pub item_id: ItemId,
    /// By main's clock: it was so then, or is newer.
    pub version: Stamp,
    /// The server's clock.
    pub at: Stamp,
    /// What of it the buyer sees.
    #[serde(flatten)]
    pub page: ItemPage,
}

/// What a buyer sees of an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemPage {
    name: String,
    phase: Phase,
    stock_total: u32,
    stock_left: u32,
    opens_at: Stamp,
    closes_at: Option<Stamp>,
    hold_seconds: u32,
}

impl ItemMessage {
    /// What was said of `item_id` at `version`, said again.
    pub fn again(item_id: &ItemId, version: Stamp, page: ItemPage, now: Stamp) -> Self {
        Self { r#type: "item", item_id: item_id.clone(), version, at: now.max(version), page }
    }

    /// What is to be said of `item`, which was so at `as_of`, on a machine whose clock says `now`.
    ///
    /// A gate that has been passed raises the version to its moment, so that no message with an
    /// older phase has a higher one, whatever the clocks of two machines say.
    pub fn new(item: &Item, as_of: Stamp, now: Stamp) -> Self {
        let at = now.max(as_of);
        let passed = [Some(item.opens_at), item.closes_at].into_iter().flatten().filter(|gate| *gate <= at);
        let page = ItemPage {
            name: item.name.clone(),
            phase: item.phase(at),
            stock_total: item.stock_total,
            stock_left: item.stock_left,
            opens_at: item.opens_at,
            closes_at: item.closes_at,
            hold_seconds: item.hold_seconds,
        };
        let version = passed.fold(as_of, Ord::max);
        Self { r#type: "item", item_id: item.item_id.clone(), version, at, page }
    }
}

/// How a buyer's order stands, as it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Status {
    /// There is none.
    None,
    /// It waits.
    Queued {
        /// The stamp that counts.
        placed_at: Stamp,
        /// Orders before it.
        ahead: u64,
    },
    /// A unit is taken out for it.
    Reserved {
        /// When the hold ends, where there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reserved_until: Option<Stamp>,
        /// Whether the buyer has given it back.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        cancelling: bool,
    },
    /// The unit is the buyer's.
    Sold,
    /// The reservation ended unsold.
    Released,
    /// The order was dropped, because its stamp lies outside the item's gates.
    Refused {
        /// Its stamp.
        placed_at: Stamp,
        /// Which gate.
        reason: DropReason,
    },
}

/// Why an order was dropped; the names are those of the problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DropReason {
    /// Stamped before the item opened.
    NotOpenYet,
    /// Stamped after it closed.
    Closed,
}

impl From<OrderState> for Status {
    fn from(state: OrderState) -> Self {
        match state {
            OrderState::None => Self::None,
            OrderState::Queued { placed_at, ahead } => Self::Queued { placed_at, ahead },
            OrderState::Reserved(Hold::Until(until)) => {
                Self::Reserved { reserved_until: Some(until), cancelling: false }
            }
            OrderState::Reserved(Hold::Sale) => Self::Reserved { reserved_until: None, cancelling: false },
            OrderState::Reserved(Hold::Release) => Self::Reserved { reserved_until: None, cancelling: true },
            OrderState::Sold => Self::Sold,
            OrderState::Released => Self::Released,
        }
    }
}

/// How a buyer's order stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OrderMessage {
    r#type: &'static str,
    /// Which item.
    pub item_id: ItemId,
    /// By main's clock: it was so then, or is newer.
    pub version: Stamp,
    /// The server's clock.
    pub at: Stamp,
    /// How it stands.
    #[serde(flatten)]
    pub status: Status,
}

impl OrderMessage {
    /// What is to be said of an order that stood so at `as_of`.
    pub fn new(item_id: &ItemId, status: Status, as_of: Stamp, now: Stamp) -> Self {
        Self { r#type: "order", item_id: item_id.clone(), version: as_of, at: now.max(as_of), status }
    }
}

/// What the server answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Reply {
    /// To `subscribe`.
    Subscribed {
        /// Which item.
        item_id: ItemId,
        /// How it stands.
        item: ItemMessage,
        /// How the buyer's order stands.
        order: OrderMessage,
        /// When the connection ends at the latest.
        expires_at: Stamp,
    },
    /// To `unsubscribe`.
    Unsubscribed {
        /// Which item.
        item_id: ItemId,
    },
    /// To `ping`.
    Pong {
        /// The server's clock.
        at: Stamp,
        /// What this connection watches.
        items: Vec<ItemId>,
        /// When the connection ends at the latest.
        expires_at: Stamp,
    },
    /// To what cannot be done; also said unasked, before a connection is ended.
    Problem {
        /// The problem document.
        problem: serde_json::Value,
        /// Which item it is about.
        #[serde(skip_serializing_if = "Option::is_none")]
        item_id: Option<ItemId>,
        /// Whether the connection is closed next.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        ends: bool,
    },
}

impl Reply {
    /// A problem; `ends` where the connection is closed next.
    pub fn problem(problem: &Problem, item_id: Option<ItemId>, ends: bool) -> Self {
        Self::Problem { problem: problem.document(), item_id, ends }
    }
}

/// `message` as it goes over the line.
pub fn text(message: &impl Serialize) -> String {
    // Only a map with keys that are no text, or a failing Serialize, could fail: there is neither here.
    serde_json::to_string(message).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(micros: u64) -> Stamp {
        Stamp::from_micros(micros).unwrap()
    }

    fn item() -> Item {
        Item {
            item_id: "sneaker-42".parse().unwrap(),
            name: "Sneaker 42".into(),
            stock_total: 10,
            stock_left: 7,
            units_sold: 1,
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
    fn an_older_phase_never_has_a_higher_version() {
        let rank = |message: &ItemMessage| match message.page.phase {
            Phase::Upcoming => 0,
            Phase::Closed => 2,
            _ => 1,
        };
        let mut all = Vec::new();
        for as_of in (50..250).step_by(7) {
            // Machines whose clocks are off by up to 40 against main's.
            for skew in (-40..=40).step_by(8) {
                all.push(ItemMessage::new(&item(), at(as_of), at(as_of.saturating_add_signed(skew))));
            }
        }
        all.sort_by_key(|message| message.version);
        for pair in all.windows(2) {
            assert!(pair[0].version == pair[1].version || rank(&pair[0]) <= rank(&pair[1]), "{pair:?}");
        }
    }

    #[test]
    fn messages_are_as_the_page_says() {
        let message = ItemMessage::new(&item(), at(150), at(140));
        assert_eq!(
            serde_json::to_value(&message).unwrap(),
            json!({ "type": "item", "item_id": "sneaker-42", "version": 150, "at": 150, "name": "Sneaker 42",
                "phase": "open", "stock_total": 10, "stock_left": 7, "opens_at": 100, "closes_at": 200,
                "hold_seconds": 0 })
        );
        let status = Status::Queued { placed_at: at(120), ahead: 3 };
        let order = OrderMessage::new(&item().item_id, status, at(150), at(160));
        assert_eq!(
            serde_json::to_value(&order).unwrap(),
            json!({ "type": "order", "item_id": "sneaker-42", "version": 150, "at": 160, "status": "queued",
                "placed_at": 120, "ahead": 3 })
        );
        let refused = Status::Refused { placed_at: at(99), reason: DropReason::NotOpenYet };
        assert_eq!(
            serde_json::to_value(refused).unwrap(),
            json!({ "status": "refused", "placed_at": 99, "reason": "not-open-yet" })
        );
        let ends = Reply::problem(&Problem::NoSuchItem, None, true);
        let ends = serde_json::to_value(ends).unwrap();
        assert_eq!((&ends["type"], &ends["ends"]), (&json!("problem"), &json!(true)));
    }

    #[test]
    fn a_status_is_read_back() {
        for status in [
            Status::None,
            Status::Sold,
            Status::Released,
            Status::Reserved { reserved_until: None, cancelling: true },
            Status::Reserved { reserved_until: Some(at(7)), cancelling: false },
            Status::Queued { placed_at: at(1), ahead: 2 },
        ] {
            let text = text(&status);
            assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status, "{text}");
        }
    }
}
