//! Main's Redis: the place script and the drain script.

use crate::figure::{Figure, median, range};
use crate::resp::{Encode, command, rate};
use anyhow::{Context, Result};
use indicatif::ProgressBar;
use local::system::clock::micros_now;
use local::system::redis_server::{self, Redis};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use shared::config::RedisConfig;
use shared::item::{ItemId, NewItem};
use shared::permit::Permit;
use shared::queue::{Keys, Link, MAX_BATCH, PLACE_SCRIPT, Queue};
use shared::stamp::Stamp;
use std::time::Instant;

const CONNECTIONS: u64 = 50;
const ROUNDS: usize = 10;

/// A load of the place script, compared with a bare `ZADD NX` in turns.
struct PlaceLoad {
    name: &'static str,
    pipeline: u64,
    /// Orders in a round.
    orders: u64,
    /// Orders already in the queue.
    waiting: u64,
    script: &'static str,
    bound: Option<f64>,
}

/// The least that a script costs which adds an order: no script can be faster in proportion.
const BARE_SCRIPT: &str = "return redis.call('ZADD', KEYS[1], 'NX', ARGV[1], ARGV[2])";

const LOADS: [PlaceLoad; 4] = [
    PlaceLoad {
        name: "place_over_zadd_pipeline_1",
        script: PLACE_SCRIPT,
        pipeline: 1,
        orders: 60_000,
        waiting: 1_000_000,
        bound: Some(0.7),
    },
    PlaceLoad {
        name: "place_over_zadd_pipeline_16",
        script: PLACE_SCRIPT,
        pipeline: 16,
        orders: 200_000,
        waiting: 1_000_000,
        bound: Some(0.5),
    },
    PlaceLoad {
        name: "script_of_zadd_over_zadd_pipeline_16",
        script: BARE_SCRIPT,
        pipeline: 16,
        orders: 200_000,
        waiting: 1_000_000,
        bound: None,
    },
    PlaceLoad {
        name: "place_empty_over_zadd_pipeline_16",
        script: PLACE_SCRIPT,
        pipeline: 16,
        orders: 200_000,
        waiting: 0,
        bound: None,
    },
];

/// The place script's rate over that of a bare `ZADD NX`: with and without
/// pipelining, with a long and an empty queue.
pub(crate) async fn place() -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for load in &LOADS {
        figures.push(load.measure().await?);
    }
    Ok(figures)
}

impl PlaceLoad {
    async fn measure(&self) -> Result<Figure> {
        let folder = tempfile::tempdir()?;
        let redis = Redis::start_without_tls(folder.path(), "redis").await?;
        let mut connection = redis.connect().await?;
        // The cost of the script is measured, not that of the disk.
        let _: () =
            redis::cmd("CONFIG").arg("SET").arg("appendonly").arg("no").query_async(&mut connection).await?;
        let hash: String =
            redis::cmd("SCRIPT").arg("LOAD").arg(self.script).query_async(&mut connection).await?;
        let keys = Keys::of(&"bench".parse()?);
        fill(&mut connection, &keys, micros_now() - self.waiting, self.waiting).await?;
        create_item(&mut connection, &keys).await?;
        let bare = |buffer: &mut Vec<u8>, number: u64, stamp: u64| {
            let (stamp, buyer) = (stamp.to_string(), buyer(number));
            command(buffer, &[b"ZADD", keys.orders.as_bytes(), b"NX", stamp.as_bytes(), buyer.as_bytes()]);
        };
        let script = |buffer: &mut Vec<u8>, number: u64, stamp: u64| {
            let (stamp, buyer) = (stamp.to_string(), buyer(number));
            let (stamp, buyer, hash) = (stamp.as_bytes(), buyer.as_bytes(), hash.as_bytes());
            let (orders, reservations) = (keys.orders.as_bytes(), keys.reservations.as_bytes());
            let item = keys.item.as_bytes();
            command(buffer, &[b"EVALSHA", hash, b"3", orders, reservations, item, stamp, buyer, b"2000000"]);
        };
        let progress = ProgressBar::new(ROUNDS as u64);
        let (mut ratios, mut rates) = (Vec::new(), Vec::new());
        let mut next = self.waiting;
        for round in 0..ROUNDS {
            // The queue grows, so the two take turns in being first.
            let mut pair = [0.0; 2];
            for turn in [round % 2, 1 - round % 2] {
                let encode: Encode<'_> = if turn == 0 { &bare } else { &script };
                if self.waiting == 0 {
                    let _: () = connection.del(&keys.orders).await?;
                }
                let rate = rate(redis.port(), CONNECTIONS, self.pipeline, next, self.orders, encode).await?;
                next += self.orders;
                if let Some(place) = pair.get_mut(turn) {
                    *place = rate;
                }
            }
            let [bare, script] = pair;
            ratios.push(script / bare);
            rates.push(script);
            progress.inc(1);
        }
        progress.finish_and_clear();
        let against = format!(
            "a bare ZADD NX in the same run, {CONNECTIONS} connections, {ROUNDS} pairs of rounds of {} with {} \
             waiting (ratios {}); the script itself {:.0} orders/s",
            self.orders,
            self.waiting,
            range(&ratios),
            median(rates)
        );
        let figure = Figure::measured(self.name, median(ratios), "ratio", against);
        Ok(self.bound.map_or(figure.clone(), |bound| figure.at_least(bound)))
    }
}

