//! The watermark decides: delays that grow and fall, clocks that are set back, windows that change.

use crate::virtual_time::{Answer, START, Scripts, Sent, closed, item, reserved};
use anyhow::Result;
use local::system::clock::micros_now;
use local::system::redis_server;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use reconcile::Stores;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use shared::config::RedisConfig;
use shared::item::{ItemChanges, NewItem};
use shared::queue::{Keys, Link, MAX_WINDOW};
use shared::stamp::Stamp;
use std::collections::HashMap;
use tests::{LedgerServer, RedisQueue};

const MAX_WINDOW_MICROS: u64 = MAX_WINDOW.as_micros() as u64;
const TOLERANCE: u64 = 100_000;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    /// Main's clock moves, also back.
    Clock { micros: i64 },
    /// An order of this age arrives.
    Place { buyer: u8, age_micros: i64 },
    /// Orders of these ages arrive in one batch.
    Batch { orders: Vec<(u8, i64)> },
    /// The drain takes orders; its own clock differs from main's.
    Drain { most: u32, differs_micros: i64 },
    /// The settle window changes.
    Window { ms: u64 },
    /// Redis is rebuilt or repaired: the watermark is raised to this age.
    Raise { age_micros: u64 },
}

fn age() -> impl Strategy<Value = i64> {
    prop_oneof![
        4 => 0..2_200_000_i64,
        2 => 2_000_000..10_000_000_i64,
        1 => 9_900_000..12_000_000_i64,
        1 => -150_000..0_i64,
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop_oneof![4 => 0..300_000_i64, 1 => 0..12_000_000_i64, 1 => -15_000_000..0_i64]
            .prop_map(|micros| Step::Clock { micros }),
        8 => (any::<u8>(), age()).prop_map(|(buyer, age_micros)| Step::Place { buyer, age_micros }),
        2 => proptest::collection::vec((any::<u8>(), age()), 1..12).prop_map(|orders| Step::Batch { orders }),
        5 => (prop_oneof![1..=3_u32, Just(500)], prop_oneof![3 => -1_000..1_000_i64, 1 => -9_000_000..9_000_000_i64])
            .prop_map(|(most, differs_micros)| Step::Drain { most, differs_micros }),
        1 => prop_oneof![Just(50), Just(2_000), Just(10_000), 50..10_000_u64].prop_map(|ms| Step::Window { ms }),
        1 => (0..12_000_000_u64).prop_map(|age_micros| Step::Raise { age_micros }),
    ]
}

struct World<'a> {
    connection: &'a mut MultiplexedConnection,
    scripts: &'a Scripts,
    keys: Keys,
    now: u64,
    /// The latest moment that main's clock has shown.
    latest: u64,
    window_ms: u64,
    closed: u64,
    queued: HashMap<String, u64>,
}

