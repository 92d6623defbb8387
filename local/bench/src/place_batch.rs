//! Main's Redis: batches of orders against orders one by one.

use crate::figure::{Figure, median, range};
use crate::main_redis::{buyer, create_item, fill};
use crate::resp::{command, journey_micros, rate};
use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use local::system::clock::micros_now;
use local::system::redis_server::Redis;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use shared::queue::{Keys, PLACE_BATCH_SCRIPT};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// As of order-place in five regions.
const CONNECTIONS: u64 = 5;
const BATCH: u64 = 100;
/// Orders in a round.
const ORDERS: u64 = 100_000;
const ROUNDS: usize = 10;

/// What the queue has before the measurement.
struct BatchLoad {
    name: &'static str,
    waiting: u64,
    /// Buyers with a unit.
    reservations: u64,
    bound: Option<f64>,
}

const LOADS: [BatchLoad; 3] = [
    BatchLoad { name: "place_batch_empty_over_zadd", waiting: 0, reservations: 0, bound: Some(0.8) },
    BatchLoad { name: "place_batch_over_zadd", waiting: 1_000_000, reservations: 0, bound: Some(0.8) },
    BatchLoad {
        name: "place_batch_in_mid_drop_over_zadd",
        waiting: 1_000_000,
        reservations: 500,
        bound: None,
    },
];

/// The time of Redis's main thread for an order of a batch, over that for a bare `ZADD NX` at pipeline 16.
pub(crate) async fn measure() -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for load in &LOADS {
        figures.push(load.measure().await?);
    }
    Ok(figures)
}

impl BatchLoad {
    async fn measure(&self) -> Result<Figure> {
        let folder = tempfile::tempdir()?;
        let redis = Redis::start_without_tls(folder.path(), "redis").await?;
        let mut connection = redis.connect().await?;
        // The cost of the script is measured, not that of the disk.
        let _: () =
            redis::cmd("CONFIG").arg("SET").arg("appendonly").arg("no").query_async(&mut connection).await?;
        let hash: String =
            redis::cmd("SCRIPT").arg("LOAD").arg(PLACE_BATCH_SCRIPT).query_async(&mut connection).await?;
        let keys = Keys::of(&"bench".parse()?);
        fill(&mut connection, &keys, micros_now() - self.waiting, self.waiting).await?;
        create_item(&mut connection, &keys).await?;
        for number in 0..self.reservations {
            let _: () = connection.zadd(&keys.reservations, format!("holder-{number}"), "+inf").await?;
        }
        let bare = |buffer: &mut Vec<u8>, number: u64, stamp: u64| {
            let (stamp, buyer) = (stamp.to_string(), buyer(number));
            command(buffer, &[b"ZADD", keys.orders.as_bytes(), b"NX", stamp.as_bytes(), buyer.as_bytes()]);
        };
        let (mut ratios, mut batches, mut next) = (Vec::new(), Vec::new(), self.waiting);
        for round in 0..ROUNDS {
            // The queue grows, so the two take turns in being first.
            let mut micros = [0.0; 2];
            for turn in [round % 2, 1 - round % 2] {
                if self.waiting == 0 {
                    let _: () = connection.del(&keys.orders).await?;
                }
                let before = busy_micros(&mut connection).await?;
                if turn == 0 {
                    rate(redis.port(), 50, 16, next, ORDERS, &bare).await?;
                } else {
                    place_batches(redis.port(), next, &hash, &keys).await?;
                }
                let each = (busy_micros(&mut connection).await? - before) / ORDERS as f64;
                next += ORDERS;
                if let Some(place) = micros.get_mut(turn) {
                    *place = each;
                }
            }
            let [bare, batch] = micros;
            ratios.push(batch / bare);
            batches.push(batch);
        }
        let against = format!(
            "a bare ZADD NX at pipeline 16 in the same run, time of the server's main thread, {ROUNDS} pairs of rounds of \
             {ORDERS} orders in batches of {BATCH} with {} waiting and {} buyers with a unit (ratios {}); a batch itself \
             {:.2} µs an order",
            self.waiting,
            self.reservations,
            range(&ratios),
            median(batches)
        );
        let figure = Figure::measured(self.name, median(ratios), "ratio", against);
        Ok(self.bound.map_or(figure.clone(), |bound| figure.at_most(bound)))
    }
}

/// How long the server's main thread was busy since it started.
async fn busy_micros(connection: &mut MultiplexedConnection) -> Result<f64> {
    let info: String = redis::cmd("INFO").arg("cpu").query_async(connection).await?;
    let seconds = |name: &str| -> Result<f64> {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Ok(line.with_context(|| format!("INFO cpu has no {name}"))?.trim().parse()?)
    };
    Ok(1e6 * (seconds("used_cpu_user_main_thread")? + seconds("used_cpu_sys_main_thread")?))
}

async fn place_batches(port: u16, first: u64, hash: &str, keys: &Keys) -> Result<()> {
    let each = ORDERS / CONNECTIONS;
    let connections =
        (0..CONNECTIONS).map(|number| place_on_one(port, first + number * each, each, hash, keys));
    try_join_all(connections).await.map(drop)
}

/// Places `orders` orders on one connection, one batch after another.
async fn place_on_one(port: u16, first: u64, orders: u64, hash: &str, keys: &Keys) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let (mut request, mut answer) = (Vec::new(), vec![0; 65_536]);
    for begin in (first..first + orders).step_by(usize::try_from(BATCH)?) {
        let now = micros_now();
        let orders: Vec<(u64, String)> =
            (begin..begin + BATCH).map(|number| (now - journey_micros(number), buyer(number))).collect();
        let stamps = || orders.iter().map(|(stamp, _)| *stamp);
        let oldest = stamps().min().unwrap_or_default().to_string();
        let newest = stamps().max().unwrap_or_default().to_string();
        let head =
            ["EVALSHA", hash, "4", &keys.orders, &keys.reservations, &keys.item, &keys.left, "2000000"];
        let mut words: Vec<String> = head.into_iter().map(str::to_owned).chain([oldest, newest]).collect();
        for (stamp, buyer) in orders {
            words.extend([stamp.to_string(), buyer]);
        }
        request.clear();
        command(&mut request, &words.iter().map(String::as_bytes).collect::<Vec<_>>());
        stream.write_all(&request).await?;
        let mut read = 0;
        // One array with main's clock: 3 lines.
        while answer.get(..read).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count() < 3 {
            let rest = answer.get_mut(read..).unwrap_or_default();
            let bytes = stream.read(rest).await?;
            ensure!(bytes > 0, "Redis closed the connection, or its answer is too long");
            read += bytes;
            let answer = answer.get(..read).unwrap_or_default();
            // An error has one line.
            ensure!(
                b"*1\r\n".starts_with(answer) || answer.starts_with(b"*1\r\n"),
                "not every order is queued: {}",
                String::from_utf8_lossy(answer)
            );
        }
    }
    Ok(())
}
