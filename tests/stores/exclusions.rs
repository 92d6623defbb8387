//! Excluded buyers: they lose their places and get no unit, whatever is lost in Redis.

use crate::held_item::{HeldItem, Holds, work_for};
use ledger::{Excluded, ExclusionOrder, VoidOrder};
use redis::AsyncCommands;
use shared::item::ItemChanges;
use shared::permit::Permit;
use shared::queue::{Keys, OrderState};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::time::Duration;
use tests::order;

const LONG: Holds = Holds { hold_seconds: 600, max_hold_seconds: 0 };
const A_MOMENT: Duration = Duration::from_millis(300);

fn tokens(buyers: &[&str]) -> Vec<UserToken> {
    buyers.iter().map(|buyer| UserToken::parse(*buyer).unwrap()).collect()
}

/// The ledger's part alone: drop-admin dies after it.
async fn exclude_in_ledger(item: &HeldItem, buyers: &[&str]) -> Excluded {
    let order = ExclusionOrder { buyers: &tokens(buyers), reason: "bots", by: None };
    item.ledger.ledger.exclude(&item.item_id, order, Permit::Unleased.fence(1)).await.unwrap()
}

async fn exclude(item: &HeldItem, buyers: &[&str]) -> Excluded {
    let excluded = exclude_in_ledger(item, buyers).await;
    item.redis.queue.exclude(&item.item_id, &tokens(buyers)).await.unwrap();
    excluded
}

/// Queues buyers in this order, settled.
async fn queue(item: &HeldItem, buyers: &[&str]) {
    let first = local::system::clock::micros_now() - 9_000_000;
    let orders: Vec<(u64, &str)> = (first..).zip(buyers.iter().copied()).collect();
    let mut redis = item.redis.redis.connect().await.unwrap();
    let _: () = redis.zadd_multiple(Keys::of(&item.item_id).orders, &orders).await.unwrap();
}

async fn states(item: &HeldItem, buyers: &[&str]) -> Vec<&'static str> {
    let mut states = Vec::new();
    for buyer in buyers {
        states.push(match item.state(buyer).await.unwrap() {
            OrderState::None => "none",
            OrderState::Queued { .. } => "queued",
            OrderState::Reserved(_) => "reserved",
            OrderState::Sold => "sold",
            OrderState::Released => "released",
            OrderState::Voided => "voided",
            OrderState::Excluded => "excluded",
        });
    }
    states
}

async fn left(item: &HeldItem) -> (u32, u32) {
    let known = item.ledger.ledger.item(&item.item_id).await.unwrap();
    let in_redis = item.redis.queue.item(&item.item_id).await.unwrap();
    (in_redis.stock_left, known.item.stock_total - known.units_taken)
}

