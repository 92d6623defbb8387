//! `demo`: one drop from opening to the last unit, and its report.

mod measured;

use crate::aws::dynamodb::DynamoDbOptions;
use crate::aws::environments::{ClassicLimits, PoolFigures};
use crate::aws::metrics;
use crate::command::demo::measured::Measured;
use crate::command::report::{ByStrategy, DropReport, PathFigures, Percentiles};
use crate::command::strategies;
use crate::crowd::payments::{Buyers, Habits, Pays, share};
use crate::crowd::{self, SentOrder};
use crate::system::clock::micros_now;
use crate::system::cpu;
use crate::system::folder;
use crate::system::intake::Intake;
use crate::system::regions;
use crate::system::shop::ShopServices;
use crate::system::{Options, System};
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use shared::item::{ItemId, NewItem};
use shared::queue::MAX_WINDOW;
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Orders a second at the opening, when the rush is greatest: about what emulators, buyers and servers can process
/// together on two cores.
const RUSH_ORDERS_PER_SECOND: f64 = 2_000.0;
const UNPAID: f64 = 0.1;
/// Payments of one item are recorded one after another while the shop hears events: 450 in about 4 s, and in more than 5 s
/// on a busy machine.
const HOLD_SECONDS: u32 = 10;
/// New processes of order-intake at once, and in each 10 s, in a region: what two cores can start in the first second of
/// a drop, and enough to keep them busy. AWS starts 1,000.
pub const SCALING_RATE: u32 = 4;
/// From the announcement of the item to its opening.
const LEAD: Duration = Duration::from_millis(3_000);
/// Buyers in a row who may leave a unit unpaid before the demo fails.
const MAX_HOLDS_IN_A_ROW: u32 = 20;
/// How long the drain may take after the last answer, beyond the settle window.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);

const SETTLE_WINDOWS: std::ops::RangeInclusive<i64> =
    NewItem::MIN_SETTLE_WINDOW_MS as i64..=NewItem::MAX_SETTLE_WINDOW_MS as i64;

/// Options of a demo.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoOptions {
    /// Orders to place, spread evenly over the regions
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub orders: u32,
    /// Units on sale
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub stock: u32,
    /// Seed of the crowd: the same seed places the same orders
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Regions, main included
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub regions: u8,
    /// Settle window: the shortest time that an order waits before it is served
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(SETTLE_WINDOWS))]
    pub settle_window_ms: u32,
    /// Share of buyers who do not pay in time, 0 to 1; half of them pay late, the others never
    #[arg(long, default_value_t = UNPAID, value_parser = share)]
    pub unpaid: f64,
    /// Seconds that a reservation waits for payment; 0 sells at once, without payments
    #[arg(long, default_value_t = HOLD_SECONDS, value_parser = clap::value_parser!(u32).range(0..=60))]
    pub hold_seconds: u32,
    /// Orders a second at the opening; the rate halves again and again after it
    #[arg(long, default_value_t = RUSH_ORDERS_PER_SECOND)]
    pub rush: f64,
    /// How orders get to main's queue
    #[arg(long, value_enum, default_value_t = Intake::default())]
    pub intake: Intake,
    /// Processes of order-intake that a region starts at once, and in each 10 s; 1,000 on AWS. By default 4 with the log;
    /// without it one process serves 90 orders at a time
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub scaling_rate: Option<u32>,
    /// Each order meets no process, and so many of them start at a time in a region
    #[arg(skip)]
    pub cold: Option<u32>,
    /// The folder of the functions; by default the folder of this program
    #[arg(skip)]
    pub binaries: Option<PathBuf>,
    /// Tables answer at once, and their streams have no latency
    #[arg(long)]
    pub instant_tables: bool,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
    /// Folder for report.json, report.html and the logs
    #[arg(long, default_value = "target/demo")]
    pub out: PathBuf,
}

