//! Main's ledger is restored from before the newest sales, and Redis still has them, with real stores: no unit that was paid
//! for is sold again.

use crate::held_item::{HeldItem, Holds, work_for};
use drop_admin::App;
use lambda_runtime::Diagnostic;
use ledger::{LedgerError, SaleState};
use local::system::clock::micros_now;
use reconcile::reconcile;
use redis::AsyncCommands;
use serde_json::{Value, json};
use shared::item::{ItemId, NewItem};
use shared::permit::Permit;
use shared::queue::{Keys, OrderState};
use shared::stamp::Stamp;
use sqlx::{Connection, Executor, PgConnection};
use std::collections::BTreeSet;
use std::time::Duration;
use tests::source;

const HOLDS: Holds = Holds { hold_seconds: 2, max_hold_seconds: 0 };
const A_MOMENT: Duration = Duration::from_millis(300);

/// The tables whose content a test saves and restores; the payments and the outbox, too, since they follow the sales.
const SAVE: &str = "
    CREATE SCHEMA saved;
    CREATE TABLE saved.items AS TABLE fairdrop.items;
    CREATE TABLE saved.sales AS TABLE fairdrop.sales;
    CREATE TABLE saved.outbox AS TABLE fairdrop.outbox;
    CREATE TABLE saved.payments AS TABLE fairdrop.payments";
/// Without triggers, as `pg_restore` and a snapshot of the disk do.
const RESTORE: &str = "
    SET session_replication_role = replica;
    DELETE FROM fairdrop.items; INSERT INTO fairdrop.items SELECT * FROM saved.items;
    DELETE FROM fairdrop.sales; INSERT INTO fairdrop.sales SELECT * FROM saved.sales;
    DELETE FROM fairdrop.outbox; INSERT INTO fairdrop.outbox SELECT * FROM saved.outbox;
    DELETE FROM fairdrop.payments; INSERT INTO fairdrop.payments SELECT * FROM saved.payments";

async fn execute(item: &HeldItem, sql: &'static str) {
    let mut ledger = PgConnection::connect(&item.ledger.postgres.url()).await.unwrap();
    ledger.execute(sql).await.unwrap();
}

/// The ids of the events in the outbox, and in the saved one.
const EVENTS: &str = "SELECT item_id || '/' || epoch || '/' || sequence FROM fairdrop.outbox";
const SAVED_EVENTS: &str = "SELECT item_id || '/' || epoch || '/' || sequence FROM saved.outbox";

async fn ids(item: &HeldItem, query: &'static str) -> BTreeSet<String> {
    let mut ledger = PgConnection::connect(&item.ledger.postgres.url()).await.unwrap();
    let ids: Vec<String> = sqlx::query_scalar(query).fetch_all(&mut ledger).await.unwrap();
    ids.into_iter().collect()
}

async fn admin(item: &HeldItem, command: Value) -> Result<Value, Diagnostic> {
    let app = App::from_config(&source(&item.redis, &item.ledger)).await.unwrap();
    drop_admin::handle(&app, command).await.map_err(Diagnostic::from)
}

async fn pay(item: &HeldItem, buyer: &str) -> String {
    item.send(&item.notice(buyer, &format!("pay-{buyer}"), "paid")).await
}

/// The error of a notice that the shop has to repeat.
async fn temporary(item: &HeldItem, buyer: &str) -> String {
    let notice = item.notice(buyer, &format!("pay-{buyer}"), "paid");
    order_confirm::answer(&item.confirm, notice).await.unwrap_err().to_string()
}

async fn epochs(item: &HeldItem) -> (u64, u64) {
    let in_redis = item.redis.queue.item(&item.item_id).await.unwrap().epoch;
    (item.ledger.ledger.epoch().await.unwrap(), in_redis)
}

/// At the recovery point, "held" has a reservation, and that of "again" was released. Later "held" pays, "again" is reserved
/// again and pays, and "new" buys a unit. Then the ledger is restored. Returns the ids of the events that the shop has.
async fn restored() -> (HeldItem, BTreeSet<String>) {
    let item = HeldItem::start(HOLDS, &["held", "again"]).await.unwrap();
    item.ledger.ledger.want_events().await.unwrap();
    let mut work = item.worker().await.unwrap();
    work_for(&mut work, A_MOMENT).await;
    assert_eq!(item.send(&item.notice("again", "failed-card", "failed")).await, "released");
    work_for(&mut work, A_MOMENT).await;
    execute(&item, SAVE).await;
    assert_eq!(pay(&item, "held").await, "sold");
    item.reserve(&["again", "new"]).await.unwrap();
    work_for(&mut work, A_MOMENT).await;
    for buyer in ["again", "new"] {
        assert_eq!(pay(&item, buyer).await, "sold", "{buyer}");
    }
    work_for(&mut work, A_MOMENT).await;
    let sent = ids(&item, EVENTS).await;
    execute(&item, RESTORE).await;
    (item, sent)
}

