//! Redis is written from the ledger: overlapping rebuilds, repairs of an item's fields, and changes that the ledger refuses.

use crate::held_item::{HeldItem, Holds};
use drop_admin::App;
use local::system::clock::micros_now;
use reconcile::{ReconcileError, reconcile, restore};
use redis::AsyncCommands;
use serde_json::{Value, json};
use shared::item::{Item, ItemChanges, ItemId, NewItem};
use shared::permit::Permit;
use shared::queue::{ItemError, Keys, OrderState, RESTORE_WANTED};
use shared::stamp::Stamp;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use std::time::Duration;
use tests::source;

/// More than two pages of the ledger.
const SALES: u64 = 11_000;
const HOLDS: Holds = Holds { hold_seconds: 600, max_hold_seconds: 0 };

/// An item that the ledger has sold out, and that Redis has lost.
async fn lost_item() -> HeldItem {
    let item = HeldItem::start(HOLDS, &[]).await.unwrap();
    let mut ledger = PgConnection::connect(&item.ledger.postgres.url()).await.unwrap();
    // The triggers would take minutes.
    ledger.execute("SET session_replication_role = replica").await.unwrap();
    let sales = format!(
        "INSERT INTO fairdrop.sales (item_id, user_token, state, placed_at, reserved_at, hold_until, epoch)
         SELECT 'a', 'buyer-' || n, 'sold', n, n, n, 1 FROM generate_series(1, {SALES}) AS n"
    );
    ledger.execute(AssertSqlSafe(sales)).await.unwrap();
    let stock = format!("UPDATE fairdrop.items SET stock_total = {SALES}, units_taken = {SALES}");
    ledger.execute(AssertSqlSafe(stock)).await.unwrap();
    lose(&item).await;
    item
}

async fn lose(item: &HeldItem) {
    let keys = Keys::of(&item.item_id);
    let mut connection = item.redis.redis.connect().await.unwrap();
    let _: () = connection.del(&[&keys.item, &keys.reservations, &keys.tasks]).await.unwrap();
}

/// The keys of rebuilds that have not ended.
async fn temporary_keys(item: &HeldItem) -> Vec<String> {
    item.redis.redis.connect().await.unwrap().keys("rebuild:*").await.unwrap()
}

