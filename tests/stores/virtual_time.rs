//! The scripts of the queue under a clock of the test's own, on a real Redis: the server's clock cannot be set.

use anyhow::{Context, Result, ensure};
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, Script, Value};
use shared::item::ItemId;
use shared::queue::{
    CANCELLED_OFFSET_MICROS, DRAIN_SCRIPT, Keys, LEAVE_SCRIPT, MAX_WINDOW, NO_HOLD_MICROS,
    PLACE_BATCH_SCRIPT, PLACE_SCRIPT,
};
use std::time::Duration;

/// The moment at which the tests' time begins.
pub(crate) const START: u64 = 1_795_411_246_000_000;

/// The scripts, which take the time from a key that they do not have otherwise.
pub(crate) struct Scripts {
    place: Script,
    batch: Script,
    drain: Script,
    settle: Script,
    leave: Script,
}

const SETTLE_SCRIPT: &str = include_str!("../../shared/src/queue/settle.lua");

/// An order as a script gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) buyer: String,
    pub(crate) stamp: u64,
}

/// A script's answer to an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Queued,
    /// With the stamp in the queue, or the score of the reservation.
    Known(String, String),
    TooLate,
    ClockAhead,
}

/// What one call of the drain did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drain {
    pub(crate) taken: i64,
    pub(crate) delay_micros: i64,
    pub(crate) lag_micros: i64,
}

impl Scripts {
    pub(crate) fn new() -> Result<Self> {
        Self::with_longest_window(MAX_WINDOW)
    }

    /// The scripts with another longest window.
    pub(crate) fn with_longest_window(window: Duration) -> Result<Self> {
        let with_time = |text: &str| {
            let clock = "{ string.sub(KEYS[#KEYS], 1, -7), string.sub(KEYS[#KEYS], -6) }";
            let changed = text.replace("redis.call('TIME')", clock).replace("call('TIME')", clock);
            ensure!(changed != text, "a script does not read the time as this test expects");
            let (usual, other) = (MAX_WINDOW.as_micros().to_string(), window.as_micros().to_string());
            let is_windowed = text.contains(&usual) || [SETTLE_SCRIPT, LEAVE_SCRIPT].contains(&text);
            ensure!(is_windowed, "a script does not have the longest window as this test expects");
            // Not the time between two turns of the drain's memory of ages.
            let changed = changed.replace(&usual, &other);
            Ok(Script::new(
                &changed.replace(&format!("(item[13] or 0)) >= {other}"), "(item[13] or 0)) >= 10000000"),
            ))
        };
        Ok(Self {
            place: with_time(PLACE_SCRIPT)?,
            batch: with_time(PLACE_BATCH_SCRIPT)?,
            drain: with_time(DRAIN_SCRIPT)?,
            settle: with_time(SETTLE_SCRIPT)?,
            leave: with_time(LEAVE_SCRIPT)?,
        })
    }

    pub(crate) async fn place(
        &self,
        connection: &mut MultiplexedConnection,
        keys: &Keys,
        order: &Sent,
        window: u64,
        now: u64,
    ) -> Result<Answer> {
        let mut script = self.place.key(&keys.orders);
        script.key(&keys.reservations).key(&keys.item).key(now.to_string());
        match script.arg(order.stamp).arg(&order.buyer).arg(window).invoke_async(connection).await? {
            Value::Int(age) => {
                ensure!(age == now as i64 - order.stamp as i64, "the age of an order is wrong: {age}");
                Ok(Answer::Queued)
            }
            Value::Array(parts) => answer(&parts),
            other => anyhow::bail!("{other:?}"),
        }
    }

    /// Places many orders in one round trip, by one call of the script each; returns how many are queued.
    pub(crate) async fn place_all(
        &self,
        connection: &mut MultiplexedConnection,
        keys: &Keys,
        orders: &[(Sent, u64)],
        window: u64,
    ) -> Result<usize> {
        let mut pipe = redis::pipe();
        pipe.load_script(&self.place).ignore();
        for (order, now) in orders {
            let mut script = self.place.key(&keys.orders);
            script.key(&keys.reservations).key(&keys.item).key(now.to_string());
            pipe.invoke_script(script.arg(order.stamp).arg(&order.buyer).arg(window));
        }
        let answers: Vec<Value> = pipe.query_async(connection).await?;
        Ok(answers.iter().filter(|answer| matches!(answer, Value::Int(_))).count())
    }

