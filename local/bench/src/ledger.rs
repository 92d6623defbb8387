//! The ledger: sales a second, a large drop to its last commit, and the time until
//! a released unit is reserved for the next buyer.

use crate::figure::{Figure, median, range};
use ::ledger::Ledger;
use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;
use local::system::clock::micros_now;
use local::system::regions;
use local::system::{Options, System};
use redis::AsyncCommands;
use redis::streams::StreamRangeReply;
use serde_json::json;
use shared::item::ItemId;
use shared::permit::Permit;
use shared::queue::{Keys, NO_HOLD_MICROS, Reservation};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::path::Path;
use std::time::{Duration, Instant};

/// Units sold in the measurement of batches, and in the large drop.
const UNITS: u64 = 10_000;
/// Orders in the queue of the large drop.
const WAITING: u64 = 1_000_000;
/// Sales committed one by one.
const SINGLE: u64 = 1_000;
/// Buyers who do not pay for the unit, one after another.
const HANDOVERS: usize = 12;
/// How long each measurement may take.
const LIMIT: Duration = Duration::from_secs(120);

/// All figures of the ledger.
pub(crate) async fn measure(release: &Path) -> Result<Vec<Figure>> {
    let mut options = Options::for_regions(regions::first(1));
    options.binaries = Some(std::path::absolute(release)?);
    options.run_every = Duration::from_secs(30);
    let system = System::start(&options).await?;
    let ledger = system.ledger()?;
    let mut figures = sales(&system, &ledger).await?;
    figures.push(large_drop(&system, &ledger).await?);
    figures.push(handover(&system).await?);
    Ok(figures)
}

async fn sales(system: &System, ledger: &Ledger) -> Result<Vec<Figure>> {
    let batched = {
        let mut rates = Vec::new();
        for round in 0..3 {
            let item_id =
                announce(system, &format!("batches-{round}"), UNITS, micros_now() - 60_000_000, 0).await?;
            pause(system, &item_id, true).await?;
            wait(system, &item_id, micros_now() - 30_000_000, UNITS).await?;
            // The functions look for new items every second; that is no part of the figure.
            tokio::time::sleep(Duration::from_millis(2_500)).await;
            let started = Instant::now();
            pause(system, &item_id, false).await?;
            all_sold(ledger, &item_id, UNITS).await?;
            rates.push(UNITS as f64 / started.elapsed().as_secs_f64());
        }
        rates
    };
    let item_id = announce(system, "singles", SINGLE, micros_now() - 60_000_000, 0).await?;
    let started = Instant::now();
    for number in 0..SINGLE {
        let now = micros_now();
        let one = Reservation {
            user_token: UserToken::parse(buyer(number))?,
            placed_at: Stamp::from_micros(now)?,
            reserved_at: Stamp::from_micros(now)?,
            hold_until: Stamp::from_micros(now + NO_HOLD_MICROS)?,
            epoch: 1,
        };
        ledger.record(&item_id, &[one], Permit::Unleased).await?;
    }
    let single = SINGLE as f64 / started.elapsed().as_secs_f64();
    let rate = median(batched.clone());
    Ok(vec![
        Figure::measured(
            "ledger_sales_per_second",
            rate,
            "sales/s",
            format!(
                "one checkout-worker (release build), {UNITS} orders that wait, from `resume` to the last commit: \
                 drain, replica, ledger and Redis included; commits reach the disk ({} rounds, {})",
                batched.len(),
                range(&batched)
            ),
        )
        .at_least(5_000.0),
        Figure::measured(
            "ledger_batches_over_single_rows",
            rate / single,
            "ratio",
            format!("{SINGLE} sales in a transaction each, one after another: {single:.0} sales/s"),
        ),
    ])
}

