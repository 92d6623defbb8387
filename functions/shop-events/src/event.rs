//! Events as the shop gets them: the `detail` and the `detail-type` of an EventBridge event, and their schemas.
//!
//! The documents in `events/out/` are written from these types. A member may be added within a version; a change of one
//! needs a new version.

use ledger::{EventSale, OutboxEvent, OutboxEventKind};
use schemars::{JsonSchema, schema_for};
use serde::Serialize;
use serde_json::{Value, json};
use shared::item::ItemId;
use shared::stamp::Stamp;

const VERSION: u8 = 1;

/// What all events have.
#[derive(Debug, Serialize, JsonSchema)]
struct Detail<'a, T> {
    /// `{item_id}/{epoch}/{sequence}`: the same if an event comes twice.
    id: String,
    /// The version of this schema.
    version: u8,
    #[serde(rename = "type")]
    kind: &'static str,
    item_id: &'a ItemId,
    /// The fencing token of main: it goes up at each failover. If an event of a higher epoch has a sequence that was
    /// known under a lower one, the failover has lost what was known: read the item's sales.
    epoch: u64,
    /// The position among the item's events: 1, 2, 3 … EventBridge may deliver in another order; a gap means that an
    /// event is still to come.
    sequence: u64,
    /// When the change was decided: microseconds since the Unix epoch, by the ledger's clock.
    at: Stamp,
    #[serde(flatten)]
    change: T,
}

/// The buyer's reservation.
#[derive(Debug, Serialize, JsonSchema)]
struct Reservation<'a> {
    /// The buyer: the `sub` of their access tokens.
    #[schemars(length(min = 1, max = 255))]
    user_token: &'a str,
    /// The stamp of the order: microseconds since the Unix epoch.
    placed_at: Stamp,
    /// When the unit was reserved. It distinguishes a buyer's reservations of an item.
    reserved_at: Stamp,
}

/// A unit waits for the buyer's payment until `hold_until`.
#[derive(Debug, Serialize, JsonSchema)]
struct Held<'a> {
    #[serde(flatten)]
    reservation: Reservation<'a>,
    /// The end of the hold: microseconds since the Unix epoch.
    hold_until: Stamp,
}

/// A unit that the buyer has bought.
#[derive(Debug, Serialize, JsonSchema)]
struct Bought<'a> {
    #[serde(flatten)]
    reservation: Reservation<'a>,
    /// The payment that bought it. Absent if none has: the item has no hold, or a reserved unit was voided.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    payment_reference: Option<&'a str>,
}

/// From `closes_at` on the item takes no orders. Orders from before may still get units.
#[derive(Debug, Serialize, JsonSchema)]
struct Closing {
    /// Microseconds since the Unix epoch.
    closes_at: Stamp,
}

/// The `detail-type` of an event.
pub fn detail_type(kind: &OutboxEventKind) -> &'static str {
    match kind {
        OutboxEventKind::Reserved(_) => "fairdrop reserved",
        OutboxEventKind::Extended(_) => "fairdrop extended",
        OutboxEventKind::Sold(_) => "fairdrop sold",
        OutboxEventKind::Released(_) => "fairdrop released",
        OutboxEventKind::Voided(_) => "fairdrop voided",
        OutboxEventKind::Closed { .. } => "fairdrop closed",
    }
}

/// The `detail` of an event.
pub fn detail(event: &OutboxEvent) -> Result<String, serde_json::Error> {
    match &event.kind {
        OutboxEventKind::Reserved(sale) | OutboxEventKind::Extended(sale) => {
            write(event, Held { reservation: reservation(sale), hold_until: sale.hold_until })
        }
        OutboxEventKind::Sold(sale) | OutboxEventKind::Voided(sale) => {
            let payment_reference = sale.payment_reference.as_deref();
            write(event, Bought { reservation: reservation(sale), payment_reference })
        }
        OutboxEventKind::Released(sale) => write(event, reservation(sale)),
        OutboxEventKind::Closed { closes_at } => write(event, Closing { closes_at: *closes_at }),
    }
}

fn write<T: Serialize>(event: &OutboxEvent, change: T) -> Result<String, serde_json::Error> {
    let OutboxEvent { item_id, sequence, epoch, at, kind } = event;
    serde_json::to_string(&Detail {
        id: format!("{item_id}/{epoch}/{sequence}"),
        version: VERSION,
        kind: type_of(detail_type(kind)),
        item_id,
        epoch: *epoch,
        sequence: *sequence,
        at: *at,
        change,
    })
}

