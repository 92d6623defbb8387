//! The server's messages. The rule of versions: the content of a message was true at its `version`, by main's clock, or
//! is newer.

use order_log::Accepted;
use serde::{Deserialize, Serialize};
use shared::item::{Item, ItemId, Phase};
use shared::problem::Problem;
use shared::queue::{Hold, OrderState};
use shared::stamp::Stamp;

/// The subprotocol of live updates.
pub const PROTOCOL: &str = "fairdrop.live.v1";
/// The prefix of the offered subprotocol that contains the access token.
pub const BEARER: &str = "bearer.";

/// The status of an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ItemMessage {
    r#type: &'static str,
    pub item_id: ItemId,
    /// By main's clock. The status was true at this moment, or is newer.
    pub version: Stamp,
    /// The server's clock.
    pub at: Stamp,
    #[serde(flatten)]
    pub page: ItemPage,
}

/// The fields of an item that a buyer sees.
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

impl ItemPage {
    /// Whether the item took no more orders.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }
}

impl ItemMessage {
    /// The message about `item_id` with an earlier `version` and `page`, for a repetition.
    pub fn again(item_id: &ItemId, version: Stamp, page: ItemPage, now: Stamp) -> Self {
        Self { r#type: "item", item_id: item_id.clone(), version, at: now.max(version), page }
    }

    /// The message about `item`, which was true at `as_of`, on a machine whose clock is at `now`.
    ///
    /// A gate in the past raises the version to its moment. So no message with an older phase has a higher version,
    /// whatever the difference between the clocks of two machines.
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

/// The status of a buyer's order in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Status {
    /// There is no order.
    None,
    /// The region has stored the order durably, and main has not decided about it.
    Accepted {
        placed_at: Stamp,
        /// When main has decided, unless it cannot be reached.
        decided_by: Stamp,
    },
    /// The order is in the queue.
    Queued {
        placed_at: Stamp,
        /// The number of orders before it.
        ahead: u64,
    },
    /// A unit is reserved.
    Reserved {
        /// The end of the hold, if there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reserved_until: Option<Stamp>,
        /// Whether the buyer has given it back.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        cancelling: bool,
    },
    /// The buyer has bought the unit.
    Sold,
    /// The reservation ended without a sale.
    Released,
    /// An operator has taken the reserved or sold unit back.
    Voided,
    /// The buyer gets no unit of the item.
    Excluded,
    /// The item was finished, and the buyer has no unit.
    Over,
    /// The order is not in the queue: main refused it, or the drain dropped it, since its stamp is outside the item's gates.
    Refused { placed_at: Stamp, reason: DropReason },
}

/// Why an order is not queued. The names are those of the problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DropReason {
    NotOpenYet,
    Closed,
    TooLate,
    ClockAhead,
    NoSuchItem,
    /// A reason of a newer version.
    #[serde(other)]
    Other,
}

impl From<Accepted> for Status {
    fn from(accepted: Accepted) -> Self {
        match accepted {
            Accepted::Undecided { placed_at, decided_by } => Self::Accepted { placed_at, decided_by },
            Accepted::Refused { placed_at, reason } => {
                let reason = serde_json::from_value(reason.into()).unwrap_or(DropReason::Other);
                Self::Refused { placed_at, reason }
            }
        }
    }
}

impl Status {
    /// The status of an order that main has in `state`.
    pub fn of(state: OrderState, item: &Item) -> Self {
        if item.is_finished() && state.could_be_served() { Self::Over } else { state.into() }
    }
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
            OrderState::Voided => Self::Voided,
            OrderState::Excluded => Self::Excluded,
        }
    }
}

/// The status of a buyer's order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OrderMessage {
    r#type: &'static str,
    pub item_id: ItemId,
    /// By main's clock. The status was true at this moment, or is newer.
    pub version: Stamp,
    /// The server's clock.
    pub at: Stamp,
    #[serde(flatten)]
    pub status: Status,
}

impl OrderMessage {
    /// The message about an order whose `status` was true at `as_of`.
    pub fn new(item_id: &ItemId, status: Status, as_of: Stamp, now: Stamp) -> Self {
        Self { r#type: "order", item_id: item_id.clone(), version: as_of, at: now.max(as_of), status }
    }
}

/// An answer of the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Reply {
    /// To `subscribe`.
    Subscribed {
        item_id: ItemId,
        item: ItemMessage,
        order: OrderMessage,
        /// The latest end of the connection.
        expires_at: Stamp,
    },
    /// To `unsubscribe`.
    Unsubscribed { item_id: ItemId },
    /// To `ping`.
    Pong {
        /// The server's clock.
        at: Stamp,
        /// The items that this connection watches.
        items: Vec<ItemId>,
        /// The latest end of the connection.
        expires_at: Stamp,
    },
    /// To a request that is refused. Also sent before the server ends a connection.
    Problem {
        problem: serde_json::Value,
        #[serde(skip_serializing_if = "Option::is_none")]
        item_id: Option<ItemId>,
        /// Whether the server closes the connection next.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        ends: bool,
    },
}

impl Reply {
    pub fn problem(problem: &Problem, item_id: Option<ItemId>, ends: bool) -> Self {
        Self::Problem { problem: problem.document(), item_id, ends }
    }
}

/// `message` as JSON.
pub fn text(message: &impl Serialize) -> String {
    // This can fail only for a map whose keys are not texts, or for a failing Serialize; there is neither here.
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
            settle_delay_ms: 2_000,
            paused: false,
            epoch: 1,
            finished_at: None,
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
    fn messages_have_the_documented_form() {
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
            Status::Voided,
            Status::Excluded,
            Status::Over,
            Status::Reserved { reserved_until: None, cancelling: true },
            Status::Reserved { reserved_until: Some(at(7)), cancelling: false },
            Status::Queued { placed_at: at(1), ahead: 2 },
            Status::Accepted { placed_at: at(1), decided_by: at(2) },
            Accepted::Refused { placed_at: at(1), reason: "clock-ahead" }.into(),
        ] {
            let text = text(&status);
            assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status, "{text}");
        }
    }
}
