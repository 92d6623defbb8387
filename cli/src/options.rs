//! The command line: options that every command has, and the commands.

use crate::command::{Command, DropCommand, FailoverCommand, RecoveryCommand, raw::Raw};
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused: the function, or AWS, says why; an aborted failover
  2  a mistake in the command line, or no confirmation; nothing was sent
  3  unknown or unfinished: no answer in time, a store that did not answer the function (a part may be done), a step
     of a failover that is outstanding, pages that are left

Examples:
  fairdrop --region us-east-1 describe sneaker-42
  fairdrop --region us-west-2 failover plan --mode planned
  fairdrop --local http://127.0.0.1:9000 list --json";

/// Runs a drop: items, audits and recovery, by invoking fairdrop's functions.
///
/// drop-admin takes the commands on items, in the main region. region-failover takes `failover ...`, in the standby
/// region. Credentials and the region come from the environment, or, in a binary with the feature `profiles` (`make
/// cli`), from the usual chain of the AWS SDK.
#[derive(Debug, Parser)]
#[command(name = "fairdrop", version, after_help = EXIT_CODES, max_term_width = 120)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) shared: Shared,
    #[command(subcommand)]
    pub(crate) action: Action,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Shared {
    /// Region of the function: main's for commands on items, the standby's for `failover` [default: AWS_REGION, or the
    /// profile's region]
    #[arg(long, global = true, value_name = "REGION")]
    pub(crate) region: Option<String>,
    /// Name of the stack, the prefix of its functions' names
    #[arg(long, global = true, value_name = "NAME", env = "FAIRDROP_STACK", default_value = "fairdrop")]
    pub(crate) stack: String,
    /// Id of the AWS account, 12 digits: Lambda refuses the command if the credentials are of another account
    #[arg(long, global = true, value_name = "ID", env = "FAIRDROP_ACCOUNT", value_parser = account)]
    pub(crate) account: Option<String>,
    /// Invoke functions of a system on this machine: the address that `make up` prints. Needs no credentials
    #[arg(long, global = true, value_name = "URL", env = "FAIRDROP_LOCAL", conflicts_with = "region")]
    pub(crate) local: Option<String>,
    /// Print each answer as the function sent it, on a line of its own, and failures in the form of its errors
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Do not ask before a command that may be impossible to undo (for scripts)
    #[arg(long, short, global = true)]
    pub(crate) yes: bool,
}

fn account(id: &str) -> Result<String, String> {
    let is_id = id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_digit());
    if is_id { Ok(id.to_owned()) } else { Err("an account's id has 12 digits".into()) }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    #[command(flatten)]
    Drop(DropCommand),
    /// Move main to the standby region, or find out whether that is possible
    #[command(subcommand)]
    Failover(FailoverCommand),
    #[command(flatten)]
    Recovery(RecoveryCommand),
    Invoke(Raw),
    /// Print a script that completes commands and options in a shell
    ///
    /// Example: fairdrop completion bash > ~/.local/share/bash-completion/completions/fairdrop
    Completion {
        shell: Shell,
    },
}

impl Action {
    /// What to invoke; `None` if no function is needed.
    pub(crate) fn command(&self) -> Option<&dyn Command> {
        match self {
            Self::Drop(command) => Some(command.command()),
            Self::Failover(command) => Some(command.command()),
            Self::Recovery(command) => Some(command.command()),
            Self::Invoke(raw) => Some(raw),
            Self::Completion { .. } => None,
        }
    }
}