impl World<'_> {
    async fn take(&mut self, step: &Step) -> Result<Result<(), String>> {
        match step {
            Step::Clock { micros } => {
                self.now = self.now.saturating_add_signed(*micros);
                self.latest = self.latest.max(self.now);
            }
            Step::Place { buyer, age_micros } => {
                let order = self.order(*buyer, *age_micros);
                let window = self.window_ms * 1_000;
                let answer =
                    self.scripts.place(self.connection, &self.keys, &order, window, self.now).await?;
                return Ok(self.judge(&order, &answer));
            }
            Step::Batch { orders } => {
                let orders: Vec<Sent> = orders.iter().map(|(buyer, age)| self.order(*buyer, *age)).collect();
                let window = self.window_ms * 1_000;
                let answers =
                    self.scripts.place_batch(self.connection, &self.keys, &orders, window, self.now).await?;
                for (order, answer) in orders.iter().zip(&answers) {
                    if let Err(error) = self.judge(order, answer) {
                        return Ok(Err(error));
                    }
                }
            }
            Step::Drain { most, differs_micros } => {
                let caller = self.now.saturating_add_signed(*differs_micros);
                let drain = self.scripts.drain(self.connection, &self.keys, *most, self.now, caller).await?;
                let delay = u64::try_from(drain.delay_micros)?;
                let before = self.closed;
                self.closed = closed(self.connection, &self.keys).await?;
                if delay < self.window_ms * 1_000 || delay > MAX_WINDOW_MICROS {
                    return Ok(Err(format!("the delay is {delay}")));
                }
                if self.closed < before {
                    return Ok(Err("the watermark fell".into()));
                }
                if self.closed > before && self.closed + delay > self.now.min(caller + TOLERANCE) {
                    return Ok(Err("the watermark rose to more than the delay before now".into()));
                }
                if self.closed > before && drain.taken == 0 {
                    return Ok(Err("the watermark rose for nothing".into()));
                }
            }
            Step::Window { ms } => {
                self.window_ms = *ms;
                let _: () = self.connection.hset(&self.keys.item, "settle_window_ms", ms).await?;
            }
            Step::Raise { age_micros } => {
                self.closed = self.closed.max(self.now - age_micros);
                let _: () = self.connection.hset(&self.keys.item, "closed", self.closed).await?;
            }
        }
        Ok(Ok(()))
    }

    fn order(&self, buyer: u8, age_micros: i64) -> Sent {
        Sent { buyer: format!("buyer-{buyer:03}"), stamp: self.now.saturating_add_signed(-age_micros) }
    }

    fn judge(&mut self, order: &Sent, answer: &Answer) -> Result<(), String> {
        let is_late = order.stamp <= self.closed || self.now.saturating_sub(order.stamp) > MAX_WINDOW_MICROS;
        let is_ahead = order.stamp > self.now + TOLERANCE;
        let right = match answer {
            // A batch also says so of an order that it repeats.
            Answer::Queued => !is_late && !is_ahead || self.queued.get(&order.buyer) == Some(&order.stamp),
            Answer::TooLate => is_late,
            Answer::ClockAhead => is_ahead && !is_late,
            Answer::Known(..) => self.queued.contains_key(&order.buyer),
        };
        if *answer == Answer::Queued {
            self.queued.entry(order.buyer.clone()).or_insert(order.stamp);
        }
        if right {
            Ok(())
        } else {
            Err(format!("{order:?} at {} above {}: {answer:?}", self.now, self.closed))
        }
    }

    /// Everything that was queued is reserved, in order, once the clocks have caught up.
    async fn end(&mut self) -> Result<Result<(), String>> {
        self.now = self.latest + 60_000_000;
        while self.scripts.drain(self.connection, &self.keys, 7, self.now, self.now).await?.taken > 0 {}
        let reserved = reserved(self.connection, &self.keys).await?;
        if !reserved.is_sorted_by(|one, next| one < next) {
            return Ok(Err(format!("out of order: {reserved:?}")));
        }
        let mut queued: Vec<(u64, String)> =
            self.queued.drain().map(|(buyer, stamp)| (stamp, buyer)).collect();
        queued.sort();
        Ok(if queued == reserved { Ok(()) } else { Err(format!("{queued:?} {reserved:?}")) })
    }
}

#[test]
fn reservations_are_in_order_whatever_the_delay_the_window_and_the_clocks() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(RedisQueue::start()).unwrap();
    let connection = runtime.block_on(server.redis.connect()).unwrap();
    let scripts = Scripts::new().unwrap();
    let mut runner = TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&proptest::collection::vec(step(), 1..120), |steps| {
        let verdict: Result<Result<(), String>> = runtime.block_on(async {
            let mut connection = connection.clone();
            let _: () = redis::cmd("FLUSHDB").query_async(&mut connection).await?;
            let keys = item(&mut connection, "drop", 1_000, 2_000).await?;
            let mut world = World {
                connection: &mut connection,
                scripts: &scripts,
                keys,
                now: START,
                latest: START,
                window_ms: 2_000,
                closed: 1,
                queued: HashMap::new(),
            };
            for step in &steps {
                if let Err(error) = world.take(step).await? {
                    return Ok(Err(format!("{step:?}: {error}")));
                }
            }
            world.end().await
        });
        verdict.map_err(|error| TestCaseError::fail(error.to_string()))?.map_err(TestCaseError::fail)
    });
    outcome.unwrap();
}

#[tokio::test]
async fn the_limits_of_place_are_exact() {
    let server = RedisQueue::start().await.unwrap();
    let mut connection = server.redis.connect().await.unwrap();
    let scripts = Scripts::new().unwrap();
    let keys = item(&mut connection, "drop", 9, 2_000).await.unwrap();
    let closed = START - 3_000_000;
    let _: () = connection.hset(&keys.item, "closed", closed).await.unwrap();
    let oldest = START - MAX_WINDOW_MICROS;
    let cases = [
        (closed, START, Answer::TooLate),
        (closed + 1, START, Answer::Queued),
        (START + TOLERANCE, START, Answer::Queued),
        (START + TOLERANCE + 1, START, Answer::ClockAhead),
        // Main's clock is behind what it has closed.
        (closed, closed - 50_000, Answer::TooLate),
        (closed + 1, closed - 50_000, Answer::Queued),
        // A watermark that is lost: the longest window remains.
        (oldest - 1, START, Answer::TooLate),
        (oldest, START, Answer::Queued),
    ];
    for (number, (stamp, now, expected)) in cases.into_iter().enumerate() {
        if stamp <= oldest {
            let _: () = connection.hset(&keys.item, "closed", 1).await.unwrap();
        }
        let order = Sent { buyer: format!("one-{number}"), stamp };
        let answer = scripts.place(&mut connection, &keys, &order, 2_000_000, now).await.unwrap();
        assert_eq!(answer, expected, "{order:?}");
        let order = Sent { buyer: format!("batch-{number}"), stamp };
        let answers = scripts.place_batch(&mut connection, &keys, &[order], 2_000_000, now).await.unwrap();
        assert_eq!(answers, [expected], "{number}");
    }
}

