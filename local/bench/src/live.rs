//! Live updates: ten thousand sockets during drops, the delay of their messages, and the cost for the sale that runs at
//! the same time.
//!
//! Here gateway and sockets share processors with the sale; on AWS they are separate machines. So orders come at a rate
//! that the machine can process in either case, and the processor time of main's Redis is measured, too.

mod watchers;

pub(crate) use watchers::watch_from_file;

use crate::figure::{Figure, median, range};
use anyhow::{Context, Result, ensure};
use local::aws::sockets::SocketLimits;
use local::system::clock::micros_now;
use local::system::regions::WorldRegion;
use local::system::{Live, Options, System};
use serde_json::{Value, json};
use sqlx::Connection;
use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};
use watchers::{ShownOrder, WatcherProcess};

/// Connections.
const SOCKETS: usize = 10_000;
/// Drops with watchers, and as many without, in turns.
const ROUNDS: usize = 3;
/// Orders of a drop, each by a watcher.
const ORDERS: usize = 1_500;
const UNITS: usize = 1_200;
const PER_SECOND: f64 = 150.0;
/// How long sales and messages may take.
const LIMIT: Duration = Duration::from_secs(120);

/// All figures of live updates.
pub(crate) async fn measure(release: &Path) -> Result<Vec<Figure>> {
    let release = std::path::absolute(release)?;
    ensure!(
        release.join("live-publish").is_file(),
        "{} has no built functions; run `make release`",
        release.display()
    );
    let mut options = Options::for_regions(vec![WorldRegion { name: "us-east-1", round_trip_ms: 1.0 }]);
    options.binaries = Some(release);
    options.live = Some(SocketLimits::default());
    let system = System::start(&options).await?;
    // Each round has an item of its own, whose watchers connect before the first round.
    for round in 0..ROUNDS {
        for kind in ["watched", "alone"] {
            create(&system, &format!("{kind}-{round}")).await?;
        }
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let url = live(&system)?.sockets.url();
    let mut rounds = Vec::new();
    let items: Vec<String> = (0..ROUNDS).map(|round| format!("watched-{round}")).collect();
    let mut watchers = WatcherProcess::start(&system, &url, SOCKETS, &items).await?;
    for round in 0..ROUNDS {
        let alone = drop_of(&system, &format!("alone-{round}")).await?;
        let watched = drop_of(&system, &format!("watched-{round}")).await?;
        rounds.push((alone, watched));
    }
    let mut late = Vec::new();
    for item in &items {
        late.extend(watchers_know(&system, &mut watchers, item).await?);
    }
    let mut figures = ratios(&rounds);
    late.sort_by(f64::total_cmp);
    let at = |share: f64| late.get((late.len() as f64 * share) as usize).copied().unwrap_or_default();
    let how = format!(
        "{} sales of {ROUNDS} drops, {SOCKETS} sockets, from the commit's timestamp (p90 {:.0}, p95 {:.0}, most {:.0})",
        late.len(),
        at(0.9),
        at(0.95),
        late.last().copied().unwrap_or_default()
    );
    figures.push(Figure::measured("live_commit_to_message_p50_ms", at(0.5), "ms", how.clone()));
    figures.push(Figure::measured("live_commit_to_message_p99_ms", at(0.99), "ms", how));
    figures.extend(one_change(&system, &mut watchers, &items).await?);
    Ok(figures)
}

fn live(system: &System) -> Result<&Live> {
    system.regions.first().and_then(|region| region.live.as_ref()).context("the system has no live updates")
}

async fn create(system: &System, item_id: &str) -> Result<()> {
    let item = json!({ "item_id": item_id, "name": item_id, "stock_total": UNITS, "opens_at": micros_now(),
        "settle_window_ms": 500 });
    system.admin(&json!({ "command": "create", "item": item })).await.map(drop)
}

/// The speed of a drop.
struct DropSpeed {
    /// Orders a second, from the first to the last answer.
    intake: f64,
    /// Sales a second, from the first to the last commit.
    sales: f64,
    /// Processor time of main's Redis, in milliseconds.
    redis_ms: f64,
}

async fn drop_of(system: &System, item_id: &str) -> Result<DropSpeed> {
    let redis = system.redis.process_id();
    let (before, began) = (cpu_ms(redis)?, Instant::now());
    let client = reqwest::Client::new();
    let url = format!(
        "{}/items/{item_id}/orders",
        system.regions.first().context("the system has no region")?.gateway.url()
    );
    let orders = (0..ORDERS).map(|number| {
        let (client, url) = (client.clone(), url.clone());
        let token = system.identity.token(&format!("buyer-{number}"));
        async move {
            tokio::time::sleep(Duration::from_secs_f64(number as f64 / PER_SECOND)).await;
            let answer = client.post(url).bearer_auth(token?).send().await?;
            // The last orders come after the last unit was sold.
            ensure!(
                matches!(answer.status().as_u16(), 202 | 410),
                "an order was answered with status {}, not 202 or 410",
                answer.status()
            );
            Ok(())
        }
    });
    futures::future::try_join_all(orders).await?;
    let intake = ORDERS as f64 / began.elapsed().as_secs_f64();
    let commits = loop {
        let commits = commits(system, item_id).await?;
        if commits.len() == UNITS {
            break commits;
        }
        ensure!(
            began.elapsed() < LIMIT,
            "only {} of {UNITS} units were sold within {LIMIT:?}",
            commits.len()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let (first, last) = (commits.values().min(), commits.values().max());
    let (first, last) = (first.copied().unwrap_or_default(), last.copied().unwrap_or_default());
    let sales = UNITS as f64 / ((last - first).max(1) as f64 / 1e6);
    Ok(DropSpeed { intake, sales, redis_ms: cpu_ms(redis)? - before })
}

/// When each sale was committed, in microseconds since 1970.
async fn commits(system: &System, item_id: &str) -> Result<HashMap<String, u64>> {
    let mut connection = sqlx::PgConnection::connect(&system.postgres.url()).await?;
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT user_token, (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint \
         FROM fairdrop.sales WHERE item_id = $1 AND state = 'sold'",
    )
    .bind(item_id)
    .fetch_all(&mut connection)
    .await?;
    Ok(rows.into_iter().map(|(buyer, at)| (buyer, at.cast_unsigned())).collect())
}

/// Processor time that a process has used, in milliseconds.
fn cpu_ms(process: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks =
        |place: usize| fields.get(place).and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
    // In hundredths of a second on every Linux.
    Ok((ticks(11) + ticks(12)) * 10.0)
}

/// Waits until every watcher shows what the ledger has. Returns the delay from each commit to its message, in ms.
async fn watchers_know(system: &System, watchers: &mut WatcherProcess, item_id: &str) -> Result<Vec<f64>> {
    let commits = commits(system, item_id).await?;
    let began = Instant::now();
    loop {
        let shown = watchers.report(item_id).await?;
        let is_true =
            |(buyer, shown): (&String, &ShownOrder)| commits.contains_key(buyer) == (shown.status == "sold");
        let wrong = shown.iter().filter(|one| !is_true(*one)).count();
        if wrong == 0 && shown.len() == SOCKETS {
            let late = shown.iter().filter_map(|(buyer, shown)| {
                Some(shown.since.saturating_sub(*commits.get(buyer)?) as f64 / 1_000.0)
            });
            return Ok(late.collect());
        }
        ensure!(
            began.elapsed() < LIMIT,
            "{wrong} of {} watchers do not show what the ledger has",
            shown.len()
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn ratios(rounds: &[(DropSpeed, DropSpeed)]) -> Vec<Figure> {
    let ratio = |name, what: &str, of: fn(&DropSpeed) -> f64| {
        let each: Vec<f64> = rounds.iter().map(|(alone, watched)| of(watched) / of(alone)).collect();
        let (alone, watched): (Vec<f64>, Vec<f64>) =
            rounds.iter().map(|(alone, watched)| (of(alone), of(watched))).unzip();
        let against = format!(
            "{what}, an item with {SOCKETS} watchers over one with none, in turns, {ORDERS} orders at {PER_SECOND}/s for \
             {UNITS} units (medians {:.1} and {:.1}, range of the ratio {})",
            median(watched),
            median(alone),
            range(&each)
        );
        Figure::measured(name, median(each), "ratio", against)
    };
    vec![
        ratio("live_intake_watched_over_alone", "orders/s", |drop| drop.intake).at_least(0.95),
        ratio("live_sales_watched_over_alone", "sales/s", |drop| drop.sales).at_least(0.95),
        ratio("live_main_redis_watched_over_alone", "processor time of main's Redis", |drop| drop.redis_ms),
    ]
}

/// One change of an item, sent to all of its watchers; and the estimate for 100,000 watchers.
async fn one_change(system: &System, watchers: &mut WatcherProcess, items: &[String]) -> Result<Vec<Figure>> {
    let publish = || live(system)?.publish.process_ids().into_iter().map(cpu_ms).sum::<Result<f64>>();
    let (mut seconds, mut cpu_us) = (Vec::new(), Vec::new());
    for item in items {
        let name = format!("{item}, changed");
        let before = publish()?;
        let changed_at = micros_now();
        let changes = json!({ "command": "update", "item_id": item, "changes": { "name": name } });
        system.admin(&changes).await?;
        let last = watchers.all_read(item, &name, LIMIT).await?;
        seconds.push(last.saturating_sub(changed_at) as f64 / 1e6);
        cpu_us.push((publish()? - before) * 1_000.0 / SOCKETS as f64);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let per_second: Vec<f64> = seconds.iter().map(|seconds| SOCKETS as f64 / seconds).collect();
    let each = median(cpu_us.clone());
    let how = format!(
        "a changed name, until the last of {SOCKETS} has read it, {} times (range {})",
        items.len(),
        range(&seconds)
    );
    let computed = "100,000 messages at LiveSendsPerSecond's default of 5,000 a second";
    Ok(vec![
        Figure::measured("live_change_to_10000_s", median(seconds), "s", how),
        Figure::measured(
            "live_messages_per_second",
            median(per_second),
            "1/s",
            "the same; here the clients share the machine",
        ),
        Figure::measured(
            "live_publish_cpu_per_message_us",
            each,
            "us",
            format!(
                "processor time of all runs of live-publish, their polling included (range {})",
                range(&cpu_us)
            ),
        ),
        Figure::measured("live_change_to_100000_cpu_s", each * 0.1, "s", "the line above, times 100,000"),
        Figure::measured("live_change_to_100000_s", 20.0, "s", format!("computed: {computed}")),
        Figure::measured(
            "live_change_to_100000_usd",
            0.1,
            "USD",
            "computed: $1 for a million messages of API Gateway",
        ),
    ])
}

/// A line of the watcher process's input: buyer and token.
fn buyer_line(buyer: &str, token: &str) -> Value {
    json!([buyer, token])
}
