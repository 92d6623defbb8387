//! Random sequences of orders and changes give the same reservations whether idle items are left alone or not.
//!
//! Two items get the same orders and changes. One is served by drains and workers that work on active items only, and
//! die at random; the other is served completely after every step, idle or not.

use anyhow::{Context, Result, ensure};
use checkout_worker::{BatchFill, ItemWork, WorkerContext};
use local::crowd::audit::DropResult;
use local::system::clock::micros_now;
use local::system::process::scaled;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use redis::AsyncCommands;
use shared::item::{ItemChanges, ItemId, NewItem};
use shared::permit::Permit;
use shared::queue::{IdleRules, Keys, Queue};
use shared::stamp::Stamp;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tests::{LedgerServer, RedisQueue, order, queue_at, source};
use tokio::task::JoinHandle;

const SETTLE_WINDOW_MS: u32 = 50;
/// The unit of the script is seconds, and an item's field is a whole number: this is written to Redis directly.
const HOLD_SECONDS: f64 = 0.1;
const POLL: Duration = Duration::from_millis(20);
/// Within this time a change must have its effect, also if the worker dies on it.
const LIMIT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Some buyers order, if the item is open.
    Order {
        buyers: u8,
    },
    /// A waiting or reserved buyer leaves.
    Cancel {
        buyer: u8,
    },
    Restock {
        units: u8,
    },
    Close,
    /// The item opens again, immediately or after a while.
    Open {
        in_ms: u64,
    },
    Pause {
        paused: bool,
    },
    /// A drain and a worker die, and others start.
    Restart,
    /// Nothing happens, until the item is idle if it can be.
    Rest,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..4_u8).prop_map(|buyers| Step::Order { buyers }),
        1 => (0..12_u8).prop_map(|buyer| Step::Cancel { buyer }),
        2 => (1..4_u8).prop_map(|units| Step::Restock { units }),
        2 => Just(Step::Close),
        3 => prop_oneof![Just(0), 200..500_u64].prop_map(|in_ms| Step::Open { in_ms }),
        2 => any::<bool>().prop_map(|paused| Step::Pause { paused }),
        2 => Just(Step::Restart),
        4 => Just(Step::Rest),
    ]
}

/// Short times, since the test waits for them. No idle time ends by itself: what is missed stays missed.
fn rules() -> IdleRules {
    IdleRules {
        longest_read: scaled(Duration::from_secs(5)),
        longest_change: scaled(Duration::from_millis(200)),
        after_closing: Duration::ZERO,
        before_opening: Duration::from_millis(60),
        shortest: Duration::from_millis(10),
        recheck: Duration::from_secs(3_600),
    }
}

struct Servers {
    redis: RedisQueue,
    ledger: LedgerServer,
}

/// The drains and workers of the item that is left alone while it is idle.
struct Functions {
    running: Vec<JoinHandle<Result<()>>>,
    item_id: ItemId,
}

impl Functions {
    async fn start(servers: &Servers, item_id: &ItemId) -> Result<Self> {
        let mut functions = Self { running: Vec::new(), item_id: item_id.clone() };
        for _ in 0..2 {
            functions.start_pair(servers).await?;
        }
        Ok(functions)
    }

    async fn start_pair(&mut self, servers: &Servers) -> Result<()> {
        let (queue, item_id) = (queue_at(servers.redis.redis.url())?, self.item_id.clone());
        self.running.push(tokio::spawn(async move {
            loop {
                if queue.active_item_ids(Duration::ZERO).await?.contains(&item_id) {
                    queue.drain(&item_id, 3, Permit::Unleased).await?;
                }
                tokio::time::sleep(POLL).await;
            }
        }));
        let context = WorkerContext::from_config(&source(&servers.redis, &servers.ledger)).await?;
        let (queue, item_id) = (queue_at(servers.redis.redis.url())?, self.item_id.clone());
        self.running.push(tokio::spawn(async move {
            let mut work = ItemWork::new(context, item_id.clone());
            loop {
                if queue.active_item_ids(Duration::ZERO).await?.contains(&item_id)
                    && work.round(true).await? == BatchFill::Empty
                {
                    queue.mark_idle(&item_id, &rules()).await?;
                }
                tokio::time::sleep(POLL).await;
            }
        }));
        Ok(())
    }

