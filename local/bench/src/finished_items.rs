//! What finished items cost main's Redis: commands per second with one live drop, alone and with a thousand finished
//! items.

use crate::figure::Figure;
use anyhow::{Context, Result, ensure};
use local::system::clock::micros_now;
use local::system::redis_server;
use local::system::regions;
use local::system::{Options, System};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use serde_json::json;
use shared::clock::Clock;
use shared::config::RedisConfig;
use shared::item::ItemId;
use shared::queue::{ITEMS, Keys, Link, Order, Queue};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::path::Path;
use std::time::{Duration, Instant};

const FINISHED: usize = 1_000;
/// Items of one command that creates finished items.
const CHUNK: usize = 100;
const ORDERS_PER_SECOND: u32 = 20;
const SETTLE_WINDOW_MS: u32 = 2_000;
/// How long commands are counted.
const COUNTED: Duration = Duration::from_secs(20);
/// From a change to steady rates: the functions have found new items and have seen what needs no work.
const SETTLED_AFTER: Duration = Duration::from_secs(30);

/// All figures of finished items.
pub(crate) async fn measure(release: &Path) -> Result<Vec<Figure>> {
    let mut options = Options::for_regions(regions::first(1));
    options.binaries = Some(std::path::absolute(release)?);
    let system = System::start(&options).await?;
    let mut connection = system.redis.connect().await?;
    let live = LiveDrop::open(&system).await?;
    let alone = live.commands_per_second(&mut connection).await?;
    finish_items(&mut connection, &live.item_id).await?;
    let with_finished = live.commands_per_second(&mut connection).await?;
    let how = format!(
        "one live drop of {ORDERS_PER_SECOND} orders/s, as many runs as overlap; all commands that main's \
         Redis counts, those of scripts included, over {COUNTED:?}"
    );
    let each = (with_finished - alone) / FINISHED as f64;
    Ok(vec![
        Figure::measured("finished_items_live_drop_alone", alone, "commands/s", how.clone()),
        Figure::measured("finished_items_1000_and_live_drop", with_finished, "commands/s", how.clone()),
        Figure::measured("finished_items_cost_each", each, "commands/s", how).at_most(1.0),
    ])
}

/// A drop that sells during the whole measurement.
struct LiveDrop {
    item_id: ItemId,
    queue: Queue,
}

impl LiveDrop {
    async fn open(system: &System) -> Result<Self> {
        let item = json!({ "item_id": "live", "name": "live", "stock_total": 1_000_000,
            "opens_at": micros_now() - 60_000_000, "settle_window_ms": SETTLE_WINDOW_MS });
        system.admin(&json!({ "command": "create", "item": item })).await?;
        let url = system.redis.url();
        let source = |name: &str| redis_server::setting(name, &url);
        Ok(Self { item_id: "live".parse()?, queue: Queue::new(Link::new(RedisConfig::main(&source)?)) })
    }

    /// Sells, and counts the commands of the last part.
    async fn commands_per_second(&self, connection: &mut MultiplexedConnection) -> Result<f64> {
        self.sell_for(SETTLED_AFTER).await?;
        let (started, before) = (Instant::now(), commands(connection).await?);
        self.sell_for(COUNTED).await?;
        Ok((commands(connection).await? - before) as f64 / started.elapsed().as_secs_f64())
    }

    async fn sell_for(&self, time: Duration) -> Result<()> {
        let (started, clock) = (Instant::now(), Clock::machine());
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / ORDERS_PER_SECOND);
        while started.elapsed() < time {
            ticks.tick().await;
            let placed_at = Stamp::from_micros(micros_now())?;
            let order = Order {
                item_id: self.item_id.clone(),
                user_token: UserToken::parse(crate::main_redis::buyer(placed_at.as_micros()))?,
                placed_at,
            };
            self.queue.place(&order, Duration::from_millis(SETTLE_WINDOW_MS.into()), &clock).await?;
        }
        Ok(())
    }
}

/// The commands that the server has executed, those of scripts included.
async fn commands(connection: &mut MultiplexedConnection) -> Result<u64> {
    let stats: String = redis::cmd("INFO").arg("stats").query_async(connection).await?;
    let count = stats.lines().find_map(|line| line.strip_prefix("total_commands_processed:"));
    Ok(count.context("INFO stats has no total_commands_processed")?.trim().parse()?)
}

/// Writes [`FINISHED`] items like `template`, closed and finished yesterday, as finish.lua leaves them. (An archived item is
/// not in Redis.)
async fn finish_items(connection: &mut MultiplexedConnection, template: &ItemId) -> Result<()> {
    let yesterday = micros_now() - 86_400_000_000;
    let template = Keys::of(template).item;
    let ids: Vec<ItemId> =
        (0..FINISHED).map(|n| format!("finished-{n}").parse()).collect::<Result<_, _>>()?;
    for chunk in ids.chunks(CHUNK) {
        let mut pipe = redis::pipe();
        for item_id in chunk {
            let key = Keys::of(item_id).item;
            pipe.cmd("COPY").arg(&template).arg(&key).ignore();
            let ended = [
                ("opens_at", yesterday - 1),
                ("closes_at", yesterday),
                ("finished", yesterday),
                ("last_closed", yesterday),
                ("paused", 1),
            ];
            pipe.hset_multiple(&key, &ended).ignore();
            pipe.hdel(&key, "closed").ignore();
            pipe.sadd(ITEMS, item_id.as_str()).ignore();
        }
        pipe.query_async::<()>(connection).await?;
    }
    let items: usize = connection.scard(ITEMS).await?;
    ensure!(items == FINISHED + 1, "there are {items} items, not {FINISHED} and one");
    Ok(())
}
