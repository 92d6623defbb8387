//! What order-place must not refuse yet, or not at all, and what must not keep other orders waiting.

use super::{PlaceFixture, RUN};
use local::system::clock::micros_now;
use order_log::{LogRecord, RecordKind};
use redis::AsyncCommands;
use shared::permit::Permit;
use shared::queue::{ITEMS, Keys, OrderState, ReservationOutcome, Settlement};
use shared::user_token::UserToken;
use std::slice::from_ref;
use std::time::{Duration, Instant};

/// One item may keep the others of its shard waiting for 1 s, and this test's machine is busy.
const NOT_LONG: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_stamp_a_little_ahead_waits_for_mains_clock_and_one_far_ahead_stays_refused() {
    let fixture = PlaceFixture::start().await;
    let now = micros_now();
    let order = |buyer: &str, micros| fixture.record(RecordKind::Order, buyer, micros);
    let batch = [order("near", now + 900_000), order("far", now + 4_000_000)];
    fixture.append(&batch).await;
    let deliver = || fixture.deliver_written_at(now, &batch, RUN);
    assert_eq!(deliver().await, None);
    assert!(micros_now() >= now + 800_000, "main's clock had not reached the stamp");
    // Also when main would take it.
    while micros_now() < now + 4_000_000 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(deliver().await, None);
    assert_eq!(fixture.queued().await.into_keys().collect::<Vec<_>>(), ["near"]);
    assert_eq!(fixture.refusal(&batch[0]).await, None);
    assert_eq!(fixture.refusal(&batch[1]).await, Some("clock-ahead"));
}

#[tokio::test]
async fn an_order_that_was_served_and_released_is_not_refused_when_it_is_delivered_again() {
    let fixture = PlaceFixture::start().await;
    let queue = &fixture.server.queue;
    let now = micros_now();
    let [served, younger] =
        [9_000_000, 5_000_000].map(|age: u64| fixture.record(RecordKind::Order, "alice", now - age));
    let never = fixture.record(RecordKind::Order, "ben", now - 9_500_000);
    fixture.append(&[served.clone(), never.clone()]).await;
    assert_eq!(fixture.deliver(from_ref(&served), RUN).await, None);
    while queue.drain(&fixture.item_id, 10, Permit::Unleased).await.unwrap().reserved == 0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let outcome = ReservationOutcome::Released { returns_unit: true };
    let release = Settlement { user_token: served.user_token.clone(), expected: None, outcome };
    queue.settle(&fixture.item_id, &[release]).await.unwrap();
    // Everything is too late by now, and would be refused.
    let released_at = micros_now();
    let mut redis = fixture.server.redis.connect().await.unwrap();
    let _: () = redis.hset(Keys::of(&fixture.item_id).item, "closed", released_at + 1_000).await.unwrap();
    assert_eq!(fixture.deliver(&[served.clone(), never.clone()], RUN).await, None);
    assert_eq!(fixture.refusal(&served).await, None);
    // A second order, which the first one has superseded.
    fixture.append(from_ref(&younger)).await;
    assert_eq!(fixture.deliver(from_ref(&younger), RUN).await, None);
    assert_eq!(fixture.refusal(&younger).await, None);
    let state = queue.order_state(&fixture.item_id, &served.user_token).await.unwrap();
    assert_eq!(state, OrderState::Released);
    // An order that main never had is refused, and so is one that the buyer made after the release.
    let after = fixture.record(RecordKind::Order, "alice", released_at + 500);
    fixture.append(from_ref(&after)).await;
    assert_eq!(fixture.deliver(from_ref(&after), RUN).await, None);
    assert_eq!(fixture.refusal(&after).await, Some("too-late"));
    assert_eq!(fixture.refusal(&never).await, Some("too-late"));
}

#[tokio::test]
async fn an_item_with_a_key_of_a_wrong_type_does_not_keep_the_others_waiting() {
    let fixture = PlaceFixture::start().await;
    let mut redis = fixture.server.redis.connect().await.unwrap();
    let mut batch = Vec::new();
    for (number, name) in
        ["bad-orders", "bad-reservations", "bad-item", "bad-field", "lost"].iter().enumerate()
    {
        let item_id = fixture.server.item(name, 5, 10_000).await.unwrap();
        let stamp = micros_now() - 1_000 + number as u64;
        for kind in [RecordKind::Order, RecordKind::Leave] {
            let record = fixture.record(kind, "ann", stamp + u64::from(kind == RecordKind::Leave));
            batch.push(LogRecord { item_id: item_id.clone(), ..record });
        }
    }
    batch.push(fixture.record(RecordKind::Order, "ben", micros_now()));
    fixture.append(&batch).await;
    // This process has read them.
    for record in &batch {
        let known = LogRecord {
            user_token: UserToken::parse("cid").unwrap(),
            kind: RecordKind::Order,
            ..record.clone()
        };
        fixture.append(from_ref(&known)).await;
        assert_eq!(fixture.deliver(from_ref(&known), RUN).await, None);
    }
    let keys = |name: &str| Keys::of(&name.parse().unwrap());
    let spoil = [keys("bad-orders").orders, keys("bad-reservations").reservations, keys("bad-item").item];
    for key in &spoil {
        let _: () = redis.set(key, "spoilt").await.unwrap();
    }
    let _: () = redis.hset(keys("bad-field").item, "closed", "soon").await.unwrap();
    let _: () = redis.del(keys("lost").item).await.unwrap();
    let _: () = redis.srem(ITEMS, "lost").await.unwrap();
    tokio::time::sleep(shared::item_cache::MAX_AGE).await;

    let began = Instant::now();
    assert_eq!(fixture.deliver(&batch, RUN).await, None);
    assert!(began.elapsed() < NOT_LONG, "{:?}", began.elapsed());
    assert_eq!(fixture.queued().await.len(), 2, "ben's order, and cid's");
    for record in batch.iter().filter(|record| record.kind == RecordKind::Order) {
        assert_eq!(fixture.refusal(record).await, None, "{record:?}");
    }
}

