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
    /// Until when the payment may take, in microseconds since the Unix epoch.
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

/// How long a payment may take whose end Stripe does not name: the most that an item can have. fairdrop cuts it to the
/// item's `max_hold_seconds`.
const LONGEST_SECONDS: u64 = 14 * 86_400;

/// The next action of a buyer who has to send a bank transfer.
const BANK_TRANSFER: &str = "display_bank_transfer_instructions";

/// Methods that give the buyer a voucher or a number to pay with later, and the field with its end.
const VOUCHERS: [(&str, &str); 4] = [
    ("boleto_display_details", "expires_at"),
    ("konbini_display_details", "expires_at"),
    ("multibanco_display_details", "expires_at"),
    ("oxxo_display_details", "expires_after"),
];

/// An event of a payment for a drop that lacks what fairdrop needs. The payment must not pass unnoticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event is about a drop, and lacks {0}")]
pub struct IncompleteError(&'static str);

/// The notice that `event` makes at `now_seconds`; `None` if fairdrop has nothing to learn from it. The shop sets `item_id` and
/// `user_token` in the metadata of the payment intent, and with Checkout in those of the session, too. An event without
/// either is about something else that the shop sells.
pub fn notice(event: &Event, now_seconds: u64) -> Result<Option<Notice>, IncompleteError> {
    let object = &event.data.object;
    let text = |name: &str| object.get(name).and_then(Value::as_str);
    let Some(outcome) = outcome(event) else { return Ok(None) };
    let longest = now_seconds.saturating_add(LONGEST_SECONDS);
    let until = (outcome == Outcome::Pending).then(|| {
        voucher(object).and_then(|voucher| voucher.end).unwrap_or(longest).saturating_mul(1_000_000)
    });
    let metadata = |name: &str| object.get("metadata")?.get(name)?.as_str().map(str::to_owned);
    let (item_id, user_token) = match (metadata("item_id"), metadata("user_token")) {
        (Some(item_id), Some(user_token)) => (item_id, user_token),
        (None, None) => return Ok(None),
        (None, Some(_)) => return Err(IncompleteError("item_id in its metadata")),
        (Some(_), None) => return Err(IncompleteError("user_token in its metadata")),
    };
    let reference = if text("object") == Some("payment_intent") { "id" } else { "payment_intent" };
    let Some(payment_reference) = text(reference).map(str::to_owned) else {
        // A session that expires unused has no payment intent: the hold ends by itself.
        let is_unused = outcome == Outcome::Cancelled;
        return if is_unused { Ok(None) } else { Err(IncompleteError("a payment intent")) };
    };
    Ok(Some(Notice { item_id, user_token, payment_reference, outcome, until }))
}

fn outcome(event: &Event) -> Option<Outcome> {
    let object = &event.data.object;
    let status = object.get("payment_status").and_then(Value::as_str);
    Some(match (event.kind.as_str(), status) {
        ("payment_intent.succeeded", _) => Outcome::Paid,
        ("payment_intent.processing", _) => Outcome::Pending,
        ("payment_intent.requires_action", _) if is_paid_later(object) => Outcome::Pending,
        ("payment_intent.payment_failed", _) => Outcome::Declined,
        ("payment_intent.canceled", _) => Outcome::Cancelled,
        ("checkout.session.completed", Some("paid")) => Outcome::Paid,
        ("checkout.session.completed", Some("unpaid")) => Outcome::Pending,
        ("checkout.session.async_payment_succeeded", _) => Outcome::Paid,
        ("checkout.session.async_payment_failed", _) => Outcome::Failed,
        ("checkout.session.expired", _) => Outcome::Cancelled,
        _ => return None,
    })
}

/// Whether the buyer has done all that can be done at once. Other actions, such as 3-D Secure, are for a buyer who is there.
fn is_paid_later(intent: &Map<String, Value>) -> bool {
    let is_transfer = intent.get("next_action").is_some_and(|action| action.get(BANK_TRANSFER).is_some());
    is_transfer || voucher(intent).is_some()
}

struct Voucher {
    /// In seconds since the Unix epoch, if the voucher names it.
    end: Option<u64>,
}

fn voucher(intent: &Map<String, Value>) -> Option<Voucher> {
    let action = intent.get("next_action")?;
    let (details, end) = VOUCHERS.iter().find_map(|(details, end)| Some((action.get(details)?, end)))?;
    Some(Voucher { end: details.get(end).and_then(Value::as_u64) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(kind: &str, object: Value) -> Event {
        serde_json::from_value(json!({ "id": "evt_1", "type": kind, "data": { "object": object } })).unwrap()
    }

    const NOW: u64 = 1_795_500_000;
    const LONGEST: u64 = (NOW + LONGEST_SECONDS) * 1_000_000;

    fn notice_of(kind: &str, object: Value) -> Notice {
        notice(&event(kind, object), NOW).unwrap().unwrap()
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
            (
                "payment_intent.requires_action",
                intent(
                    json!({ "next_action": { "type": BANK_TRANSFER, BANK_TRANSFER: { "currency": "eur" } } }),
                ),
                Some(Outcome::Pending),
            ),
        ] {
            let found = notice(&event(kind, object), NOW).unwrap();
            assert_eq!(found.as_ref().map(|notice| notice.outcome), outcome, "{kind}");
            if let Some(notice) = found {
                let expected = ("sneaker-42", "alice", "pi_1");
                let Notice { item_id, user_token, payment_reference, .. } = &notice;
                assert_eq!((&**item_id, &**user_token, &**payment_reference), expected, "{kind}");
                // Only a pending payment extends a hold; another outcome must not name an end.
                let is_pending = notice.outcome == Outcome::Pending;
                assert_eq!(notice.until, is_pending.then_some(LONGEST), "{kind}");
            }
        }
    }

    #[test]
    fn a_voucher_holds_the_unit_until_it_expires() {
        for (details, end) in VOUCHERS {
            let action = json!({ "next_action": { "type": details, details: { end: 1_795_759_200 } } });
            let notice = notice_of("payment_intent.requires_action", intent(action));
            assert_eq!((notice.outcome, notice.until), (Outcome::Pending, Some(1_795_759_200_000_000)));
            // The voucher can be paid although its end is not known.
            let action =
                json!({ "next_action": { "type": details, details: { "hosted_voucher_url": "x" } } });
            let notice = notice_of("payment_intent.requires_action", intent(action));
            assert_eq!((notice.outcome, notice.until), (Outcome::Pending, Some(LONGEST)), "{details}");
        }
    }

    #[test]
    fn a_payment_for_a_drop_that_lacks_a_part_is_not_ignored() {
        let lacks = |kind: &str, object: Value| notice(&event(kind, object), NOW).unwrap_err().0;
        let metadata = |metadata: Value| intent(json!({ "metadata": metadata }));
        let misspelt = metadata(json!({ "item_id": "sneaker-42", "usertoken": "alice" }));
        assert_eq!(lacks("payment_intent.succeeded", misspelt), "user_token in its metadata");
        let misspelt = metadata(json!({ "item": "sneaker-42", "user_token": "alice" }));
        assert_eq!(lacks("payment_intent.succeeded", misspelt), "item_id in its metadata");
        let subscription = session(json!({ "payment_status": "paid", "payment_intent": null }));
        assert_eq!(lacks("checkout.session.completed", subscription), "a payment intent");
    }
}
