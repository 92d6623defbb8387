//! Restoring a queue from the order logs, on a real Redis and a real PostgreSQL: random histories before a loss, orders and
//! withdrawals during the replay, and a model of what has to wait afterwards.

mod again;
mod answers;
mod exclusions;
mod gaps;
mod model;
mod opening;
mod steps;

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use checkout_worker::{ItemWork, WorkerContext};
use local::system::clock::micros_now;
use local::system::folder::WorkFolder;
use local::system::redis_server::{self, Redis};
use order_log::{Bucket, LogRecord, OrderLogError, RecordKind, Refusal, RefusalReason};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use reconcile::Stores;
use redis::AsyncCommands;
use replay::{RecordSource, ReplayError, ReplayOptions, ReplayReport};
use shared::config::RedisConfig;
use shared::item::{ItemId, NewItem};
use shared::permit::Permit;
use shared::queue::{
    BatchOrder, Keys, Link, MAX_BATCH, OrderState, Placement, Queue, RESTORE_WANTED, RestoreBegin,
    RestoreEnd, RestoreGivenUp,
};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use tests::{LedgerServer, RedisQueue, queue_at, source};

const BUYERS: u8 = 14;
const WINDOW: Duration = Duration::from_millis(50);
/// Between the stamps of two records: more than the clocks of two machines may differ.
const STEP_MICROS: u64 = 150_000;
const REGIONS: [&str; 2] = ["us-east-1", "ap-southeast-2"];

/// The order log of a region, in memory.
#[derive(Default)]
struct MemoryLog {
    region: &'static str,
    records: Mutex<BTreeMap<(String, u64), LogRecord>>,
    is_unreadable: AtomicBool,
}

impl MemoryLog {
    fn append(&self, record: &LogRecord) {
        let key = (record.user_token.as_str().to_owned(), record.placed_at.as_micros());
        self.records.lock().unwrap().insert(key, record.clone());
    }

    fn refuse(&self, record: &LogRecord) {
        let refusal = Refusal { reason: RefusalReason::TooLate, decided_at: record.placed_at };
        self.append(&LogRecord { refusal: Some(refusal), ..record.clone() });
    }
}

impl RecordSource for MemoryLog {
    fn region(&self) -> &str {
        self.region
    }

    async fn bucket(&self, _: &ItemId, bucket: u8, since: Stamp) -> Result<Bucket, OrderLogError> {
        if self.is_unreadable.load(Ordering::Relaxed) {
            return Err(OrderLogError::NotSent("no connection".into()));
        }
        let of = |buyer: &UserToken| digest(&SHA256, buyer.as_str().as_bytes()).as_ref()[0];
        let records = self.records.lock().unwrap();
        let found =
            records.values().filter(|one| of(&one.user_token) == bucket && one.placed_at >= since).cloned();
        Ok(Bucket { records: found.collect(), malformed: 0 })
    }
}

/// One thing that happens. A record that is not delivered has not reached main yet.
#[derive(Clone, Debug)]
enum Step {
    Order {
        buyer: u8,
        region: usize,
        is_delivered: bool,
    },
    Leave {
        buyer: u8,
        region: usize,
        is_delivered: bool,
    },
    Drain {
        most: u32,
    },
    Work,
    /// The item ends, and opens again at this moment: its queue is emptied, and the logs keep their records.
    OpenAgain,
}

/// What happens to Redis.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// Everything is lost, and the item is rebuilt from the ledger.
    Everything,
    /// Everything since this step is lost.
    Tail(usize),
}

fn step(drains: u32) -> impl Strategy<Value = Step> {
    let who = || (0..BUYERS, 0..REGIONS.len(), prop::bool::weighted(0.8));
    prop_oneof![
        8 => who().prop_map(|(buyer, region, is_delivered)| Step::Order { buyer, region, is_delivered }),
        3 => who().prop_map(|(buyer, region, is_delivered)| Step::Leave { buyer, region, is_delivered }),
        drains => (1..4_u32).prop_map(|most| Step::Drain { most }),
        drains => Just(Step::Work),
        drains / 2 => Just(Step::OpenAgain),
    ]
}

