//! The WebSocket protocol of the built functions: connecting, answers, and the end of a connection.

use local::aws::sockets::SocketLimits;
use local::crowd::socket::{HandshakeError, LatestMessages, Socket};
use local::crowd::watcher::Watcher;
use local::system::System;
use serde_json::{Value, json};
use std::time::Duration;
use tests::live::{MESSAGE_TIMEOUT, live, options, short_token, socket, system, system_with};
use tests::{Client, eventually};
use tokio_tungstenite::tungstenite::Message;

fn subscribe(item_id: &str) -> Value {
    json!({ "action": "subscribe", "item_id": item_id })
}

/// The last part of a problem's type.
fn problem(message: &Value) -> &str {
    message["problem"]["type"].as_str().and_then(|kind| kind.rsplit(':').next()).unwrap_or_default()
}

/// The next problem message; other messages are skipped.
async fn next_problem(socket: &mut Socket) -> Value {
    loop {
        let message = socket.receive(MESSAGE_TIMEOUT).await.expect("a problem message");
        if message["type"] == "problem" {
            return message;
        }
    }
}

/// Waits until the server closes the connection; messages before that are skipped.
async fn closed(socket: &mut Socket) -> bool {
    while socket.receive(MESSAGE_TIMEOUT).await.is_some() {}
    socket.closed_with.is_some()
}

