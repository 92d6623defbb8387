//! When an item is idle, and that every change that can give it work makes it active first.

use anyhow::Result;
use local::system::clock::micros_now;
use local::system::process::scaled;
use local::system::redis_server;
use reconcile::Stores;
use redis::AsyncCommands;
use shared::config::RedisConfig;
use shared::item::{ItemChanges, ItemId, NewItem};
use shared::permit::Permit;
use shared::queue::{
    ACTIVATED_ITEMS, IDLE_ITEMS, IdleRules, Keys, Link, NO_HOLD_MICROS, ReservationOutcome, Settlement,
};
use shared::stamp::Stamp;
use std::time::Duration;
use tests::{LedgerServer, RedisQueue, order};

/// As in the functions, but a change arrives at once, and a read is never too old.
fn rules() -> IdleRules {
    IdleRules {
        longest_change: Duration::ZERO,
        longest_read: scaled(Duration::from_secs(60)),
        ..IdleRules::default()
    }
}

/// An item that closed an hour ago.
fn finished(item_id: &ItemId, stock_total: u32) -> NewItem {
    NewItem {
        item_id: item_id.clone(),
        name: item_id.to_string(),
        stock_total,
        opens_at: Stamp::saturating_from_micros(micros_now() - 7_200_000_000),
        closes_at: Some(Stamp::saturating_from_micros(micros_now() - 3_600_000_000)),
        hold_seconds: 600,
        max_hold_seconds: 0,
        settle_window_ms: 50,
    }
}

