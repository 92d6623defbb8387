//! Any interleaving of placements and drains keeps the order and the stock.

use anyhow::Result;
use futures::future::join_all;
use local::crowd::audit::DropResult;
use local::system::clock::micros_now;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use shared::item::ItemId;
use shared::permit::Permit;
use shared::queue::{Leave, Placement, Queue};
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tests::{RedisQueue, order, queue_at};

const SETTLE_WINDOW_MS: u32 = 100;
const BUYERS: u8 = 24;

/// One thing that happens to the queue, `starts_ms` after the beginning.
#[derive(Clone, Debug)]
enum Step {
    /// A buyer's order whose stamp is off by `skew_ms`, sent `copies` times over a connection that takes `transit_ms`.
    Place { buyer: u8, starts_ms: u64, skew_ms: i64, transit_ms: u64, copies: u8 },
    /// A buyer cancels.
    Leave { buyer: u8, starts_ms: u64 },
    /// The drain takes up to `most`.
    Drain { starts_ms: u64, most: u32 },
    /// The item is paused and resumed.
    Pause { starts_ms: u64, for_ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    // Around the limits of the window (100 ms) and of the clocks' tolerance (100 ms).
    let skew_ms = prop_oneof![6 => -5..=5_i64, 1 => -130..=-70_i64, 1 => 70..=130_i64];
    let transit_ms = prop_oneof![4 => 0..=40_u64, 1 => 60..=130_u64];
    prop_oneof![
        10 => (0..BUYERS, 0..150_u64, skew_ms, transit_ms, 1..=3_u8).prop_map(
            |(buyer, starts_ms, skew_ms, transit_ms, copies)| Step::Place { buyer, starts_ms, skew_ms, transit_ms, copies }
        ),
        1 => (0..BUYERS, 0..150_u64).prop_map(|(buyer, starts_ms)| Step::Leave { buyer, starts_ms }),
        5 => (0..300_u64, prop_oneof![1..=3_u32, Just(500)]).prop_map(|(starts_ms, most)| Step::Drain { starts_ms, most }),
        1 => (0..200_u64, 0..60_u64).prop_map(|(starts_ms, for_ms)| Step::Pause { starts_ms, for_ms }),
    ]
}

/// The result of a step.
#[derive(Debug)]
enum Came {
    Placed { buyer: u8, stamp: u64, placement: Option<Placement> },
    Left { buyer: u8 },
    Nothing,
}

async fn take(step: Step, server: &RedisQueue, queue: &Queue, item_id: &ItemId) -> Result<Came> {
    let after = |ms| tokio::time::sleep(Duration::from_millis(ms));
    match step {
        Step::Place { buyer, starts_ms, skew_ms, transit_ms, copies } => {
            after(starts_ms).await;
            let stamp = micros_now().saturating_add_signed(skew_ms * 1000);
            after(transit_ms).await;
            let order = order(item_id, &format!("buyer-{buyer:02}"), stamp)?;
            let settle_window = Duration::from_millis(SETTLE_WINDOW_MS.into());
            let tries = (0..copies).map(|_| queue.place(&order, settle_window, &server.clock));
            let first = join_all(tries).await.into_iter().find_map(Result::ok);
            Ok(Came::Placed { buyer, stamp, placement: first.map(|placing| placing.placement) })
        }
        Step::Leave { buyer, starts_ms } => {
            after(starts_ms).await;
            let token = order(item_id, &format!("buyer-{buyer:02}"), 0)?.user_token;
            let left = queue.leave(item_id, &token).await? == Leave::Left;
            Ok(if left { Came::Left { buyer } } else { Came::Nothing })
        }
        Step::Drain { starts_ms, most } => {
            after(starts_ms).await;
            queue.drain(item_id, most, Permit::Unleased).await?;
            Ok(Came::Nothing)
        }
        Step::Pause { starts_ms, for_ms } => {
            after(starts_ms).await;
            queue.pause_item(item_id, true).await?;
            after(for_ms).await;
            queue.pause_item(item_id, false).await?;
            Ok(Came::Nothing)
        }
    }
}

async fn run(server: &RedisQueue, name: &str, stock: u32, steps: Vec<Step>) -> Result<Result<(), String>> {
    let item_id = server.item(name, stock, SETTLE_WINDOW_MS).await?;
    // Several regions and two drains: each step over one of four connections.
    let queues = (0..4).map(|_| queue_at(server.redis.url())).collect::<Result<Vec<_>>>()?;
    let taking =
        steps.into_iter().zip(queues.iter().cycle()).map(|(step, queue)| take(step, server, queue, &item_id));
    let came = join_all(taking).await.into_iter().collect::<Result<Vec<_>>>()?;
    // Whatever pauses overlapped, in the end the item sells.
    server.queue.pause_item(&item_id, false).await?;
    let delay = server.queue.drain(&item_id, 7, Permit::Unleased).await?.settle_delay;
    tokio::time::sleep(delay + Duration::from_millis(110)).await;
    while server.queue.drain(&item_id, 7, Permit::Unleased).await?.taken > 0 {}
    let outcome = DropResult::read(&mut server.redis.connect().await?, &item_id).await?;
    Ok(judge(&outcome, &came, stock))
}

fn judge(outcome: &DropResult, came: &[Came], stock: u32) -> Result<(), String> {
    let require =
        |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{what}: {outcome:?} {came:?}")) };
    let sold = outcome.reservations.len();
    require(outcome.reservations.is_sorted_by_key(|r| (r.placed_at, r.user_token.clone())), "out of order")?;
    require(sold <= stock as usize, "oversold")?;
    require(
        outcome.stock_left == i64::from(stock) - i64::try_from(sold).unwrap_or(i64::MAX),
        "stock does not add up",
    )?;
    let buyers: HashSet<&str> = outcome.reservations.iter().map(|r| r.user_token.as_str()).collect();
    require(buyers.len() == sold, "a buyer was reserved twice")?;
    require(buyers.len() == outcome.taken.len(), "tasks and reservations differ")?;
    require(outcome.queued.is_empty() || sold == stock as usize, "orders wait although units are left")?;
    let mut stamps: HashMap<String, HashSet<u64>> = HashMap::new();
    let mut may_have_left = HashSet::new();
    for event in came {
        match event {
            Came::Placed { buyer, stamp, .. } => {
                stamps.entry(format!("buyer-{buyer:02}")).or_default().insert(*stamp);
            }
            Came::Left { buyer } => may_have_left.extend([format!("buyer-{buyer:02}")]),
            Came::Nothing => {}
        }
    }
    for event in came {
        let Came::Placed { buyer, placement: Some(placement), .. } = event else { continue };
        let buyer = format!("buyer-{buyer:02}");
        let has_place = outcome.taken.contains(&buyer) || outcome.queued.contains(&buyer);
        let was_accepted =
            !matches!(placement, Placement::TooLate | Placement::Released | Placement::ClockAhead);
        require(!was_accepted || has_place || may_have_left.contains(&buyer), "an order was lost")?;
    }
    for reservation in &outcome.reservations {
        let own = stamps.get(&reservation.user_token).is_some_and(|own| own.contains(&reservation.placed_at));
        require(own, "a stamp that no buyer sent")?;
    }
    Ok(())
}

#[test]
fn any_interleaving_keeps_order_and_stock() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(RedisQueue::start()).unwrap();
    let mut runner = TestRunner::new(Config {
        cases: 120,
        max_shrink_iters: 60,
        failure_persistence: None,
        ..Config::default()
    });
    let number = std::cell::Cell::new(0);
    let strategy = (prop_oneof![Just(0), Just(1), 2..30_u32], proptest::collection::vec(step(), 1..90));
    let outcome = runner.run(&strategy, |(stock, steps)| {
        number.set(number.get() + 1);
        let name = format!("drop-{}", number.get());
        let verdict = runtime.block_on(run(&server, &name, stock, steps));
        verdict.map_err(|error| TestCaseError::fail(error.to_string()))?.map_err(TestCaseError::fail)
    });
    outcome.unwrap();
}