impl Default for DemoOptions {
    fn default() -> Self {
        Self {
            orders: 20_000,
            stock: 500,
            seed: 42,
            regions: 5,
            settle_window_ms: 2_000,
            unpaid: UNPAID,
            hold_seconds: HOLD_SECONDS,
            rush: RUSH_ORDERS_PER_SECOND,
            intake: Intake::default(),
            scaling_rate: None,
            cold: None,
            binaries: None,
            instant_tables: false,
            json: false,
            out: "target/demo".into(),
        }
    }
}

impl DemoOptions {
    /// New processes of order-intake at once; `None` if one process serves many orders at a time.
    fn scaling_rate(&self) -> Option<u32> {
        self.scaling_rate.or((self.intake == Intake::Log).then_some(SCALING_RATE))
    }
}

/// Runs the drop, prints and writes the report. Returns whether every promise was kept.
pub async fn run(demo: &DemoOptions) -> Result<bool> {
    let report = measure(demo).await?;
    std::fs::write(demo.out.join("report.json"), report.to_json())?;
    std::fs::write(demo.out.join("report.html"), report.to_html())?;
    if demo.json {
        println!("{}", report.to_json());
    } else {
        println!("{}", report.to_text());
        println!("The same report with plots: {}", demo.out.join("report.html").display());
    }
    Ok(report.is_sound())
}

/// Runs the drop and returns its report.
pub async fn measure(demo: &DemoOptions) -> Result<DropReport> {
    let world = regions::first(demo.regions.into());
    eprintln!("Starting {} regions, Redis with a replica, PostgreSQL and all functions ...", world.len());
    let mut options = Options::for_regions(world.clone());
    options.run_every = Duration::from_secs(5);
    options.intake = demo.intake;
    options.classic = demo
        .scaling_rate()
        .map(|scaling_rate| ClassicLimits { cold: demo.cold, ..ClassicLimits::waiting(scaling_rate, 1_000) });
    options.binaries.clone_from(&demo.binaries);
    if demo.instant_tables {
        options.tables = DynamoDbOptions::instant();
    }
    let services = ShopServices::start(demo.seed).await?;
    options.event_bus = Some(services.bus.url());
    let system = System::start_in(&folder::fresh(&demo.out.join("system"))?, &options).await?;
    let shop = services.open(&system).await?;

    let half_life = crowd::half_life(demo.orders, demo.rush)
        .context("--rush must be a positive number of orders a second")?;
    let plan = crowd::plan(demo.seed, demo.orders, world.len(), half_life);
    let progress = bar("Tokens signed", plan.len());
    let tokens = crowd::tokens(&system.identity, &plan, || progress.inc(1))?;
    progress.finish();

    let item_id: ItemId = "demo-drop".parse()?;
    // At a whole millisecond, so that the same orders share one in each run with the same seed.
    let opens_at = (micros_now() + u64::try_from(LEAD.as_micros())?).next_multiple_of(1_000);
    system.admin(&announcement(demo, &item_id, opens_at)).await?;
    let habits = Habits { unpaid: if demo.hold_seconds == 0 { 0.0 } else { demo.unpaid }, seed: demo.seed };
    let hold = Duration::from_secs(demo.hold_seconds.into());
    let buyers = Buyers::pay(&shop, &system.identity, (&item_id, hold), ("", habits))?;
    let progress = bar("Orders answered", plan.len());
    let cpu_before = cpu::seconds();
    let mut sent =
        crowd::send(&system, item_id.as_str(), &plan, &tokens, opens_at, || progress.inc(1)).await?;
    progress.finish();
    let seconds = Duration::from_micros(micros_now().saturating_sub(opens_at)).as_secs_f64();

    wait_until_over(&system, demo, &item_id).await?;
    system.decide(&item_id, &mut sent).await?;
    let path = path_figures(&system, demo, cpu::since(&cpu_before))?;
    let mut connection = system.redis.connect().await?;
    let outcome = system.drop_result(&item_id).await?;
    // A buyer who does not pay in time wins nothing under any strategy.
    let buying: Vec<SentOrder> =
        sent.iter().filter(|order| habits.of(&order.subject) == Pays::InTime).cloned().collect();
    let landings = strategies::landings(&buying, &world)?;
    let stock = demo.stock as usize;
    let winners = ByStrategy {
        list: strategies::list(&mut connection, &landings, stock).await?,
        zset: strategies::zset_popped_at_once(&mut connection, &landings, stock).await?,
        fairdrop: outcome.sold.clone(),
    };
    let paid = if demo.hold_seconds == 0 { 0 } else { outcome.in_ledger.as_ref().map_or(0, HashSet::len) };
    let unreturned = shop.services.cards.unreturned(paid as u64).await;
    let payments = buyers.answers();
    Ok(Measured {
        demo,
        world: &world,
        sent: &sent,
        buying: &buying,
        outcome: &outcome,
        winners,
        payments,
        unreturned,
        path,
        opens_at,
        seconds,
    }
    .report())
}