async fn all_are_sold(item: &HeldItem, when: &str) {
    for buyer in ["held", "again", "new"] {
        assert_eq!(item.state(buyer).await.unwrap(), OrderState::Sold, "{buyer} {when}");
    }
    assert_eq!(item.redis.queue.item(&item.item_id).await.unwrap().stock_left, 2_000 - 3, "{when}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sold_after_the_recovery_point_is_not_sold_again() {
    let (item, sent) = restored().await;
    let selling = admin(&item, json!({ "command": "ledger_restored" })).await.unwrap_err();
    assert_eq!(selling.error_type, "ItemSelling", "{}", selling.error_message);
    admin(&item, json!({ "command": "pause", "item_id": "a" })).await.unwrap();
    let done = admin(&item, json!({ "command": "ledger_restored" })).await.unwrap();
    assert_eq!((&done["epoch"], &done["items"]), (&json!(2), &json!(1)), "{done}");
    assert_eq!(epochs(&item).await, (2, 2));

    let mut work = item.worker().await.unwrap();
    for repair in [false, true] {
        let found = reconcile(&item.stores(), &item.item_id, repair).await.unwrap();
        let expected =
            ["sold by the old main, by Redis alone", "taken again in Redis alone", "taken in Redis alone"];
        let kinds: Vec<(&str, u64)> = found.differences.into_iter().collect();
        assert_eq!(kinds, expected.map(|kind| (kind, 1)));
        assert_eq!((found.item_fields.len(), found.repaired, found.stock_counted), (0, 0, 1_997));
        // Longer than the hold of "held", which the restored ledger has as waiting for a payment.
        work_for(&mut work, Duration::from_millis(2_500)).await;
        all_are_sold(&item, "after the comparison").await;
    }

    // The shop repeats its notices: the ledger has the sale of "held" again, and decides nothing about the others.
    assert_eq!(pay(&item, "held").await, "sold");
    for buyer in ["again", "new"] {
        let error = temporary(&item, buyer).await;
        assert!(error.contains("not-recorded-yet"), "{buyer}: {error}");
    }
    admin(&item, json!({ "command": "sell_withheld", "item_id": "a", "keep": 0 })).await.unwrap();
    assert_eq!(reconcile(&item.stores(), &item.item_id, true).await.unwrap().repaired, 0);
    let resumed = admin(&item, json!({ "command": "resume", "item_id": "a" })).await.unwrap();
    assert_eq!((&resumed["paused"], &resumed["stock_left"]), (&json!(false), &json!(1_997)), "{resumed}");
    item.reserve(&["next"]).await.unwrap();
    work_for(&mut work, A_MOMENT).await;
    assert_eq!(pay(&item, "next").await, "sold");
    work_for(&mut work, A_MOMENT).await;
    for buyer in ["held", "again", "new", "next"] {
        assert_eq!(item.state(buyer).await.unwrap(), OrderState::Sold, "{buyer}");
    }
    let kept = ids(&item, SAVED_EVENTS).await;
    let new: BTreeSet<String> = ids(&item, EVENTS).await.difference(&kept).cloned().collect();
    assert_eq!(new.len(), 3, "held: sold; next: reserved, sold: {new:?}");
    assert!(new.is_disjoint(&sent), "the shop would take these for repetitions: {new:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_from_before_does_not_end_before_the_operator_has_compared() {
    let item = HeldItem::start(HOLDS, &["bought", "waits"]).await.unwrap();
    let mut work = item.worker().await.unwrap();
    work_for(&mut work, A_MOMENT).await;
    admin(&item, json!({ "command": "pause", "item_id": "a" })).await.unwrap();
    admin(&item, json!({ "command": "ledger_restored" })).await.unwrap();
    work_for(&mut work, Duration::from_millis(2_500)).await;
    // The shop repeats its notice, after the end of the hold.
    assert_eq!(pay(&item, "bought").await, "sold");
    assert!(matches!(item.state("waits").await.unwrap(), OrderState::Reserved(_)));
    admin(&item, json!({ "command": "sell_withheld", "item_id": "a", "keep": 0 })).await.unwrap();
    work_for(&mut work, A_MOMENT).await;
    assert_eq!(item.state("waits").await.unwrap(), OrderState::Released);
    assert_eq!(item.redis.queue.item(&item.item_id).await.unwrap().stock_left, 1_999);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_dies_leaves_nothing_that_sells_under_the_old_epoch_and_is_repeated() {
    let item = HeldItem::start(HOLDS, &["early"]).await.unwrap();
    let mut work = item.worker().await.unwrap();
    admin(&item, json!({ "command": "pause", "item_id": "a" })).await.unwrap();
    // Without a lease, the ledger would refuse the task under the new epoch.
    let refused = admin(&item, json!({ "command": "ledger_restored" })).await.unwrap_err();
    assert_eq!(refused.error_type, "TasksWaiting", "{}", refused.error_message);
    work_for(&mut work, A_MOMENT).await;

    // It dies after the ledger's part.
    item.ledger.ledger.begin_restored_epoch(2).await.unwrap();
    assert_eq!(item.ledger.ledger.begin_restored_epoch(2).await, Err(LedgerError::StaleEpoch));
    assert_eq!(epochs(&item).await, (2, 1));
    assert!(temporary(&item, "early").await.contains("internal"));
    let known = item.ledger.ledger.item(&item.item_id).await.unwrap();
    assert!(known.paused && known.keeps_old_holds);

    for epoch in [3, 4] {
        let done = admin(&item, json!({ "command": "ledger_restored" })).await.unwrap();
        assert_eq!(done["epoch"], json!(epoch));
        assert_eq!(epochs(&item).await, (epoch, epoch));
    }
    assert_eq!(pay(&item, "early").await, "sold");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_from_after_the_recovery_point_is_kept_and_one_that_redis_lost_is_named() {
    let item = HeldItem::start(HOLDS, &[]).await.unwrap();
    let young: ItemId = "young".parse().unwrap();
    let opens_at = Stamp::from_micros(micros_now() - 60_000_000).unwrap();
    let new = |item_id: &ItemId| NewItem {
        item_id: item_id.clone(),
        name: "Young".into(),
        stock_total: 5,
        opens_at,
        closes_at: None,
        hold_seconds: 0,
        max_hold_seconds: 0,
        settle_window_ms: 50,
    };
    item.redis.queue.create_item(&new(&young), 1).await.unwrap();
    let mut connection = item.redis.redis.connect().await.unwrap();
    let reservations = Keys::of(&young).reservations;
    let _: () = connection.zadd(&reservations, "bought", f64::INFINITY).await.unwrap();
    let lost: ItemId = "lost".parse().unwrap();
    item.ledger.ledger.create_item(&new(&lost)).await.unwrap();

    admin(&item, json!({ "command": "pause", "item_id": "a" })).await.unwrap();
    let done = admin(&item, json!({ "command": "ledger_restored" })).await.unwrap();
    assert_eq!((&done["written_to_ledger"], &done["not_in_redis"]), (&json!([young]), &json!([lost])));
    let known = item.ledger.ledger.item(&young).await.unwrap();
    assert_eq!((&known.item, known.paused, known.withheld_in_epoch), (&new(&young), true, 2));
    let in_redis = item.redis.queue.item(&young).await.unwrap();
    assert_eq!((in_redis.paused, in_redis.epoch), (true, 2));
    let found = reconcile(&item.stores(), &young, true).await.unwrap();
    assert_eq!(found.differences.get("taken in Redis alone"), Some(&1), "{found:?}");
    assert_eq!((found.item_fields.len(), found.stock_counted), (0, 4));
    // What Redis has lost comes back under the new epoch, and sells.
    admin(&item, json!({ "command": "rebuild", "item_id": lost })).await.unwrap();
    admin(&item, json!({ "command": "resume", "item_id": lost })).await.unwrap();
    let order = vec![(micros_now() - 9_000_000, "buyer")];
    let _: () = connection.zadd_multiple(Keys::of(&lost).orders, &order).await.unwrap();
    item.redis.queue.drain(&lost, 10, Permit::Unleased).await.unwrap();
    let context =
        checkout_worker::WorkerContext::from_config(&source(&item.redis, &item.ledger)).await.unwrap();
    work_for(&mut checkout_worker::ItemWork::new(context, lost.clone()), A_MOMENT).await;
    let sales = item.ledger.ledger.sales(&lost, None, 10).await.unwrap();
    assert_eq!(sales.iter().map(|sale| sale.state).collect::<Vec<_>>(), [SaleState::Sold]);
}