    /// Two of them die wherever they are, and two others start.
    async fn restart(&mut self, servers: &Servers) -> Result<()> {
        for running in self.running.drain(..2) {
            running.abort();
        }
        self.start_pair(servers).await
    }
}

impl Drop for Functions {
    fn drop(&mut self) {
        for running in &self.running {
            running.abort();
        }
    }
}

/// An item's gates and stock, as the test has set them.
#[derive(Debug)]
struct Model {
    opens_at: u64,
    closes_at: Option<u64>,
    stock_total: u32,
    buyers: u32,
    idle_times: u32,
}

async fn change(queue: &Queue, items: &[ItemId; 2], changes: &ItemChanges) -> Result<()> {
    for item_id in items {
        queue.update_item(item_id, changes).await?;
    }
    Ok(())
}

async fn take(
    step: Step,
    servers: &Servers,
    items: &[ItemId; 2],
    functions: &mut Functions,
    model: &mut Model,
) -> Result<()> {
    let queue = &servers.redis.queue;
    let stamp = Stamp::saturating_from_micros;
    match step {
        Step::Order { buyers } => {
            let now = micros_now();
            // The gates at intake.
            if now < model.opens_at || model.closes_at.is_some_and(|closes_at| now >= closes_at) {
                return Ok(());
            }
            // Far from the window's end, so that both items take it.
            let window = Duration::from_secs(30);
            for _ in 0..buyers {
                model.buyers += 1;
                let placed_at = micros_now();
                for item_id in items {
                    let order = order(item_id, &format!("buyer-{}", model.buyers), placed_at)?;
                    queue.place(&order, window, &servers.redis.clock).await?;
                }
            }
        }
        Step::Cancel { buyer } => {
            for item_id in items {
                queue.leave(item_id, &order(item_id, &format!("buyer-{buyer}"), 0)?.user_token).await?;
            }
        }
        Step::Restock { units } => {
            model.stock_total += u32::from(units);
            let changes = ItemChanges { stock_total: Some(model.stock_total), ..ItemChanges::default() };
            change(queue, items, &changes).await?;
        }
        Step::Close => {
            let now = micros_now();
            model.closes_at = Some(model.closes_at.map_or(now, |closes_at| closes_at.min(now)));
            for item_id in items {
                queue.close_item(item_id, stamp(now)).await?;
            }
        }
        Step::Open { in_ms } => {
            let (opens_at, closes_at) = (micros_now() + in_ms * 1_000, micros_now() + 3_600_000_000);
            (model.opens_at, model.closes_at) = (opens_at, Some(closes_at));
            let changes = ItemChanges {
                opens_at: Some(stamp(opens_at)),
                closes_at: Some(stamp(closes_at)),
                ..ItemChanges::default()
            };
            change(queue, items, &changes).await?;
            if in_ms == 0 {
                return Ok(());
            }
            // Idle until shortly before the opening; then orders come.
            tokio::time::sleep(Duration::from_micros((opens_at + 1_000).saturating_sub(micros_now()))).await;
            Box::pin(take(Step::Order { buyers: 2 }, servers, items, functions, model)).await?;
        }
        Step::Pause { paused } => {
            for item_id in items {
                queue.pause_item(item_id, paused).await?;
            }
        }
        Step::Restart => functions.restart(servers).await?,
        Step::Rest => {
            let until = Instant::now() + rules().longest_change * 2;
            while Instant::now() < until {
                if !queue.active_item_ids(Duration::ZERO).await?.contains(&items[0]) {
                    model.idle_times += 1;
                    break;
                }
                tokio::time::sleep(POLL).await;
            }
        }
    }
    Ok(())
}

