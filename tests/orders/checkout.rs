//! From reservation to sale, through the built functions: payments, holds, and the recovery
//! of a lost Redis by an operator.

use local::aws::lambda::Invoked;
use local::system::System;
use local::system::clock::micros_now;
use redis::AsyncCommands;
use serde_json::{Value, json};
use shared::queue::Keys;
use std::time::{Duration, Instant};
use tests::{Answer, Client, announce, eventually, one_region};

mod cut_off_payments;
mod refused_payments;

const TIMEOUT: Duration = Duration::from_secs(15);

async fn setup(with: Value) -> (System, Client) {
    let system = one_region().await.unwrap();
    announce(&system, "a", with).await.unwrap();
    let client = Client::of(&system, 0).unwrap();
    (system, client)
}

async fn order(system: &System, client: &Client, subject: &str) -> Answer {
    client.order("a", &system.identity.token(subject).unwrap()).await.unwrap()
}

/// Waits until the buyer's order has `status`.
async fn until(system: &System, client: &Client, subject: &str, status: &str) -> Value {
    let token = system.identity.token(subject).unwrap();
    eventually(&format!("{subject} is {status}"), TIMEOUT, async || {
        let answer = client.mine("a", &token).await?;
        Ok((answer.body["status"] == status).then_some(answer.body))
    })
    .await
    .unwrap()
}

/// Sends a payment notice over HTTP, as the shop does.
async fn pay(client: &Client, subject: &str, reference: &str, outcome: &str) -> Answer {
    let notice = json!({ "user_token": subject, "payment_reference": reference, "outcome": outcome });
    send(client, notice).await
}

async fn send(client: &Client, notice: Value) -> Answer {
    client
        .send("POST", "/items/a/payments", |request| {
            request.header("authorization", "AWS4-HMAC-SHA256 Credential=local").body(notice.to_string())
        })
        .await
        .unwrap()
}

/// Repeats the notice until the reservation is recorded in the ledger.
async fn pay_once_recorded(client: &Client, subject: &str, reference: &str, outcome: &str) -> Answer {
    eventually("the reservation is recorded", TIMEOUT, async || {
        let answer = pay(client, subject, reference, outcome).await;
        Ok((answer.problem() != Some("not-recorded-yet")).then_some(answer))
    })
    .await
    .unwrap()
}