async fn is_active(redis: &RedisQueue, item_id: &ItemId) -> Result<bool> {
    Ok(redis.queue.active_item_ids(Duration::ZERO).await?.contains(item_id))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_with_an_order_a_task_or_a_cancelled_hold_is_not_idle() {
    let redis = RedisQueue::start().await.unwrap();
    let (queue, item_id) = (&redis.queue, "a".parse::<ItemId>().unwrap());
    queue.create_item(&finished(&item_id, 5), 1).await.unwrap();
    let keys = Keys::of(&item_id);
    let mut connection = redis.redis.connect().await.unwrap();
    let idle = async || queue.mark_idle(&item_id, &rules()).await.unwrap();
    assert!(idle().await && !is_active(&redis, &item_id).await.unwrap());
    let ends_soon = queue.active_item_ids(Duration::from_secs(7_200)).await.unwrap();
    assert_eq!(ends_soon, std::slice::from_ref(&item_id), "the worker checks it before its idle time ends");
    let no_item = queue.mark_idle(&"b".parse().unwrap(), &rules()).await.unwrap_err();
    assert!(no_item.to_string().contains("NOITEM"), "{no_item}");

    // It was placed before the item closed, and the item was paused.
    let placed_at = micros_now() - 3_601_000_000;
    let _: () = connection.zadd(&keys.orders, "alice", placed_at).await.unwrap();
    assert!(!idle().await, "an order waits");
    assert_eq!(queue.drain(&item_id, 500, Permit::Unleased).await.unwrap().reserved, 1);
    assert!(!idle().await, "no worker has taken the task");
    let tasks = queue.take_tasks(&item_id, 500).await.unwrap();
    assert!(!idle().await, "a worker has taken the task, and may have died");
    queue.acknowledge(&item_id, &[tasks[0].id.clone()]).await.unwrap();
    assert!(idle().await, "the hold ends in ten minutes");
    let alice = order(&item_id, "alice", 0).unwrap().user_token;
    queue.leave(&item_id, &alice).await.unwrap();
    assert!(is_active(&redis, &item_id).await.unwrap(), "a cancellation is work");
    assert!(!idle().await, "the worker has not released the cancelled reservation");
    let sold = Settlement { user_token: alice, expected: None, outcome: ReservationOutcome::Sold };
    queue.settle(&item_id, &[sold]).await.unwrap();
    assert!(!idle().await, "no worker has taken the notification");
    let tasks = queue.take_tasks(&item_id, 500).await.unwrap();
    queue.acknowledge(&item_id, &[tasks[0].id.clone()]).await.unwrap();
    assert!(idle().await);
    // The task of a unit that is sold without a hold was moved to the dead letters: an operator acts.
    let _: () = connection.zadd(&keys.reservations, "bob", micros_now() + NO_HOLD_MICROS).await.unwrap();
    assert!(idle().await);
    // A list that is lost costs commands, and no work.
    let _: () = connection.del(IDLE_ITEMS).await.unwrap();
    assert!(is_active(&redis, &item_id).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_is_not_idle_if_it_may_have_changed_since_it_was_read() {
    let redis = RedisQueue::start().await.unwrap();
    let (queue, item_id) = (&redis.queue, "a".parse::<ItemId>().unwrap());
    queue.create_item(&finished(&item_id, 5), 1).await.unwrap();
    let mut connection = redis.redis.connect().await.unwrap();
    // The change that the activation announces may still arrive.
    let slow_change = IdleRules { longest_change: scaled(Duration::from_secs(60)), ..rules() };
    assert!(!queue.mark_idle(&item_id, &slow_change).await.unwrap());
    assert!(queue.mark_idle(&item_id, &rules()).await.unwrap());
    queue.activate(&item_id).await.unwrap();
    assert!(is_active(&redis, &item_id).await.unwrap());
    assert!(!queue.mark_idle(&item_id, &slow_change).await.unwrap());
    // Without the record, only the state counts.
    let _: () = connection.del(ACTIVATED_ITEMS).await.unwrap();
    assert!(queue.mark_idle(&item_id, &slow_change).await.unwrap());
    // A worker that was frozen between read and write knows nothing.
    queue.activate(&item_id).await.unwrap();
    let frozen = IdleRules { longest_read: Duration::ZERO, ..rules() };
    assert!(!queue.mark_idle(&item_id, &frozen).await.unwrap());
    assert!(is_active(&redis, &item_id).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_is_active_again_before_it_opens() {
    let redis = RedisQueue::start().await.unwrap();
    let (queue, item_id) = (&redis.queue, "a".parse::<ItemId>().unwrap());
    let opens_at = Stamp::saturating_from_micros(micros_now() + 3_000_000);
    queue.create_item(&NewItem { opens_at, closes_at: None, ..finished(&item_id, 5) }, 1).await.unwrap();
    let rules =
        IdleRules { before_opening: Duration::from_secs(2), shortest: Duration::from_millis(1), ..rules() };
    assert!(
        queue.mark_idle(&item_id, &rules).await.unwrap() || micros_now() > opens_at.as_micros() - 2_000_000
    );
    while !is_active(&redis, &item_id).await.unwrap() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // On a busy machine this test may itself be late, not the list.
    assert!(micros_now() > opens_at.as_micros() - 2_100_000);
    assert!(!queue.mark_idle(&item_id, &rules).await.unwrap(), "it opens too soon");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_makes_an_idle_item_active() {
    let (redis, ledger) = (RedisQueue::start().await.unwrap(), LedgerServer::start().await.unwrap());
    let (queue, item_id) = (&redis.queue, "a".parse::<ItemId>().unwrap());
    let new = finished(&item_id, 5);
    ledger.ledger.create_item(&new).await.unwrap();
    ledger.ledger.pause_item(&item_id, true).await.unwrap();
    queue.create_item(&new, 1).await.unwrap();
    queue.pause_item(&item_id, true).await.unwrap();
    let url = redis.redis.url();
    let source = |name: &str| redis_server::setting(name, &url);
    let link = Link::new(RedisConfig::main(&source).unwrap());
    let stores = Stores { link, queue: queue.clone(), ledger: ledger.ledger.clone() };
    let changes = ItemChanges { stock_total: Some(6), ..ItemChanges::default() };
    let alice = order(&item_id, "alice", 0).unwrap().user_token;
    let late = Settlement { user_token: alice, expected: None, outcome: ReservationOutcome::Sold };
    let mut connection = redis.redis.connect().await.unwrap();
    for change in ["restock", "resume", "pause", "close", "confirm", "reconcile", "rebuild", "create again"] {
        // A sold notification would be work by itself.
        let _: () = connection.del(Keys::of(&item_id).tasks).await.unwrap();
        assert!(queue.mark_idle(&item_id, &rules()).await.unwrap(), "before {change}");
        assert!(!is_active(&redis, &item_id).await.unwrap(), "before {change}");
        match change {
            "restock" => queue.update_item(&item_id, &changes).await.unwrap(),
            "resume" => queue.pause_item(&item_id, false).await.unwrap(),
            "pause" => queue.pause_item(&item_id, true).await.unwrap(),
            "close" => queue.close_item(&item_id, Stamp::saturating_from_micros(micros_now())).await.unwrap(),
            "confirm" => assert_eq!(queue.settle(&item_id, std::slice::from_ref(&late)).await.unwrap(), 1),
            "reconcile" => {
                reconcile::restock(&stores, &item_id, true).await.unwrap();
            }
            "rebuild" => assert_eq!(reconcile::restore(&stores, &item_id, 1).await.unwrap(), 0),
            _ => {
                queue.create_item(&new, 1).await.unwrap_err();
            }
        }
        assert!(is_active(&redis, &item_id).await.unwrap(), "after {change}");
    }
}