async fn refusal(url: &str, protocols: &str) -> u16 {
    match Socket::offer(url, protocols).await {
        Err(HandshakeError::Refused(status)) => status,
        other => panic!("{protocols}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_receives_the_item_and_only_their_own_order() {
    let system = system(1, json!({ "stock_total": 1 })).await.unwrap();
    let mut alice = socket(&system, 0, "alice").await.unwrap();
    let mut bob = socket(&system, 0, "bob").await.unwrap();
    for one in [&mut alice, &mut bob] {
        let subscribed = one.subscribe("drop").await.unwrap();
        assert_eq!(subscribed["item"]["phase"], "open", "{subscribed}");
        assert_eq!(subscribed["item"]["stock_left"], 1, "{subscribed}");
        assert_eq!(subscribed["order"]["status"], "none", "{subscribed}");
        let (at, version) = (subscribed["item"]["at"].as_u64(), subscribed["item"]["version"].as_u64());
        assert!(at >= version && version > Some(0), "{subscribed}");
    }
    let client = Client::of(&system, 0).unwrap();
    let token = system.identity.token("alice").unwrap();
    assert_eq!(client.order("drop", &token).await.unwrap().status, 202);
    let mut heard = Vec::new();
    while alice.latest.status("drop") != Some("sold") {
        let message = alice.receive(MESSAGE_TIMEOUT).await.unwrap();
        heard.extend(message["status"].as_str().map(str::to_owned));
    }
    // The order may be sold before its position was read; the messages are in order.
    let order = ["queued", "reserved", "sold"];
    let places: Vec<usize> =
        heard.iter().map(|status| order.iter().position(|one| one == status).unwrap()).collect();
    assert!(places.is_sorted() && places.last() == Some(&2), "{heard:?}");
    while alice.latest.item("drop").unwrap()["phase"] != "sold_out" {
        alice.receive(MESSAGE_TIMEOUT).await.expect("an item message, too");
    }
    while bob.latest.item("drop").unwrap()["phase"] != "sold_out" {
        let message = bob.receive(MESSAGE_TIMEOUT).await.expect("an item message");
        assert_eq!(message["type"], "item", "{message}");
    }
    assert_eq!(bob.latest.status("drop"), Some("none"));
    // A later subscription returns the current state.
    let mut again = socket(&system, 0, "alice").await.unwrap();
    let subscribed = again.subscribe("drop").await.unwrap();
    assert_eq!(
        (&subscribed["order"]["status"], &subscribed["item"]["stock_left"]),
        (&json!("sold"), &json!(0))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_valid_token_in_the_subprotocols_connects() {
    let system = system(1, json!({})).await.unwrap();
    let url = live(&system, 0).unwrap().sockets.url();
    let token = system.identity.token("alice").unwrap();
    let expired = short_token(&system, "alice", -60).unwrap();
    assert_eq!(refusal(&url, &format!("bearer.{token}")).await, 400);
    assert_eq!(refusal(&url, "fairdrop.live.v1").await, 401);
    assert_eq!(refusal(&url, "fairdrop.live.v1, bearer.nonsense").await, 401);
    assert_eq!(refusal(&url, &format!("fairdrop.live.v1, bearer.{expired}")).await, 401);
    assert_eq!(refusal(&url, &format!("fairdrop.live.v1, bearer.{token}, bearer.{token}")).await, 401);
    assert_eq!(refusal(&format!("{url}?token={token}"), "fairdrop.live.v1").await, 401);
    let swapped = Socket::offer(&url, &format!("bearer.{token}, fairdrop.live.v1")).await;
    assert!(swapped.is_ok(), "{swapped:?}");
    // No log contains a token.
    for log in std::fs::read_dir(system.logs()).unwrap() {
        let path = log.unwrap().path();
        if path.is_file() {
            let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
            assert!(!text.contains(&token) && !text.contains(&expired), "{}", path.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_message_is_answered_with_a_problem() {
    let system = system(1, json!({})).await.unwrap();
    let mut alice = socket(&system, 0, "alice").await.unwrap();
    let long = format!("{{\"action\":\"ping\"}}{}", " ".repeat(1_100));
    let cases = [
        ("hello", "bad-message"),
        ("[]", "bad-message"),
        (r#"{"action":"buy"}"#, "bad-message"),
        (r#"{"action":"subscribe","item_id":"drop","user_token":"bob"}"#, "bad-message"),
        (r#"{"action":"subscribe","item_id":"a b"}"#, "bad-item-id"),
        (r#"{"action":"subscribe","item_id":"nothing"}"#, "no-such-item"),
        (&long, "body-too-large"),
    ];
    for (text, expected) in cases {
        alice.send(Message::text(text)).await.unwrap();
        let answer = alice.receive(MESSAGE_TIMEOUT).await.unwrap();
        assert_eq!((problem(&answer), &answer["ends"]), (expected, &Value::Null), "{text}: {answer}");
    }
    let pong = alice.ask(&json!({ "action": "ping" }), "pong", MESSAGE_TIMEOUT).await.unwrap();
    assert_eq!(pong["items"], json!([]), "a refused subscription must not exist");
    alice.subscribe("drop").await.unwrap();
    let pong = alice.ask(&json!({ "action": "ping" }), "pong", MESSAGE_TIMEOUT).await.unwrap();
    assert_eq!(pong["items"], json!(["drop"]));
    let gone = json!({ "action": "unsubscribe", "item_id": "drop" });
    alice.ask(&gone, "unsubscribed", MESSAGE_TIMEOUT).await.unwrap();
    let changed = json!({ "command": "update", "item_id": "drop", "changes": { "stock_total": 77 } });
    system.admin(&changed).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let pong = alice.ask(&json!({ "action": "ping" }), "pong", MESSAGE_TIMEOUT).await.unwrap();
    assert_eq!(pong["items"], json!([]));
    assert_eq!(alice.latest.item("drop").unwrap()["stock_total"], 10, "no message after unsubscribing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_watches_eight_items() {
    let system = system(1, json!({})).await.unwrap();
    for number in 0..9 {
        tests::announce(&system, &format!("item-{number}"), json!({})).await.unwrap();
    }
    let mut alice = socket(&system, 0, "alice").await.unwrap();
    for number in 0..8 {
        alice.subscribe(&format!("item-{number}")).await.unwrap();
    }
    alice.subscribe("item-7").await.unwrap();
    alice.send_message(&subscribe("item-8")).await.unwrap();
    let answer = next_problem(&mut alice).await;
    assert_eq!(
        (problem(&answer), &answer["item_id"]),
        ("too-many-subscriptions", &json!("item-8")),
        "{answer}"
    );
    let gone = json!({ "action": "unsubscribe", "item_id": "item-0" });
    alice.ask(&gone, "unsubscribed", MESSAGE_TIMEOUT).await.unwrap();
    alice.subscribe("item-8").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_ends_the_connection() {
    let system = system(1, json!({})).await.unwrap();
    let url = live(&system, 0).unwrap().sockets.url();
    // The verifier adds a leeway of 5 s.
    let token = short_token(&system, "alice", 3).unwrap();
    let mut alice = Socket::connect(&url, &token).await.unwrap();
    let mut bob = socket(&system, 0, "bob").await.unwrap();
    alice.subscribe("drop").await.unwrap();
    bob.subscribe("drop").await.unwrap();
    let message = next_problem(&mut alice).await;
    assert_eq!((problem(&message), &message["ends"]), ("bad-token", &json!(true)), "{message}");
    assert!(closed(&mut alice).await);
    // The verifier counts whole seconds.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(refusal(&url, &format!("fairdrop.live.v1, bearer.{token}")).await, 401);
    bob.ask(&json!({ "action": "ping" }), "pong", MESSAGE_TIMEOUT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sixth_connection_ends_the_first() {
    let system = system(1, json!({})).await.unwrap();
    let mut first = socket(&system, 0, "alice").await.unwrap();
    first.subscribe("drop").await.unwrap();
    let mut others = Vec::new();
    for _ in 0..5 {
        others.push(socket(&system, 0, "alice").await.unwrap());
    }
    let message = next_problem(&mut first).await;
    assert_eq!((problem(&message), &message["ends"]), ("too-many-connections", &json!(true)), "{message}");
    assert!(closed(&mut first).await);
    for other in &mut others {
        other.ask(&json!({ "action": "ping" }), "pong", MESSAGE_TIMEOUT).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_closed_and_other_connections_are_unaffected() {
    let system = system(1, json!({})).await.unwrap();
    let mut bob = socket(&system, 0, "bob").await.unwrap();
    bob.subscribe("drop").await.unwrap();
    let mut flood = socket(&system, 0, "mallory").await.unwrap();
    let (mut pongs, mut problems) = (0, Vec::new());
    for _ in 0..150 {
        let _ = flood.send_message(&json!({ "action": "ping" })).await;
    }
    while let Some(message) = flood.receive(MESSAGE_TIMEOUT).await {
        match message["type"].as_str() {
            Some("pong") => pongs += 1,
            _ => problems.push(problem(&message).to_owned()),
        }
    }
    assert!(flood.closed_with.is_some(), "{pongs} pongs, {problems:?}");
    assert!(pongs <= 60, "{pongs}");
    assert!(problems.iter().all(|one| one == "too-many-messages") && problems.len() <= 6, "{problems:?}");
    // A flood of handshakes is refused.
    let url = live(&system, 0).unwrap().sockets.url();
    let token = system.identity.token("mallory").unwrap();
    let mut refused = 0;
    for _ in 0..60 {
        match Socket::connect(&url, &token).await {
            Ok(_) => {}
            Err(HandshakeError::Refused(429)) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused >= 25, "{refused}");
    bob.ask(&json!({ "action": "ping" }), "pong", MESSAGE_TIMEOUT).await.unwrap();
    let mut carol = socket(&system, 0, "carol").await.unwrap();
    carol.subscribe("drop").await.unwrap();
}

async fn sold_to(system: &System, subject: &str) {
    let client = Client::of(system, 0).unwrap();
    let token = system.identity.token(subject).unwrap();
    eventually("the order is queued", MESSAGE_TIMEOUT, async || {
        Ok((client.order("drop", &token).await?.status == 202).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_loss_of_the_registry_all_clients_reconnect() {
    let mut system = system(1, json!({})).await.unwrap();
    let mut alice = socket(&system, 0, "alice").await.unwrap();
    alice.subscribe("drop").await.unwrap();
    let url = live(&system, 0).unwrap().sockets.url();
    let bob = Watcher::start(url, system.identity.token("bob").unwrap(), "drop".into());
    eventually("bob is subscribed", MESSAGE_TIMEOUT, async || Ok(bob.is_subscribed().then_some(())))
        .await
        .unwrap();
    let registry = system.registry.as_mut().unwrap();
    let _: () = redis::cmd("FLUSHALL").query_async(&mut registry.connect().await.unwrap()).await.unwrap();
    registry.restart().await.unwrap();
    let message = loop {
        alice.send_message(&json!({ "action": "ping" })).await.unwrap();
        let message = next_problem(&mut alice).await;
        if problem(&message) != "status-unavailable" {
            break message;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!((problem(&message), &message["ends"]), ("not-connected", &json!(true)), "{message}");
    assert!(closed(&mut alice).await);
    sold_to(&system, "bob").await;
    eventually("bob's socket shows sold", tests::live::CONVERGENCE, async || {
        Ok((bob.status() == "sold").then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(bob.state().subscribed, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_outside_the_gates_is_reported_as_refused() {
    let limits = SocketLimits::default();
    let opens_at = local::system::clock::micros_now() - 60_000_000;
    let item = json!({ "settle_window_ms": 3_000, "opens_at": opens_at });
    let system = system_with(&options(1, limits), item).await.unwrap();
    let mut alice = socket(&system, 0, "alice").await.unwrap();
    alice.subscribe("drop").await.unwrap();
    sold_to(&system, "alice").await;
    // The opening is postponed while the order waits.
    let later = json!({ "opens_at": local::system::clock::micros_now() + 60_000_000 });
    system.admin(&json!({ "command": "update", "item_id": "drop", "changes": later })).await.unwrap();
    // Each comes in a message of its own, in any order.
    let is_upcoming =
        |latest: &LatestMessages| latest.item("drop").is_some_and(|item| item["phase"] == "upcoming");
    while alice.latest.status("drop") != Some("refused") || !is_upcoming(&alice.latest) {
        alice.receive(MESSAGE_TIMEOUT).await.expect("messages about the order and the item");
    }
    assert_eq!(alice.latest.order("drop").unwrap()["reason"], "not-open-yet");
}