fn path_figures(
    system: &System,
    demo: &DemoOptions,
    cpu_seconds: BTreeMap<String, f64>,
) -> Result<PathFigures> {
    let metric = match demo.intake {
        Intake::Direct => "transit_ms",
        Intake::Log => "placement_age_ms",
    };
    let mut processes = PoolFigures::default();
    for figures in system.regions.iter().map(|running| running.intake.figures()) {
        processes.started += figures.started;
        processes.invocations += figures.invocations;
        processes.waited += figures.waited;
    }
    Ok(PathFigures {
        intake: demo.intake,
        placed_ms: percentiles(metrics::values(system.logs(), metric)?.into_iter()),
        processes,
        scaling_rate: demo.scaling_rate(),
        cpu_seconds,
    })
}

fn announcement(demo: &DemoOptions, item_id: &ItemId, opens_at: u64) -> Value {
    json!({ "command": "create", "item": {
        "item_id": item_id,
        "name": "The demo drop",
        "stock_total": demo.stock,
        "opens_at": opens_at,
        "settle_window_ms": demo.settle_window_ms,
        "hold_seconds": demo.hold_seconds,
    }})
}

fn bar(what: &'static str, length: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:<16} {wide_bar} {human_pos}/{human_len} {per_sec}");
    let bar = ProgressBar::new(length as u64).with_message(what);
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}

/// Waits until every unit is sold, or no buyer is left who could buy one.
async fn wait_until_over(system: &System, demo: &DemoOptions, item_id: &ItemId) -> Result<()> {
    let settle_window = Duration::from_millis(demo.settle_window_ms.into());
    let started = Instant::now();
    // Each unit may be held for several buyers, one after another.
    let limit = MAX_WINDOW + DRAIN_LIMIT + Duration::from_secs(demo.hold_seconds.into()) * MAX_HOLDS_IN_A_ROW;
    let progress = bar("Units sold", demo.stock as usize);
    while started.elapsed() < limit {
        let item = system.admin(&json!({ "command": "describe", "item_id": item_id })).await?;
        let figure = |field| item.get(field).and_then(Value::as_u64);
        progress.set_position(figure("sold").unwrap_or_default());
        let all_sold = figure("sold") == Some(demo.stock.into());
        let no_buyer_left = figure("orders_waiting") == Some(0) && figure("sold") == figure("reservations");
        if all_sold || (no_buyer_left && started.elapsed() > settle_window) {
            progress.finish();
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!(
        "the drop did not end within {} s; the logs of all processes are in {}",
        limit.as_secs(),
        system.logs().display()
    )
}

fn percentiles(times: impl Iterator<Item = f64>) -> Percentiles {
    let mut times: Vec<f64> = times.collect();
    times.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (times.len() as f64 * share) as usize;
        times.get(index.min(times.len().saturating_sub(1))).copied().unwrap_or_default()
    };
    Percentiles { p50: at(0.5), p99: at(0.99), max: at(1.0) }
}