async fn in_redis(item: &HeldItem) -> Result<Item, ItemError> {
    item.redis.queue.item(&item.item_id).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rebuilds_of_one_item_that_overlap_restore_every_buyer_and_leave_nothing_behind() {
    let item = lost_item().await;
    let stores = item.stores();
    let mut connection = item.redis.redis.connect().await.unwrap();
    let reservations = Keys::of(&item.item_id).reservations;
    for _ in 0..5 {
        lose(&item).await;
        let later = async || {
            while temporary_keys(&item).await.is_empty() && in_redis(&item).await.is_err() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            restore(&stores, &item.item_id, 1).await.unwrap()
        };
        let (first, second, third) =
            tokio::join!(async { restore(&stores, &item.item_id, 1).await.unwrap() }, later(), later());
        let mut taken = [first, second, third];
        taken.sort_unstable();
        assert_eq!(taken, [-1, -1, SALES.cast_signed()], "the item is written once: it is not paused");
        let buyers: u64 = connection.zcard(&reservations).await.unwrap();
        assert_eq!((buyers, in_redis(&item).await.unwrap().stock_left), (SALES, 0));
        let seconds: i64 = connection.ttl(&reservations).await.unwrap();
        assert_eq!(seconds, -1, "the reservations do not expire");
        assert!(temporary_keys(&item).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_whose_temporary_key_is_lost_writes_no_item() {
    let item = lost_item().await;
    let stores = item.stores();
    let mut connection = item.redis.redis.connect().await.unwrap();
    let lose_key = async {
        loop {
            let found = temporary_keys(&item).await;
            if !found.is_empty() {
                return connection.del::<_, ()>(found).await.unwrap();
            }
        }
    };
    let (result, ()) = tokio::join!(restore(&stores, &item.item_id, 1), lose_key);
    assert!(matches!(result, Err(ReconcileError::Incomplete(_))), "{result:?}");
    assert!(matches!(in_redis(&item).await, Err(ItemError::NoSuchItem(_))));
    assert!(temporary_keys(&item).await.is_empty());
    assert_eq!(restore(&stores, &item.item_id, 1).await.unwrap(), SALES.cast_signed());
}

/// What a repair finds, and what it leaves.
async fn fields_that_differ(item: &HeldItem) -> Vec<&'static str> {
    let before = reconcile(&item.stores(), &item.item_id, true).await.unwrap().item_fields;
    let after = reconcile(&item.stores(), &item.item_id, false).await.unwrap().item_fields;
    assert!(after.is_empty(), "the repair left {after:?}");
    before
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_writes_what_the_ledger_has_although_a_command_may_not() {
    let item = HeldItem::start(HOLDS, &[]).await.unwrap();
    let (ledger, queue, id) = (&item.ledger.ledger, &item.redis.queue, &item.item_id);
    let now = micros_now();
    let at = |micros: u64| Stamp::from_micros(micros).unwrap();

    // A close whose second half did not reach Redis, before the item opens.
    let opens_later = ItemChanges { opens_at: Some(at(now + 60_000_000)), ..ItemChanges::default() };
    ledger.change_item(id, &opens_later).await.unwrap();
    queue.update_item(id, &opens_later).await.unwrap();
    ledger.close_item(id, at(now)).await.unwrap();
    assert_eq!(fields_that_differ(&item).await, ["closes_at"]);
    assert_eq!(in_redis(&item).await.unwrap().closes_at, Some(at(now)));

    // A closing that Redis alone has.
    item.query(
        "WITH done AS (UPDATE fairdrop.items SET closes_at = NULL RETURNING 1) SELECT count(*) FROM done",
    )
    .await;
    assert_eq!(fields_that_differ(&item).await, ["closes_at"]);
    assert_eq!(in_redis(&item).await.unwrap().closes_at, None);

    // Redis has more units taken than the ledger has in stock: none is left to sell.
    let (keys, mut connection) = (Keys::of(id), item.redis.redis.connect().await.unwrap());
    let held = [(now + 600_000_000, "alice"), (now + 600_000_000, "bob")];
    let _: () = connection.zadd_multiple(&keys.reservations, &held).await.unwrap();
    let _: () = connection.hset(&keys.item, "stock_left", 1_998).await.unwrap();
    let less = ItemChanges { stock_total: Some(1), name: Some("B".into()), ..ItemChanges::default() };
    ledger.change_item(id, &less).await.unwrap();
    ledger.pause_item(id, true).await.unwrap();
    assert_eq!(fields_that_differ(&item).await, ["name", "stock_total", "paused"]);
    let repaired = in_redis(&item).await.unwrap();
    assert_eq!((repaired.stock_total, repaired.stock_left, repaired.paused), (1, 0, true));
}

async fn admin(item: &HeldItem) -> App {
    App::from_config(&source(&item.redis, &item.ledger)).await.unwrap()
}

fn update(changes: Value) -> Value {
    json!({ "command": "update", "item_id": "a", "changes": changes })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lower_stock_that_the_ledger_does_not_take_changes_no_other_field_in_redis() {
    let item = HeldItem::start(HOLDS, &["alice"]).await.unwrap();
    let (app, before) = (admin(&item).await, in_redis(&item).await.unwrap());
    let closes_at = micros_now() + 60_000_000;
    let change =
        update(json!({ "stock_total": 90, "closes_at": closes_at, "hold_seconds": 60, "name": "B" }));

    // The ledger withholds more than Redis knows.
    let id: ItemId = "a".parse().unwrap();
    item.ledger.ledger.withhold(&id, 1_950, false, 2).await.unwrap();
    let refusal = drop_admin::handle(&app, change.clone()).await.unwrap_err();
    assert!(refusal.to_string().contains("stock_total must be at least"), "{refusal}");
    assert_eq!(in_redis(&item).await.unwrap(), before);
    item.ledger.ledger.withhold_at_most(&id, 0).await.unwrap();

    // The ledger does not answer in time.
    let mut lock = PgConnection::connect(&item.ledger.postgres.url()).await.unwrap();
    lock.execute("BEGIN; SELECT FROM fairdrop.items FOR UPDATE").await.unwrap();
    let unknown = drop_admin::handle(&app, change.clone()).await.unwrap_err();
    assert!(unknown.to_string().contains("unavailable"), "{unknown}");
    let now = in_redis(&item).await.unwrap();
    assert_eq!((now.closes_at, now.hold_seconds, &now.name), (None, before.hold_seconds, &before.name));
    drop(lock);

    drop_admin::handle(&app, change).await.unwrap();
    let compared = reconcile(&item.stores(), &item.item_id, false).await.unwrap();
    assert_eq!(compared.item_fields, [""; 0]);
    let now = in_redis(&item).await.unwrap();
    assert_eq!((now.stock_total, now.hold_seconds), (90, 60));
}

#[tokio::test(flavor = "multi_thread")]
async fn items_that_cannot_be_compared_are_listed_beside_those_that_are() {
    let item = HeldItem::start(HOLDS, &[]).await.unwrap();
    let app = admin(&item).await;
    let known = item.ledger.ledger.item(&item.item_id).await.unwrap();
    for name in ["b", "c"] {
        let new = NewItem { item_id: name.parse().unwrap(), ..known.item.clone() };
        item.ledger.ledger.create_item(&new).await.unwrap();
    }
    let mut connection = item.redis.redis.connect().await.unwrap();
    let _: () = connection.set(Keys::of(&"b".parse().unwrap()).item, "no hash").await.unwrap();
    let answer = drop_admin::handle(&app, json!({ "command": "reconcile", "repair": true })).await.unwrap();
    assert_eq!(answer["items"]["a"]["item_fields"], json!([]), "{answer}");
    for (name, why) in [("b", "WRONGTYPE"), ("c", "does not exist")] {
        let error = answer["items"][name]["error"].as_str().unwrap_or_default();
        assert!(error.contains(why), "{name}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_order_logs_an_operator_ends_the_wait_for_a_replay() {
    let item = HeldItem::start(HOLDS, &[]).await.unwrap();
    let app = admin(&item).await;
    let replay = json!({ "command": "replay", "item_id": "a" });
    let refusal = drop_admin::handle(&app, replay.clone()).await.unwrap_err();
    assert!(refusal.to_string().contains("waits for none"), "{refusal}");
    // The logs were unset while the item waited.
    item.redis.queue.restore_begin(&item.item_id, RESTORE_WANTED, Duration::ZERO).await.unwrap();
    item.reserve(&["alice"]).await.unwrap();
    assert!(matches!(item.state("alice").await.unwrap(), OrderState::Queued { .. }));
    let ended = drop_admin::handle(&app, replay).await.unwrap();
    assert_eq!(ended["restoring"], false, "{ended}");
    item.redis.queue.drain(&item.item_id, 500, Permit::Unleased).await.unwrap();
    assert!(matches!(item.state("alice").await.unwrap(), OrderState::Reserved(_)));
}
