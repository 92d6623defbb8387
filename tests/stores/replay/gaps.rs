//! What a replay has to know beyond the records: what main had decided, and what the primary of before did later.

use super::*;
use shared::queue::{Hold, RestoreCause};

impl Drop<'_> {
    /// A record that is in the log, and applied; its stamp lies so many microseconds back.
    async fn apply(&self, kind: RecordKind, buyer: u8, age: u64) -> LogRecord {
        let record = self.record(kind, buyer, micros_now() - age);
        self.logs[0].append(&record);
        self.deliver(0, &record).await.unwrap();
        record
    }

    async fn reserve(&self, count: u64) {
        let mut taken = 0;
        while taken < count {
            tokio::time::sleep(WINDOW).await;
            taken += self.drain(500).await.unwrap();
        }
        self.world.work(&self.item_id).await.unwrap();
    }

    async fn state(&self, record: &LogRecord) -> OrderState {
        self.world.queue.order_state(&self.item_id, &record.user_token).await.unwrap()
    }
}

#[tokio::test]
async fn a_second_order_that_main_did_not_queue_does_not_come_back_after_the_release() {
    let world = World::start().await.unwrap();
    let item = world.announce(6).await.unwrap();
    let first = item.apply(RecordKind::Order, 1, 3_000_000).await;
    item.reserve(1).await;
    // The buyer has a unit, and orders again.
    item.apply(RecordKind::Order, 1, 2_000_000).await;
    // The shop reports that the payment failed, for example.
    world.queue.leave(&item.item_id, &first.user_token).await.unwrap();
    world.work(&item.item_id).await.unwrap();
    assert_eq!(item.state(&first).await, OrderState::Released);
    let kept = item.dump().await.unwrap();
    for loss in [Some(kept.as_slice()), None] {
        item.lose(loss).await.unwrap();
        item.replay(&ReplayOptions::default()).await.unwrap();
        assert_eq!(item.queued().await.unwrap(), BTreeMap::new());
    }
    // An order of after the release counts, and is not lost.
    let again = item.apply(RecordKind::Order, 1, 0).await;
    let queued = BTreeMap::from([(again.user_token.as_str().to_owned(), again.placed_at.as_micros())]);
    assert_eq!(item.queued().await.unwrap(), queued);
    item.lose(None).await.unwrap();
    item.replay(&ReplayOptions::default()).await.unwrap();
    assert_eq!(item.queued().await.unwrap(), queued);
}

#[tokio::test]
async fn a_cancelled_reservation_ends_although_the_new_primary_lacks_the_cancellation() {
    let world = World::start().await.unwrap();
    let item = world.announce(6).await.unwrap();
    let cancels = item.apply(RecordKind::Order, 1, 3_000_000).await;
    let keeps = item.apply(RecordKind::Order, 2, 3_000_000).await;
    item.reserve(2).await;
    let kept = item.dump().await.unwrap();
    item.apply(RecordKind::Leave, 1, 1_000_000).await;
    assert_eq!(item.state(&cancels).await, OrderState::Reserved(Hold::Release));
    item.lose(Some(&kept)).await.unwrap();
    assert!(matches!(item.state(&cancels).await, OrderState::Reserved(Hold::Until(_))));
    item.replay(&ReplayOptions::default()).await.unwrap();
    world.work(&item.item_id).await.unwrap();
    assert_eq!(item.state(&cancels).await, OrderState::Released);
    assert!(matches!(item.state(&keeps).await, OrderState::Reserved(Hold::Until(_))));
}

#[tokio::test]
async fn an_order_that_only_the_primary_of_before_accepted_is_put_back_by_a_second_replay() {
    let world = World::start().await.unwrap();
    let item = world.announce(6).await.unwrap();
    let (queue, items) = (&world.queue, [item.item_id.clone()]);
    let kept = item.dump().await.unwrap();
    item.lose(Some(&kept)).await.unwrap();
    assert_eq!(item.drain(500).await.unwrap(), 0);
    let due = || queue.restores_due(&items);
    assert_eq!(due().await.unwrap(), [(items[0].clone(), RestoreCause::Wanted)]);
    // The run that is at the item has reconciled it: no other one does that meanwhile.
    assert!(queue.restore_begin(&items[0], "another", Duration::ZERO).await.unwrap());
    assert_eq!(due().await.unwrap(), [(items[0].clone(), RestoreCause::InProgress)]);
    queue.restore_give_up(&items[0], "another").await.unwrap();
    let first = ReplayOptions { again_after: Some(Duration::from_secs(2)), ..ReplayOptions::default() };
    item.replay(&first).await.unwrap();
    assert_eq!(due().await.unwrap(), []);
    // The primary of before still answers order-place: nothing of this order reaches the new one.
    let elsewhere = item.record(RecordKind::Order, 1, micros_now() - 1_000_000);
    item.logs[0].append(&elsewhere);
    // Sales go on meanwhile.
    item.apply(RecordKind::Order, 2, 100_000).await;
    item.reserve(1).await;
    while due().await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(due().await.unwrap(), [(items[0].clone(), RestoreCause::Again)]);
    item.replay(&ReplayOptions::default()).await.unwrap();
    let queued = item.queued().await.unwrap();
    assert_eq!(queued.into_keys().collect::<Vec<_>>(), [elsewhere.user_token.as_str()]);
    assert_eq!(due().await.unwrap(), [], "once");
    // This life of the queue goes on: what is behind what it has served stays out.
    let late = item.apply(RecordKind::Order, 3, 3_000_000).await;
    assert_eq!(item.state(&late).await, OrderState::None);
    item.reserve(1).await;
    assert!(matches!(item.state(&elsewhere).await, OrderState::Reserved(_)));
}
