//! `fairdrop replica`, `snapshots` and `restore-drill`.

use super::{Call, Command, Function};
use crate::table;
use clap::Args;
use serde_json::{Value, json};

/// Ask whether the standby's replica could take over, and what would be lost (replica-lag); changes nothing
#[derive(Debug, Args)]
#[command(after_help = "Example: fairdrop --region us-west-2 replica")]
pub(crate) struct Replica {}

impl Command for Replica {
    fn call(&self) -> Call {
        Call { function: Function::ReplicaLag, payload: json!({ "observe": true }) }
    }

    fn show(&self, answer: &Value, _page: u32) -> String {
        table::fields(answer, &["verdict", "cause", "why", "at_risk", "findings"])
    }
}

/// Show what snapshot-copy would do now; with --run, do it
#[derive(Debug, Args)]
pub(crate) struct Snapshots {
    /// Take the actions that are due, as its schedule does every 15 minutes
    #[arg(long)]
    run: bool,
}

impl Command for Snapshots {
    fn call(&self) -> Call {
        Call { function: Function::SnapshotCopy, payload: json!({ "dry_run": !self.run }) }
    }
}

/// Show what a restore drill would do; with --run, restore the newest snapshot, check the ledger and delete the copy
///
/// An invocation ends after 15 minutes at most. If the state is then `restoring`, repeat the command: it continues.
/// The temporary instance costs the price of its class for about an hour, and its storage.
#[derive(Debug, Args)]
pub(crate) struct RestoreDrill {
    /// Run the drill
    #[arg(long)]
    run: bool,
}

impl Command for RestoreDrill {
    fn call(&self) -> Call {
        let payload = if self.run { json!({ "run": true }) } else { json!({}) };
        Call { function: Function::RestoreDrill, payload }
    }

    fn show(&self, answer: &Value, _page: u32) -> String {
        table::fields(answer, &["state", "next", "database", "region", "instance", "snapshot"])
    }
}
