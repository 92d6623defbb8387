//! Payments that take days: holds that `pending` notices extend up to the item's limit.

use crate::held_item::{HeldItem, Holds, work_for};
use local::system::clock::micros_now;
use redis::AsyncCommands;
use serde_json::Value;
use shared::queue::{Hold, IdleRules, Keys, OrderState};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::time::Duration;

const HOURS: u64 = 3_600_000_000;
const LONG: Holds = Holds { hold_seconds: 600, max_hold_seconds: 86_400 };

/// A `pending` notice that names an end; returns the end of the hold afterwards.
async fn pending(item: &HeldItem, reference: &str, until: u64) -> u64 {
    let mut notice = item.notice("alice", reference, "pending");
    notice["until"] = Value::from(until);
    let answer = order_confirm::answer(&item.confirm, notice).await.unwrap();
    answer["reserved_until"].as_u64().unwrap_or_else(|| panic!("{answer}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_payment_extends_its_hold_up_to_the_limit_and_eight_times() {
    let item = HeldItem::start(LONG, &["alice"]).await.unwrap();
    let reserved_at = item.held_until("alice").await.as_micros() - 600_000_000;
    work_for(&mut item.worker().await.unwrap(), Duration::from_millis(200)).await;
    let now = micros_now();
    for _ in 0..2 {
        // A repeated notice is no other extension.
        assert_eq!(pending(&item, "pi_1", now + HOURS).await, now + HOURS);
        assert_eq!(item.held_until("alice").await.as_micros(), now + HOURS);
    }
    assert_eq!(item.query("SELECT extensions::bigint FROM fairdrop.sales").await, 1);
    // An earlier end than the hold's own changes nothing.
    assert_eq!(pending(&item, "pi_1", now).await, now + HOURS);
    for number in 2..=7 {
        assert_eq!(pending(&item, "pi_1", now + number * HOURS).await, now + number * HOURS);
    }
    // The eighth, and no ninth.
    let limit = reserved_at + 86_400 * 1_000_000;
    assert_eq!(pending(&item, "pi_1", now + 23 * HOURS).await, now + 23 * HOURS);
    assert_eq!(pending(&item, "pi_1", now + 500 * HOURS).await, now + 23 * HOURS);
    assert_eq!(item.send(&item.notice("alice", "pi_2", "pending")).await, "already-extended");
    assert_eq!(item.send(&item.notice("alice", "pi_1", "failed")).await, "released");
    assert_eq!(item.state("alice").await.unwrap(), OrderState::Released);

    // A later reservation of the buyer begins again.
    item.reserve(&["alice"]).await.unwrap();
    let reserved_again = item.held_until("alice").await.as_micros() - 600_000_000;
    work_for(&mut item.worker().await.unwrap(), Duration::from_millis(200)).await;
    assert_eq!(pending(&item, "pi_3", now + 500 * HOURS).await, limit + (reserved_again - reserved_at));
    assert_eq!(item.send(&item.notice("alice", "pi_3", "paid")).await, "sold");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extended_hold_outlives_redis_and_its_item_is_idle_meanwhile() {
    let item = HeldItem::start(LONG, &["alice"]).await.unwrap();
    let mut work = item.worker().await.unwrap();
    work_for(&mut work, Duration::from_millis(200)).await;
    let until = pending(&item, "pi_1", micros_now() + 20 * HOURS).await;
    let keys = Keys::of(&item.item_id);
    let mut connection = item.redis.redis.connect().await.unwrap();

    // The extension did not reach Redis: at the old end, the ledger's counts.
    let _: () = connection.zadd(&keys.reservations, "alice", micros_now() - 1).await.unwrap();
    work_for(&mut work, Duration::from_millis(200)).await;
    assert_eq!(item.held_until("alice").await.as_micros(), until);

    // Redis is lost, and rebuilt from the ledger.
    let _: () = connection.del(&[&keys.item, &keys.reservations, &keys.tasks]).await.unwrap();
    reconcile::restore(&item.stores(), &item.item_id, 1).await.unwrap();
    assert_eq!(item.held_until("alice").await.as_micros(), until);

    // The item sells nothing before the hold ends, so that drain and worker leave it alone.
    let queue = &item.redis.queue;
    let closed_at = Stamp::saturating_from_micros(micros_now() - HOURS);
    queue.close_item(&item.item_id, closed_at).await.unwrap();
    let rules = IdleRules { longest_change: Duration::ZERO, ..IdleRules::default() };
    assert!(queue.mark_idle(&item.item_id, &rules).await.unwrap());
    assert!(queue.active_item_ids(Duration::ZERO).await.unwrap().is_empty());
    assert_eq!(item.send(&item.notice("alice", "pi_1", "failed")).await, "released");
    assert_eq!(queue.active_item_ids(Duration::ZERO).await.unwrap(), std::slice::from_ref(&item.item_id));
}

/// A release leaves the end of a long hold far in the future. The buyer's next reservation, which ends earlier, is another
/// one all the same, also while its task is in transit.
#[tokio::test(flavor = "multi_thread")]
async fn a_released_long_hold_is_not_taken_for_the_buyers_next_reservation() {
    let buyers = ["alice", "bob"];
    let item = HeldItem::start(LONG, &buyers).await.unwrap();
    let mut work = item.worker().await.unwrap();
    work_for(&mut work, Duration::from_millis(200)).await;
    for (buyer, reference) in [("alice", "pi_1"), ("bob", "pi_b")] {
        let mut notice = item.notice(buyer, reference, "pending");
        notice["until"] = Value::from(micros_now() + 20 * HOURS);
        assert_eq!(item.send(&notice).await, "reserved");
        assert_eq!(item.send(&item.notice(buyer, reference, "cancelled")).await, "released");
    }

    // Both order again, and the worker that takes the tasks dies.
    item.reserve(&buyers).await.unwrap();
    let held_until = item.held_until("alice").await;
    // With those of the two releases, for live updates.
    assert_eq!(item.redis.queue.take_tasks(&item.item_id, 500).await.unwrap().len(), 4);
    let paid = item.notice("alice", "pi_2", "paid");
    let problem = order_confirm::answer(&item.confirm, paid.clone()).await.unwrap_err().to_string();
    assert!(problem.contains("not-recorded-yet"), "{problem}");
    // The shop repeats the notice that has released the first reservation.
    assert_eq!(item.send(&item.notice("alice", "pi_1", "cancelled")).await, "released");
    assert_eq!(item.held_until("alice").await, held_until);
    let bob = UserToken::parse("bob").unwrap();
    item.redis.queue.leave(&item.item_id, &bob).await.unwrap();
    work.round(true).await.unwrap();
    assert_eq!(item.state("bob").await.unwrap(), OrderState::Reserved(Hold::Release));

    // Another worker claims the tasks.
    work_for(&mut work, Duration::from_secs(3)).await;
    assert_eq!(item.send(&paid).await, "sold");
    assert_eq!(item.state("bob").await.unwrap(), OrderState::Released);
    assert_eq!(item.ledger.ledger.item(&item.item_id).await.unwrap().units_taken, 1);
    assert_eq!(item.redis.queue.item(&item.item_id).await.unwrap().stock_left, 1_999);
}
