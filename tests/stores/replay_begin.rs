//! When an item waits for its queue to be restored from the order logs, and what must not be refused meanwhile.

use local::system::clock::micros_now;
use local::system::folder::WorkFolder;
use local::system::redis_server::Redis;
use redis::AsyncCommands;
use shared::item::ItemId;
use shared::permit::Permit;
use shared::queue::{BatchOrder, DrainBatch, Keys, MAX_BATCH, Order, PlaceError, Placement, Queue};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::time::Duration;
use tests::RedisQueue;

const WINDOW: Duration = Duration::from_millis(50);
/// Older than the longest window.
const OLD: u64 = 15_000_000;

async fn drain(queue: &Queue, item_id: &ItemId) -> DrainBatch {
    queue.drain(item_id, MAX_BATCH, Permit::Unleased).await.unwrap()
}

/// Both scripts' answers about an order that is `age` old.
async fn place(server: &RedisQueue, item_id: &ItemId, age: u64) -> [Result<Placement, PlaceError>; 2] {
    let placed_at = Stamp::from_micros(micros_now() - age).unwrap();
    let user_token = UserToken::parse("late-buyer").unwrap();
    let one = Order { item_id: item_id.clone(), user_token: user_token.clone(), placed_at };
    let batch = [BatchOrder { user_token, placed_at }];
    let single = server.queue.place(&one, WINDOW, &server.clock).await;
    let batched = server.queue.place_batch(item_id, &batch, WINDOW, &server.clock).await.remove(0);
    [single, batched].map(|answer| answer.map(|placing| placing.placement))
}

#[tokio::test]
async fn an_order_of_an_item_that_redis_has_lost_is_neither_queued_nor_refused() {
    let server = RedisQueue::start().await.unwrap();
    let item_id = server.item("lost", 5, 50).await.unwrap();
    let mut connection = server.redis.connect().await.unwrap();
    let keys = Keys::of(&item_id);
    let _: () = connection.del(&keys.item).await.unwrap();
    for answer in place(&server, &item_id, OLD).await {
        assert!(answer.is_err(), "{answer:?}");
    }
    let waiting: u64 = connection.zcard(&keys.orders).await.unwrap();
    assert_eq!(waiting, 0);
    // An item of an earlier version is not a lost one.
    let _: () = connection.hset(&keys.item, "stock_left", "5").await.unwrap();
    assert_eq!(place(&server, &item_id, OLD).await, [Ok(Placement::TooLate); 2]);
}

#[tokio::test]
async fn a_first_replica_does_not_stop_sales() {
    let server = RedisQueue::start().await.unwrap();
    let logs = server.queue.clone().with_order_logs(true);
    let item_id = server.item("shoe", 5, 50).await.unwrap();
    // Written without logs: it has to be restored.
    let found = drain(&logs, &item_id).await;
    assert!(found.is_restoring, "{found:?}");
    let restore = async || {
        assert!(logs.restore_begin(&item_id, "me", Duration::ZERO).await.unwrap());
        logs.restore_end(&item_id, "me", None).await.unwrap();
    };
    restore().await;
    assert!(!drain(&logs, &item_id).await.is_restoring);
    // The primary gets another replication id, and nothing is lost.
    let mut connection = server.redis.connect().await.unwrap();
    let key = Keys::of(&item_id).item;
    let before: String = connection.hget(&key, "primary").await.unwrap();
    let _: () = connection.hset(&key, "closed", "7").await.unwrap();
    let folder = WorkFolder::new().unwrap();
    let _replica = Redis::start_replica(folder.path(), "replica", &server.redis).await.unwrap();
    let found = drain(&logs, &item_id).await;
    assert!(!found.is_restoring, "{found:?}");
    let mut read = redis::cmd("HMGET");
    let (after, closed): (String, u64) =
        read.arg(&key).arg("primary").arg("closed").query_async(&mut connection).await.unwrap();
    assert!(after != before && closed == 7, "{after} {before} {closed}");
    // Another process with the same data.
    let _: () =
        connection.hset_multiple(&key, &[("primary", "another"), ("run_id", "another")]).await.unwrap();
    assert!(drain(&logs, &item_id).await.is_restoring);
}

#[tokio::test]
async fn without_logs_a_restart_does_not_lift_the_longest_window() {
    let mut server = RedisQueue::start().await.unwrap();
    let item_id = server.item("direct", 5, 50).await.unwrap();
    server.redis.restart().await.unwrap();
    // The first call finds the connection lost.
    while server.queue.item(&item_id).await.is_err() {
        tokio::time::sleep(WINDOW).await;
    }
    assert_eq!(place(&server, &item_id, OLD).await, [Ok(Placement::TooLate); 2]);
    // Also if an earlier version wrote the field, or the logs were switched off.
    let mut connection = server.redis.connect().await.unwrap();
    let _: () = connection.hset(Keys::of(&item_id).item, "primary", "another").await.unwrap();
    assert!(!drain(&server.queue, &item_id).await.is_restoring);
    assert_eq!(place(&server, &item_id, OLD).await, [Ok(Placement::TooLate); 2]);
}