/// The member `type`: the detail type's last word.
fn type_of(detail_type: &'static str) -> &'static str {
    detail_type.rsplit(' ').next().unwrap_or(detail_type)
}

fn reservation(sale: &EventSale) -> Reservation<'_> {
    Reservation {
        user_token: sale.user_token.as_str(),
        placed_at: sale.placed_at,
        reserved_at: sale.reserved_at,
    }
}

/// The schema of each `detail`, with the name of its file in `events/out/`.
pub fn schemas() -> Vec<(String, Value)> {
    let held = || schema_for!(Detail<'static, Held<'static>>).to_value();
    let bought = || schema_for!(Detail<'static, Bought<'static>>).to_value();
    [
        ("reserved", "A unit is reserved for a buyer.", held()),
        ("extended", "The hold of a reservation ends later than before.", held()),
        ("sold", "A buyer has bought a unit.", bought()),
        (
            "released",
            "A reservation ended without a sale: the hold ended, the buyer cancelled, or the payment failed.",
            schema_for!(Detail<'static, Reservation<'static>>).to_value(),
        ),
        (
            "voided",
            "The shop has taken a reserved or sold unit back; the payment has to be returned.",
            bought(),
        ),
        (
            "closed",
            "From a moment on the item takes no orders. Those from before may still get units.",
            schema_for!(Detail<'static, Closing>).to_value(),
        ),
    ]
    .map(|(name, description, mut schema)| {
        schema["title"] = json!(format!("fairdrop {name}"));
        schema["description"] = json!(description);
        schema["properties"]["type"] = json!({ "const": name });
        schema["properties"]["version"]["const"] = json!(VERSION);
        (format!("{name}.v{VERSION}.json"), schema)
    })
    .into()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use shared::user_token::UserToken;

    fn event(kind: fn(EventSale) -> OutboxEventKind, name: &str, payment: Option<&str>) -> OutboxEvent {
        let at = |micros| Stamp::from_micros(micros).unwrap();
        OutboxEvent {
            item_id: "shoe-42".parse().unwrap(),
            sequence: 7,
            epoch: 2,
            at: at(9),
            kind: kind(EventSale {
                user_token: UserToken::parse(name).unwrap(),
                placed_at: at(1),
                reserved_at: at(2),
                hold_until: at(3),
                payment_reference: payment.map(str::to_owned),
            }),
        }
    }

    /// Every character of its texts is escaped in JSON.
    pub(crate) fn longest() -> OutboxEvent {
        OutboxEvent {
            item_id: "x".repeat(64).parse().unwrap(),
            sequence: u64::MAX,
            epoch: u64::MAX,
            ..event(OutboxEventKind::Sold, &"\\".repeat(255), Some(&"\\".repeat(255)))
        }
    }

    #[test]
    fn a_detail_has_an_id_and_the_sale() {
        let sold = detail(&event(OutboxEventKind::Sold, "ann", Some("pi_1"))).unwrap();
        let expected = json!({
            "id": "shoe-42/2/7", "version": 1, "type": "sold", "item_id": "shoe-42", "epoch": 2, "sequence": 7,
            "at": 9, "user_token": "ann", "placed_at": 1, "reserved_at": 2, "payment_reference": "pi_1",
        });
        assert_eq!(serde_json::from_str::<Value>(&sold).unwrap(), expected);
    }

    #[test]
    fn each_detail_has_the_members_of_its_schema() {
        let schemas = schemas();
        let closed = OutboxEventKind::Closed { closes_at: Stamp::EPOCH };
        let kinds: [fn(EventSale) -> OutboxEventKind; 5] = [
            OutboxEventKind::Reserved,
            OutboxEventKind::Extended,
            OutboxEventKind::Sold,
            OutboxEventKind::Released,
            OutboxEventKind::Voided,
        ];
        let mut events: Vec<OutboxEvent> =
            kinds.into_iter().map(|kind| event(kind, "ann", Some("pi_1"))).collect();
        events.push(OutboxEvent { kind: closed, ..events[0].clone() });
        assert_eq!(events.len(), schemas.len());
        for (event, (file, schema)) in events.iter().zip(&schemas) {
            let detail: Value = serde_json::from_str(&detail(event).unwrap()).unwrap();
            assert_eq!(*file, format!("{}.v1.json", detail["type"].as_str().unwrap()));
            assert_eq!(schema["properties"]["type"]["const"], detail["type"]);
            let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            let mut properties = names(&schema["properties"]);
            properties.sort();
            let mut members = names(&detail);
            members.sort();
            assert_eq!(properties, members, "{file}");
        }
    }
}
