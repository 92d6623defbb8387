//! Which outcome an event of Stripe reports to order-confirm. The table is in the README.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// An event, as far as it is read.
#[derive(Debug, Deserialize)]
pub struct Event {
    pub id: String,
    #[serde(rename = "type")]
    pub kind: String,
    data: EventData,
}

#[derive(Debug, Deserialize)]
struct EventData {
    object: Map<String, Value>,
}

/// What order-confirm gets in a direct invocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notice {
    pub item_id: String,
    pub user_token: String,
    /// The id of the payment intent, in all events of a payment.
    pub payment_reference: String,
    pub outcome: Outcome,
    /// When a voucher expires, in microseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Paid,
    Pending,
    Declined,
    Failed,
    Cancelled,
}

/// Methods that give the buyer a voucher or a number to pay with later, and the field with its end.
const VOUCHERS: [(&str, &str); 4] = [
    ("boleto_display_details", "expires_at"),
    ("konbini_display_details", "expires_at"),
    ("multibanco_display_details", "expires_at"),
    ("oxxo_display_details", "expires_after"),
];

/// The notice that `event` makes; `None` if fairdrop has nothing to learn from it. The shop sets `item_id` and
/// `user_token` in the metadata of the payment intent, and with Checkout in those of the session, too.
pub fn notice(event: &Event) -> Option<Notice> {
    let object = &event.data.object;
    let text = |name: &str| object.get(name).and_then(Value::as_str);
    let (outcome, until) = match (event.kind.as_str(), text("payment_status")) {
        ("payment_intent.succeeded", _) => (Outcome::Paid, None),
        ("payment_intent.processing", _) => (Outcome::Pending, None),
        // Other actions, such as 3-D Secure, are for a buyer who is there.
        ("payment_intent.requires_action", _) => (Outcome::Pending, Some(voucher_end(object)?)),
        ("payment_intent.payment_failed", _) => (Outcome::Declined, None),
        ("payment_intent.canceled", _) => (Outcome::Cancelled, None),
        ("checkout.session.completed", Some("paid")) => (Outcome::Paid, None),
        ("checkout.session.completed", Some("unpaid")) => (Outcome::Pending, None),
        ("checkout.session.async_payment_succeeded", _) => (Outcome::Paid, None),
        ("checkout.session.async_payment_failed", _) => (Outcome::Failed, None),
        ("checkout.session.expired", _) => (Outcome::Cancelled, None),
        _ => return None,
    };
    // A session that expires unused has no payment intent: the hold ends by itself.
    let payment_reference = if text("object") == Some("payment_intent") { "id" } else { "payment_intent" };
    let metadata = |name: &str| object.get("metadata")?.get(name)?.as_str().map(str::to_owned);
    Some(Notice {
        item_id: metadata("item_id")?,
        user_token: metadata("user_token")?,
        payment_reference: text(payment_reference)?.to_owned(),
        outcome,
        until,
    })
}

/// In microseconds since the Unix epoch.
fn voucher_end(intent: &Map<String, Value>) -> Option<u64> {
    let action = intent.get("next_action")?;
    let seconds = VOUCHERS.iter().find_map(|(details, end)| action.get(details)?.get(end)?.as_u64())?;
    seconds.checked_mul(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(kind: &str, object: Value) -> Event {
        serde_json::from_value(json!({ "id": "evt_1", "type": kind, "data": { "object": object } })).unwrap()
    }

    fn intent(with: Value) -> Value {
        let metadata = json!({ "item_id": "sneaker-42", "user_token": "alice" });
        let mut object = json!({ "object": "payment_intent", "id": "pi_1", "metadata": metadata });
        object.as_object_mut().unwrap().extend(with.as_object().cloned().unwrap_or_default());
        object
    }

    fn session(with: Value) -> Value {
        let mut object =
            intent(json!({ "object": "checkout.session", "id": "cs_1", "payment_intent": "pi_1" }));
        object.as_object_mut().unwrap().extend(with.as_object().cloned().unwrap_or_default());
        object
    }

    #[test]
    fn each_event_of_a_payment_has_an_outcome_or_none() {
        let status = |status: &str| session(json!({ "payment_status": status }));
        for (kind, object, outcome) in [
            ("payment_intent.succeeded", intent(json!({})), Some(Outcome::Paid)),
            ("payment_intent.processing", intent(json!({})), Some(Outcome::Pending)),
            ("payment_intent.payment_failed", intent(json!({})), Some(Outcome::Declined)),
            ("payment_intent.canceled", intent(json!({})), Some(Outcome::Cancelled)),
            ("checkout.session.completed", status("paid"), Some(Outcome::Paid)),
            ("checkout.session.completed", status("unpaid"), Some(Outcome::Pending)),
            ("checkout.session.async_payment_succeeded", status("paid"), Some(Outcome::Paid)),
            ("checkout.session.async_payment_failed", status("unpaid"), Some(Outcome::Failed)),
            ("checkout.session.expired", status("unpaid"), Some(Outcome::Cancelled)),
            // Nothing to learn: no payment intent, a free session, other events, and a payment for something else.
            ("checkout.session.expired", session(json!({ "payment_intent": null })), None),
            ("checkout.session.completed", status("no_payment_required"), None),
            ("payment_intent.created", intent(json!({})), None),
            ("charge.refunded", intent(json!({})), None),
            ("payment_intent.succeeded", intent(json!({ "metadata": {} })), None),
            (
                "payment_intent.requires_action",
                intent(json!({ "next_action": { "type": "use_stripe_sdk" } })),
                None,
            ),
        ] {
            let found = notice(&event(kind, object));
            assert_eq!(found.as_ref().map(|notice| notice.outcome), outcome, "{kind}");
            if let Some(notice) = found {
                let expected = ("sneaker-42", "alice", "pi_1");
                let Notice { item_id, user_token, payment_reference, .. } = &notice;
                assert_eq!((&**item_id, &**user_token, &**payment_reference), expected, "{kind}");
            }
        }
    }

    #[test]
    fn a_voucher_holds_the_unit_until_it_expires() {
        for (details, end) in VOUCHERS {
            let action = json!({ "next_action": { "type": details, details: { end: 1_795_759_200 } } });
            let notice = notice(&event("payment_intent.requires_action", intent(action))).unwrap();
            assert_eq!((notice.outcome, notice.until), (Outcome::Pending, Some(1_795_759_200_000_000)));
        }
    }
}