#[tokio::test]
async fn the_lag_shows_a_drain_whose_clock_is_slow() {
    let server = RedisQueue::start().await.unwrap();
    let mut connection = server.redis.connect().await.unwrap();
    let scripts = Scripts::new().unwrap();
    let keys = item(&mut connection, "drop", 9, 2_000).await.unwrap();
    let order = Sent { buyer: "one".into(), stamp: START };
    scripts.place(&mut connection, &keys, &order, 2_000_000, START).await.unwrap();
    // Now, the drain's clock, what it takes, and the lag.
    let cases = [
        (START + 1_900_000, START + 1_900_000, 0, -1),
        (START + 7_000_000, START + 1_000_000, 0, 5_000_000),
        (START + 8_000_000, START + 2_000_000, 1, 6_000_000),
        (START + 9_000_000, START + 9_000_000, 0, -1),
    ];
    for (now, caller, taken, lag) in cases {
        let drain = scripts.drain(&mut connection, &keys, 500, now, caller).await.unwrap();
        assert_eq!((drain.taken, drain.lag_micros), (taken, lag), "at {}", now - START);
    }
}

#[tokio::test]
async fn an_item_of_an_earlier_version_keeps_its_fixed_window_until_it_is_changed() {
    let server = RedisQueue::start().await.unwrap();
    let mut connection = server.redis.connect().await.unwrap();
    let scripts = Scripts::new().unwrap();
    let keys = item(&mut connection, "drop", 9, 2_000).await.unwrap();
    let _: () = connection.hdel(&keys.item, "closed").await.unwrap();
    let send = |buyer: &str, age: u64| Sent { buyer: buyer.into(), stamp: START - age };
    let cases = [
        ("a", 2_000_000, Answer::Queued),
        ("b", 2_000_001, Answer::TooLate),
        ("c", 1_500_000, Answer::Queued),
    ];
    for (buyer, age, expected) in cases {
        let answer =
            scripts.place(&mut connection, &keys, &send(buyer, age), 2_000_000, START).await.unwrap();
        assert_eq!(answer, expected);
    }
    let batch = [send("d", 2_000_000), send("e", 2_000_001)];
    let answers = scripts.place_batch(&mut connection, &keys, &batch, 2_000_000, START).await.unwrap();
    assert_eq!(answers, [Answer::Queued, Answer::TooLate]);
    let drain = scripts.drain(&mut connection, &keys, 500, START, START).await.unwrap();
    assert_eq!((drain.taken, drain.delay_micros), (2, 2_000_000));
    let fields: HashMap<String, String> = connection.hgetall(&keys.item).await.unwrap();
    assert!(!fields.contains_key("closed") && !fields.contains_key("late"), "{fields:?}");
    // A change of the window, by the server's own clock: all that the old window let out is closed.
    let change = ItemChanges { settle_window_ms: Some(500), ..ItemChanges::default() };
    server.queue.update_item(&"drop".parse().unwrap(), &change).await.unwrap();
    let age = micros_now() - closed(&mut connection, &keys).await.unwrap();
    assert!((2_000_000..2_000_000 + 60_000_000).contains(&age), "{age}");
}

#[tokio::test]
async fn a_repair_of_another_field_gives_an_item_of_an_earlier_version_no_watermark() {
    let (server, ledger) = tokio::join!(RedisQueue::start(), LedgerServer::start());
    let (server, ledger) = (server.unwrap(), ledger.unwrap());
    let mut connection = server.redis.connect().await.unwrap();
    let new = NewItem {
        item_id: server.item("drop", 5, 500).await.unwrap(),
        name: "renamed".into(),
        stock_total: 5,
        opens_at: Stamp::from_micros(START).unwrap(),
        closes_at: None,
        hold_seconds: 600,
        max_hold_seconds: 0,
        settle_window_ms: 500,
    };
    assert!(ledger.ledger.create_item(&new).await.unwrap());
    let keys = Keys::of(&new.item_id);
    let _: () = connection.hdel(&keys.item, "closed").await.unwrap();
    let url = server.redis.url();
    let source = |name: &str| redis_server::setting(name, &url);
    let link = Link::new(RedisConfig::main(&source).unwrap());
    let stores = Stores { link, queue: server.queue.clone(), ledger: ledger.ledger.clone() };
    reconcile::reconcile_at_rest(&stores, &new.item_id).await.unwrap();
    let [name, closed]: [Option<String>; 2] =
        connection.hmget(&keys.item, &["name", "closed"]).await.unwrap();
    assert_eq!((name.as_deref(), closed), (Some("renamed"), None));
}
