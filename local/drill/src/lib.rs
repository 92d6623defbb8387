//! `drill`: the standby takes over from main, again and again, with buyers ordering throughout.

mod buyers;
pub mod control_plane;
mod failback;
mod findings;
mod outcome;
mod report;
mod run;
mod sales;
mod scenario;
pub mod two_regions;

pub use failback::Failback;
pub use findings::DrillFindings;
pub use outcome::{DrillOutcome, StatedLoss};
pub use report::DrillReport;
pub use scenario::{Accident, DrillMode, Scenario};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Orders a second, from all regions together.
const PER_SECOND: u32 = 12;

/// What is drilled.
#[derive(Clone, Debug, clap::Args)]
pub struct DrillOptions {
    /// How many failovers, each with regions of its own
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub runs: u32,
    /// From a main that answers, from one that is gone, or by lot
    #[arg(long, value_enum, default_value_t = DrillMode::Mixed)]
    pub mode: DrillMode,
    /// What becomes of main in a forced failover: all its processes are killed, or it is cut off and
    /// lives [default: by lot]
    #[arg(long, value_enum)]
    pub accident: Option<Accident>,
    /// The same seed is the same accidents at the same moments; run N of it is seed + N
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Redis's failover hangs where main is gone, and Redis is detached [default: by lot]
    #[arg(long)]
    pub redis_hangs: bool,
    /// Main is moved back in the end of each run [default: by lot]
    #[arg(long)]
    pub fail_back: bool,
    /// Orders a second, from all regions together
    #[arg(long, default_value_t = PER_SECOND, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub rate: u32,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
    /// Where report.json, report.txt and the logs are written
    #[arg(long, default_value = "target/drill")]
    pub out: PathBuf,
}

/// Runs the drill, prints and writes its report; true where every promise was kept.
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
            bar.set_message(format!("{}: {what}", scenario.words()));
            if bar.is_hidden() {
                eprintln!("{:6.1} s  {}/{}  {what}", bar.elapsed().as_secs_f64(), number + 1, drill.runs);
            }
        };
        match one(&scenario, drill, number, &progress).await {
            Ok(outcome) => report.outcomes.push(outcome),
            Err(error) => {
                report.failed.push(format!("seed {}: {}: {error:#}", scenario.seed, scenario.words()));
            }
        }
        // After each run: what is known so far is there, too, where the rest is not waited for.
        std::fs::write(drill.out.join("report.json"), report.to_json()?)?;
        std::fs::write(drill.out.join("report.txt"), report.to_text())?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    if drill.json {
        println!("{}", report.to_json()?);
    } else {
        println!("{}", report.to_text());
        println!("The same for programs: {}", drill.out.join("report.json").display());
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

/// Carries out one run, with data and logs in `folder`. `says` is told what is done now.
pub async fn run_scenario(
    scenario: &Scenario,
    folder: &Path,
    per_second: u32,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<DrillOutcome> {
    run::run_scenario(scenario, folder, per_second, progress).await
}

/// A folder for data and logs, emptied.
fn fresh_folder(out: &Path, number: u32) -> Result<PathBuf> {
    let folder = std::path::absolute(out)?.join(format!("run-{}", number + 1));
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}