#[tokio::test]
async fn an_item_whose_hash_is_gone_does_not_keep_the_others_waiting_unless_redis_was_lost() {
    let fixture = PlaceFixture::start().await;
    let mut redis = fixture.server.redis.connect().await.unwrap();
    let item_id = fixture.server.item("lost", 5, 10_000).await.unwrap();
    let order = |buyer: &str| fixture.record(RecordKind::Order, buyer, micros_now());
    let of_lost = |buyer: &str| LogRecord { item_id: item_id.clone(), ..order(buyer) };
    // This process has a copy of the item.
    let first = of_lost("ann");
    fixture.append(from_ref(&first)).await;
    assert_eq!(fixture.deliver(from_ref(&first), RUN).await, None);
    let _: () = redis.del(Keys::of(&item_id).item).await.unwrap();
    let batch = [of_lost("ben"), order("cid")];
    fixture.append(&batch).await;
    let began = Instant::now();
    assert_eq!(fixture.deliver(&batch, RUN).await, None);
    assert!(began.elapsed() < NOT_LONG, "{:?}", began.elapsed());
    assert_eq!(fixture.queued().await.into_keys().collect::<Vec<_>>(), ["cid"]);
    assert_eq!(fixture.refusal(&batch[0]).await, None);
    // With a copy of the item, too, the loss of all items is no fault of one.
    let _: () = redis::cmd("FLUSHALL").query_async(&mut redis).await.unwrap();
    assert_eq!(fixture.deliver(from_ref(&batch[1]), Duration::from_secs(2)).await, Some(0));
}

#[tokio::test]
async fn a_late_order_of_an_item_that_is_being_restored_does_not_keep_the_others_waiting() {
    let fixture = PlaceFixture::start().await;
    let restoring = fixture.server.item("restoring", 5, 10_000).await.unwrap();
    let order = |buyer: &str| fixture.record(RecordKind::Order, buyer, micros_now());
    let late = LogRecord { item_id: restoring.clone(), ..order("ann") };
    let batch = [late, order("ben")];
    fixture.append(&batch).await;
    let mut redis = fixture.server.redis.connect().await.unwrap();
    assert!(fixture.server.queue.restore_begin(&restoring, "replay", Duration::ZERO).await.unwrap());
    let _: () = redis.hset(Keys::of(&restoring).item, "closed", micros_now()).await.unwrap();
    let began = Instant::now();
    assert_eq!(fixture.deliver(&batch, RUN).await, None);
    assert!(began.elapsed() < NOT_LONG, "{:?}", began.elapsed());
    assert_eq!(fixture.queued().await.into_keys().collect::<Vec<_>>(), ["ben"]);
    assert_eq!(fixture.refusal(&batch[0]).await, Some("too-late"));
}

#[tokio::test]
async fn an_item_that_main_does_not_have_is_unknown_only_if_main_has_others() {
    let fixture = PlaceFixture::start().await;
    let mut redis = fixture.server.redis.connect().await.unwrap();
    let known = fixture.record(RecordKind::Order, "alice", micros_now());
    let unknown = LogRecord { item_id: "nothing".parse().unwrap(), ..known.clone() };
    fixture.append(&[known.clone(), unknown.clone()]).await;
    let fields: std::collections::HashMap<String, String> =
        redis.hgetall(Keys::of(&fixture.item_id).item).await.unwrap();
    let _: () = redis::cmd("FLUSHALL").query_async(&mut redis).await.unwrap();
    let short = Duration::from_secs(2);
    assert_eq!(fixture.deliver(&[unknown.clone(), known.clone()], short).await, Some(0));
    assert_eq!((fixture.refusal(&known).await, fixture.refusal(&unknown).await), (None, None));
    // Main is restored.
    let _: () = redis.sadd(ITEMS, fixture.item_id.as_str()).await.unwrap();
    let fields: Vec<(String, String)> = fields.into_iter().collect();
    let _: () = redis.hset_multiple(Keys::of(&fixture.item_id).item, &fields).await.unwrap();
    tokio::time::sleep(shared::item_cache::MAX_AGE).await;
    assert_eq!(fixture.deliver(&[unknown.clone(), known.clone()], RUN).await, None);
    assert_eq!(fixture.queued().await.len(), 1);
    assert_eq!(
        (fixture.refusal(&known).await, fixture.refusal(&unknown).await),
        (None, Some("no-such-item"))
    );
}