#[tokio::test(flavor = "multi_thread")]
async fn excluded_buyers_lose_their_places_and_the_others_keep_theirs() {
    let item = HeldItem::start(LONG, &["has"]).await.unwrap();
    let mut work = item.worker().await.unwrap();
    work_for(&mut work, A_MOMENT).await;
    item.redis.queue.pause_item(&item.item_id, true).await.unwrap();
    queue(&item, &["ann", "bot-1", "ben", "bot-2", "cid"]).await;
    for new in [3, 0] {
        let excluded = exclude(&item, &["bot-1", "bot-2", "has"]).await;
        assert_eq!(excluded, Excluded { new, with_unit: tokens(&["has"]) });
    }
    assert_eq!(states(&item, &["bot-1", "bot-2", "has"]).await, ["excluded", "excluded", "reserved"]);
    let ahead = async |buyer: &str| match item.state(buyer).await.unwrap() {
        OrderState::Queued { ahead, .. } => ahead,
        other => panic!("{other:?}"),
    };
    assert_eq!((ahead("ann").await, ahead("ben").await, ahead("cid").await), (0, 1, 2));
    // They order again: intake accepts it, and the drain drops it.
    for bot in ["bot-1", "bot-2"] {
        let again = order(&item.item_id, bot, local::system::clock::micros_now()).unwrap();
        let window = Duration::from_millis(50);
        item.redis.queue.place(&again, window, &item.redis.clock).await.unwrap();
        assert_eq!(states(&item, &[bot]).await, ["excluded"]);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    item.redis.queue.pause_item(&item.item_id, false).await.unwrap();
    let batch = item.redis.queue.drain(&item.item_id, 500, Permit::Unleased).await.unwrap();
    assert_eq!((batch.taken, batch.reserved, batch.dropped_excluded), (5, 3, 2));
    assert_eq!(states(&item, &["bot-1", "ann", "cid"]).await, ["excluded", "reserved", "reserved"]);
    work_for(&mut work, A_MOMENT).await;
    assert_eq!(left(&item).await, (1_996, 1_996));
    // Who had a unit keeps it; when it is over, there is no other one.
    item.redis.queue.leave(&item.item_id, &tokens(&["has"])[0]).await.unwrap();
    work_for(&mut work, A_MOMENT).await;
    // The mark comes with the end, so that the drain reserves no unit.
    assert_eq!(states(&item, &["has"]).await, ["excluded"]);
    item.reserve(&["has"]).await.unwrap();
    assert_eq!(states(&item, &["has"]).await, ["excluded"]);
    assert_eq!(left(&item).await, (1_997, 1_997));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exclusion_that_redis_lacks_is_enforced_by_the_ledger() {
    let item = HeldItem::start(LONG, &[]).await.unwrap();
    item.redis.queue.update_item(&item.item_id, &stock(1)).await.unwrap();
    item.ledger.ledger.change_item(&item.item_id, &stock(1)).await.unwrap();
    queue(&item, &["bot", "ann"]).await;
    // drop-admin dies before it marks the buyer, also one whose reservation is in transit.
    exclude_in_ledger(&item, &["bot"]).await;
    item.redis.queue.drain(&item.item_id, 500, Permit::Unleased).await.unwrap();
    assert_eq!(states(&item, &["bot", "ann"]).await, ["reserved", "queued"]);
    let mut work = item.worker().await.unwrap();
    work_for(&mut work, A_MOMENT).await;
    item.redis.queue.drain(&item.item_id, 500, Permit::Unleased).await.unwrap();
    work_for(&mut work, A_MOMENT).await;
    assert_eq!(states(&item, &["bot", "ann"]).await, ["excluded", "reserved"]);
    assert_eq!(left(&item).await, (0, 0));
    assert_eq!(item.send(&item.notice("bot", "pay-bot", "paid")).await, "no-reservation");
}

fn stock(units: u32) -> ItemChanges {
    ItemChanges { stock_total: Some(units), ..ItemChanges::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn exclusions_survive_the_loss_of_redis() {
    let item = HeldItem::start(LONG, &["sold", "gone"]).await.unwrap();
    let mut work = item.worker().await.unwrap();
    work_for(&mut work, A_MOMENT).await;
    let gone = &tokens(&["gone"])[0];
    let void = VoidOrder { buyer: gone, reason: "fraud", by: None, bars: true };
    let ledger = &item.ledger.ledger;
    let void = ledger.void(&item.item_id, void, Permit::Unleased.fence(1)).await.unwrap().unwrap();
    reconcile::settle_void(&item.redis.queue, ledger, &void).await.unwrap();
    exclude(&item, &["bot", "sold"]).await;
    let check = async |what: &str| {
        assert_eq!(
            states(&item, &["bot", "gone", "sold"]).await,
            ["excluded", "voided", "reserved"],
            "{what}"
        );
        queue(&item, &["bot", "gone", "ann"]).await;
        let batch = item.redis.queue.drain(&item.item_id, 500, Permit::Unleased).await.unwrap();
        assert_eq!((batch.taken, batch.dropped_excluded), (3, 2), "{what}");
    };
    // The mark of a barred buyer comes with the void; another one is lost.
    let mut redis = item.redis.redis.connect().await.unwrap();
    let _: () = redis.zrem(Keys::of(&item.item_id).reservations, "bot").await.unwrap();
    let reconciled = reconcile::reconcile(&item.stores(), &item.item_id, true).await.unwrap();
    assert_eq!(reconciled.differences.get("excluded in the ledger alone"), Some(&1), "{reconciled:?}");
    check("reconcile").await;
    work_for(&mut work, A_MOMENT).await;

    let _: () = redis::cmd("FLUSHALL").query_async(&mut redis).await.unwrap();
    reconcile::rebuild(&item.stores(), &item.item_id).await.unwrap();
    check("rebuild").await;
    let reconciled = reconcile::reconcile(&item.stores(), &item.item_id, false).await.unwrap();
    assert_eq!(reconciled.differences.get("excluded in the ledger alone"), None, "{reconciled:?}");

    // A failover to a Redis that lacks the marks.
    let reservations = Keys::of(&item.item_id).reservations;
    let _: () = redis.zrem(&reservations, &["bot", "gone"]).await.unwrap();
    reconcile::reconcile_at_rest(&item.stores(), &item.item_id).await.unwrap();
    assert_eq!(states(&item, &["bot"]).await, ["excluded"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exclusion_works_before_the_opening() {
    let item = HeldItem::start(LONG, &[]).await.unwrap();
    let opens_at = Stamp::from_micros(local::system::clock::micros_now() + 700_000).unwrap();
    let changes = ItemChanges { opens_at: Some(opens_at), ..ItemChanges::default() };
    item.ledger.ledger.change_item(&item.item_id, &changes).await.unwrap();
    item.redis.queue.update_item(&item.item_id, &changes).await.unwrap();
    exclude(&item, &["bot"]).await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    for buyer in ["bot", "ann"] {
        let order = order(&item.item_id, buyer, local::system::clock::micros_now()).unwrap();
        item.redis.queue.place(&order, Duration::from_millis(50), &item.redis.clock).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    item.redis.queue.drain(&item.item_id, 500, Permit::Unleased).await.unwrap();
    work_for(&mut item.worker().await.unwrap(), A_MOMENT).await;
    assert_eq!(states(&item, &["bot", "ann"]).await, ["excluded", "reserved"]);
}