async fn large_drop(system: &System, ledger: &Ledger) -> Result<Figure> {
    const WINDOW_MICROS: u64 = 2_000_000;
    // Orders are written before their time: the drain leaves them in the queue until the window has passed.
    let opens_at = micros_now() + 25_000_000;
    let item_id = announce(system, "large", UNITS, opens_at, 0).await?;
    wait(system, &item_id, opens_at, WAITING).await?;
    ensure!(micros_now() < opens_at + WINDOW_MICROS, "the machine is too slow to fill the queue in time");
    all_sold(ledger, &item_id, UNITS).await?;
    let over_at = micros_now();
    let tasks: StreamRangeReply = system
        .redis
        .connect()
        .await?
        .xrevrange_count(Keys::of(&item_id).tasks, "+", "-", UNITS as usize * 2)
        .await?;
    let reserved: Vec<u64> = tasks.ids.iter().filter_map(|task| task.get("reserved_at")).collect();
    let last_reserved =
        reserved.iter().max().with_context(|| format!("no order of {item_id} was reserved"))?;
    let ended_at = opens_at + WINDOW_MICROS;
    let seconds = |micros: u64| micros.saturating_sub(ended_at) as f64 / 1e6;
    Ok(Figure::measured(
        "ledger_large_drop_seconds",
        seconds(over_at),
        "s",
        format!(
            "{UNITS} units, {WAITING} orders waiting: from the end of the first order's settle window to the last \
             commit; the last reservation was made after {:.2} s, the rest is the worker's batches",
            seconds(*last_reserved)
        ),
    ))
}

async fn handover(system: &System) -> Result<Figure> {
    let item_id = announce(system, "handover", 1, micros_now() - 60_000_000, 1).await?;
    wait(system, &item_id, micros_now() - 30_000_000, HANDOVERS as u64 + 1).await?;
    let keys = Keys::of(&item_id);
    let mut connection = system.redis.connect().await?;
    let started = Instant::now();
    let progress = ProgressBar::new(HANDOVERS as u64);
    let reserved = loop {
        let tasks: StreamRangeReply = connection.xrange_all(&keys.tasks).await?;
        let reserved: Vec<(u64, u64)> = tasks
            .ids
            .iter()
            .filter_map(|task| Some((task.get("reserved_at")?, task.get("hold_until")?)))
            .collect();
        progress.set_position(reserved.len().saturating_sub(1) as u64);
        if reserved.len() > HANDOVERS {
            break reserved;
        }
        ensure!(started.elapsed() < LIMIT, "the unit was not handed on {HANDOVERS} times within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    progress.finish_and_clear();
    let took: Vec<f64> = reserved
        .windows(2)
        .filter_map(|pair| match pair {
            [(_, hold_until), (reserved_at, _)] => Some(reserved_at.saturating_sub(*hold_until) as f64 / 1e6),
            _ => None,
        })
        .collect();
    let longest = took.iter().copied().fold(0.0, f64::max);
    Ok(Figure::measured(
        "ledger_handover_seconds",
        longest,
        "s",
        format!(
            "the longest of {} times from the end of an unpaid hold to the next buyer's reservation ({}, median {:.2})",
            took.len(),
            range(&took),
            median(took.clone())
        ),
    )
    .at_most(1.0))
}

async fn announce(system: &System, id: &str, stock: u64, opens_at: u64, hold_seconds: u32) -> Result<ItemId> {
    system
        .admin(&json!({ "command": "create", "item": {
            "item_id": id, "name": id, "stock_total": stock, "opens_at": opens_at, "hold_seconds": hold_seconds,
        }}))
        .await?;
    Ok(id.parse()?)
}

async fn pause(system: &System, item_id: &ItemId, paused: bool) -> Result<()> {
    let command = if paused { "pause" } else { "resume" };
    system.admin(&json!({ "command": command, "item_id": item_id })).await.map(drop)
}

/// Puts orders into the queue, a microsecond apart from `first` on.
async fn wait(system: &System, item_id: &ItemId, first: u64, orders: u64) -> Result<()> {
    crate::main_redis::fill(&mut system.redis.connect().await?, &Keys::of(item_id), first, orders).await
}

async fn all_sold(ledger: &Ledger, item_id: &ItemId, units: u64) -> Result<()> {
    let started = Instant::now();
    let progress = ProgressBar::new(units);
    loop {
        let taken = u64::from(ledger.item(item_id).await?.units_taken);
        progress.set_position(taken);
        if taken == units {
            progress.finish_and_clear();
            return Ok(());
        }
        ensure!(started.elapsed() < LIMIT, "only {taken} of {units} were sold within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn buyer(number: u64) -> String {
    crate::main_redis::buyer(number)
}