fn refused(answer: &Answer, status: u16, slug: &str) {
    assert_eq!((answer.status, answer.problem()), (status, Some(slug)), "{answer:?}");
    assert_eq!(answer.header("retry-after").is_some(), status == 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_sells_and_every_contradicting_notice_is_refused() {
    let (system, client) = setup(json!({ "stock_total": 2, "hold_seconds": 600 })).await;
    order(&system, &client, "alice").await;
    order(&system, &client, "bob").await;
    order(&system, &client, "carol").await;
    until(&system, &client, "alice", "reserved").await;
    let sold = pay_once_recorded(&client, "alice", "pay-1", "paid").await;
    assert_eq!((sold.status, &sold.body["status"]), (200, &json!("sold")), "{sold:?}");
    assert_eq!(until(&system, &client, "alice", "sold").await["status"], "sold");
    assert_eq!(pay(&client, "alice", "pay-1", "paid").await.body, sold.body);
    refused(&pay(&client, "alice", "pay-2", "paid").await, 409, "already-paid");
    refused(&pay(&client, "alice", "pay-1", "failed").await, 409, "already-sold");
    refused(&pay_once_recorded(&client, "bob", "pay-1", "paid").await, 409, "payment-used");
    // A buyer in the queue, and one without an order.
    refused(&pay(&client, "carol", "pay-3", "paid").await, 404, "no-reservation");
    refused(&pay(&client, "stranger", "pay-8", "pending").await, 404, "no-reservation");
    refused(&pay(&client, "stranger", "pay-3", "paid").await, 409, "payment-used");
    refused(&send(&client, json!({ "user_token": "bob" })).await, 400, "bad-payment");
    let stranger = client
        .send("POST", "/items/nothing/payments", |request| {
            let notice = json!({ "user_token": "bob", "payment_reference": "p", "outcome": "paid" });
            request.header("authorization", "AWS4-HMAC-SHA256 Credential=local").body(notice.to_string())
        })
        .await
        .unwrap();
    refused(&stranger, 404, "no-such-item");
    refused(&send(&client, json!({ "user_token": "x".repeat(5_000) })).await, 413, "body-too-large");

    let before = until(&system, &client, "bob", "reserved").await["reserved_until"].as_u64().unwrap();
    let pending = pay(&client, "bob", "pay-4", "pending").await;
    let extended = pending.body["reserved_until"].as_u64().unwrap();
    assert!(extended > before && extended <= micros_now() + 600_000_000, "{before} {pending:?}");
    assert_eq!(pay(&client, "bob", "pay-4", "pending").await.body, pending.body);
    refused(&pay(&client, "bob", "pay-5", "pending").await, 409, "already-extended");
    assert_eq!(until(&system, &client, "bob", "reserved").await["reserved_until"], extended);
    assert_eq!(pay(&client, "bob", "pay-4", "failed").await.body["status"], "released");
    refused(&pay(&client, "bob", "pay-4", "paid").await, 409, "reservation-ended");
    // Carol gets bob's unit; bob may order again.
    until(&system, &client, "carol", "reserved").await;
    assert_eq!(order(&system, &client, "bob").await.status, 202);
    assert_eq!(until(&system, &client, "bob", "queued").await["ahead"], 0);
    assert_eq!(pay_once_recorded(&client, "carol", "pay-6", "paid").await.status, 200);
    until(&system, &client, "carol", "sold").await;
    // Both units are sold: new orders are refused as soon as the edge's cached copy shows it.
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    refused(&order(&system, &client, "dave").await, 410, "sold-out");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_shop_may_send_payments() {
    let (system, client) = setup(json!({ "hold_seconds": 600 })).await;
    let path = "/items/a/payments";
    let token = system.identity.token("alice").unwrap();
    for authorization in [None, Some(format!("Bearer {token}"))] {
        let answer = client
            .send("POST", path, |request| match &authorization {
                None => request,
                Some(value) => request.header("authorization", value),
            })
            .await
            .unwrap();
        assert_eq!(answer.status, 403, "{answer:?}");
    }
    assert_eq!(client.send("GET", path, |request| request).await.unwrap().status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unit_of_an_unpaid_hold_goes_to_the_next_buyer_within_a_second() {
    let (system, client) =
        setup(json!({ "stock_total": 1, "hold_seconds": 2, "settle_window_ms": 100 })).await;
    for subject in ["alice", "bob", "carol"] {
        order(&system, &client, subject).await;
    }
    let first = until(&system, &client, "alice", "reserved").await;
    let ends_at = first["reserved_until"].as_u64().unwrap();
    let next = until(&system, &client, "bob", "reserved").await;
    let after_us = micros_now().saturating_sub(ends_at);
    assert!(after_us < 1_500_000, "the next buyer got the unit {after_us} us after the end of the hold");
    assert!(next["reserved_until"].as_u64().unwrap() < ends_at + 3_000_000, "{first} {next}");
    until(&system, &client, "alice", "released").await;
    refused(&pay(&client, "alice", "late", "paid").await, 409, "reservation-ended");
    assert_eq!(pay_once_recorded(&client, "bob", "in-time", "paid").await.status, 200);
    until(&system, &client, "bob", "sold").await;
    assert_eq!(until(&system, &client, "carol", "queued").await["ahead"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sample_payments_work_over_http_and_invoked() {
    let system = one_region().await.unwrap();
    announce(&system, "sneaker-42", json!({ "hold_seconds": 600 })).await.unwrap();
    let client = Client::of(&system, 0).unwrap();
    let token = system.identity.token("alice").unwrap();
    client.order("sneaker-42", &token).await.unwrap();
    // An earlier payment would be refused permanently.
    eventually("alice is reserved", TIMEOUT, async || {
        Ok((client.mine("sneaker-42", &token).await?.body["status"] == "reserved").then_some(()))
    })
    .await
    .unwrap();
    let sample = |name: &str| -> Value {
        let path = format!("{}/../events/order-confirm.{name}.json", env!("CARGO_MANIFEST_DIR"));
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    };
    let invoke = system.main_invoke_api().unwrap();
    let invoked = eventually("the payment is accepted", TIMEOUT, async || {
        match invoke.call("order-confirm", &sample("invoke")).await? {
            // Until the reservation is recorded an invocation fails, so that Lambda retries it.
            Invoked::FunctionError(error) => {
                assert!(error.to_string().contains("not-recorded-yet"), "{error}");
                Ok(None)
            }
            Invoked::Answer(answer) => Ok(Some(answer)),
        }
    })
    .await
    .unwrap();
    assert_eq!(invoked["status"], "sold", "{invoked}");
    let Invoked::Answer(over_http) = invoke.call("order-confirm", &sample("post")).await.unwrap() else {
        panic!()
    };
    let body: Value = serde_json::from_str(over_http["body"].as_str().unwrap()).unwrap();
    assert_eq!((&over_http["statusCode"], body), (&json!(200), invoked));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_redis_is_rebuilt_from_the_ledger() {
    let (system, client) = setup(json!({ "stock_total": 3, "hold_seconds": 600, "name": "Größe 42" })).await;
    for subject in ["alice", "bob", "carol", "dave"] {
        order(&system, &client, subject).await;
        if subject != "dave" {
            until(&system, &client, subject, "reserved").await;
        }
    }
    pay_once_recorded(&client, "alice", "pay-1", "paid").await;
    pay_once_recorded(&client, "carol", "pay-2", "failed").await;
    until(&system, &client, "dave", "reserved").await;
    pay_once_recorded(&client, "dave", "pay-3", "pending").await;
    let describe = json!({ "command": "describe", "item_id": "a" });
    let before = system.admin(&describe).await.unwrap();
    let held = until(&system, &client, "dave", "reserved").await;

    let rebuild = json!({ "command": "rebuild", "item_id": "a" });
    let error = system.admin(&rebuild).await.unwrap_err().to_string();
    assert!(error.contains("ItemSelling"), "{error}");
    let mut connection = system.redis.connect().await.unwrap();
    let _: () = redis::cmd("FLUSHALL").query_async(&mut connection).await.unwrap();
    // The ledger still has the item: a creation is refused, and nothing is half changed.
    let known = json!({ "command": "create", "item": { "item_id": "a", "name": "A", "stock_total": 3,
        "opens_at": micros_now() } });
    let error = system.admin(&known).await.unwrap_err().to_string();
    assert!(error.contains("OnlyInLedger"), "{error}");
    // The refusal is temporary, so that the shop does not refund.
    refused(&pay(&client, "bob", "pay-4", "paid").await, 503, "status-unavailable");

    let rebuilt = system.admin(&rebuild).await.unwrap();
    assert_eq!(rebuilt["units_taken"], 3, "{rebuilt}");
    assert_eq!(rebuilt["reconciled"]["differences"], json!({}), "{rebuilt}");
    let after = system.admin(&describe).await.unwrap();
    for field in [
        "name",
        "stock_total",
        "stock_left",
        "hold_seconds",
        "settle_window_ms",
        "epoch",
        "reservations",
        "sold",
        "opens_at",
    ] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert_eq!(until(&system, &client, "dave", "reserved").await["reserved_until"], held["reserved_until"]);
    until(&system, &client, "alice", "sold").await;
    until(&system, &client, "carol", "released").await;
    assert_eq!(pay_once_recorded(&client, "bob", "pay-4", "paid").await.status, 200);
    refused(&pay(&client, "alice", "pay-9", "paid").await, 409, "already-paid");
    assert_eq!(order(&system, &client, "erin").await.status, 202);
    // The worker continues with a new stream and consumer group.
    pay(&client, "dave", "pay-3", "failed").await;
    until(&system, &client, "erin", "reserved").await;
    assert_eq!(pay_once_recorded(&client, "erin", "pay-5", "paid").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn reconcile_finds_and_repairs_differences() {
    let (system, client) = setup(json!({ "stock_total": 10, "hold_seconds": 600 })).await;
    for subject in ["sold", "held", "gone", "ghost"] {
        order(&system, &client, subject).await;
        until(&system, &client, subject, "reserved").await;
    }
    pay_once_recorded(&client, "sold", "pay-1", "paid").await;
    pay_once_recorded(&client, "gone", "pay-2", "failed").await;
    pay_once_recorded(&client, "held", "pay-3", "pending").await;
    let reconcile = async |repair: bool| {
        system.admin(&json!({ "command": "reconcile", "repair": repair })).await.unwrap()
    };
    let sound = reconcile(false).await;
    assert_eq!(sound["items"]["a"]["differences"], json!({}), "{sound}");
    assert_eq!(sound["items"]["a"]["stock_left"], sound["items"]["a"]["stock_counted"]);

    let keys = Keys::of(&"a".parse().unwrap());
    let mut connection = system.redis.connect().await.unwrap();
    // As after a failover to a replica that lagged, and after manual mistakes.
    let _: () = connection.zrem(&keys.reservations, &["sold", "held"]).await.unwrap();
    let _: () = connection.zadd(&keys.reservations, "ghost", "+inf").await.unwrap();
    let _: () = connection.zadd(&keys.reservations, "gone", micros_now() + 900_000_000).await.unwrap();
    let _: () = connection.zadd(&keys.reservations, "stranger", 5).await.unwrap();
    let _: () =
        connection.hset_multiple(&keys.item, &[("stock_left", "9"), ("hold_seconds", "7")]).await.unwrap();
    let found = reconcile(false).await["items"]["a"].clone();
    assert_eq!(
        found["differences"],
        json!({
            "sold in the ledger alone": 1,
            "reserved in the ledger alone": 1,
            "sold in Redis and not in the ledger": 1,
            "released in the ledger alone": 1,
            "taken in Redis alone": 1,
        }),
        "{found}"
    );
    assert_eq!((&found["item_fields"], &found["repaired"]), (&json!(["hold_seconds"]), &json!(0)));
    let repaired = reconcile(true).await["items"]["a"].clone();
    assert_eq!(repaired["repaired"], 5, "{repaired}");
    let after = reconcile(false).await["items"]["a"].clone();
    assert_eq!((&after["differences"], &after["item_fields"]), (&json!({}), &json!([])), "{after}");
    assert_eq!((&after["stock_left"], &after["stock_counted"]), (&json!(7), &json!(7)), "{after}");
    until(&system, &client, "sold", "sold").await;
    until(&system, &client, "ghost", "reserved").await;
    until(&system, &client, "gone", "released").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_can_be_checked_by_an_outsider() {
    let (system, client) = setup(json!({ "stock_total": 20 })).await;
    for n in 0..12 {
        order(&system, &client, &format!("buyer-{n}")).await;
    }
    until(&system, &client, "buyer-11", "sold").await;
    let audit = system.admin(&json!({ "command": "audit", "item_id": "a" })).await.unwrap();
    let sales = audit["sales"].as_array().unwrap();
    assert_eq!((sales.len(), &audit["in_order"], &audit["next"]), (12, &json!(true), &Value::Null));
    let stamps: Vec<u64> = sales.iter().map(|sale| sale["placed_at"].as_u64().unwrap()).collect();
    assert!(stamps.is_sorted() && !audit.to_string().contains("buyer-"), "{audit}");
    assert!(sales.iter().all(|sale| sale["region"] == "us-east-1" && sale["state"] == "sold"), "{audit}");
    let csv = system.admin(&json!({ "command": "audit", "item_id": "a", "format": "csv" })).await.unwrap();
    let lines: Vec<&str> = csv["csv"].as_str().unwrap().lines().collect();
    assert_eq!((lines.len(), lines[0]), (13, "number,buyer,state,placed_at,region,reserved_at,epoch"));
    assert!(lines[1].starts_with(&format!(
        "1,{},sold,{},us-east-1,",
        sales[0]["buyer"].as_str().unwrap(),
        stamps[0]
    )));
    // A page begins where the previous one ended.
    let cursor = json!({ "number": 5, "buyer": sales[4]["buyer"], "placed_at": stamps[4], "reserved_at": sales[4]["reserved_at"] });
    let rest = system.admin(&json!({ "command": "audit", "item_id": "a", "after": cursor })).await.unwrap();
    assert_eq!(rest["sales"].as_array().unwrap(), &sales[5..]);
    let nowhere =
        json!({ "number": 5, "buyer": "x", "placed_at": stamps[4], "reserved_at": sales[4]["reserved_at"] });
    let error =
        system.admin(&json!({ "command": "audit", "item_id": "a", "after": nowhere })).await.unwrap_err();
    assert!(error.to_string().contains("NoSuchCursor"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_ledger_is_unavailable_orders_are_accepted_and_no_status_is_sold() {
    let (mut system, client) = setup(json!({ "stock_total": 3, "settle_window_ms": 100 })).await;
    system.postgres.stop();
    for subject in ["alice", "bob", "carol", "dave"] {
        assert_eq!(order(&system, &client, subject).await.status, 202);
    }
    // The drain goes on within the stock.
    until(&system, &client, "carol", "reserved").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for subject in ["alice", "bob", "carol"] {
        until(&system, &client, subject, "reserved").await;
    }
    until(&system, &client, "dave", "queued").await;
    let described = system.admin(&json!({ "command": "describe", "item_id": "a" })).await.unwrap();
    assert_eq!((&described["sold"], &described["reservations"]), (&json!(0), &json!(3)), "{described}");
    let unrecorded = pay(&client, "alice", "pay-1", "paid").await;
    refused(&unrecorded, 503, "ledger-unavailable");
    let started = Instant::now();
    system.postgres.restart().await.unwrap();
    for subject in ["alice", "bob", "carol"] {
        until(&system, &client, subject, "sold").await;
    }
    assert!(started.elapsed() < TIMEOUT);
    assert_eq!(pay(&client, "alice", "pay-1", "paid").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_tasks_go_to_the_dead_letters() {
    let (system, client) = setup(json!({ "stock_total": 3 })).await;
    let keys = Keys::of(&"a".parse().unwrap());
    let mut connection = system.redis.connect().await.unwrap();
    let malformed = |fields: &'static [(&'static str, &'static [u8])]| fields;
    let tasks = [
        malformed(&[("kind", b"stolen")]),
        malformed(&[("kind", b"reserved"), ("user_token", b"\xff\xfe")]),
        malformed(&[("kind", b"reserved"), ("user_token", b"x"), ("placed_at", b"1"), ("reserved_at", b"2")]),
        malformed(&[("other", b"")]),
    ];
    for fields in tasks {
        let _: String = connection.xadd(&keys.tasks, "*", fields).await.unwrap();
    }
    order(&system, &client, "alice").await;
    until(&system, &client, "alice", "sold").await;
    eventually("all of them are in the dead letters", TIMEOUT, async || {
        let dead: u64 = connection.xlen(&keys.dead_letters).await?;
        let pending: Vec<redis::Value> =
            redis::cmd("XPENDING").arg(&keys.tasks).arg("checkout").query_async(&mut connection).await?;
        Ok((dead == 4 && pending.first() == Some(&redis::Value::Int(0))).then_some(()))
    })
    .await
    .unwrap();
}
