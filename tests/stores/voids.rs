//! Units that an operator takes back, in both stores: whatever dies between them, the unit goes to the next buyer, and
//! nothing brings it back.

use crate::held_item::{HeldItem, Holds, work_for};
use checkout_worker::WorkerContext;
use ledger::{SaleState, Void, VoidOrder};
use redis::AsyncCommands;
use serde_json::json;
use shared::item::NewItem;
use shared::permit::Permit;
use shared::queue::{Keys, OrderState, ReservationOutcome, Settlement};
use shared::user_token::UserToken;
use std::time::Duration;
use tests::source;

const LONG: Holds = Holds { hold_seconds: 600, max_hold_seconds: 0 };
const A_MOMENT: Duration = Duration::from_millis(300);

/// The ledger's part alone: drop-admin dies after it.
async fn void(item: &HeldItem, buyer: &str, bars: bool) -> Void {
    let buyer = UserToken::parse(buyer).unwrap();
    let order = VoidOrder { buyer: &buyer, reason: "fraud", by: None, bars };
    item.ledger.ledger.void(&item.item_id, order, Permit::Unleased.fence(1)).await.unwrap().unwrap()
}

async fn settle(item: &HeldItem, void: &Void) {
    reconcile::settle_void(&item.redis.queue, &item.ledger.ledger, void).await.unwrap();
}

/// The units left in both stores.
async fn left(item: &HeldItem) -> (u32, u32) {
    let known = item.ledger.ledger.item(&item.item_id).await.unwrap();
    let in_redis = item.redis.queue.item(&item.item_id).await.unwrap();
    (in_redis.stock_left, known.item.stock_total - known.units_taken)
}