struct World {
    redis: RedisQueue,
    ledger: LedgerServer,
    /// As a drain with order logs has it.
    queue: Queue,
    stores: Stores,
    number: AtomicU32,
}

/// A key, and its value as `DUMP` writes it.
type Dumped = (String, Option<Vec<u8>>);

/// One item, and its logs.
struct Drop<'a> {
    world: &'a World,
    item_id: ItemId,
    logs: Vec<MemoryLog>,
}

impl World {
    async fn start() -> Result<Self> {
        let (redis, ledger) = (RedisQueue::start().await?, LedgerServer::start().await?);
        let url = redis.redis.url();
        let link = Link::new(RedisConfig::main(&move |name: &str| redis_server::setting(name, &url))?);
        let queue = Queue::new(link.clone()).with_order_logs(true);
        let stores = Stores { link, queue: queue.clone(), ledger: ledger.ledger.clone() };
        Ok(Self { redis, ledger, queue, stores, number: AtomicU32::default() })
    }

    async fn announce(&self, stock_total: u32) -> Result<Drop<'_>> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let item_id: ItemId = format!("drop-{number}").parse()?;
        let new = NewItem {
            item_id: item_id.clone(),
            name: item_id.to_string(),
            stock_total,
            opens_at: Stamp::from_micros(micros_now() - 3_600_000_000)?,
            closes_at: None,
            hold_seconds: 600,
            max_hold_seconds: 0,
            settle_window_ms: 50,
        };
        self.ledger.ledger.create_item(&new).await?;
        self.queue.create_item(&new, 1).await?;
        let logs = REGIONS.map(|region| MemoryLog { region, ..MemoryLog::default() }).into();
        Ok(Drop { world: self, item_id, logs })
    }

    async fn work(&self, item_id: &ItemId) -> Result<()> {
        let context = WorkerContext::from_config(&source(&self.redis, &self.ledger)).await?;
        ItemWork::new(context, item_id.clone()).round(true).await?;
        Ok(())
    }
}

