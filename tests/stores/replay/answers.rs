//! Calls of a replay whose answers are lost: what was placed and removed is counted once, and nothing is missed.

use super::*;
use crate::queue_link::signal;
use shared::queue::{RestoreCall, RestoredBatch};

/// Redis stands still for this time, and then executes what it has received. A client waits for half of it: the answer to a
/// call is lost, and the answer to its repetition is not.
const STILL: Duration = Duration::from_millis(1_000);

/// A log after whose first records Redis stands still.
struct StoppingLog<'a> {
    item: &'a Drop<'a>,
    /// An order that arrives after the records were read.
    late: Option<LogRecord>,
    has_stopped: AtomicBool,
}

impl RecordSource for StoppingLog<'_> {
    fn region(&self) -> &str {
        REGIONS[0]
    }

    async fn bucket(&self, item_id: &ItemId, bucket: u8, since: Stamp) -> Result<Bucket, OrderLogError> {
        let log = &self.item.logs[0];
        let found = log.bucket(item_id, bucket, since).await?;
        if !found.records.is_empty() && !self.has_stopped.swap(true, Ordering::Relaxed) {
            if let Some(order) = &self.late {
                log.append(order);
                self.item.deliver(0, order).await.unwrap();
            }
            let redis = self.item.world.redis.redis.process_id();
            signal("-STOP", redis);
            tokio::spawn(async move {
                tokio::time::sleep(STILL).await;
                signal("-CONT", redis);
            });
        }
        Ok(found)
    }
}

impl Drop<'_> {
    async fn replay_with_lost_answers(&self, late: Option<LogRecord>) -> ReplayReport {
        let url = self.world.redis.redis.url();
        let config = RedisConfig::main(&move |name: &str| match name {
            "FAIRDROP_REDIS_RESPONSE_TIMEOUT_MS" => Some((STILL / 2).as_millis().to_string()),
            _ => redis_server::setting(name, &url),
        });
        let (queue, ledger) = (Queue::new(Link::new(config.unwrap())), &self.world.ledger.ledger);
        // Redis has the script: an attempt that it does not know is not executed.
        assert!(queue.restore_begin(&self.item_id, "first", Duration::ZERO).await.unwrap());
        queue.restore_goes_on(&self.item_id, "first").await.unwrap();
        queue.restore_give_up(&self.item_id, "first").await.unwrap();
        let log = StoppingLog { item: self, late, has_stopped: AtomicBool::default() };
        let options = ReplayOptions::default();
        replay::replay(&self.item_id, &queue, ledger, std::slice::from_ref(&log), &options).await.unwrap()
    }
}

#[tokio::test]
async fn a_batch_whose_answer_was_lost_is_counted_as_placed() {
    let world = World::start().await.unwrap();
    let item = world.announce(6).await.unwrap();
    let began = micros_now() - 60_000_000;
    for number in 0..3_000 {
        let buyer = UserToken::parse(format!("buyer-{number}")).unwrap();
        let stamp = Stamp::from_micros(began + number).unwrap();
        item.logs[0].append(&LogRecord::new(RecordKind::Order, item.item_id.clone(), buyer, stamp));
    }
    let report = item.replay_with_lost_answers(None).await;
    let region = &report.regions[REGIONS[0]];
    assert_eq!((region.read, region.placed, region.already_queued), (3_000, 3_000, 0), "{report:?}");
    assert_eq!(item.queued().await.unwrap().len(), 3_000);
    // They are there.
    let report = item.replay(&ReplayOptions::default()).await.unwrap();
    let region = &report.regions[REGIONS[0]];
    assert_eq!((region.read, region.placed, region.already_queued), (3_000, 0, 3_000), "{report:?}");
}

#[tokio::test]
async fn an_order_behind_a_removal_whose_answer_was_lost_is_found() {
    let world = World::start().await.unwrap();
    let item = world.announce(6).await.unwrap();
    let now = micros_now();
    // Main has the order, and has lost its withdrawal.
    let old = item.record(RecordKind::Order, 1, now - 3_000_000);
    item.logs[0].append(&old);
    item.deliver(0, &old).await.unwrap();
    item.logs[0].append(&item.record(RecordKind::Leave, 1, now - 2_000_000));
    // The next one changes nothing while the old one waits.
    let late = item.record(RecordKind::Order, 1, now - 100_000);
    let report = item.replay_with_lost_answers(Some(late.clone())).await;
    assert_eq!(report.withdrawn_from_queue, 1, "{report:?}");
    let expected = BTreeMap::from([(late.user_token.as_str().to_owned(), late.placed_at.as_micros())]);
    assert_eq!(item.queued().await.unwrap(), expected, "{report:?}");
    let region = &report.regions[REGIONS[0]];
    let left_out: u64 = region.left_out.values().sum();
    assert_eq!(region.placed + region.already_queued + left_out, 2, "{report:?}");
}

#[tokio::test]
async fn a_call_is_executed_once() {
    let world = World::start().await.unwrap();
    let item = world.announce(6).await.unwrap();
    let (queue, item_id) = (&world.queue, &item.item_id);
    let order = |buyer, age| {
        let record = item.record(RecordKind::Order, buyer, micros_now() - age);
        BatchOrder { user_token: record.user_token, placed_at: record.placed_at }
    };
    let (orders, leaves) = ([order(1, 60_000_000), order(2, 60_000_000)], [order(1, 50_000_000)]);
    let call = |slot, number| RestoreCall { slot, number };
    let batch = async |call, leaves: &[BatchOrder], orders: &[BatchOrder]| {
        queue.restore_batch(item_id, "one", call, leaves, orders).await
    };
    let counts = |placed, withdrawn| RestoredBatch { placed, taken: 0, withdrawn };
    assert!(queue.restore_begin(item_id, "one", Duration::ZERO).await.unwrap());
    for _ in 0..2 {
        assert_eq!(batch(call(0, 1), &[], &orders).await.unwrap(), counts(2, 0));
    }
    assert_eq!(batch(call(1, 1), &[], &orders).await.unwrap(), counts(0, 0));
    for _ in 0..2 {
        assert_eq!(batch(call(0, 2), &leaves, &[]).await.unwrap(), counts(0, 1));
    }
    // A call that arrives late brings no withdrawn order back.
    let late = batch(call(0, 1), &[], &orders).await.unwrap_err();
    assert!(late.to_string().contains("OUTDATED"), "{late}");
    assert_eq!(item.queued().await.unwrap().len(), 1);
    queue.restore_goes_on(item_id, "one").await.unwrap();
    // Another replay counts from the beginning, and the end leaves nothing.
    assert!(queue.restore_begin(item_id, "one", Duration::ZERO).await.unwrap());
    assert_eq!(batch(call(0, 1), &[], &orders).await.unwrap(), counts(1, 0));
    assert_eq!(queue.restore_end(item_id, "one", None).await.unwrap(), RestoreEnd::Ended);
    let mut connection = world.redis.redis.connect().await.unwrap();
    assert!(!connection.exists::<_, bool>(Keys::of(item_id).restored).await.unwrap());
}