async fn sell(item: &HeldItem, buyer: &str) {
    let paid = item.notice(buyer, &format!("pay-{buyer}"), "paid");
    assert_eq!(item.send(&paid).await, "sold");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_writes_a_void_that_died_between_ledger_and_redis() {
    let item = HeldItem::start(LONG, &["sold", "held", "cancels", "keeps"]).await.unwrap();
    let mut work = item.worker().await.unwrap();
    work_for(&mut work, A_MOMENT).await;
    sell(&item, "sold").await;
    let cancels = UserToken::parse("cancels").unwrap();
    for buyer in ["sold", "held", "cancels"] {
        void(&item, buyer, false).await;
    }
    item.redis.queue.leave(&item.item_id, &cancels).await.unwrap();
    assert_eq!(left(&item).await, (1_996, 1_999));
    assert_eq!(item.send(&item.notice("held", "pay-held", "paid")).await, "unit-voided");
    // Two workers at once, and again.
    let context = WorkerContext::from_config(&source(&item.redis, &item.ledger)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5_200)).await;
    let (one, other) = tokio::join!(context.settle_voids(), context.settle_voids());
    one.and(other).unwrap();
    context.settle_voids().await.unwrap();
    for buyer in ["sold", "held", "cancels"] {
        assert_eq!(item.state(buyer).await.unwrap(), OrderState::Voided, "{buyer}");
    }
    assert_eq!(left(&item).await, (1_999, 1_999));
    assert_eq!(item.query("SELECT count(*) FROM fairdrop.voids WHERE NOT settled").await, 0);
    // The payment of the voided sale is refused, and reported again it stays so.
    for _ in 0..2 {
        assert_eq!(item.send(&item.notice("sold", "pay-sold", "paid")).await, "unit-voided");
    }
    assert_eq!(item.redis.queue.item(&item.item_id).await.unwrap().units_sold, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_void_that_cannot_be_written_does_not_keep_the_others_waiting() {
    let item = HeldItem::start(LONG, &["ann", "ben"]).await.unwrap();
    work_for(&mut item.worker().await.unwrap(), A_MOMENT).await;
    let known = item.ledger.ledger.item(&item.item_id).await.unwrap().item;
    let spoilt = NewItem { item_id: "spoilt".parse().unwrap(), ..known };
    assert!(item.ledger.ledger.create_item(&spoilt).await.unwrap());
    item.redis.queue.create_item(&spoilt, 1).await.unwrap();
    let mut redis = item.redis.redis.connect().await.unwrap();
    let _: () = redis.set(Keys::of(&spoilt.item_id).reservations, "spoilt").await.unwrap();
    let of_spoilt = "WITH void AS (INSERT INTO fairdrop.voids
            (item_id, user_token, was, placed_at, reserved_at, ends, reason, epoch)
            VALUES ('spoilt', 'cid', 'sold', 1, 2, '{3}', 'fraud', 1) RETURNING 1)
        SELECT count(*) FROM void";
    assert_eq!(item.query(of_spoilt).await, 1);
    for buyer in ["ann", "ben"] {
        void(&item, buyer, false).await;
    }
    let context = WorkerContext::from_config(&source(&item.redis, &item.ledger)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5_200)).await;
    context.settle_voids().await.unwrap();
    for buyer in ["ann", "ben"] {
        assert_eq!(item.state(buyer).await.unwrap(), OrderState::Voided, "{buyer}");
    }
    assert_eq!(item.query("SELECT count(*) FROM fairdrop.voids WHERE NOT settled").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_ends_heals_a_void_as_a_release() {
    let item = HeldItem::start(Holds { hold_seconds: 1, max_hold_seconds: 0 }, &["ann"]).await.unwrap();
    let mut work = item.worker().await.unwrap();
    work_for(&mut work, A_MOMENT).await;
    void(&item, "ann", false).await;
    work_for(&mut work, Duration::from_millis(1_500)).await;
    assert_eq!(item.state("ann").await.unwrap(), OrderState::Voided);
    assert_eq!(left(&item).await, (2_000, 2_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_that_was_decided_before_does_not_undo_a_void() {
    let item = HeldItem::start(LONG, &["ann"]).await.unwrap();
    work_for(&mut item.worker().await.unwrap(), A_MOMENT).await;
    sell(&item, "ann").await;
    settle(&item, &void(&item, "ann", false).await).await;
    // order-confirm had committed the sale, and was slow.
    let user_token = UserToken::parse("ann").unwrap();
    let late = Settlement { user_token, expected: None, outcome: ReservationOutcome::Sold };
    item.redis.queue.settle(&item.item_id, &[late]).await.unwrap();
    assert_eq!(item.state("ann").await.unwrap(), OrderState::Voided);
    assert_eq!(left(&item).await, (2_000, 2_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_brings_a_voided_unit_back() {
    let item = HeldItem::start(LONG, &["ann", "ben"]).await.unwrap();
    let mut work = item.worker().await.unwrap();
    work_for(&mut work, A_MOMENT).await;
    sell(&item, "ann").await;
    let voided = void(&item, "ann", false).await;
    void(&item, "ben", true).await;
    // Redis has neither void. The worker takes the notifications: a comparison with tasks in transit is incomplete.
    work_for(&mut work, A_MOMENT).await;
    let differences = reconcile::reconcile(&item.stores(), &item.item_id, true).await.unwrap().differences;
    assert_eq!(differences.get("voided in the ledger alone"), Some(&2), "{differences:?}");
    let check = async |what: &str| {
        for buyer in ["ann", "ben"] {
            assert_eq!(item.state(buyer).await.unwrap(), OrderState::Voided, "{buyer} after {what}");
        }
        assert_eq!(left(&item).await, (2_000, 2_000), "{what}");
    };
    check("reconcile").await;
    work_for(&mut work, A_MOMENT).await;
    item.redis.queue.pause_item(&item.item_id, true).await.unwrap();
    item.ledger.ledger.pause_item(&item.item_id, true).await.unwrap();
    reconcile::rebuild(&item.stores(), &item.item_id).await.unwrap();
    check("rebuild").await;
    // The order that was served is in the queue again: the new primary lacked its removal.
    let placed_at = voided.placed_at.as_micros();
    let mut redis = item.redis.redis.connect().await.unwrap();
    let _: () = redis.zadd(Keys::of(&item.item_id).orders, "ann", placed_at).await.unwrap();
    item.redis.queue.pause_item(&item.item_id, false).await.unwrap();
    item.redis.queue.drain(&item.item_id, 500, Permit::Unleased).await.unwrap();
    assert!(matches!(item.state("ann").await.unwrap(), OrderState::Reserved(_)));
    work_for(&mut work, A_MOMENT).await;
    check("a served order came back").await;
    // A barred buyer orders again, whom the drain knows since the rebuild, and one who is not barred.
    item.reserve(&["ben", "ann"]).await.unwrap();
    work_for(&mut work, A_MOMENT).await;
    assert_eq!(item.state("ben").await.unwrap(), OrderState::Voided);
    assert!(matches!(item.state("ann").await.unwrap(), OrderState::Reserved(_)));
    assert_eq!(left(&item).await, (1_999, 1_999));
    let sales = item.ledger.ledger.sales(&item.item_id, None, 10).await.unwrap();
    let states: Vec<SaleState> = sales.iter().map(|sale| sale.state).collect();
    assert_eq!(states, [SaleState::Voided, SaleState::Reserved]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pending_payment_of_a_voided_reservation_is_not_one_of_the_next() {
    let item = HeldItem::start(LONG, &["ann"]).await.unwrap();
    let mut work = item.worker().await.unwrap();
    work_for(&mut work, A_MOMENT).await;
    assert_eq!(item.send(&item.notice("ann", "transfer", "pending")).await, "reserved");
    settle(&item, &void(&item, "ann", false).await).await;
    item.reserve(&["ann"]).await.unwrap();
    work_for(&mut work, A_MOMENT).await;
    // The shop gives the payment up; the money comes nevertheless, and the shop has to return it.
    for outcome in ["cancelled", "paid", "pending"] {
        assert_eq!(item.send(&item.notice("ann", "transfer", outcome)).await, "unit-voided", "{outcome}");
    }
    assert!(matches!(item.state("ann").await.unwrap(), OrderState::Reserved(_)));
    assert_eq!(left(&item).await, (1_999, 1_999));
    sell(&item, "ann").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_barred_buyer_is_marked_in_redis_at_once() {
    let item = HeldItem::start(LONG, &["ann"]).await.unwrap();
    work_for(&mut item.worker().await.unwrap(), A_MOMENT).await;
    let app = drop_admin::App::from_config(&source(&item.redis, &item.ledger)).await.unwrap();
    let void =
        json!({ "command": "void", "item_id": item.item_id, "buyer": "ann", "reason": "fraud", "bar": true });
    for _ in 0..2 {
        let voided = drop_admin::handle(&app, void.clone()).await.unwrap();
        assert_eq!(voided["in_redis"], true, "{voided}");
    }
    assert_eq!(item.state("ann").await.unwrap(), OrderState::Voided);
    // The drain reserves no unit for a new order, which the ledger would have to refuse.
    item.reserve(&["ann"]).await.unwrap();
    assert_eq!(item.state("ann").await.unwrap(), OrderState::Voided);
    assert_eq!(left(&item).await, (2_000, 2_000));
}
