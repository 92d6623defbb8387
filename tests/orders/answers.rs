//! Every documented answer, over HTTP, from the built functions.

use local::system::System;
use local::system::clock::micros_now;
use serde_json::{Value, json};
use std::time::Duration;
use tests::{Answer, Client, announce, eventually, one_region};

async fn setup() -> (System, Client) {
    let system = one_region().await.unwrap();
    let client = Client::of(&system, 0).unwrap();
    (system, client)
}

fn assert_problem(answer: &Answer, status: u16, slug: &str) {
    assert_eq!((answer.status, answer.problem()), (status, Some(slug)), "{answer:?}");
    assert_eq!(answer.body["status"], status);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

async fn sold_to(client: &Client, item_id: &str, token: &str) {
    eventually("the order is sold", Duration::from_secs(10), async || {
        Ok((client.mine(item_id, token).await?.body["status"] == "sold").then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_from_queue_to_sale() {
    let (system, client) = setup().await;
    announce(&system, "a", json!({ "stock_total": 2, "settle_window_ms": 2_000 })).await.unwrap();
    let [alice, bob] = ["alice", "bob"].map(|buyer| system.identity.token(buyer).unwrap());
    assert_eq!(client.mine("a", &alice).await.unwrap().body, json!({ "item_id": "a", "status": "none" }));

    let before = micros_now();
    let queued = client.order("a", &alice).await.unwrap();
    assert_eq!(queued.status, 202, "{queued:?}");
    let placed_at = queued.body["placed_at"].as_u64().unwrap();
    assert!(placed_at + 1_000 >= before && placed_at <= micros_now(), "{placed_at}");
    assert_eq!(
        queued.body,
        json!({ "item_id": "a", "status": "queued", "placed_at": placed_at,
                "links": { "status": "/items/a/orders/me" } })
    );
    let again = client.order("a", &alice).await.unwrap();
    assert_eq!((again.status, &again.body["placed_at"]), (200, &json!(placed_at)));

    assert_eq!(client.order("a", &bob).await.unwrap().status, 202);
    let behind = client.mine("a", &bob).await.unwrap();
    assert_eq!((&behind.body["status"], &behind.body["ahead"]), (&json!("queued"), &json!(1)));
    assert_eq!(client.leave("a", &bob).await.unwrap().body["status"], "none");
    assert_problem(&client.leave("a", &bob).await.unwrap(), 404, "no-order");

    sold_to(&client, "a", &alice).await;
    assert_problem(&client.order("a", &alice).await.unwrap(), 409, "already-sold");
    assert_problem(&client.leave("a", &alice).await.unwrap(), 409, "already-sold");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_is_reserved_until_it_ends() {
    let (system, client) = setup().await;
    announce(&system, "a", json!({ "hold_seconds": 600, "settle_window_ms": 50 })).await.unwrap();
    let token = system.identity.token("alice").unwrap();
    client.order("a", &token).await.unwrap();
    let reserved = eventually("the order is reserved", Duration::from_secs(10), async || {
        let answer = client.mine("a", &token).await?;
        Ok((answer.body["status"] == "reserved").then_some(answer))
    })
    .await
    .unwrap();
    let until = reserved.body["reserved_until"].as_u64().unwrap();
    assert!(until > micros_now() + 580_000_000 && until < micros_now() + 600_000_000, "{until}");
    assert_problem(&client.order("a", &token).await.unwrap(), 409, "already-reserved");
    // The ledger releases the reservation; the buyer sees it afterwards.
    let leaving = client.leave("a", &token).await.unwrap();
    assert_eq!((leaving.status, &leaving.body["cancelling"]), (202, &json!(true)));
    eventually("the reservation is released", Duration::from_secs(10), async || {
        Ok((client.mine("a", &token).await?.body["status"] == "released").then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(client.order("a", &token).await.unwrap().status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn gates_and_stock() {
    let (system, client) = setup().await;
    let [alice, bob] = ["alice", "bob"].map(|buyer| system.identity.token(buyer).unwrap());
    let opens_at = micros_now() + 90_000_000;
    announce(&system, "soon", json!({ "opens_at": opens_at })).await.unwrap();
    let early = client.order("soon", &alice).await.unwrap();
    assert_problem(&early, 409, "not-open-yet");
    assert_eq!(early.body["opens_at"], opens_at);
    let wait: u64 = early.header("retry-after").unwrap().parse().unwrap();
    assert!((85..=91).contains(&wait), "{wait}");

    announce(&system, "over", json!({ "closes_at": micros_now() - 1_000_000 })).await.unwrap();
    assert_problem(&client.order("over", &alice).await.unwrap(), 410, "closed");

    announce(&system, "one", json!({ "stock_total": 1, "settle_window_ms": 50 })).await.unwrap();
    assert_eq!(client.order("one", &alice).await.unwrap().status, 202);
    sold_to(&client, "one", &alice).await;
    // The edge's copy of the item is at most a second old.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_problem(&client.order("one", &bob).await.unwrap(), 410, "sold-out");
    assert_problem(&client.order("one", &alice).await.unwrap(), 409, "already-sold");

    announce(&system, "paused", json!({ "settle_window_ms": 50 })).await.unwrap();
    system.admin(&json!({ "command": "pause", "item_id": "paused" })).await.unwrap();
    assert_eq!(client.order("paused", &alice).await.unwrap().status, 202);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(client.mine("paused", &alice).await.unwrap().body["status"], "queued");
    system.admin(&json!({ "command": "resume", "item_id": "paused" })).await.unwrap();
    sold_to(&client, "paused", &alice).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_s_page_can_be_cached() {
    let (system, client) = setup().await;
    announce(&system, "a", json!({ "name": "Größe <42>", "stock_total": 7 })).await.unwrap();
    let page = client.item("a").await.unwrap();
    assert_eq!(page.status, 200);
    assert_eq!((&page.body["name"], &page.body["stock_left"]), (&json!("Größe <42>"), &json!(7)));
    assert_eq!((&page.body["phase"], &page.body["closes_at"]), (&json!("open"), &Value::Null));
    assert_eq!(page.header("cache-control"), Some("public, max-age=1"));
    let etag = page.header("etag").unwrap().to_owned();
    for known in [etag.clone(), format!("W/{etag}"), format!("\"x\", {etag}"), "*".into()] {
        let same =
            client.send("GET", "/items/a", |request| request.header("if-none-match", &known)).await.unwrap();
        assert_eq!((same.status, same.header("etag")), (304, Some(etag.as_str())), "{known}");
    }
    let other =
        client.send("GET", "/items/a", |request| request.header("if-none-match", "\"x\"")).await.unwrap();
    assert_eq!(other.status, 200);
    assert_problem(&client.item("nothing").await.unwrap(), 404, "no-such-item");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests() {
    let (system, client) = setup().await;
    announce(&system, "a", json!({})).await.unwrap();
    let token = system.identity.token("alice").unwrap();
    let auth = |request: reqwest::RequestBuilder| request.bearer_auth(&token);

    let long = "x".repeat(65);
    let ids = [
        long.as_str(),
        "..%2F..%2Fetc",
        "%7Ba%7D",
        "a%7Bb%7Dc",
        "%00",
        "a%00",
        "%C3%BC",
        "a%20b",
        "a%3Ab",
        "%FF",
    ];
    for id in ids {
        assert_problem(&client.order(id, &token).await.unwrap(), 400, "bad-item-id");
        assert_problem(&client.item(id).await.unwrap(), 400, "bad-item-id");
        assert_problem(&client.mine(id, &token).await.unwrap(), 400, "bad-item-id");
    }
    // As on AWS, a path without an id is not a route.
    for path in ["/items//orders/x", "/items", "/"] {
        assert_eq!(client.send("POST", path, auth).await.unwrap().status, 404, "{path}");
    }
    assert_problem(&client.send("POST", "/items//orders", auth).await.unwrap(), 400, "bad-item-id");
    assert_problem(&client.order("nothing", &token).await.unwrap(), 404, "no-such-item");

    for (method, path, allow) in [
        ("PUT", "/items/a/orders", "POST, OPTIONS"),
        ("GET", "/items/a/orders", "POST, OPTIONS"),
        ("POST", "/items/a", "GET, OPTIONS"),
        ("POST", "/items/a/orders/me", "GET, DELETE, OPTIONS"),
    ] {
        let answer = client.send(method, path, auth).await.unwrap();
        assert_problem(&answer, 405, "method-not-allowed");
        assert_eq!(answer.header("allow"), Some(allow));
        let options = client.send("OPTIONS", path, |request| request).await.unwrap();
        assert_eq!((options.status, options.header("allow")), (204, Some(allow)));
    }

    let with_body = async |body: Vec<u8>| {
        client.send("POST", "/items/a/orders", |request| auth(request).body(body)).await.unwrap()
    };
    assert_problem(&with_body(b"{broken".to_vec()).await, 400, "bad-body");
    assert_problem(&with_body(br#"{"user_token":"bob"}"#.to_vec()).await, 400, "bad-body");
    assert_problem(&with_body(vec![0xff, 0xfe, 0]).await, 400, "bad-body");
    assert_problem(&with_body(vec![b'x'; 5_000]).await, 413, "body-too-large");
    assert_problem(&with_body(vec![b' '; 5_000_000]).await, 413, "body-too-large");
    assert_eq!(with_body(vec![b'x'; 11_000_000]).await.status, 413);
    assert_eq!(with_body(b" {} ".to_vec()).await.status, 202);
}