/// Serves `item_id` until it has no work.
async fn serve(servers: &Servers, item_id: &ItemId, work: &mut ItemWork) -> Result<()> {
    let keys = Keys::of(item_id);
    let mut connection = servers.redis.redis.connect().await?;
    let started = Instant::now();
    tokio::time::sleep(Duration::from_millis(u64::from(SETTLE_WINDOW_MS) + 1)).await;
    loop {
        let drained = servers.redis.queue.drain(item_id, 3, Permit::Unleased).await?;
        let found = work.round(true).await?;
        let holds: u64 = connection.zcount(&keys.reservations, 0, "(+inf").await?;
        if drained.taken == 0 && found == BatchFill::Empty && holds == 0 {
            return Ok(());
        }
        ensure!(started.elapsed() < scaled(Duration::from_secs(20)), "{item_id} is never finished");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The buyers in the order of their reservations, those who wait, and the units left.
async fn state(servers: &Servers, item_id: &ItemId) -> Result<(Vec<String>, BTreeSet<String>, i64)> {
    let result = DropResult::read(&mut servers.redis.redis.connect().await?, item_id).await?;
    let reserved = result.reservations.into_iter().map(|one| one.user_token).collect();
    Ok((reserved, result.queued.into_iter().collect(), result.stock_left))
}

async fn create(servers: &Servers, name: &str, holds: bool) -> Result<ItemId> {
    let item_id: ItemId = name.parse()?;
    let new = NewItem {
        item_id: item_id.clone(),
        name: name.to_owned(),
        stock_total: 1,
        opens_at: Stamp::from_micros(micros_now() - 3_600_000_000)?,
        closes_at: None,
        hold_seconds: u32::from(holds),
        max_hold_seconds: 0,
        settle_window_ms: SETTLE_WINDOW_MS,
    };
    // The ledger has units for every restock.
    servers.ledger.ledger.create_item(&NewItem { stock_total: 1_000, ..new.clone() }).await?;
    servers.redis.queue.create_item(&new, 1).await?;
    if holds {
        let mut connection = servers.redis.redis.connect().await?;
        let _: () = connection.hset(Keys::of(&item_id).item, "hold_seconds", HOLD_SECONDS).await?;
    }
    Ok(item_id)
}

/// Returns how often the item was seen idle.
async fn run(servers: &Servers, number: u32, holds: bool, steps: &[Step]) -> Result<u32> {
    let items = [
        create(servers, &format!("left-{number}"), holds).await?,
        create(servers, &format!("kept-{number}"), holds).await?,
    ];
    let [left_alone, kept] = &items;
    let mut functions = Functions::start(servers, left_alone).await?;
    let context = WorkerContext::from_config(&source(&servers.redis, &servers.ledger)).await?;
    let mut work = ItemWork::new(context, kept.clone());
    let opens_at = micros_now() - 3_600_000_000;
    let mut model = Model { opens_at, closes_at: None, stock_total: 1, buyers: 0, idle_times: 0 };
    for (index, step) in steps.iter().enumerate() {
        take(*step, servers, &items, &mut functions, &mut model).await?;
        serve(servers, kept, &mut work).await?;
        let expected = state(servers, kept).await?;
        let started = Instant::now();
        loop {
            let found = state(servers, left_alone).await?;
            if found == expected {
                break;
            }
            ensure!(
                started.elapsed() < scaled(LIMIT),
                "after step {index}: {found:?}, and {expected:?} if the item is never left alone"
            );
            tokio::time::sleep(POLL).await;
        }
    }
    for running in &functions.running {
        ensure!(!running.is_finished(), "a drain or worker of the test has failed");
    }
    Ok(model.idle_times)
}

#[test]
fn an_idle_item_misses_no_change() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let servers = runtime
        .block_on(async {
            anyhow::Ok(Servers { redis: RedisQueue::start().await?, ledger: LedgerServer::start().await? })
        })
        .unwrap();
    let mut runner = TestRunner::new(Config {
        cases: 12,
        max_shrink_iters: 4,
        failure_persistence: None,
        ..Config::default()
    });
    // In some sequences no item is idle; in this one it is, and then changes.
    let closed = [Step::Order { buyers: 2 }, Step::Close, Step::Rest, Step::Rest, Step::Rest];
    let changed = [Step::Restock { units: 2 }, Step::Rest, Step::Open { in_ms: 400 }];
    let idle_times = runtime.block_on(run(&servers, 0, false, &[&closed[..], &changed].concat())).unwrap();
    assert!(idle_times > 0, "the item was not idle: the test would show nothing");
    let number = std::cell::Cell::new(0);
    let outcome = runner.run(&(any::<bool>(), proptest::collection::vec(step(), 3..12)), |(holds, steps)| {
        number.set(number.get() + 1);
        runtime
            .block_on(run(&servers, number.get(), holds, &steps))
            .with_context(|| format!("case {}", number.get()))
            .map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
        Ok(())
    });
    outcome.unwrap();
}