impl Drop<'_> {
    fn record(&self, kind: RecordKind, buyer: u8, at: u64) -> LogRecord {
        let buyer = UserToken::parse(format!("buyer-{buyer:02}")).unwrap();
        LogRecord::new(kind, self.item_id.clone(), buyer, Stamp::from_micros(at).unwrap())
    }

    /// As order-place applies a record.
    async fn deliver(&self, region: usize, record: &LogRecord) -> Result<()> {
        let queue = &self.world.queue;
        let buyer = &record.user_token;
        if record.kind == RecordKind::Leave {
            match queue.order_state(&self.item_id, buyer).await? {
                OrderState::Queued { placed_at, .. } if placed_at > record.placed_at => {}
                OrderState::Queued { .. } | OrderState::Reserved(_) => {
                    queue.leave(&self.item_id, buyer).await?;
                }
                _ => {}
            }
            return Ok(());
        }
        let order = BatchOrder { user_token: buyer.clone(), placed_at: record.placed_at };
        let placed =
            queue.place_batch(&self.item_id, &[order], WINDOW, &self.world.redis.clock).await.remove(0)?;
        if matches!(placed.placement, Placement::TooLate | Placement::ClockAhead) {
            self.logs[region].refuse(record);
        }
        Ok(())
    }

    async fn run(&self, step: &Step, at: u64) -> Result<()> {
        let (kind, buyer, region, is_delivered) = match *step {
            Step::Order { buyer, region, is_delivered } => (RecordKind::Order, buyer, region, is_delivered),
            Step::Leave { buyer, region, is_delivered } => (RecordKind::Leave, buyer, region, is_delivered),
            Step::Drain { most } => return self.drain(most).await.map(drop),
            Step::Work => return self.world.work(&self.item_id).await,
            Step::OpenAgain => return self.open_again(at).await,
        };
        let record = self.record(kind, buyer, at);
        self.logs[region].append(&record);
        if is_delivered { self.deliver(region, &record).await } else { Ok(()) }
    }

    /// A step of the history. What it releases is released at the step's time, as all stamps are: by the stores' clocks, the
    /// orders of the next steps would be older than the release.
    async fn run_before(&self, step: &Step, at: u64) -> Result<()> {
        self.run(step, at).await?;
        if !matches!(step, Step::Work | Step::Leave { .. }) {
            return Ok(());
        }
        let mut ledger = self.connect_to_ledger().await?;
        sqlx::query("UPDATE fairdrop.sales SET released_at = $2 WHERE item_id = $1 AND released_at > $2")
            .bind(self.item_id.as_str())
            .bind(i64::try_from(at)?)
            .execute(&mut ledger)
            .await?;
        let mut redis = self.world.redis.redis.connect().await?;
        let key = Keys::of(&self.item_id).reservations;
        let later: Vec<String> = redis.zrangebyscore(&key, "-inf", format!("(-{at}")).await?;
        for buyer in later {
            let _: () = redis.zadd(&key, buyer, -(at as f64)).await?;
        }
        Ok(())
    }

    /// The orders' ages are those of this test, and must not make the delay longer.
    async fn drain(&self, most: u32) -> Result<u64> {
        let mut connection = self.world.redis.redis.connect().await?;
        let key = Keys::of(&self.item_id).item;
        let _: () = connection.hset_multiple(&key, &[("late", "0"), ("late_before", "0")]).await?;
        Ok(self.world.queue.drain(&self.item_id, most, Permit::Unleased).await?.taken)
    }

    async fn dump(&self) -> Result<Vec<Dumped>> {
        let mut connection = self.world.redis.redis.connect().await?;
        let keys = Keys::of(&self.item_id);
        let mut dumped = Vec::new();
        for key in [keys.item, keys.orders, keys.reservations, keys.tasks] {
            dumped.push((key.clone(), redis::cmd("DUMP").arg(key).query_async(&mut connection).await?));
        }
        Ok(dumped)
    }

    /// Replaces the server's content, as a new primary has it. `None`: nothing is left.
    async fn lose(&self, kept: Option<&[Dumped]>) -> Result<()> {
        let mut connection = self.world.redis.redis.connect().await?;
        let _: () = redis::cmd("FLUSHALL").query_async(&mut connection).await?;
        let Some(kept) = kept else {
            reconcile::restore(&self.world.stores, &self.item_id, 1).await?;
            return Ok(());
        };
        for (key, value) in kept {
            let Some(value) = value else { continue };
            let mut restore = redis::cmd("RESTORE");
            let _: () = restore.arg(key).arg(0).arg(value).query_async(&mut connection).await?;
        }
        let _: () = connection.sadd(shared::queue::ITEMS, self.item_id.as_str()).await?;
        // The server is the same one here.
        let _: () = connection
            .hset_multiple(Keys::of(&self.item_id).item, &[("primary", "another"), ("run_id", "another")])
            .await?;
        Ok(())
    }

    async fn replay(&self, options: &ReplayOptions) -> Result<ReplayReport, ReplayError> {
        let World { queue, ledger, .. } = self.world;
        replay::replay(&self.item_id, queue, &ledger.ledger, &self.logs, options).await
    }
}

/// A history, a loss, and what happens during the replay.
#[derive(Clone, Debug)]
struct Case {
    before: Vec<Step>,
    loss: Loss,
    /// After so many milliseconds.
    during: Vec<(u64, Step)>,
}

fn case() -> impl Strategy<Value = Case> {
    let loss = prop_oneof![1 => Just(Loss::Everything), 1 => (0..30_usize).prop_map(Loss::Tail)];
    let during = proptest::collection::vec((0..25_u64, step(0)), 0..14);
    (proptest::collection::vec(step(2), 0..40), loss, during).prop_map(|(before, loss, mut during)| {
        during.sort_by_key(|(ms, _)| *ms);
        Case { before, loss, during }
    })
}

