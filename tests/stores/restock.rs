//! More stock for an item that has closed or was finished: what waited before gets nothing, unless the operator says so.

use crate::finish::EndingItem;
use crate::held_item::Holds;
use local::system::clock::micros_now;
use redis::AsyncCommands;
use serde_json::json;
use shared::item::ItemChanges;
use shared::queue::Placement;
use shared::stamp::Stamp;
use std::time::Duration;

const NO_HOLD: Holds = Holds { hold_seconds: 0, max_hold_seconds: 0 };
/// From an update to the opening that it asks for.
const OPENS_IN: u64 = 2_000_000;

/// One unit of stock is left, and two orders wait.
async fn closed_item() -> EndingItem {
    let ending = EndingItem::start(NO_HOLD, &["alice"]).await;
    ending
        .command(json!({ "command": "update", "item_id": "a", "changes": { "stock_total": 1 } }))
        .await
        .unwrap();
    ending.queue_orders(2).await;
    ending.closed_for(11).await;
    ending
}

fn opening(opens_at: u64) -> serde_json::Value {
    let changes = json!({ "stock_total": 3, "opens_at": opens_at, "closes_at": opens_at + 600_000_000 });
    json!({ "command": "update", "item_id": "a", "changes": changes })
}

#[tokio::test(flavor = "multi_thread")]
async fn more_stock_of_a_closed_item_is_refused_unless_the_operator_serves_those_who_wait() {
    let ending = closed_item().await;
    let mut more = json!({ "command": "update", "item_id": "a", "changes": { "stock_total": 2 } });
    let (kind, text) = ending.refused(more.clone()).await;
    assert!(
        kind == "ItemClosed" && text.contains("run `finish`") && text.contains("serve_waiting"),
        "{text}"
    );
    assert_eq!(ending.stores.ledger.item(&ending.item.item_id).await.unwrap().item.stock_total, 1);
    assert_eq!((ending.drained().await, ending.waiting().await), (0, 2));
    more["serve_waiting"] = json!(true);
    ending.command(more).await.unwrap();
    assert_eq!((ending.drained().await, ending.waiting().await), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_item_opens_again_for_new_orders_only() {
    let ending = closed_item().await;
    let closed_before: u64 = {
        let mut connection = ending.item.redis.redis.connect().await.unwrap();
        connection.hget(ending.keys().item, "closed").await.unwrap()
    };
    ending.finish().await.unwrap();
    let end = ending.stores.ledger.item(&ending.item.item_id).await.unwrap().end().unwrap();
    let more = json!({ "command": "update", "item_id": "a", "changes": { "stock_total": 3 } });
    for refused in [more, opening(micros_now())] {
        assert_eq!(ending.refused(refused).await.0, "ItemFinished");
    }
    let opens_at = micros_now() + OPENS_IN;
    let opened = ending.command(opening(opens_at)).await.unwrap();
    assert_eq!((&opened["phase"], &opened["stock_left"]), (&json!("upcoming"), &json!(2)), "{opened}");
    assert_eq!((&opened["paused"], &opened["finished_at"]), (&json!(false), &json!(null)), "{opened}");
    let mut connection = ending.item.redis.redis.connect().await.unwrap();
    let fields: Vec<String> =
        redis::cmd("HKEYS").arg(ending.keys().item).query_async(&mut connection).await.unwrap();
    assert_eq!(fields[0], "closed", "every order reads it");
    let closed: u64 = connection.hget(ending.keys().item, "closed").await.unwrap();
    assert!(closed >= closed_before && closed >= end.finished_at.as_micros());

    // A worker that is late with the end of before changes nothing.
    ending.stores.queue.finish_step(&ending.item.item_id, end.finished_at).await.unwrap();
    assert!(!ending.stores.queue.item(&ending.item.item_id).await.unwrap().is_finished());
    // An order of before comes back: by a replica, or by a replay.
    ending.queue_orders(1).await;
    while micros_now() < opens_at + 200_000 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(ending.place("zoe").await, Placement::Queued);
    assert_eq!(ending.place("alice").await, Placement::AlreadyTaken { sold: true });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(
        (ending.drained().await, ending.waiting().await),
        (1, 0),
        "Zoe alone; the older one is dropped"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opening_that_was_interrupted_is_completed_by_the_same_command() {
    let ending = closed_item().await;
    ending.finish().await.unwrap();
    // A comparison takes seconds.
    let opens_at = micros_now() + 60 * OPENS_IN;
    let stamp = |micros| Some(Stamp::from_micros(micros).unwrap());
    let changes = ItemChanges {
        stock_total: Some(3),
        opens_at: stamp(opens_at),
        closes_at: stamp(opens_at + 600_000_000),
        ..ItemChanges::default()
    };
    let item_id = &ending.item.item_id;
    ending.stores.ledger.reopen_item(item_id, &changes).await.unwrap().unwrap();
    // Nothing is sold, and a repair does not decide for the operator.
    ending.queue_orders(1).await;
    assert_eq!(ending.drained().await, 0);
    let reconciled = reconcile::reconcile(&ending.stores, item_id, true).await.unwrap();
    assert!(reconciled.item_fields.contains(&"finished"), "{reconciled:?}");
    assert!(ending.stores.queue.item(item_id).await.unwrap().is_finished());
    let opened = ending.command(opening(opens_at)).await.unwrap();
    assert_eq!((&opened["phase"], &opened["stock_left"]), (&json!("upcoming"), &json!(2)), "{opened}");
}
