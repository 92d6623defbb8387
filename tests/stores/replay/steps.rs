//! The steps of a replay: who may make them, and what a drain does meanwhile.

use super::*;
use shared::queue::RestoreCall;

#[tokio::test]
async fn a_region_that_cannot_be_read_stops_the_replay_until_an_operator_leaves_it_out() {
    let world = World::start().await.unwrap();
    let item = world.announce(6).await.unwrap();
    let now = micros_now();
    for (region, buyer) in [(0, 1), (1, 2)] {
        item.logs[region].append(&item.record(RecordKind::Order, buyer, now - 3_600_000_000));
    }
    item.logs[1].is_unreadable.store(true, Ordering::Relaxed);
    let error = item.replay(&ReplayOptions::default()).await.unwrap_err();
    assert!(
        matches!(&error, ReplayError::RegionUnreadable { region, .. } if region == REGIONS[1]),
        "{error}"
    );
    assert!(world.queue.is_restoring(&item.item_id).await.unwrap());
    assert_eq!(item.drain(500).await.unwrap(), 0);
    // An order that comes from the stream is as old, and not refused.
    item.deliver(0, &item.record(RecordKind::Order, 3, now - 1_800_000_000)).await.unwrap();
    // What an operator names must exist.
    let without = |region: &str| ReplayOptions { without: vec![region.into()], ..ReplayOptions::default() };
    let error = item.replay(&without("mars")).await.unwrap_err();
    assert!(matches!(error, ReplayError::NoSuchRegion(_)), "{error}");
    let report = item.replay(&without(REGIONS[1])).await.unwrap();
    assert_eq!(report.without, [REGIONS[1]]);
    assert_eq!((report.read(), report.placed(), report.regions.len()), (1, 1, 1));
    assert_eq!(item.queued().await.unwrap().len(), 2);
    assert_eq!(item.drain(500).await.unwrap(), 2);
    // The other log again: its order is behind nothing that waits, and counts.
    item.logs[1].is_unreadable.store(false, Ordering::Relaxed);
    assert_eq!(item.replay(&ReplayOptions::default()).await.unwrap().placed(), 1);
}

#[tokio::test]
async fn only_one_replay_of_an_item_puts_orders_back_at_a_time() {
    let world = World::start().await.unwrap();
    let item = world.announce(6).await.unwrap();
    let (queue, item_id) = (&world.queue, &item.item_id);
    let order = BatchOrder {
        user_token: UserToken::parse("ann").unwrap(),
        placed_at: Stamp::from_micros(micros_now() - 60_000_000).unwrap(),
    };
    let orders = std::slice::from_ref(&order);
    let first = RestoreCall { slot: 0, number: 1 };
    let restore = async || queue.restore_batch(item_id, "one", first, &[], orders).await;
    assert!(restore().await.is_err(), "nothing is restored yet");
    let long = Duration::from_secs(30);
    assert!(queue.restore_begin(item_id, "one", long).await.unwrap());
    assert!(matches!(item.replay(&ReplayOptions::default()).await, Err(ReplayError::InProgress)));
    assert_eq!(restore().await.unwrap().placed, 1);
    // The other one takes over, at once or after the timeout.
    assert!(queue.restore_begin(item_id, "two", Duration::ZERO).await.unwrap());
    assert!(restore().await.is_err());
    assert_eq!(queue.restore_end(item_id, "one", None).await.unwrap(), RestoreEnd::NotMine);
    queue.restore_give_up(item_id, "one").await.unwrap();
    assert!(!queue.restore_begin(item_id, "three", long).await.unwrap());
    queue.restore_give_up(item_id, "two").await.unwrap();
    assert!(queue.restore_begin(item_id, "three", long).await.unwrap());
    // A failover in the middle.
    let mut connection = world.redis.redis.connect().await.unwrap();
    let _: () = connection.hset(Keys::of(item_id).item, "primary", "another").await.unwrap();
    assert_eq!(queue.restore_end(item_id, "three", None).await.unwrap(), RestoreEnd::PrimaryChanged);
    assert!(queue.is_restoring(item_id).await.unwrap());
    assert!(item.replay(&ReplayOptions::default()).await.unwrap().took_ms < 60_000);
    assert!(!queue.is_restoring(item_id).await.unwrap());
    assert_eq!(queue.drain(item_id, MAX_BATCH, Permit::Unleased).await.unwrap().reserved, 1);
}

#[tokio::test]
async fn a_drain_takes_nothing_from_a_new_primary_before_the_queue_is_restored() {
    let world = World::start().await.unwrap();
    let item = world.announce(6).await.unwrap();
    let item_id = &item.item_id;
    let old = |buyer, age: u64| item.record(RecordKind::Order, buyer, micros_now() - age);
    // Not so old that it makes the delay longer.
    item.deliver(0, &old(1, 1_000)).await.unwrap();
    let folder = WorkFolder::new().unwrap();
    let mut replica = Redis::start_replica(folder.path(), "replica", &world.redis.redis).await.unwrap();
    replica.follow(None).await.unwrap();
    let promoted = queue_at(replica.url()).unwrap();
    let place = async |buyer, age| {
        let record = old(buyer, age);
        let order = BatchOrder { user_token: record.user_token, placed_at: record.placed_at };
        promoted.place_batch(item_id, &[order], WINDOW, &world.redis.clock).await.remove(0).unwrap().placement
    };
    // An order that could not be placed during the failover.
    assert_eq!(place(2, 15_000_000).await, Placement::Queued);
    let drain = async |queue: &Queue| queue.drain(item_id, MAX_BATCH, Permit::Unleased).await.unwrap();
    let with_logs = promoted.clone().with_order_logs(true);
    let found = drain(&with_logs).await;
    assert!(found.is_restoring && found.taken == 0 && found.waiting == 2, "{found:?}");
    // A drain that knows of no log respects it, too.
    let found = drain(&promoted).await;
    assert!(found.is_restoring && found.taken == 0, "{found:?}");
    let logs: Vec<MemoryLog> = REGIONS.map(|region| MemoryLog { region, ..MemoryLog::default() }).into();
    let options = ReplayOptions::default();
    replay::replay(item_id, &promoted, &world.ledger.ledger, &logs, &options).await.unwrap();
    tokio::time::sleep(2 * WINDOW).await;
    assert_eq!(drain(&with_logs).await.taken, 2);
    assert_eq!(place(3, 15_000_000).await, Placement::TooLate);

    // In direct mode a new primary changes nothing.
    let mut connection = replica.connect().await.unwrap();
    let _: () = connection.hset(Keys::of(item_id).item, "primary", "another").await.unwrap();
    assert_eq!(place(3, 1_000).await, Placement::Queued);
    tokio::time::sleep(2 * WINDOW).await;
    assert!(!drain(&promoted).await.is_restoring);
    assert!(drain(&with_logs).await.is_restoring, "a restart may have lost the end of the queue");
}
