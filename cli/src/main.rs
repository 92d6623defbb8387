//! `fairdrop`: the operators' command line. It invokes the functions that operators may invoke, through the AWS SDK:
//! in AWS, or on one machine (`--local`).
//!
//! [`command`] has the list of all commands and one file for each: what is sent, and how the answer is shown.

mod command;
mod confirm;
mod failure;
mod follow;
mod invoke;
mod moment;
mod options;
mod report;
mod table;

use clap::{CommandFactory, Parser};
use command::{Call, Command};
use failure::Failure;
use follow::Ended;
use invoke::{Answer, Functions, Invoke};
use options::{Action, Options, Shared};
use std::io::Write;
use std::process::ExitCode;

/// The most answers that one command fetches: an audit of ten million sales has a thousand.
const MAX_PAGES: u32 = 10_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Options { action, shared } = Options::parse();
    let command = match &action {
        Action::Completion { shell } => {
            clap_complete::generate(*shell, &mut Options::command(), "fairdrop", &mut std::io::stdout());
            return ExitCode::SUCCESS;
        }
        other => other.command(),
    };
    match run(command, &shared).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{}", failure.text(shared.json));
            ExitCode::from(failure.exit_code())
        }
    }
}

async fn run(command: Option<&dyn Command>, shared: &Shared) -> Result<(), Failure> {
    let Some(command) = command else { return Ok(()) };
    let call = command.call();
    let functions = Functions::of(shared).await?;
    if let Some(consequence) = command.cannot_be_undone().filter(|_| !shared.yes) {
        confirm::confirm(&functions.place(&call.function), &consequence)?;
    }
    let Some(following) = command.following() else { return pages(command, call, &functions, shared).await };
    let Ended { answer, result } = follow::follow(&functions, &call, following).await?;
    print(command, &answer, 0, shared)?;
    result
}

/// Fetches every page of the answer, and prints each as it comes.
async fn pages(
    command: &dyn Command,
    mut call: Call,
    functions: &impl Invoke,
    shared: &Shared,
) -> Result<(), Failure> {
    let mut verdict = Ok(());
    for page in 0..MAX_PAGES {
        let answer = functions.invoke(&call).await?;
        print(command, &answer, page, shared)?;
        verdict = verdict.and(command.verdict(&answer.value));
        match command.next(&answer.value) {
            Some(payload) => call.payload = payload,
            None => return verdict,
        }
    }
    Err(Failure::Unfinished(format!(
        "stopped after {MAX_PAGES} answers; the next payload is {}",
        call.payload
    )))
}

/// Prints the answer for people, or exactly as the function sent it, each answer on a line.
fn print(command: &dyn Command, answer: &Answer, page: u32, shared: &Shared) -> Result<(), Failure> {
    let text = if shared.json { answer.raw.clone() } else { command.show(&answer.value, page) };
    let mut out = std::io::stdout().lock();
    let written = if text.is_empty() { Ok(()) } else { writeln!(out, "{}", text.trim_end_matches('\n')) };
    written.map_err(|error| {
        Failure::Unfinished(format!("could not write the answer to standard output: {error}"))
    })
}
