//! order-place on a real Redis and a real table's protocol: batches that are delivered again in part and as a whole.

mod refusals;
mod undecided;
mod withdrawals;

use local::aws::dynamodb::{DynamoDb, DynamoDbOptions};
use local::system::clock::micros_now;
use local::system::redis_server;
use local::system::wan::{ConnectionState, WanConnection};
use order_log::{LogRecord, OrderLog, RecordKind};
use order_place::{App, handle};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use redis::AsyncCommands;
use serde_json::{Value, json};
use shared::item::ItemId;
use shared::permit::Permit;
use shared::queue::{Keys, OrderState};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::collections::BTreeMap;
use std::time::Duration;
use tests::{RedisQueue, order_log, queue_at};

const HERE: &str = "us-east-1";
const RUN: Duration = Duration::from_secs(20);

struct PlaceFixture {
    server: RedisQueue,
    log: OrderLog,
    app: App,
    /// From order-place to main.
    main: WanConnection,
    item_id: ItemId,
    tables: DynamoDb,
}

impl PlaceFixture {
    async fn start() -> Self {
        Self::start_at(Duration::ZERO).await
    }

    /// With `one_way` from order-place to main.
    async fn start_at(one_way: Duration) -> Self {
        let tables = DynamoDb::start(DynamoDbOptions::default()).await.unwrap();
        tables.make_order_log(HERE, "order-log", 0).unwrap();
        let log = order_log(&tables.url(), HERE).unwrap();
        let server = RedisQueue::start().await.unwrap();
        let item_id = server.item("shoe", 5, 10_000).await.unwrap();
        let target = ([127, 0, 0, 1], server.redis.port()).into();
        let main = WanConnection::open(target, one_way).await.unwrap();
        let queue = queue_at(redis_server::url_at(main.port())).unwrap();
        let app = App::new(queue, log.clone());
        Self { server, log, app, main, item_id, tables }
    }

    fn record(&self, kind: RecordKind, buyer: &str, micros: u64) -> LogRecord {
        let stamp = Stamp::from_micros(micros).unwrap();
        LogRecord::new(kind, self.item_id.clone(), UserToken::parse(buyer).unwrap(), stamp)
    }

    /// Delivers a batch; returns the position of the first record to deliver again.
    async fn deliver(&self, batch: &[LogRecord], time: Duration) -> Option<usize> {
        self.deliver_written_at(micros_now(), batch, time).await
    }

    /// Delivers a batch that DynamoDB wrote at `micros`.
    async fn deliver_written_at(&self, micros: u64, batch: &[LogRecord], time: Duration) -> Option<usize> {
        let event = serde_json::from_value(event(batch, micros / 1_000_000)).unwrap();
        let answer = serde_json::to_value(handle(&self.app, &event, time).await).unwrap();
        let failures = answer["batchItemFailures"].as_array().unwrap();
        assert!(failures.len() < 2, "{answer}");
        Some(failures.first()?["itemIdentifier"].as_str()?.parse().unwrap())
    }

    async fn append(&self, batch: &[LogRecord]) {
        for record in batch {
            self.log.append(record).await.unwrap();
        }
    }

    /// Why the buyer's newest order is refused, according to the log.
    async fn refusal(&self, record: &LogRecord) -> Option<&'static str> {
        let newest = self.log.latest_of(&record.item_id, &record.user_token).await.unwrap().unwrap();
        newest.refusal.map(|refusal| refusal.reason.slug())
    }

    async fn queued(&self) -> BTreeMap<String, u64> {
        let orders = Keys::of(&self.item_id).orders;
        let mut connection = self.server.redis.connect().await.unwrap();
        let found: Vec<(String, f64)> = connection.zrange_withscores(orders, 0, -1).await.unwrap();
        found.into_iter().map(|(buyer, stamp)| (buyer, stamp as u64)).collect()
    }
}

/// A batch of the stream; a record's sequence number is its position.
fn event(batch: &[LogRecord], written_at: u64) -> Value {
    let change = |(position, record): (usize, &LogRecord)| {
        let kind = if record.kind == RecordKind::Order { "order" } else { "leave" };
        let digest =
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, record.user_token.as_str().as_bytes());
        let image = json!({
            "item_bucket": { "S": format!("{}#{:02x}", record.item_id, digest.as_ref()[0]) },
            "buyer_stamp": { "S": format!("{}#{:016}", record.user_token.as_str(), record.placed_at.as_micros()) },
            "kind": { "S": kind },
        });
        let change = json!({ "SequenceNumber": position.to_string(), "NewImage": image, "ApproximateCreationDateTime": written_at });
        json!({ "eventName": "INSERT", "dynamodb": change })
    };
    json!({ "Records": batch.iter().enumerate().map(change).collect::<Vec<_>>() })
}

