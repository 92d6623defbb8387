//! The example for shops with Stripe, end to end: a local signer, the example, and the built order-confirm.

use aws_lc_rs::hmac;
use local::system::System;
use local::system::clock::micros_now;
use serde_json::{Value, json};
use shop_stripe::{App, OrderConfirm, handle};
use std::time::Duration;
use tests::{Client, announce, eventually, one_region};

const SECRET: &str = "whsec_of_this_test";
const TIMEOUT: Duration = Duration::from_secs(15);

/// Sends an event as Stripe does, until its answer is not 503. Returns the body.
async fn deliver(app: &App, kind: &str, object: &Value) -> Value {
    let event = json!({ "id": "evt_1", "type": kind, "data": { "object": object } }).to_string();
    eventually("the event is decided", TIMEOUT, async || {
        let now_seconds = micros_now() / 1_000_000;
        let answer = handle(app, serde_json::from_value(signed(&event, now_seconds))?, now_seconds).await;
        let body: Value = serde_json::from_str(answer["body"].as_str().unwrap_or_default())?;
        Ok((answer["statusCode"] != 503).then_some(body))
    })
    .await
    .unwrap()
}

fn signed(event: &str, now_seconds: u64) -> Value {
    // Two signatures a second differ, as Stripe's do if it sends an event again later.
    let event_at = now_seconds - micros_now() % 200;
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let tag = hmac::sign(&key, format!("{event_at}.{event}").as_bytes());
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    json!({ "headers": { "stripe-signature": format!("t={event_at},v1={hex}") }, "body": event })
}

fn intent(buyer: &str, reference: &str) -> Value {
    let metadata = json!({ "item_id": "a", "user_token": buyer });
    json!({ "object": "payment_intent", "id": reference, "metadata": metadata })
}

async fn status(system: &System, client: &Client, buyer: &str) -> Value {
    client.mine("a", &system.identity.token(buyer).unwrap()).await.unwrap().body
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_of_stripe_sell_hold_and_release() {
    let system = one_region().await.unwrap();
    let with = json!({ "stock_total": 5, "hold_seconds": 600, "max_hold_seconds": 864_000 });
    announce(&system, "a", with).await.unwrap();
    let client = Client::of(&system, 0).unwrap();
    for buyer in ["card", "voucher", "debit", "transfer", "gives-up"] {
        let token = system.identity.token(buyer).unwrap();
        assert_eq!(client.order("a", &token).await.unwrap().status, 202);
        eventually(&format!("{buyer} has a unit"), TIMEOUT, async || {
            Ok((status(&system, &client, buyer).await["status"] == "reserved").then_some(()))
        })
        .await
        .unwrap();
    }
    let confirm = OrderConfirm::at(&system.main_invoke_api().unwrap().endpoint(), "order-confirm");
    let app = App::new(SECRET, confirm).unwrap();

    // A card is declined, and the same payment succeeds.
    let card = intent("card", "pi_card");
    assert_eq!(deliver(&app, "payment_intent.payment_failed", &card).await["status"], "reserved");
    assert_eq!(deliver(&app, "payment_intent.succeeded", &card).await["status"], "sold");
    assert_eq!(status(&system, &client, "card").await["status"], "sold");
    let session = json!({ "object": "checkout.session", "id": "cs_1", "payment_intent": "pi_card",
        "payment_status": "paid", "metadata": card["metadata"] });
    assert_eq!(deliver(&app, "checkout.session.completed", &session).await["status"], "sold");

    // A voucher that is paid days later.
    let expires_at = micros_now() / 1_000_000 + 3 * 86_400;
    let mut voucher = intent("voucher", "pi_voucher");
    voucher["next_action"] = json!({ "type": "konbini_display_details",
        "konbini_display_details": { "expires_at": expires_at } });
    let held = deliver(&app, "payment_intent.requires_action", &voucher).await;
    assert_eq!(held["reserved_until"], json!(expires_at * 1_000_000), "{held}");
    assert_eq!(status(&system, &client, "voucher").await["reserved_until"], json!(expires_at * 1_000_000));
    assert_eq!(deliver(&app, "payment_intent.succeeded", &voucher).await["status"], "sold");

    // A bank takes days, and a buyer until the transfer: the units are held up to the item's limit of 10 days.
    let mut transfer = intent("transfer", "pi_transfer");
    transfer["next_action"] = json!({ "type": "display_bank_transfer_instructions",
        "display_bank_transfer_instructions": { "amount_remaining": 1_000 } });
    for (buyer, kind, object) in [
        ("debit", "payment_intent.processing", intent("debit", "pi_debit")),
        ("transfer", "payment_intent.requires_action", transfer),
    ] {
        let first_end = status(&system, &client, buyer).await["reserved_until"].as_u64().unwrap();
        let limit = first_end + (864_000 - 600) * 1_000_000;
        for _ in 0..2 {
            assert_eq!(deliver(&app, kind, &object).await["reserved_until"], json!(limit), "{buyer}");
        }
        assert_eq!(deliver(&app, "payment_intent.succeeded", &object).await["status"], "sold", "{buyer}");
    }

    // The buyer gives up; the money that comes nevertheless has to be returned.
    let gives_up = intent("gives-up", "pi_gives_up");
    assert_eq!(deliver(&app, "payment_intent.canceled", &gives_up).await["status"], "released");
    let refused = deliver(&app, "payment_intent.succeeded", &gives_up).await;
    assert_eq!(refused["type"], "urn:fairdrop:problem:reservation-ended", "{refused}");
}
