//! A batch of orders is placed as order by order: both scripts, on two real databases, through the same histories.

use crate::virtual_time::{Answer, START, Scripts, Sent, item};
use anyhow::Result;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use shared::queue::Keys;
use std::collections::HashMap;
use tests::RedisQueue;

/// One thing that happens to both queues.
#[derive(Clone, Debug)]
enum Step {
    /// Main's clock moves.
    Clock {
        micros: i64,
    },
    /// Orders arrive: buyer and age.
    Place {
        orders: Vec<(u8, i64)>,
        window_ms: u64,
    },
    Drain {
        most: u32,
    },
    /// A buyer's order or unit is gone.
    Remove {
        buyer: u8,
    },
    Release {
        buyer: u8,
    },
    /// The item is being restored, or no longer.
    Restoring {
        is_restoring: bool,
    },
    /// The item loses its watermark, or has one.
    Watermark {
        age_micros: Option<u64>,
    },
}

fn step() -> impl Strategy<Value = Step> {
    // Few buyers and few moments: duplicates, repetitions and equal stamps are common.
    let age = prop_oneof![
        4 => (0..8_i64).prop_map(|n| n * 300_000),
        1 => Just(-100_000_i64),
        1 => Just(-100_001_i64),
        1 => Just(10_000_000_i64),
        1 => 9_999_000..10_001_000_i64,
        1 => 10_000_000..90_000_000_i64,
        1 => 0..2_200_000_i64,
    ];
    let orders = proptest::collection::vec((0..14_u8, age), 1..40);
    prop_oneof![
        3 => prop_oneof![Just(300_000_i64), 0..2_000_000_i64, -500_000..0_i64].prop_map(|micros| Step::Clock { micros }),
        6 => (orders, prop_oneof![Just(2_000_u64), Just(500)])
            .prop_map(|(orders, window_ms)| Step::Place { orders, window_ms }),
        2 => prop_oneof![1..=3_u32, Just(500)].prop_map(|most| Step::Drain { most }),
        1 => (0..14_u8).prop_map(|buyer| Step::Remove { buyer }),
        1 => (0..14_u8).prop_map(|buyer| Step::Release { buyer }),
        1 => any::<bool>().prop_map(|is_restoring| Step::Restoring { is_restoring }),
        1 => proptest::option::of(0..3_000_000_u64).prop_map(|age_micros| Step::Watermark { age_micros }),
    ]
}

fn name(buyer: u8) -> String {
    format!("buyer-{buyer:02}")
}

/// What both queues must have in common.
async fn state(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
) -> Result<impl PartialEq + std::fmt::Debug> {
    let orders: Vec<(String, f64)> = connection.zrange_withscores(&keys.orders, 0, -1).await?;
    let reservations: Vec<(String, f64)> = connection.zrange_withscores(&keys.reservations, 0, -1).await?;
    let item: HashMap<String, String> = connection.hgetall(&keys.item).await?;
    Ok((orders, reservations, item))
}

/// The greatest ages may differ by what place leaves unwritten; from here on they are the same.
async fn level_late(
    [single, batch]: [&mut MultiplexedConnection; 2],
    keys: &Keys,
) -> Result<Result<(), String>> {
    let alone: Option<i64> = single.hget(&keys.item, "late").await?;
    let together: Option<i64> = batch.hget(&keys.item, "late").await?;
    match (alone, together) {
        (None, None) => Ok(Ok(())),
        (Some(one), Some(other)) if (one - other).abs() <= 50_000 => {
            let _: () = batch.hset(&keys.item, "late", one).await?;
            Ok(Ok(()))
        }
        _ => Ok(Err(format!("the greatest age: alone {alone:?}, in a batch {together:?}"))),
    }
}

