//! Payment notices that EventBridge, SNS and SQS deliver, as in the samples of `events/`.

use checkout_worker::{ItemWork, WorkerContext};
use local::system::clock::micros_now;
use order_confirm::{App, answer};
use redis::AsyncCommands;
use serde_json::{Value, json};
use shared::item::{ItemId, NewItem};
use shared::permit::Permit;
use shared::queue::Keys;
use shared::stamp::Stamp;
use tests::{LedgerServer, RedisQueue, sample, source};

const PROBLEM: &str = "urn:fairdrop:problem:";

struct Shop {
    redis: RedisQueue,
    ledger: LedgerServer,
    confirm: App,
}

/// The sample's item, with recorded reservations of `buyers` that wait for payment.
async fn shop(buyers: &[&str]) -> Shop {
    let (redis, ledger) = (RedisQueue::start().await.unwrap(), LedgerServer::start().await.unwrap());
    let item_id: ItemId = "sneaker-42".parse().unwrap();
    let new = NewItem {
        item_id: item_id.clone(),
        name: "Sneaker".into(),
        stock_total: 10,
        opens_at: Stamp::from_micros(micros_now() - 3_600_000_000).unwrap(),
        closes_at: None,
        hold_seconds: 600,
        max_hold_seconds: 0,
        settle_window_ms: 50,
    };
    ledger.ledger.create_item(&new).await.unwrap();
    redis.queue.create_item(&new, 1).await.unwrap();
    let orders: Vec<(u64, &str)> = (micros_now() - 9_000_000..).zip(buyers.iter().copied()).collect();
    let mut connection = redis.redis.connect().await.unwrap();
    let _: () = connection.zadd_multiple(Keys::of(&item_id).orders, &orders).await.unwrap();
    redis.queue.drain(&item_id, 500, Permit::Unleased).await.unwrap();
    let context = WorkerContext::from_config(&source(&redis, &ledger)).await.unwrap();
    ItemWork::new(context, item_id).round(true).await.unwrap();
    let confirm = App::from_config(&source(&redis, &ledger)).await.unwrap();
    Shop { redis, ledger, confirm }
}

fn notice(buyer: &str, reference: &str) -> Value {
    json!({ "item_id": "sneaker-42", "user_token": buyer, "payment_reference": reference, "outcome": "paid" })
}

fn message(id: &str, group: Option<&str>, body: &Value) -> Value {
    json!({
        "messageId": id, "body": body.to_string(), "eventSource": "aws:sqs",
        "attributes": { "MessageGroupId": group },
    })
}

/// The messages that SQS would deliver again.
async fn undecided(shop: &Shop, messages: &[Value]) -> Vec<String> {
    let answer = answer(&shop.confirm, json!({ "Records": messages })).await.unwrap();
    let failures = answer["batchItemFailures"].as_array().unwrap();
    failures.iter().map(|failure| failure["itemIdentifier"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn every_envelope_of_the_samples_sells_once() {
    let shop = shop(&["alice"]).await;
    let sold = answer(&shop.confirm, sample("order-confirm.event-bridge.json")).await.unwrap();
    assert_eq!((&sold["status"], &sold["outcome"]), (&json!("sold"), &json!("paid")), "{sold}");
    assert_eq!(answer(&shop.confirm, sample("order-confirm.sns.json")).await.unwrap(), sold);
    let batch = answer(&shop.confirm, sample("order-confirm.sqs.json")).await.unwrap();
    assert_eq!(batch, json!({ "batchItemFailures": [] }));
    assert_eq!(answer(&shop.confirm, sample("order-confirm.invoke.json")).await.unwrap(), sold);
    for foreign in [json!(null), json!([]), json!({}), json!({ "Records": [{ "eventSource": "aws:s3" }] })] {
        let error = answer(&shop.confirm, foreign.clone()).await.unwrap_err().to_string();
        assert!(error.contains("urn:fairdrop:problem:bad-payment"), "{foreign}: {error}");
    }
    let rest = answer(&shop.confirm, sample("order-confirm.rest-api.json")).await.unwrap();
    let document: Value = serde_json::from_str(rest["body"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&rest["statusCode"], document["type"].as_str()),
        (&json!(501), Some(&*format!("{PROBLEM}unsupported-event")))
    );
}

#[tokio::test]
async fn a_batch_repeats_what_is_not_decided_and_nothing_else() {
    let mut shop = shop(&["alice", "bob"]).await;
    let unknown_item =
        json!({ "item_id": "other", "user_token": "bob", "payment_reference": "p", "outcome": "paid" });
    let messages = [
        message("sold", None, &notice("alice", "pay-1")),
        message("malformed", None, &json!({ "detail": "x" })),
        // Permanently refused: the shop returns the money.
        message("refused", None, &notice("alice", "pay-2")),
        message("no-item", None, &unknown_item),
        message("repeated", None, &notice("alice", "pay-1")),
        message("bob", None, &notice("bob", "pay-3")),
    ];
    assert_eq!(undecided(&shop, &messages).await, ["malformed", "no-item"]);
    let refused = answer(&shop.confirm, notice("alice", "pay-2")).await.unwrap();
    assert_eq!(refused["type"], format!("{PROBLEM}already-paid"));

    // The order within a group is kept; other groups go on.
    let grouped = [
        message("1", Some("bob"), &json!("no notice")),
        message("2", Some("bob"), &notice("bob", "pay-3")),
        message("3", Some("alice"), &notice("alice", "pay-1")),
    ];
    assert_eq!(undecided(&shop, &grouped).await, ["1", "2"]);

    // A batch that is too large is handled in parts.
    let many: Vec<Value> =
        (0..103).map(|n| message(&n.to_string(), None, &notice("alice", "pay-1"))).collect();
    assert_eq!(undecided(&shop, &many).await, ["100", "101", "102"]);

    shop.ledger.postgres.stop();
    assert_eq!(undecided(&shop, &messages[..1]).await, ["sold"]);
    for name in ["event-bridge", "sns", "invoke"] {
        let error = answer(&shop.confirm, sample(&format!("order-confirm.{name}.json"))).await.unwrap_err();
        assert!(error.to_string().contains("ledger-unavailable"), "{name}: {error}");
    }
    shop.ledger.postgres.restart().await.unwrap();
    assert!(shop.redis.redis.connect().await.is_ok());
    assert!(undecided(&shop, &messages[..1]).await.is_empty());
}
