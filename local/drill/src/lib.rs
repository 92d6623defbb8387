//! Failovers between two regions on one machine, with buyers who order during the whole time.
//!
//! [`two_regions`] starts the regions, [`control_plane`] stands for AWS, and [`run_scenario`] carries out one run.

mod buyers;
pub mod control_plane;
mod failback;
mod findings;
mod lost_orders;
mod outcome;
mod report;
mod run;
mod sales;
mod scenario;
pub mod two_regions;
mod wait;

pub use failback::Failback;
pub use findings::DrillFindings;
pub use outcome::{DrillOutcome, StatedLoss};
pub use report::DrillReport;
pub use scenario::{Accident, DrillMode, ReplicaState, Scenario};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Orders a second, from all regions together.
const PER_SECOND: u32 = 12;

/// Options of a drill.
#[derive(Clone, Debug, clap::Args)]
pub struct DrillOptions {
    /// Failovers to run, each with regions of its own
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub runs: u32,
    /// Planned (main answers), forced (main is unavailable), or mixed: one of them at random
    #[arg(long, value_enum, default_value_t = DrillMode::Mixed)]
    pub mode: DrillMode,
    /// Accident of main in a forced failover: all its processes are killed, or it is partitioned and
    /// keeps running [default: at random]
    #[arg(long, value_enum)]
    pub accident: Option<Accident>,
    /// Seed of the scenarios: the same seed has the same accidents at the same times; run N uses seed + N - 1
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Redis's failover hangs while main is unavailable, so that Redis is detached [default: at random]
    #[arg(long)]
    pub redis_hangs: bool,
    /// Each run ends with a failback [default: at random]
    #[arg(long)]
    pub fail_back: bool,
    /// Orders a second, from all regions together
    #[arg(long, default_value_t = PER_SECOND, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub rate: u32,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
    /// Folder for report.json, report.txt and the logs
    #[arg(long, default_value = "target/drill")]
    pub out: PathBuf,
}

/// Runs the drill, prints and writes its report. Returns whether every promise was kept.
pub async fn run(drill: &DrillOptions) -> Result<bool> {
    let bar = ProgressBar::new(drill.runs.into());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos}/{len} {elapsed} {wide_msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    let mut report = DrillReport { seed: drill.seed, outcomes: Vec::new(), failed: Vec::new() };
    for number in 0..drill.runs {
        let scenario = Scenario::draw(drill.seed + u64::from(number), drill.mode, drill.accident);
        let scenario = Scenario {
            redis_hangs: scenario.redis_hangs || (drill.redis_hangs && scenario.accident.is_some()),
            fails_back: scenario.fails_back || drill.fail_back,
            ..scenario
        };
        let progress = |what: &str| {
            bar.set_message(format!("{}: {what}", scenario.description()));
            if bar.is_hidden() {
                eprintln!("{:6.1} s  {}/{}  {what}", bar.elapsed().as_secs_f64(), number + 1, drill.runs);
            }
        };
        match one(&scenario, drill, number, &progress).await {
            Ok(outcome) => report.outcomes.push(outcome),
            Err(error) => {
                report.failed.push(format!("seed {}: {}: {error:#}", scenario.seed, scenario.description()));
            }
        }
        // Written after each run, so that the results so far are there if the drill is stopped.
        std::fs::write(drill.out.join("report.json"), report.to_json()?)?;
        std::fs::write(drill.out.join("report.txt"), report.to_text())?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    if drill.json {
        println!("{}", report.to_json()?);
    } else {
        println!("{}", report.to_text());
        println!("The same report as JSON: {}", drill.out.join("report.json").display());
    }
    Ok(report.is_sound())
}

async fn one(
    scenario: &Scenario,
    drill: &DrillOptions,
    number: u32,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<DrillOutcome> {
    let folder = fresh_folder(&drill.out, number)?;
    run_scenario(scenario, &folder, drill.rate, progress).await
}

/// Carries out one run, with data and logs in `folder`. `progress` is called with the text of each phase.
pub async fn run_scenario(
    scenario: &Scenario,
    folder: &Path,
    per_second: u32,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<DrillOutcome> {
    run::run_scenario(scenario, folder, per_second, progress).await
}

/// Empties the folder for data and logs of a run.
fn fresh_folder(out: &Path, number: u32) -> Result<PathBuf> {
    let folder = std::path::absolute(out)?.join(format!("run-{}", number + 1));
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}
