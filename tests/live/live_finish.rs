//! The end of an item through the built functions: what watchers, the status and new orders get, and that the worker
//! completes an end.

use local::crowd::socket::Socket;
use local::system::clock::micros_now;
use redis::AsyncCommands;
use serde_json::{Value, json};
use shared::queue::Keys;
use sqlx::{Connection, Executor};
use std::time::Duration;
use tests::live::{MESSAGE_TIMEOUT, socket, system};
use tests::{Client, eventually};

const SOON: Duration = Duration::from_secs(30);

/// The next order message with this status.
async fn status(socket: &mut Socket, expected: &str) -> Value {
    loop {
        let message = socket.receive(MESSAGE_TIMEOUT).await.expect("an order message");
        if message["type"] == "order" && message["status"] == expected {
            return message;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn buyers_without_a_unit_read_over_and_an_opening_begins_again_for_them() {
    let system = system(1, json!({ "stock_total": 1, "hold_seconds": 600 })).await.unwrap();
    let client = Client::of(&system, 0).unwrap();
    let token = |buyer: &str| system.identity.token(buyer).unwrap();
    let mine = async |buyer: &str| client.mine("drop", &token(buyer)).await.unwrap().body;
    let (mut alice, mut bob) =
        (socket(&system, 0, "alice").await.unwrap(), socket(&system, 0, "bob").await.unwrap());
    alice.subscribe("drop").await.unwrap();
    bob.subscribe("drop").await.unwrap();
    assert_eq!(client.order("drop", &token("alice")).await.unwrap().status, 202);
    status(&mut alice, "reserved").await;
    assert_eq!(client.order("drop", &token("bob")).await.unwrap().status, 202);
    status(&mut bob, "queued").await;
    let queued = mine("bob").await;
    assert_eq!((&queued["ahead"], &queued["units_left"]), (&json!(0), &json!(0)), "{queued}");

    let finish = json!({ "command": "finish", "item_id": "drop" });
    assert!(system.admin(&finish).await.unwrap_err().to_string().contains("NotClosed"));
    system.admin(&json!({ "command": "close", "item_id": "drop" })).await.unwrap();
    let finished =
        eventually("the longest window has passed", SOON, async || Ok(Some(system.admin(&finish).await?)));
    let finished = finished.await.unwrap();
    assert_eq!((&finished["removed"], &finished["left"]), (&json!(1), &json!(0)), "{finished}");
    status(&mut bob, "over").await;
    assert_eq!(
        (mine("bob").await["status"].clone(), mine("carol").await["status"].clone()),
        (json!("over"), json!("over"))
    );
    assert_eq!(mine("alice").await["status"], "reserved");
    let mut carol = socket(&system, 0, "carol").await.unwrap();
    assert_eq!(carol.subscribe("drop").await.unwrap()["order"]["status"], "over");
    assert_eq!(client.order("drop", &token("carol")).await.unwrap().problem(), Some("closed"));

    // drop-admin was killed before it had emptied the queue.
    let orders: Vec<(u64, String)> = (0..1_200).map(|n| (micros_now() + n, format!("late-{n}"))).collect();
    let orders_key = Keys::of(&"drop".parse().unwrap()).orders;
    let mut redis = system.redis.connect().await.unwrap();
    let _: () = redis.zadd_multiple(&orders_key, &orders).await.unwrap();
    let mut ledger = sqlx::PgConnection::connect(&system.postgres.url()).await.unwrap();
    ledger.execute("UPDATE fairdrop.items SET end_pending = true").await.unwrap();
    eventually("the worker has emptied the queue", SOON, async || {
        let waiting: u64 = redis.zcard(&orders_key).await?;
        Ok((waiting == 0).then_some(()))
    })
    .await
    .unwrap();

    let opens_at = micros_now() + 3_600_000_000;
    let changes = json!({ "stock_total": 2, "opens_at": opens_at, "closes_at": opens_at + 60_000_000 });
    let update = json!({ "command": "update", "item_id": "drop", "changes": changes });
    eventually("the end is complete", SOON, async || Ok(Some(system.admin(&update).await?))).await.unwrap();
    status(&mut bob, "none").await;
    assert_eq!(client.order("drop", &token("carol")).await.unwrap().problem(), Some("not-open-yet"));
}