async fn run(world: &World, case: &Case) -> Result<()> {
    let item = world.announce(6).await?;
    let began = micros_now() - 8_000_000;
    let mut kept = None;
    for (number, step) in case.before.iter().enumerate() {
        if matches!(case.loss, Loss::Tail(at) if at == number) {
            kept = Some(item.dump().await?);
        }
        item.run_before(step, began + STEP_MICROS * number as u64).await?;
    }
    if let (Loss::Tail(_), None) = (case.loss, &kept) {
        kept = Some(item.dump().await?);
    }
    item.lose(kept.as_deref()).await?;
    // The drain finds out before it takes anything.
    ensure!(item.drain(500).await? == 0, "a drain took orders before the replay");
    let mut connection = world.redis.redis.connect().await?;
    let waits: String = connection.hget(Keys::of(&item.item_id).item, "restoring").await?;
    ensure!(waits == RESTORE_WANTED, "{waits}");
    let served_before = item.reserved().await?.len();

    let options = ReplayOptions::default();
    // As stamps of real orders, these are not long before the replay, also if the history took long on a busy machine.
    let recent = micros_now() - STEP_MICROS * case.during.len() as u64;
    let live_from = recent.max(began + STEP_MICROS * case.before.len() as u64);
    let live = async {
        let began = tokio::time::Instant::now();
        for (number, (ms, step)) in case.during.iter().enumerate() {
            tokio::time::sleep_until(began + Duration::from_millis(*ms)).await;
            // Everything is delivered in the end: the stream is durable.
            let step = match *step {
                Step::Order { buyer, region, .. } => Step::Order { buyer, region, is_delivered: true },
                Step::Leave { buyer, region, .. } => Step::Leave { buyer, region, is_delivered: true },
                ref other => other.clone(),
            };
            item.run(&step, live_from + STEP_MICROS * number as u64).await?;
        }
        anyhow::Ok(())
    };
    let (report, intake) = tokio::join!(item.replay(&options), live);
    let report = report?;
    intake?;
    let ((mut expected, either), mut queued) = (item.expected().await?, item.queued().await?);
    let is_certain = |buyer: &String, _: &mut u64| !either.contains(buyer);
    expected.retain(is_certain);
    queued.retain(is_certain);
    ensure!(expected == queued, "expected {expected:?}, queued {queued:?}, {report:?}");
    let restoring: Option<String> = connection.hget(Keys::of(&item.item_id).item, "restoring").await?;
    ensure!(restoring.is_none(), "{restoring:?}");

    // Once more: nothing changes.
    item.replay(&options).await?;
    let mut queued_again = item.queued().await?;
    queued_again.retain(is_certain);
    ensure!(queued_again == queued, "a second replay changed the queue: {queued:?}, {queued_again:?}");

    // The new life serves in order, and nothing twice.
    tokio::time::sleep(2 * WINDOW).await;
    while item.drain(3).await? > 0 {}
    let reserved = item.reserved().await?;
    let served = reserved.get(served_before..).context("tasks are missing")?;
    ensure!(served.is_sorted(), "{served:?}");
    let buyers: HashSet<&String> = served.iter().map(|(_, buyer)| buyer).collect();
    ensure!(buyers.len() == served.len(), "{served:?}");
    let (waiting, taken, _) = world.queue.counts(&item.item_id).await?;
    ensure!(waiting == 0 || taken == 6, "{waiting} orders wait, {taken} units are taken");
    Ok(())
}

#[test]
fn a_replay_restores_what_the_model_expects_whatever_happens_meanwhile() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(World::start()).unwrap();
    let mut runner = TestRunner::new(Config { cases: 120, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&case(), |case| {
        runtime.block_on(run(&world, &case)).map_err(|error| TestCaseError::fail(format!("{error:#}")))
    });
    outcome.unwrap();
}
