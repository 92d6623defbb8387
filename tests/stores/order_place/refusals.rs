//! Refusals in records: of orders outside the gates, and of orders that a replay has put back meanwhile.

use super::{PlaceFixture, RUN};
use local::system::clock::micros_now;
use order_log::{LogRecord, RecordKind};
use redis::AsyncCommands;
use shared::item::ItemChanges;
use shared::item_cache::MAX_AGE;
use shared::permit::Permit;
use shared::queue::{BatchOrder, Keys, OrderState, RestoreCall, RestoreEnd};
use shared::stamp::Stamp;
use std::slice::from_ref;
use std::time::{Duration, Instant};
use tests::eventually;

const SOON: Duration = Duration::from_secs(20);

/// Moves the gates of the fixture's item, and waits until order-place's copy of it is too old.
async fn move_gates(fixture: &PlaceFixture, opens_at: u64, closes_at: u64) {
    let stamp = |micros| Some(Stamp::from_micros(micros).unwrap());
    let changes = ItemChanges {
        opens_at: stamp(opens_at),
        closes_at: stamp(closes_at),
        settle_window_ms: Some(50),
        ..ItemChanges::default()
    };
    fixture.server.queue.update_item(&fixture.item_id, &changes).await.unwrap();
    tokio::time::sleep(MAX_AGE).await;
}

#[tokio::test]
async fn an_order_outside_the_gates_is_refused_in_its_record_unless_main_served_it_before() {
    let fixture = PlaceFixture::start().await;
    let (queue, item_id, now) = (&fixture.server.queue, &fixture.item_id, micros_now());
    let order = |buyer: &str, age: u64| fixture.record(RecordKind::Order, buyer, now - age);
    let served = order("ann", 7_500_000);
    fixture.append(from_ref(&served)).await;
    move_gates(&fixture, now - 60_000_000, now + 60_000_000).await;
    assert_eq!(fixture.deliver(from_ref(&served), RUN).await, None);
    eventually("the order is served", SOON, async || {
        Ok((queue.drain(item_id, 10, Permit::Unleased).await?.reserved == 1).then_some(()))
    })
    .await
    .unwrap();

    move_gates(&fixture, now - 4_000_000, now - 1_000_000).await;
    let batch = [served, order("early", 4_100_000), order("late", 1_000_000)];
    fixture.append(&batch).await;
    assert_eq!(fixture.deliver(&batch, RUN).await, None);
    let [of_served, of_early, of_late] = batch.each_ref();
    assert_eq!(fixture.refusal(of_served).await, None, "the gates were others when it was served");
    assert_eq!(fixture.refusal(of_early).await, Some("not-open-yet"));
    assert_eq!(fixture.refusal(of_late).await, Some("closed"));
    assert_eq!(fixture.queued().await.len(), 0);
    let state = queue.order_state(item_id, &of_served.user_token).await.unwrap();
    assert!(matches!(state, OrderState::Reserved(_)), "{state:?}");
}

/// Delivers orders of `ann` and `ben` that main refuses during a replay, which then puts ann's order back. Returns both
/// records, and how long that took.
async fn refuse_during_a_replay(fixture: &PlaceFixture) -> ([LogRecord; 2], Duration) {
    let (queue, item_id) = (&fixture.server.queue, &fixture.item_id);
    let order = |buyer: &str| fixture.record(RecordKind::Order, buyer, micros_now() - 1_000_000);
    let batch = [order("ann"), order("ben")];
    fixture.append(&batch).await;
    // A replay has read the records, and main's answer is that of before: both are too late.
    assert!(queue.restore_begin(item_id, "replay", Duration::ZERO).await.unwrap());
    let mut redis = fixture.server.redis.connect().await.unwrap();
    let _: () = redis.hset(Keys::of(item_id).item, "closed", micros_now()).await.unwrap();
    let _: () = redis.del(Keys::of(item_id).orders).await.unwrap();
    let began = Instant::now();
    let replay = async {
        for record in &batch {
            eventually("the refusal is written", SOON, async || {
                Ok((fixture.refusal(record).await == Some("too-late")).then_some(()))
            })
            .await
            .unwrap();
        }
        let back = BatchOrder { user_token: batch[0].user_token.clone(), placed_at: batch[0].placed_at };
        let call = RestoreCall { slot: 0, number: 1 };
        assert_eq!(queue.restore_batch(item_id, "replay", call, &[], &[back]).await.unwrap().placed, 1);
        assert_eq!(queue.restore_end(item_id, "replay", None).await.unwrap(), RestoreEnd::Ended);
        began.elapsed()
    };
    let (undecided, took) = tokio::join!(fixture.deliver(&batch, RUN), replay);
    assert_eq!(undecided, None);
    (batch, took)
}

#[tokio::test]
async fn a_refusal_that_reaches_the_record_after_a_replay_has_read_it_is_removed() {
    let fixture = PlaceFixture::start().await;
    // order-place waits for a replay for 1 s, which a busy machine may miss.
    for _ in 0..20 {
        let (batch, took) = refuse_during_a_replay(&fixture).await;
        if took > Duration::from_millis(700) {
            continue;
        }
        assert_eq!(fixture.queued().await.into_keys().collect::<Vec<_>>(), ["ann"]);
        assert_eq!(fixture.refusal(&batch[0]).await, None);
        assert_eq!(fixture.refusal(&batch[1]).await, Some("too-late"));
        return;
    }
    panic!("no replay ended within 0.7 s");
}

#[tokio::test]
async fn a_refusal_that_was_left_in_the_record_of_a_waiting_order_is_removed_by_the_next_delivery() {
    let fixture = PlaceFixture::start().await;
    let (queue, item_id) = (&fixture.server.queue, &fixture.item_id);
    let order = |buyer: &str| fixture.record(RecordKind::Order, buyer, micros_now() - 60_000_000);
    let batch = [order("ann"), order("ben")];
    fixture.append(&batch).await;
    assert_eq!(fixture.deliver(&batch, RUN).await, None);
    assert_eq!(fixture.refusal(&batch[0]).await, Some("too-late"));
    // A replay had read the record before, and the process ended before it found that out.
    assert!(queue.restore_begin(item_id, "replay", Duration::ZERO).await.unwrap());
    let back = BatchOrder { user_token: batch[0].user_token.clone(), placed_at: batch[0].placed_at };
    let call = RestoreCall { slot: 0, number: 1 };
    queue.restore_batch(item_id, "replay", call, &[], &[back]).await.unwrap();
    assert_eq!(queue.restore_end(item_id, "replay", None).await.unwrap(), RestoreEnd::Ended);
    assert_eq!(fixture.deliver(&batch, RUN).await, None);
    assert_eq!(fixture.refusal(&batch[0]).await, None);
    assert_eq!(fixture.refusal(&batch[1]).await, Some("too-late"));
}
