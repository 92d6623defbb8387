//! The commands: [`demo`] and [`up`].
//!
//! [`demo`] sends the same arrivals through two other [`strategies`], and its [`report`] compares who won.

pub mod demo;
pub mod report;
pub mod strategies;
pub mod up;

use anyhow::Result;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Runs `work` until it ends or a signal stops the program; `work` returns whether every promise was kept.
///
/// `may_be_stopped` says whether a signal is the ordinary end. A demo that was stopped has proved nothing.
/// Dropping `work` stops every server and function that it has started.
pub async fn run(name: &str, may_be_stopped: bool, work: impl Future<Output = Result<bool>>) -> ExitCode {
    let result = tokio::select! {
        result = work => result,
        stopped = stop_signal() => stopped.map(|()| may_be_stopped),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Waits for Ctrl-C, or for the signal that `kill` sends.
async fn stop_signal() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        ctrl_c = tokio::signal::ctrl_c() => ctrl_c?,
        _ = terminate.recv() => {}
    }
    eprintln!("Stopping all servers and functions.");
    Ok(())
}
