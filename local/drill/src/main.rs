//! Failovers between two regions on one machine, with buyers ordering throughout.

use clap::Parser;
use drill::DrillOptions;
use std::process::ExitCode;

/// Fails over from main to its standby, with buyers ordering throughout, and reports what was lost.
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