/// The fields of an item, as many as it has in a drop.
pub(crate) async fn create_item(connection: &mut MultiplexedConnection, keys: &Keys) -> Result<()> {
    let fields = [
        "closed",
        "name",
        "stock_total",
        "stock_left",
        "units_sold",
        "opens_at",
        "closes_at",
        "hold_seconds",
    ]
    .into_iter()
    .chain(["settle_window_ms", "paused", "epoch"])
    .map(|field| (field, if field == "closed" { "1" } else { "1795411246335419" }));
    let fields: Vec<_> = fields.chain([("leased", "1")]).collect();
    Ok(connection.hset_multiple(&keys.item, &fields).await?)
}

/// The cost of a drain call, and its independence of the length of the queue.
pub(crate) async fn drain() -> Result<Vec<Figure>> {
    let folder = tempfile::tempdir()?;
    let redis = Redis::start_without_tls(folder.path(), "redis").await?;
    let mut connection = redis.connect().await?;
    let _: () =
        redis::cmd("CONFIG").arg("SET").arg("appendonly").arg("no").query_async(&mut connection).await?;
    let url = redis.url();
    let source = |name: &str| redis_server::setting(name, &url);
    let queue = Queue::new(Link::new(RedisConfig::main(&source)?));

    let few = FilledItem::fill(&queue, &mut connection, "few", 10_000).await?;
    let many = FilledItem::fill(&queue, &mut connection, "many", 5_000_000).await?;
    let mut calls = Vec::new();
    let mut ratios = Vec::new();
    let mut rates = Vec::new();
    for _ in 0..18 {
        let started = Instant::now();
        let in_few = few.drain_once(&queue, &mut connection).await?;
        rates.push(f64::from(MAX_BATCH) / started.elapsed().as_secs_f64());
        let in_many = many.drain_once(&queue, &mut connection).await?;
        ratios.push(in_many / in_few);
        calls.push(in_few);
    }
    let how = "18 calls, each reserving 500";
    Ok(vec![
        Figure::measured(
            "drain_call_blocks_ms",
            median(calls.clone()) / 1_000.0,
            "ms",
            format!(
                "the server's own time for one call of the script (INFO commandstats), {how} (µs: {})",
                range(&calls)
            ),
        )
        .at_most(5.0),
        Figure::measured(
            "drain_orders_per_second",
            median(rates.clone()),
            "orders/s",
            format!("one connection, one call after another, {how} (range {})", range(&rates)),
        )
        .at_least(50_000.0),
        Figure::measured(
            "drain_5m_waiting_over_10k",
            median(ratios.clone()),
            "ratio",
            format!(
                "the same call on an item with 10,000 orders waiting, in turns, {how} (range {})",
                range(&ratios)
            ),
        )
        .at_most(1.5),
    ])
}

/// An item with settled orders.
struct FilledItem {
    item_id: ItemId,
}

impl FilledItem {
    async fn fill(
        queue: &Queue,
        connection: &mut MultiplexedConnection,
        name: &str,
        orders: u64,
    ) -> Result<Self> {
        let item_id: ItemId = name.parse()?;
        let opens_at = micros_now() - 3_600_000_000;
        queue
            .create_item(
                &NewItem {
                    item_id: item_id.clone(),
                    name: name.into(),
                    stock_total: NewItem::MAX_STOCK,
                    opens_at: Stamp::from_micros(opens_at)?,
                    closes_at: None,
                    hold_seconds: 0,
                    max_hold_seconds: 0,
                    settle_window_ms: 2_000,
                },
                1,
            )
            .await?;
        fill(connection, &Keys::of(&item_id), opens_at, orders).await?;
        Ok(Self { item_id })
    }

    /// Makes one call and returns its time on the server, in microseconds.
    async fn drain_once(&self, queue: &Queue, connection: &mut MultiplexedConnection) -> Result<f64> {
        let _: () = redis::cmd("CONFIG").arg("RESETSTAT").query_async(connection).await?;
        let batch = queue.drain(&self.item_id, MAX_BATCH, Permit::Unleased).await?;
        anyhow::ensure!(
            batch.reserved == u64::from(MAX_BATCH),
            "the drain reserved fewer than {MAX_BATCH} orders: {batch:?}"
        );
        let stats: String = redis::cmd("INFO").arg("commandstats").query_async(connection).await?;
        let line = stats
            .lines()
            .find(|line| line.starts_with("cmdstat_evalsha:"))
            .context("INFO commandstats has no EVALSHA")?;
        let micros = line
            .split("usec=")
            .nth(1)
            .and_then(|rest| rest.split(',').next())
            .context("INFO commandstats has no usec for EVALSHA")?;
        Ok(micros.parse()?)
    }
}

/// Puts `orders` orders into a queue, a microsecond apart from `first` on.
pub(crate) async fn fill(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    first: u64,
    orders: u64,
) -> Result<()> {
    let progress = ProgressBar::new(orders);
    let numbers: Vec<u64> = (0..orders).collect();
    for chunk in numbers.chunks(10_000) {
        let batch: Vec<(u64, String)> = chunk.iter().map(|n| (first + n, buyer(*n))).collect();
        let _: () = connection.zadd_multiple(&keys.orders, &batch).await?;
        progress.inc(chunk.len() as u64);
    }
    progress.finish_and_clear();
    Ok(())
}

/// A subject as long as identity providers make them.
pub(crate) fn buyer(number: u64) -> String {
    format!("auth0|{number:024x}")
}