async fn run(
    scripts: &Scripts,
    [single, batch]: [&mut MultiplexedConnection; 2],
    steps: &[Step],
) -> Result<Result<(), String>> {
    let mut keys = Keys::of(&"drop".parse()?);
    for connection in [&mut *single, &mut *batch] {
        let _: () = redis::cmd("FLUSHDB").query_async(connection).await?;
        keys = item(connection, "drop", 30, 2_000).await?;
    }
    let mut now = START;
    for step in steps {
        match step {
            Step::Clock { micros } => now = now.saturating_add_signed(*micros),
            Step::Place { orders, window_ms } => {
                let sent = |(buyer, age): &(u8, i64)| Sent {
                    buyer: name(*buyer),
                    stamp: now.saturating_add_signed(-age),
                };
                let orders: Vec<Sent> = orders.iter().map(sent).collect();
                let answers = scripts.place_batch(batch, &keys, &orders, window_ms * 1_000, now).await?;
                for (order, answer) in orders.iter().zip(answers) {
                    let mut alone = scripts.place(single, &keys, order, window_ms * 1_000, now).await?;
                    if alone == Answer::Known("queued".into(), order.stamp.to_string()) {
                        alone = Answer::Queued;
                    }
                    if alone != answer {
                        return Ok(Err(format!(
                            "{step:?}: {order:?}: alone {alone:?}, in a batch {answer:?}"
                        )));
                    }
                }
                if let Err(error) = level_late([&mut *single, &mut *batch], &keys).await? {
                    return Ok(Err(format!("{step:?}: {error}")));
                }
            }
            Step::Drain { most } => {
                scripts.drain(single, &keys, *most, now, now).await?;
                scripts.drain(batch, &keys, *most, now, now).await?;
            }
            Step::Remove { buyer } => {
                for connection in [&mut *single, &mut *batch] {
                    let _: () = connection.zrem(&keys.orders, name(*buyer)).await?;
                }
            }
            Step::Release { buyer } => {
                for connection in [&mut *single, &mut *batch] {
                    let released = (-(now as f64), name(*buyer));
                    let _: () = connection.zadd(&keys.reservations, released.1, released.0).await?;
                }
            }
            Step::Restoring { is_restoring } => {
                for connection in [&mut *single, &mut *batch] {
                    let _: () = if *is_restoring {
                        connection.hset_multiple(&keys.item, &[("restoring", "me"), ("closed", "1")]).await?
                    } else {
                        connection.hdel(&keys.item, "restoring").await?
                    };
                }
            }
            Step::Watermark { age_micros } => {
                for connection in [&mut *single, &mut *batch] {
                    let _: () = match age_micros {
                        Some(age) => connection.hset(&keys.item, "closed", now - age).await?,
                        None => connection.hdel(&keys.item, "closed").await?,
                    };
                }
            }
        }
        let (one, other) = (state(single, &keys).await?, state(batch, &keys).await?);
        if one != other {
            return Ok(Err(format!("{step:?}: alone {one:?}, in a batch {other:?}")));
        }
    }
    Ok(Ok(()))
}

#[test]
fn a_batch_is_placed_as_order_by_order() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let servers = [(); 2].map(|()| runtime.block_on(RedisQueue::start()).unwrap());
    let scripts = Scripts::new().unwrap();
    let [single, batch] = [0, 1].map(|n: usize| runtime.block_on(servers[n].redis.connect()).unwrap());
    let mut runner = TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&proptest::collection::vec(step(), 1..40), |steps| {
        let (mut single, mut batch) = (single.clone(), batch.clone());
        let verdict = runtime.block_on(run(&scripts, [&mut single, &mut batch], &steps));
        verdict.map_err(|error| TestCaseError::fail(error.to_string()))?.map_err(TestCaseError::fail)
    });
    outcome.unwrap();
}

#[tokio::test]
async fn two_hundred_orders_are_one_call() {
    let server = RedisQueue::start().await.unwrap();
    let item_id = server.item("drop", 300, 2_000).await.unwrap();
    let placed_at = local::system::clock::micros_now();
    let orders: Vec<_> = (0..300)
        .map(|n| tests::order(&item_id, &format!("buyer-{n:03}"), placed_at + n % 7).unwrap().into())
        .collect();
    let window = std::time::Duration::from_secs(2);
    let before = tests::calls(&server.redis, "zadd").await.unwrap();
    for _ in 0..2 {
        let placed = server.queue.place_batch(&item_id, &orders, window, &server.clock).await;
        assert_eq!(placed.len(), 300);
        assert!(
            placed.iter().all(|one| one.unwrap().placement == shared::queue::Placement::Queued),
            "{placed:?}"
        );
    }
    assert_eq!(server.queue.counts(&item_id).await.unwrap(), (300, 0, 0));
    assert_eq!(tests::calls(&server.redis, "zadd").await.unwrap() - before, 4);
}
