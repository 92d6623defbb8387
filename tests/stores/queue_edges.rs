//! Edge cases of the queue, on a real Redis.

use anyhow::Result;
use futures::future::join_all;
use local::crowd::audit::DropResult;
use local::system::clock::micros_now;
use redis::{AsyncCommands, Script, Value};
use shared::item::{ItemChanges, ItemId};
use shared::permit::Permit;
use shared::queue::{Hold, Keys, Leave, OrderState, PLACE_SCRIPT, Placement, Placing};
use shared::stamp::Stamp;
use std::time::Duration;
use tests::{RedisQueue, order};

const SETTLE_WINDOW: Duration = Duration::from_secs(60);
const HOUR_MICROS: u64 = 3_600_000_000;

async fn place(server: &RedisQueue, item_id: &ItemId, buyer: &str, placed_at: u64) -> Result<Placing> {
    Ok(server.queue.place(&order(item_id, buyer, placed_at)?, SETTLE_WINDOW, &server.clock).await?)
}

/// Writes orders into the queue directly, with any stamp.
async fn backdate(server: &RedisQueue, item_id: &ItemId, orders: &[(u64, &str)]) -> Result<()> {
    let mut connection = server.redis.connect().await?;
    let _: () = connection.zadd_multiple(Keys::of(item_id).orders, orders).await?;
    Ok(())
}

