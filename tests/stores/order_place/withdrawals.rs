//! Withdrawals, buyers with many records, and the time of an invocation.

use super::{PlaceFixture, RUN};
use local::system::clock::micros_now;
use order_log::{CallLimits, RecordKind};
use order_place::App;
use redis::AsyncCommands;
use shared::permit::Permit;
use shared::queue::{Hold, Keys, OrderState};
use std::collections::BTreeMap;
use std::slice::from_ref;
use std::time::{Duration, Instant};

/// From Sydney to Virginia.
const ONE_WAY: Duration = Duration::from_millis(115);

#[tokio::test]
async fn many_records_of_a_buyer_and_many_withdrawals_do_not_stall_a_shard() {
    let fixture = PlaceFixture::start_at(ONE_WAY).await;
    let now = micros_now();
    let order = |buyer: &str, at| fixture.record(RecordKind::Order, buyer, at);
    let leave = |buyer: &str, at| fixture.record(RecordKind::Leave, buyer, at);
    let leaving: Vec<String> = (0..100).map(|number| format!("leaving-{number}")).collect();
    let first: Vec<_> = leaving.iter().map(|buyer| order(buyer, now)).collect();
    assert_eq!(fixture.deliver(&first, RUN).await, None);
    assert_eq!(fixture.queued().await.len(), 100);

    let mut batch: Vec<_> = leaving.iter().map(|buyer| leave(buyer, now + 1_000)).collect();
    for at in 0..50 {
        batch.push(order("orders-often", now + at));
        batch.push(leave("leaves-often", now + 2 * at));
        batch.push(order("leaves-often", now + 2 * at + 1));
    }
    let began = Instant::now();
    assert_eq!(fixture.deliver(&batch, RUN).await, None);
    let took = began.elapsed();
    // Each of these records as a round trip of its own: half a minute.
    assert!(took < Duration::from_secs(4), "{took:?}");
    let queued = [("orders-often".to_owned(), now), ("leaves-often".to_owned(), now + 99)];
    assert_eq!(fixture.queued().await, BTreeMap::from(queued));
}

#[tokio::test]
async fn an_order_that_is_delivered_again_after_its_withdrawal_stays_withdrawn() {
    let fixture = PlaceFixture::start().await;
    let at = micros_now() - 4_000_000;
    let record = |kind, buyer: &str, more| fixture.record(kind, buyer, at + more);
    let first = record(RecordKind::Order, "alice", 0);
    let leave = record(RecordKind::Leave, "alice", 1_000_000);
    let again = record(RecordKind::Order, "alice", 2_000_000);
    fixture.append(&[first.clone(), leave.clone()]).await;
    for record in [&first, &leave, &first] {
        assert_eq!(fixture.deliver(from_ref(record), RUN).await, None);
    }
    // Together with orders of others, and after a buyer of the item was served.
    let mut redis = fixture.server.redis.connect().await.unwrap();
    let _: () = redis.zadd(Keys::of(&fixture.item_id).reservations, "ben", 1).await.unwrap();
    let ann = record(RecordKind::Order, "ann", 0);
    assert_eq!(fixture.deliver(&[ann, first.clone()], RUN).await, None);
    assert_eq!(fixture.queued().await, BTreeMap::from([("ann".to_owned(), at)]));
    assert_eq!(fixture.refusal(&first).await, None);
    // Only what the buyer has withdrawn.
    for record in [&again, &leave, &first] {
        assert_eq!(fixture.deliver(from_ref(record), RUN).await, None);
    }
    assert_eq!(fixture.queued().await.get("alice"), Some(&(at + 2_000_000)));
}

#[tokio::test]
async fn a_slow_withdrawal_does_not_reach_the_reservation_of_another_regions_newer_order() {
    let fixture = PlaceFixture::start().await;
    let key = Keys::of(&fixture.item_id);
    let mut redis = fixture.server.redis.connect().await.unwrap();
    let _: () = redis.hset(&key.item, "hold_seconds", 600).await.unwrap();
    let at = micros_now() - 30_000_000;
    let leave = fixture.record(RecordKind::Leave, "alice", at);
    // The order of the other region, whose log this order-place does not read.
    let _: () = redis.zadd(&key.orders, "alice", at + 1_000_000).await.unwrap();
    fixture.server.queue.drain(&fixture.item_id, 10, Permit::Unleased).await.unwrap();
    fixture.append(from_ref(&leave)).await;
    let state = || fixture.server.queue.order_state(&fixture.item_id, &leave.user_token);
    assert_eq!(fixture.deliver(from_ref(&leave), RUN).await, None);
    let reserved = state().await.unwrap();
    assert!(matches!(reserved, OrderState::Reserved(Hold::Until(_))), "{reserved:?}");
    let last = fixture.record(RecordKind::Leave, "alice", at + 2_000_000);
    assert_eq!(fixture.deliver(from_ref(&last), RUN).await, None);
    assert_eq!(state().await.unwrap(), OrderState::Reserved(Hold::Release));
}

#[tokio::test]
async fn refusals_that_a_throttled_table_does_not_take_end_with_the_invocations_time() {
    let mut fixture = PlaceFixture::start().await;
    let limits = CallLimits { budget: Duration::from_secs(2), max_attempts: 100 };
    fixture.app = App::new(fixture.server.queue.clone(), fixture.log.clone().with_limits(limits));
    let at = micros_now() - 60_000_000;
    let batch: Vec<_> =
        (0..200).map(|number| fixture.record(RecordKind::Order, &format!("late-{number}"), at)).collect();
    fixture.append(&batch).await;
    fixture.tables.throttle("us-east-1", "order-log", 1.0).unwrap();
    let began = Instant::now();
    let time = Duration::from_millis(500);
    assert!(fixture.deliver(&batch, time).await.is_some());
    // One write of 2 s may have begun within the time. 13 of them would follow one another.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    fixture.tables.throttle("us-east-1", "order-log", 0.0).unwrap();
    assert_eq!(fixture.deliver(&batch, RUN).await, None);
    for record in &batch {
        assert_eq!(fixture.refusal(record).await, Some("too-late"));
    }
}
