//! The whole of fairdrop on one machine.

use clap::{Parser, Subcommand};
use local::demo::{self, Demo};
use local::drill::{self, Drill};
use local::up::{self, Up};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

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
    /// Fail over from main to its standby, with buyers ordering throughout, and report what was lost
    Drill(Drill),
    /// Keep the system running, and print how to talk to it
    Up(Up),
}

#[tokio::main]
async fn main() -> ExitCode {
    let command = Cli::parse().command;
    // A demo that is stopped has proved nothing; `up` has no other end.
    let may_be_stopped = matches!(command, Command::Up(_));
    let work = async {
        match command {
            Command::Demo(demo) => demo::run(&demo).await,
            Command::Drill(drill) => drill::run(&drill).await,
            Command::Up(up) => up::run(&up).await,
        }
    };
    // Dropping the work stops every server and function that it has started.
    let outcome = tokio::select! {
        outcome = work => outcome,
        signalled = interrupted() => signalled.map(|()| may_be_stopped),
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

/// Ctrl-C, or the signal that `kill` sends.
async fn interrupted() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        ctrl_c = tokio::signal::ctrl_c() => ctrl_c?,
        _ = terminate.recv() => {}
    }
    eprintln!("Stopping everything.");
    Ok(())
}