#[tokio::test]
async fn whatever_is_delivered_again_the_queue_is_what_the_records_say() {
    let fixture = PlaceFixture::start().await;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let chance = &mut SmallRng::seed_from_u64(seed);
    for round in 0..12_u64 {
        let begin = micros_now() - 1_000_000;
        let buyers: Vec<String> = (0..5).map(|number| format!("buyer-{round}-{number}")).collect();
        let mut records = Vec::new();
        let mut expected: BTreeMap<&String, Option<u64>> = BTreeMap::new();
        for number in 0..20 {
            let (buyer, at) = (&buyers[chance.random_range(0..buyers.len())], begin + number);
            let kind = if chance.random_bool(0.4) { RecordKind::Leave } else { RecordKind::Order };
            let now = expected.entry(buyer).or_default();
            *now = if kind == RecordKind::Leave { None } else { now.or(Some(at)) };
            let record = fixture.record(kind, buyer, at);
            fixture.log.append(&record).await.unwrap();
            records.push(record);
        }
        // Batches in order; some are delivered again, from a random record on.
        let mut from = 0;
        while from < records.len() {
            let to = (from + chance.random_range(1..8)).min(records.len());
            assert_eq!(fixture.deliver(&records[from..to], RUN).await, None);
            if chance.random_bool(0.5) {
                from = chance.random_range(0..=to);
                assert_eq!(fixture.deliver(&records[from..to], RUN).await, None);
            }
            from = to;
        }
        let queued = fixture.queued().await;
        for (buyer, stamp) in expected {
            assert_eq!(queued.get(buyer).copied(), stamp, "{buyer} of {records:?}");
        }
    }
}

#[tokio::test]
async fn a_withdrawal_that_is_delivered_again_does_not_reach_the_reservation_of_a_newer_order() {
    let fixture = PlaceFixture::start().await;
    let at = micros_now() - 30_000_000;
    let [order, leave, again] = [(RecordKind::Order, 0), (RecordKind::Leave, 1), (RecordKind::Order, 2)]
        .map(|(kind, more)| fixture.record(kind, "alice", at + more * 1_000_000));
    fixture.append(&[order.clone(), leave.clone(), again.clone()]).await;
    // The newer order was served.
    let buyer = &again.user_token;
    let key = Keys::of(&fixture.item_id);
    let mut redis = fixture.server.redis.connect().await.unwrap();
    let _: () = redis.zadd(&key.orders, "alice", again.placed_at.as_micros()).await.unwrap();
    fixture.server.queue.drain(&fixture.item_id, 10, Permit::Unleased).await.unwrap();
    // Main does not know the stamp any more: the log shows that it is newer.
    let _: () = redis.del(&key.served).await.unwrap();
    let state = || fixture.server.queue.order_state(&fixture.item_id, buyer);
    let reserved = state().await.unwrap();
    assert!(matches!(reserved, OrderState::Reserved(_)), "{reserved:?}");
    assert_eq!(fixture.deliver(&[order, leave.clone()], RUN).await, None);
    assert_eq!(state().await.unwrap(), reserved);
    // A withdrawal of that order itself is applied, also again.
    let last = fixture.record(RecordKind::Leave, "alice", at + 3_000_000);
    fixture.log.append(&last).await.unwrap();
    for _ in 0..2 {
        assert_eq!(fixture.deliver(&[leave.clone(), last.clone()], RUN).await, None);
    }
}

#[tokio::test]
async fn records_that_main_has_not_decided_are_delivered_again_and_refusals_are_written() {
    let fixture = PlaceFixture::start().await;
    let now = micros_now();
    let order = |buyer: &str, micros| fixture.record(RecordKind::Order, buyer, micros);
    let batch = [order("ann", now), order("late", now - 60_000_000), order("ahead", now + 60_000_000)];
    fixture.append(&batch).await;
    fixture.main.set(ConnectionState::Refusing);
    assert_eq!(fixture.deliver(&batch, Duration::from_millis(300)).await, Some(0));
    fixture.main.set(ConnectionState::Up);
    assert_eq!(fixture.deliver(&batch, RUN).await, None);
    assert_eq!(fixture.queued().await, BTreeMap::from([("ann".to_owned(), now)]));
    for (record, reason) in batch.iter().zip([None, Some("too-late"), Some("clock-ahead")]) {
        assert_eq!(fixture.refusal(record).await, reason, "{record:?}");
    }
    // A whole hour is delivered again: nothing changes.
    assert_eq!(fixture.deliver(&batch, RUN).await, None);
    assert_eq!(fixture.queued().await.len(), 1);
}
