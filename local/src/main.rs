//! The whole of fairdrop on one machine.

use clap::{Parser, Subcommand};
use local::demo::{self, Demo};
use local::up::{self, Up};
use std::process::ExitCode;

/// Runs the whole of fairdrop on this machine: real Redis, the real Lambda
/// binaries, five regions and the distance between them.
#[derive(Parser)]
#[command(name = "fairdrop-local")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Sell one item out to a crowd in several regions, and report who won
    Demo(Demo),
    /// Keep the system running, and print how to talk to it
    Up(Up),
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Demo(demo) => tokio::select! {
            outcome = demo::run(&demo) => outcome,
            _ = tokio::signal::ctrl_c() => Ok(false),
        },
        Command::Up(up) => up::run(&up).await.map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fairdrop-local: {error:#}");
            ExitCode::FAILURE
        }
    }
}
