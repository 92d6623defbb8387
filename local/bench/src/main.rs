//! The program `fairdrop-bench`: the figures about speed that fairdrop promises, measured on this machine.

mod figure;
mod finished_items;
mod intake;
mod ledger;
mod live;
mod main_redis;
mod opening;
mod place_batch;
mod replay;
mod resp;

use clap::Parser;
use figure::{Figure, median, range};
use local::command::demo::{self, DemoOptions};
use local::system::intake::Intake;
use local::system::process::workspace;
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures what fairdrop promises about speed, each figure as a ratio or against a
/// limit, and writes target/bench/NAME.json for each. Exits with 1 if a figure misses its bound.
#[derive(Parser)]
#[command(name = "fairdrop-bench")]
struct BenchCli {
    /// Measure only figures whose name contains this
    #[arg(default_value = "")]
    only: String,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
    /// Folder of the functions as they are deployed
    #[arg(long, env = "FAIRDROP_RELEASE_DIR", default_value = "target/release")]
    release: PathBuf,
    /// Folder for the results
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// How orders get to main's queue in the demo
    #[arg(long, value_enum, default_value_t = Intake::default())]
    intake: Intake,
    /// Run as the process of the watchers, for the figures of live updates
    #[arg(long, hide = true)]
    watch: Option<PathBuf>,
    /// Run as the process of the order logs, for the figures of a replay
    #[arg(long, hide = true)]
    order_logs: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&BenchCli::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fairdrop-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: &BenchCli) -> anyhow::Result<bool> {
    if let Some(buyers_file) = &cli.watch {
        return live::watch_from_file(buyers_file).await.map(|()| true);
    }
    if cli.order_logs {
        return replay::serve_order_logs().await.map(|()| true);
    }
    let wanted = |group: &str| group.contains(&cli.only) || cli.only.contains(group);
    let mut figures = Vec::new();
    if wanted("place") {
        eprintln!("place: the script against a bare ZADD NX, in pairs of rounds ...");
        figures.extend(main_redis::place().await?);
        figures.extend(place_batch::measure().await?);
    }
    if wanted("drain") {
        eprintln!("drain: calls of 500, then with 10,000 and 5,000,000 orders waiting ...");
        figures.extend(main_redis::drain().await?);
    }
    if wanted("intake") {
        eprintln!("intake: start, size, memory, and a main 150 ms away ...");
        figures.extend(intake::measure(&cli.release).await?);
    }
    if wanted("ledger") {
        eprintln!("ledger: sales a second, a drop of 10,000 units, a released unit ...");
        figures.extend(ledger::measure(&cli.release).await?);
    }
    if wanted("finished-items") {
        eprintln!("finished-items: a live drop alone, then with 1,000 finished items ...");
        figures.extend(finished_items::measure(&cli.release).await?);
    }
    if wanted("replay") {
        eprintln!("replay: 1,000,000 logged orders into an empty Redis ...");
        figures.extend(replay::measure().await?);
    }
    if wanted("live") {
        eprintln!("live: 10,000 sockets during six drops ...");
        figures.extend(live::measure(&cli.release).await?);
    }
    if wanted("demo") {
        eprintln!("demo: units to right buyers ...");
        figures.extend(drop_figures(cli.intake).await?);
    }
    if wanted("opening") {
        eprintln!("opening: 1,000 orders that meet no process, with and without the log ...");
        figures.extend(opening::measure(&cli.release, &workspace().join("target/bench/opening")).await?);
    }
    let out = if cli.out.is_absolute() { cli.out.clone() } else { workspace().join(&cli.out) };
    std::fs::create_dir_all(&out)?;
    for figure in &figures {
        figure.write(&out)?;
    }
    if cli.json {
        println!("{}", serde_json::to_string_pretty(&figures)?);
    } else {
        println!("{}", figure::table(&figures));
    }
    Ok(figures.iter().all(|figure| figure.holds))
}

/// The rush and the stock at which a queue in order of arrival is clearly unfair.
const RUSH: f64 = 6_000.0;
const STOCK: u32 = 200;

/// Drops of three crowds: within a millisecond chance decides which order is first, and the orders
/// around the last unit decide how much that matters. At this rush six orders share a millisecond. With perfect stamps of
/// that precision, one unit on average goes to a later buyer, and three or more in one drop of seventeen.
async fn drop_figures(intake: Intake) -> anyhow::Result<Vec<Figure>> {
    let options = DemoOptions {
        rush: RUSH,
        stock: STOCK,
        intake,
        out: workspace().join("target/bench/demo"),
        ..DemoOptions::default()
    };
    let (mut list, mut zset, mut fairdrop, mut fair) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut too_late, mut cpu_ms, mut programs) = (0, Vec::new(), String::new());
    for seed in [42, 43, 44] {
        let report = demo::measure(&DemoOptions { seed, ..options.clone() }).await?;
        list.push(report.right_winners.list * 100.0);
        zset.push(report.right_winners.zset * 100.0);
        fairdrop.push(report.right_winners.fairdrop * 100.0);
        fair.push((report.right_winners.fairdrop + report.tied) * 100.0);
        too_late += report.too_late();
        cpu_ms.push(report.cpu_ms_per_order());
        programs = report.programs_in_words();
    }
    let crowds = format!(
        "{} orders, {RUSH} a second at the opening, stock {STOCK}, 5 regions, 3 crowds",
        options.orders
    );
    let shown = |name, values: Vec<f64>, unit, what: &str| {
        let against = format!("{what}; {crowds} (range {})", range(&values));
        Figure::measured(name, median(values), unit, against)
    };
    let right = "the first `stock` buyers by true arrival at their region";
    let late = format!("orders that came after the watermark; {crowds}");
    Ok(vec![
        shown("demo_right_buyers_list", list, "%", right),
        shown("demo_right_buyers_zset_at_once", zset, "%", right),
        shown("demo_right_buyers_fairdrop", fairdrop, "%", right).at_least(99.0),
        shown(
            "demo_right_or_tied_fairdrop",
            fair,
            "%",
            &format!("{right}, and of the same millisecond as the last"),
        )
        .at_least(99.5),
        Figure::measured("demo_refused_as_too_late", too_late as f64, "orders", late).at_most(0.0),
        shown("demo_cpu_per_order", cpu_ms, "ms", &format!("CPU seconds of the last crowd: {programs}")),
    ])
}