    pub(crate) async fn place_batch(
        &self,
        connection: &mut MultiplexedConnection,
        keys: &Keys,
        orders: &[Sent],
        window: u64,
        now: u64,
    ) -> Result<Vec<Answer>> {
        let mut script = self.batch.key(&keys.orders);
        script.key(&keys.reservations).key(&keys.item).key(&keys.left).key(now.to_string()).arg(window);
        let stamps = || orders.iter().map(|order| order.stamp);
        script.arg(stamps().min()).arg(stamps().max());
        for order in orders {
            script.arg(order.stamp).arg(&order.buyer);
        }
        let reply: Vec<Value> = script.invoke_async(connection).await?;
        let (time, exceptions) = reply.split_first().context("no answer")?;
        ensure!(*time == Value::BulkString(now.to_string().into_bytes()), "main's clock is wrong: {time:?}");
        let mut answers = vec![Answer::Queued; orders.len()];
        for exception in exceptions.chunks(3) {
            let (Value::Int(position), parts) = exception.split_first().context("no position")? else {
                anyhow::bail!("{exception:?}")
            };
            *answers.get_mut(usize::try_from(position - 1)?).context("no such order")? = answer(parts)?;
        }
        Ok(answers)
    }

    /// Drains up to `most` orders by a process whose clock is `caller`.
    pub(crate) async fn drain(
        &self,
        connection: &mut MultiplexedConnection,
        keys: &Keys,
        most: u32,
        now: u64,
        caller: u64,
    ) -> Result<Drain> {
        let mut script = self.drain.key(&keys.item);
        script.key(&keys.orders).key(&keys.reservations).key(&keys.tasks);
        script.key(&keys.served).key(now.to_string());
        script.arg(most).arg("").arg("").arg(caller).arg("");
        let reply: Vec<i64> = script.invoke_async(connection).await?;
        let [taken, _, _, _, _, _, _, lag_micros, delay_micros, ..] = reply[..] else {
            anyhow::bail!("{reply:?}")
        };
        ensure!(lag_micros >= 0 || taken == 0, "the lag is negative: {lag_micros}");
        Ok(Drain { taken, delay_micros, lag_micros })
    }
}

impl Scripts {
    /// Applies a withdrawal of `buyer` stamped `left_at`, which withdraws orders up to the stamp `newest`.
    pub(crate) async fn leave(
        &self,
        connection: &mut MultiplexedConnection,
        keys: &Keys,
        left: &Sent,
        newest: u64,
        now: u64,
    ) -> Result<String> {
        let mut script = self.leave.key(&keys.orders);
        script.key(&keys.reservations).key(&keys.left).key(&keys.served).key(now.to_string());
        script.arg(NO_HOLD_MICROS).arg(CANCELLED_OFFSET_MICROS).arg("0");
        script.arg(&left.buyer).arg(newest).arg(left.stamp);
        let (answer,): (String,) = script.invoke_async(connection).await?;
        Ok(answer)
    }

    /// Ends the reservation of `buyer` without a sale.
    pub(crate) async fn release(
        &self,
        connection: &mut MultiplexedConnection,
        keys: &Keys,
        buyer: &str,
        now: u64,
    ) -> Result<()> {
        let mut script = self.settle.key(&keys.item);
        script.key(&keys.reservations).key(&keys.tasks).key(now.to_string());
        let changed: u64 = script.arg(buyer).arg("").arg("released").arg(1).invoke_async(connection).await?;
        ensure!(changed == 1, "{buyer}'s reservation was not released");
        Ok(())
    }
}

fn answer(parts: &[Value]) -> Result<Answer> {
    let [Value::BulkString(state), Value::BulkString(figure), ..] = parts else {
        anyhow::bail!("a malformed answer: {parts:?}")
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(match state.as_slice() {
        b"too_late" => Answer::TooLate,
        b"clock_ahead" => Answer::ClockAhead,
        _ => Answer::Known(text(state), text(figure)),
    })
}

/// An item of the test's own time, on sale since an hour.
pub(crate) async fn item(
    connection: &mut MultiplexedConnection,
    name: &str,
    stock: u32,
    window_ms: u64,
) -> Result<Keys> {
    let item_id: ItemId = name.parse()?;
    let keys = Keys::of(&item_id);
    let fields = [
        ("name", name.to_owned()),
        ("stock_total", stock.to_string()),
        ("stock_left", stock.to_string()),
        ("units_sold", "0".into()),
        ("opens_at", (START - 3_600_000_000).to_string()),
        ("closes_at", String::new()),
        ("hold_seconds", "0".into()),
        ("settle_window_ms", window_ms.to_string()),
        ("paused", "0".into()),
        ("epoch", "1".into()),
        ("closed", "1".into()),
    ];
    let _: () = connection.hset_multiple(&keys.item, &fields).await?;
    Ok(keys)
}

/// The watermark.
pub(crate) async fn closed(connection: &mut MultiplexedConnection, keys: &Keys) -> Result<u64> {
    Ok(connection.hget(&keys.item, "closed").await?)
}

/// The reservations in the order in which they were made: stamp and buyer.
pub(crate) async fn reserved(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
) -> Result<Vec<(u64, String)>> {
    let tasks: redis::streams::StreamRangeReply = connection.xrange_all(&keys.tasks).await?;
    let reservation =
        |task: &redis::streams::StreamId| Some((task.get("placed_at")?, task.get("user_token")?));
    tasks
        .ids
        .iter()
        .filter(|task| task.get::<String>("kind").as_deref() == Some("reserved"))
        .map(|task| reservation(task).context("a malformed task"))
        .collect()
}
