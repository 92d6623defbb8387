//! A machine that is overloaded for some seconds: the delay follows the orders' ages, so that they are waited for.

use crate::virtual_time::{START, Scripts, Sent, item, reserved};
use anyhow::Result;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use shared::queue::MAX_WINDOW;
use std::collections::HashSet;
use std::time::Duration;
use tests::RedisQueue;

const ORDERS: usize = 20_000;
const STOCK: usize = 200;
/// What the machine passes on to main in a second, in any order.
const SERVED_PER_SECOND: u64 = 1_676;
const WINDOW_MICROS: u64 = 2_000_000;
const TICK_MICROS: u64 = 50_000;

/// What came of a rush.
#[derive(Debug)]
struct Outcome {
    /// The share of units that the earliest orders got.
    right: f64,
    refused: usize,
    /// The longest delay.
    delay_micros: i64,
    /// The delay half a minute after the last order.
    delay_after_micros: i64,
}

/// A pseudo-random number below `limit`.
fn random(state: &mut u64, limit: usize) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize % limit
}

/// Orders at `rate` a second reach a machine that serves them in any order; main drains 20 times a second.
async fn rush(connection: &mut MultiplexedConnection, scripts: &Scripts, rate: u64) -> Result<Outcome> {
    let _: () = redis::cmd("FLUSHDB").query_async(connection).await?;
    let keys = item(connection, "drop", u32::try_from(STOCK)?, WINDOW_MICROS / 1_000).await?;
    let stamp = |number: usize| START + number as u64 * 1_000_000 / rate;
    let (mut arrived, mut served, mut waiting, mut seed) = (0, 0_u64, Vec::new(), 20_261_128);
    let (mut queued, mut delay_micros) = (0, 0);
    let mut now = START;
    while (served as usize) < ORDERS {
        now += TICK_MICROS;
        let mut orders = Vec::new();
        loop {
            let at = START + served * 1_000_000 / SERVED_PER_SECOND;
            while arrived < ORDERS && stamp(arrived) <= at {
                waiting.push(arrived);
                arrived += 1;
            }
            if at > now || waiting.is_empty() {
                break;
            }
            let number = waiting.swap_remove(random(&mut seed, waiting.len()));
            orders.push((Sent { buyer: format!("buyer-{number:05}"), stamp: stamp(number) }, at));
            served += 1;
        }
        queued += scripts.place_all(connection, &keys, &orders, WINDOW_MICROS).await?;
        let drain = scripts.drain(connection, &keys, 500, now, now).await?;
        delay_micros = delay_micros.max(drain.delay_micros);
    }
    // What waits is served in the end, and the delay falls back.
    let mut delay_after_micros = 0;
    for _ in 0..30 {
        now += 1_000_000;
        delay_after_micros = scripts.drain(connection, &keys, 500, now, now).await?.delay_micros;
    }
    let reserved = reserved(connection, &keys).await?;
    anyhow::ensure!(reserved.is_sorted_by(|one, next| one < next), "out of order");
    anyhow::ensure!(reserved.len() == STOCK, "{} units are reserved", reserved.len());
    let right: HashSet<String> = (0..STOCK).map(|number| format!("buyer-{number:05}")).collect();
    let right = reserved.iter().filter(|(_, buyer)| right.contains(buyer)).count();
    let closed: u64 = connection.hget(&keys.item, "closed").await?;
    anyhow::ensure!(closed > START, "nothing was closed");
    Ok(Outcome {
        right: right as f64 / STOCK as f64,
        refused: ORDERS - queued,
        delay_micros,
        delay_after_micros,
    })
}

#[tokio::test]
async fn the_delay_follows_an_overloaded_machine_and_falls_back() {
    let server = RedisQueue::start().await.unwrap();
    let mut connection = server.redis.connect().await.unwrap();
    let fixed = Scripts::with_longest_window(Duration::from_micros(WINDOW_MICROS)).unwrap();
    let following = Scripts::new().unwrap();
    let longer = Scripts::with_longest_window(MAX_WINDOW * 3).unwrap();
    for rate in [6_000, 20_000] {
        let [fixed, following, longer] = [
            rush(&mut connection, &fixed, rate).await.unwrap(),
            rush(&mut connection, &following, rate).await.unwrap(),
            rush(&mut connection, &longer, rate).await.unwrap(),
        ];
        println!("{rate}/s: fixed {fixed:?}, following {following:?}, 30 s {longer:?}");
        assert_eq!((longer.right, longer.refused), (1.0, 0));
        assert!(following.right > fixed.right && following.refused < fixed.refused);
        assert_eq!(fixed.delay_micros, 2_000_000);
        assert_eq!(following.delay_after_micros, 2_000_000);
    }
}