#[tokio::test]
async fn a_fixed_window_and_the_clock_tolerance_have_exact_limits() {
    let server = RedisQueue::start().await.unwrap();
    let mut connection = server.redis.connect().await.unwrap();
    let script = Script::new(PLACE_SCRIPT);
    const WINDOW: i64 = 2_000;
    const TOLERANCE: i64 = shared::clock_check::CLOCK_TOLERANCE_MICROS;
    let (mut inside, mut late, mut ahead) = (0, 0, 0);
    let _: () = connection.hset("item:{edge}", "stock_left", "1").await.unwrap();
    // Without a watermark. Stamps across both limits. The age that main returns decides which answer is right.
    for n in 0..4_000_i64 {
        let edge = if n % 2 == 0 { TOLERANCE } else { -WINDOW };
        let stamp = micros_now().saturating_add_signed(edge + 1_000 - n / 2);
        let reply: Value = script
            .key("orders:{edge}")
            .key("reservations:{edge}")
            .key("item:{edge}")
            .arg(stamp)
            .arg(format!("buyer-{n}"))
            .arg(WINDOW)
            .invoke_async(&mut connection)
            .await
            .unwrap();
        let (queued, age) = match &reply {
            Value::Int(age) => (true, *age),
            Value::Array(parts) => match parts.as_slice() {
                [Value::BulkString(_), Value::BulkString(_), Value::Int(age)] => (false, *age),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        assert_eq!(queued, (-TOLERANCE..=WINDOW).contains(&age), "age {age}");
        let score: Option<f64> = connection.zscore("orders:{edge}", format!("buyer-{n}")).await.unwrap();
        assert_eq!(score, queued.then_some(stamp as f64));
        match (queued, age > 0) {
            (true, _) => inside += 1,
            (false, true) => late += 1,
            (false, false) => ahead += 1,
        }
    }
    assert!(inside > 100 && late > 100 && ahead > 100, "{inside} {late} {ahead}");
}

#[tokio::test]
async fn ten_thousand_identical_orders_are_one() {
    let server = RedisQueue::start().await.unwrap();
    let item_id = server.item("crowd", 3, 10_000).await.unwrap();
    let placed_at = micros_now();
    let placings = join_all((0..10_000).map(|_| place(&server, &item_id, "one-buyer", placed_at))).await;
    let mut queued = 0;
    for placing in placings {
        match placing.unwrap().placement {
            Placement::Queued => queued += 1,
            Placement::AlreadyQueued { placed_at: first } => assert_eq!(first.as_micros(), placed_at),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(queued, 1);
    assert_eq!(server.queue.counts(&item_id).await.unwrap(), (1, 0, 0));
}

#[tokio::test]
async fn a_later_order_of_the_same_buyer_neither_loses_nor_gains_a_place() {
    let server = RedisQueue::start().await.unwrap();
    let item_id = server.item("again", 3, 10_000).await.unwrap();
    let first = micros_now() - 1_000_000;
    assert_eq!(place(&server, &item_id, "a", first).await.unwrap().placement, Placement::Queued);
    for stamp in [first - 500_000, first + 500_000] {
        let again = place(&server, &item_id, "a", stamp).await.unwrap();
        assert_eq!(
            again.placement,
            Placement::AlreadyQueued { placed_at: Stamp::from_micros(first).unwrap() }
        );
    }
    let token = order(&item_id, "a", 0).unwrap().user_token;
    let state = server.queue.order_state(&item_id, &token).await.unwrap();
    assert_eq!(state, OrderState::Queued { placed_at: Stamp::from_micros(first).unwrap(), ahead: 0 });
}

#[tokio::test]
async fn an_attempt_that_is_too_late_does_not_hide_an_earlier_one_that_was_queued() {
    let server = RedisQueue::start().await.unwrap();
    let item_id = server.item("late", 3, 50).await.unwrap();
    let mut connection = server.redis.connect().await.unwrap();
    let keys = Keys::of(&item_id);
    let stamp = micros_now() - 11_000_000;
    let late = async |connection: &mut redis::aio::MultiplexedConnection| -> Value {
        Script::new(PLACE_SCRIPT)
            .key(&keys.orders)
            .key(&keys.reservations)
            .key(&keys.item)
            .arg(stamp)
            .arg("a")
            .arg(50_000)
            .invoke_async(connection)
            .await
            .unwrap()
    };
    let word = |reply: &Value| match reply {
        Value::Array(parts) => match parts.first() {
            Some(Value::BulkString(word)) => String::from_utf8(word.clone()).unwrap(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    assert_eq!(word(&late(&mut connection).await), "too_late");
    backdate(&server, &item_id, &[(stamp, "a")]).await.unwrap();
    assert_eq!(word(&late(&mut connection).await), "queued");
    server.queue.drain(&item_id, 500, Permit::Unleased).await.unwrap();
    assert_eq!(word(&late(&mut connection).await), "taken");
}

#[tokio::test]
async fn equal_stamps_are_ordered_by_user_token() {
    let server = RedisQueue::start().await.unwrap();
    let item_id = server.item("equal", 5, 50).await.unwrap();
    let stamp = micros_now() - 10_000_000;
    backdate(&server, &item_id, &[(stamp, "c"), (stamp, "a"), (stamp, "b"), (stamp - 1, "z")]).await.unwrap();
    server.queue.drain(&item_id, 500, Permit::Unleased).await.unwrap();
    let outcome = DropResult::read(&mut server.redis.connect().await.unwrap(), &item_id).await.unwrap();
    let order: Vec<&str> = outcome.reservations.iter().map(|r| r.user_token.as_str()).collect();
    assert_eq!(order, ["z", "a", "b", "c"]);
    assert_eq!(outcome.reservations[0].placed_at, stamp - 1);
}

#[tokio::test]
async fn a_stock_of_zero_and_of_one() {
    let server = RedisQueue::start().await.unwrap();
    for (name, stock) in [("none", 0), ("one", 1)] {
        let item_id = server.item(name, stock, 50).await.unwrap();
        let stamp = micros_now() - 10_000_000;
        backdate(&server, &item_id, &[(stamp, "a"), (stamp + 1, "b")]).await.unwrap();
        let batch = server.queue.drain(&item_id, 500, Permit::Unleased).await.unwrap();
        assert_eq!((batch.reserved, batch.stock_left), (u64::from(stock), 0));
        assert_eq!(batch.waiting, 2 - u64::from(stock));
    }
}

#[tokio::test]
async fn the_drain_enforces_the_gates() {
    let server = RedisQueue::start().await.unwrap();
    let item_id = server.item("gates", 10, 50).await.unwrap();
    let opens = micros_now() - 20_000_000;
    let closes = opens + 5_000_000;
    let stamp = |micros| Some(Stamp::from_micros(micros).unwrap());
    let changes = ItemChanges { opens_at: stamp(opens), closes_at: stamp(closes), ..ItemChanges::default() };
    server.queue.update_item(&item_id, &changes).await.unwrap();
    let orders = [(opens - 1, "early"), (opens, "first"), (closes - 1, "last"), (closes, "late")];
    backdate(&server, &item_id, &orders).await.unwrap();
    let batch = server.queue.drain(&item_id, 500, Permit::Unleased).await.unwrap();
    assert_eq!((batch.taken, batch.reserved), (4, 2));
    assert_eq!((batch.dropped_before_opening, batch.dropped_after_closing), (1, 1));
}

#[tokio::test]
async fn no_order_is_drained_from_a_paused_item() {
    let server = RedisQueue::start().await.unwrap();
    let item_id = server.item("paused", 10, 50).await.unwrap();
    backdate(&server, &item_id, &[(micros_now() - HOUR_MICROS / 2, "a")]).await.unwrap();
    server.queue.pause_item(&item_id, true).await.unwrap();
    let batch = server.queue.drain(&item_id, 500, Permit::Unleased).await.unwrap();
    assert_eq!((batch.taken, batch.waiting), (0, 1));
    server.queue.pause_item(&item_id, false).await.unwrap();
    assert_eq!(server.queue.drain(&item_id, 500, Permit::Unleased).await.unwrap().reserved, 1);
}

#[tokio::test]
async fn a_buyer_with_a_unit_does_not_get_a_second_one() {
    let server = RedisQueue::start().await.unwrap();
    let item_id = server.item("twice", 10, 50).await.unwrap();
    let stamp = micros_now() - 10_000_000;
    backdate(&server, &item_id, &[(stamp, "a")]).await.unwrap();
    server.queue.drain(&item_id, 500, Permit::Unleased).await.unwrap();
    // Directly into the queue, without the place script.
    backdate(&server, &item_id, &[(stamp + 1, "a")]).await.unwrap();
    let batch = server.queue.drain(&item_id, 500, Permit::Unleased).await.unwrap();
    assert_eq!((batch.reserved, batch.dropped_already_taken, batch.stock_left), (0, 1, 9));
    let placing = place(&server, &item_id, "a", micros_now()).await.unwrap();
    assert_eq!(placing.placement, Placement::AlreadyTaken { sold: false });
}

#[tokio::test]
async fn an_order_in_addition_to_a_unit_does_not_hide_the_unit() {
    let server = RedisQueue::start().await.unwrap();
    for (name, hold_seconds) in [("at-once", 0), ("on-hold", 600)] {
        let item_id = server.item(name, 1, 50).await.unwrap();
        let changes = ItemChanges { hold_seconds: Some(hold_seconds), ..ItemChanges::default() };
        server.queue.update_item(&item_id, &changes).await.unwrap();
        let stamp = micros_now() - 10_000_000;
        backdate(&server, &item_id, &[(stamp, "a")]).await.unwrap();
        assert_eq!(server.queue.drain(&item_id, 500, Permit::Unleased).await.unwrap().reserved, 1);
        // Without the place script. If no unit is left, the drain takes no order out, and drops none.
        backdate(&server, &item_id, &[(stamp + 1, "a")]).await.unwrap();
        assert_eq!(server.queue.drain(&item_id, 500, Permit::Unleased).await.unwrap().taken, 0);

        let buyer = order(&item_id, "a", 0).unwrap().user_token;
        let state = server.queue.order_state(&item_id, &buyer).await.unwrap();
        let left = server.queue.leave(&item_id, &buyer).await.unwrap();
        if hold_seconds == 0 {
            assert_eq!(state, OrderState::Reserved(Hold::Sale));
            assert_eq!(left, Leave::Stays(state));
        } else {
            assert!(matches!(state, OrderState::Reserved(Hold::Until(_))), "{state:?}");
            assert_eq!(left, Leave::Cancelling);
        }
        // The order is removed, and the unit is still reserved.
        assert_eq!(server.queue.counts(&item_id).await.unwrap(), (0, 1, 0));
    }
}

#[tokio::test]
async fn a_buyer_whose_reservation_was_released_can_leave_the_queue() {
    let server = RedisQueue::start().await.unwrap();
    let item_id = server.item("back", 1, 50).await.unwrap();
    let stamp = micros_now() - 10_000_000;
    let mut connection = server.redis.connect().await.unwrap();
    let _: () = connection.zadd(Keys::of(&item_id).reservations, "a", -(stamp as f64)).await.unwrap();
    let buyer = order(&item_id, "a", 0).unwrap().user_token;
    let nothing = server.queue.leave(&item_id, &buyer).await.unwrap();
    assert_eq!(nothing, Leave::Stays(OrderState::Released));
    backdate(&server, &item_id, &[(stamp, "a")]).await.unwrap();
    assert_eq!(server.queue.leave(&item_id, &buyer).await.unwrap(), Leave::Left);
    let stranger = order(&item_id, "b", 0).unwrap().user_token;
    assert_eq!(server.queue.leave(&item_id, &stranger).await.unwrap(), Leave::Stays(OrderState::None));
}

#[tokio::test]
async fn a_drain_takes_at_most_its_maximum() {
    let server = RedisQueue::start().await.unwrap();
    let item_id = server.item("many", 2_000, 50).await.unwrap();
    let names: Vec<String> = (0..1_200).map(|n| format!("buyer-{n:04}")).collect();
    let stamp = micros_now() - 10_000_000;
    let orders: Vec<(u64, &str)> = names.iter().zip(stamp..).map(|(name, at)| (at, name.as_str())).collect();
    backdate(&server, &item_id, &orders).await.unwrap();
    let looked_at = [9_999, 3, 500, 500].map(|most| (most, &server));
    let mut taken = Vec::new();
    for (most, server) in looked_at {
        taken.push(server.queue.drain(&item_id, most, Permit::Unleased).await.unwrap().taken);
    }
    assert_eq!(taken, [500, 3, 500, 197]);
}

#[tokio::test]
async fn scripts_are_loaded_again_after_the_server_lost_them() {
    let server = RedisQueue::start().await.unwrap();
    let item_id = server.item("forgetful", 10, 10_000).await.unwrap();
    place(&server, &item_id, "a", micros_now()).await.unwrap();
    let mut connection = server.redis.connect().await.unwrap();
    let _: () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut connection).await.unwrap();
    let placing = place(&server, &item_id, "b", micros_now()).await.unwrap();
    assert_eq!(placing.placement, Placement::Queued);
}
