//! The program `fairdrop-drill`.

use clap::Parser;
use drill::DrillOptions;
use std::process::ExitCode;

/// Fails over from main to its standby while buyers order, and reports what was lost.
#[derive(Parser)]
#[command(name = "fairdrop-drill")]
struct DrillCli {
    #[command(flatten)]
    drill: DrillOptions,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = DrillCli::parse();
    local::command::run("fairdrop-drill", false, drill::run(&cli.drill)).await
}
