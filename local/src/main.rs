//! The whole of fairdrop on one machine.

use clap::{Parser, Subcommand};
use local::command::demo::{self, DemoOptions};
use local::command::up::{self, UpOptions};
use std::process::ExitCode;

/// Runs the whole of fairdrop on this machine: real Redis and PostgreSQL, the real Lambda
/// binaries, five regions and the network delay between them.
#[derive(Parser)]
#[command(name = "fairdrop-local")]
struct LocalCli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Sell one item to a crowd in several regions, and report who won
    Demo(DemoOptions),
    /// Keep the system running, and print how to use it
    Up(UpOptions),
}

#[tokio::main]
async fn main() -> ExitCode {
    let command = LocalCli::parse().command;
    // `up` ends only by a signal.
    let may_be_stopped = matches!(command, Command::Up(_));
    let work = async {
        match command {
            Command::Demo(demo) => demo::run(&demo).await,
            Command::Up(up) => up::run(&up).await,
        }
    };
    local::command::run("fairdrop-local", may_be_stopped, work).await
}
