//! Restoring a queue of 1,000,000 orders from the logs of five regions into an empty Redis, with TLS and a real ledger. A
//! read takes as long as a page of DynamoDB at the region's distance.

mod order_logs;

pub(crate) use order_logs::serve_order_logs;

use crate::figure::{Figure, median, range};
use ::replay::{ReplayOptions, replay};
use anyhow::{Context, Result, ensure};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use local::system::clock::micros_now;
use local::system::cpu;
use local::system::folder::WorkFolder;
use local::system::postgres::Postgres;
use local::system::redis_server::{self, Redis};
use local::system::regions;
use order_log::{OrderLog, RegionLog};
use order_logs::OrderLogs;
use shared::config::RedisConfig;
use shared::item::{ItemId, NewItem};
use shared::queue::{Link, Queue};
use shared::stamp::Stamp;
use std::time::{Duration, Instant};

const REGIONS: usize = 5;
const ORDERS: u64 = 1_000_000;
const ROUNDS: usize = 3;
/// What a page of some hundred records takes DynamoDB.
const PAGE: Duration = Duration::from_millis(15);

/// A function that replays, its memory, and the time that it has for an item.
struct Replayer {
    figure: &'static str,
    function: &'static str,
    memory_mb: f64,
    seconds: f64,
}

/// The memory with which Lambda gives a function one processor; below, its share of one.
const MB_OF_A_PROCESSOR: f64 = 1_769.0;
/// The part of a function's memory that a replay may need.
const USABLE: f64 = 0.8;

/// As template.yaml and `docs/LIMITS.md` have them.
const REPLAYERS: [Replayer; 3] = [
    Replayer {
        figure: "replay_records_checkout_worker",
        function: "checkout-worker",
        memory_mb: 512.0,
        seconds: 120.0,
    },
    Replayer {
        figure: "replay_records_drop_admin",
        function: "drop-admin",
        memory_mb: 1_769.0,
        seconds: 280.0,
    },
    Replayer {
        figure: "replay_records_region_failover",
        function: "region-failover",
        memory_mb: 1_769.0,
        seconds: 600.0,
    },
];

/// What one replay took, in seconds.
struct Round {
    wall: f64,
    replaying: f64,
    redis: f64,
    ledger: f64,
}

pub(crate) async fn measure() -> Result<Vec<Figure>> {
    let folder = WorkFolder::new()?;
    let redis = Redis::start(folder.path(), "redis").await?;
    let postgres = Postgres::start(folder.path(), "postgres").await?;
    let (redis_url, ledger_url) = (redis.url(), postgres.url());
    let queue =
        Queue::new(Link::new(RedisConfig::main(&|name: &str| redis_server::setting(name, &redis_url))?));
    let ledger = ::ledger::Ledger::from_config(&|name: &str| {
        (name == "FAIRDROP_LEDGER_URL").then(|| ledger_url.clone())
    })?;
    ledger.migrate().await?;
    let tables = OrderLogs::start().await?;
    let logs = logs(&tables.url);
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        rounds.push(replay_once(round, &queue, &ledger, &logs).await?);
    }
    Ok(figures(&rounds, peak_memory_mb()?))
}

fn logs(url: &str) -> Vec<RegionLog> {
    let credentials = SharedCredentialsProvider::new(Credentials::new("bench", "bench", None, None, "bench"));
    let log = |region: regions::WorldRegion| {
        let aws = sdk::defaults().endpoint_url(url).credentials_provider(credentials.clone());
        RegionLog { region: region.name.to_owned(), log: OrderLog::new(aws, region.name, "order-log") }
    };
    regions::first(REGIONS).into_iter().map(log).collect()
}

async fn replay_once(
    round: usize,
    queue: &Queue,
    ledger: &::ledger::Ledger,
    logs: &[RegionLog],
) -> Result<Round> {
    let item_id: ItemId = format!("replay-{round}").parse()?;
    let new = NewItem {
        item_id: item_id.clone(),
        name: item_id.to_string(),
        stock_total: 500,
        opens_at: Stamp::from_micros(micros_now() - 3_600_000_000)?,
        closes_at: None,
        hold_seconds: 0,
        max_hold_seconds: 0,
        settle_window_ms: 2_000,
    };
    ledger.create_item(&new).await?;
    queue.create_item(&new, 1).await?;
    let (started, cpu_before) = (Instant::now(), cpu::seconds());
    let report = replay(&item_id, queue, ledger, logs, &ReplayOptions::default()).await?;
    let (wall, used) = (started.elapsed().as_secs_f64(), cpu::since(&cpu_before));
    ensure!(report.placed() == ORDERS, "{} of {ORDERS} orders are in the queue", report.placed());
    let of = |name: &str| used.get(name).copied().unwrap_or_default();
    Ok(Round { wall, replaying: of(cpu::OWN), redis: of("redis-server"), ledger: of("postgres") })
}

/// The most memory that this process has had so far.
fn peak_memory_mb() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.context("/proc/self/status has no VmHWM")?.trim().trim_end_matches(" kB");
    Ok(peak.parse::<f64>()? / 1_024.0)
}

fn figures(rounds: &[Round], peak_mb: f64) -> Vec<Figure> {
    let all = |of: fn(&Round) -> f64| rounds.iter().map(of).collect::<Vec<f64>>();
    let logged = format!(
        "{ORDERS} orders in the order logs of {REGIONS} regions at their distances, into an empty Redis with TLS; {ROUNDS} rounds"
    );
    let wall = all(|round| round.wall);
    let against = format!("{logged} (range {})", range(&wall));
    let mut figures =
        vec![Figure::measured("replay_of_1000000_orders", median(wall), "s", against).at_most(30.0)];
    let mut cpu = |name, seconds: Vec<f64>, whose: &str| {
        let against = format!("CPU of {whose}; {logged} (range {})", range(&seconds));
        let seconds = median(seconds);
        figures.push(Figure::measured(name, seconds, "s", against));
        seconds
    };
    let replaying = cpu("replay_cpu_of_the_function", all(|round| round.replaying), "the replaying process");
    let redis = cpu("replay_cpu_of_redis", all(|round| round.redis), "Redis");
    cpu("replay_cpu_of_the_ledger", all(|round| round.ledger), "PostgreSQL");
    let against = format!("the most memory of the replaying process; {logged}");
    figures.push(Figure::measured("replay_memory", peak_mb, "MB", against));
    figures.extend(REPLAYERS.iter().map(|replayer| replayer.records((replaying, redis), peak_mb)));
    figures
}

impl Replayer {
    /// The records of an item that it can replay, by the CPU seconds of the process and of Redis for [`ORDERS`], and by the
    /// memory. Process and Redis work at the same time; main's Redis has one thread.
    fn records(&self, (replaying, redis): (f64, f64), peak_mb: f64) -> Figure {
        let Self { figure, function, memory_mb, seconds } = self;
        let share = (memory_mb / MB_OF_A_PROCESSOR).min(1.0);
        let (in_time, in_memory) = (seconds / (replaying / share).max(redis), USABLE * memory_mb / peak_mb);
        let millions = ORDERS as f64 * in_time.min(in_memory) / 1e6;
        let against = format!(
            "calculated from the figures above: {function} has {memory_mb} MB, {share:.2} of a processor, and {seconds} s; by its \
             time {in_time:.1} million, by its memory {in_memory:.1} million"
        );
        Figure::measured(figure, millions, "million", against)
    }
}
