//! `fairdrop migrate`, `lease` and `ledger-restored`

use super::{Call, Command, Function};
use crate::table;
use clap::Args;
use serde::Serialize;
use serde_json::Value;

/// Create or update the ledger's schema; with a lease table, create the lease
///
/// First of all, and after each update.
#[derive(Debug, Args, Serialize)]
pub(crate) struct Migrate {}

impl Command for Migrate {
    fn call(&self) -> Call {
        Call::new(Function::DropAdmin, "migrate", self)
    }

    fn cannot_be_undone(&self) -> Option<String> {
        Some("The ledger's schema becomes that of the deployed functions; with a lease table, main sells only with a lease.".into())
    }
}

/// Show which region may sell, and until when
#[derive(Debug, Args, Serialize)]
pub(crate) struct Lease {}

impl Command for Lease {
    fn call(&self) -> Call {
        Call::new(Function::DropAdmin, "lease", self)
    }

    fn show(&self, answer: &Value, _page: u32) -> String {
        table::fields(answer, &["means", "remaining_ms", "ledger_epoch", "lease"])
    }
}

/// Begin a new epoch after main's ledger was restored from a snapshot or to a point in time
///
/// Redis has sales that such a ledger lacks: under a new epoch no repair puts their units on sale, and new events have
/// new ids. Refused while an item is not paused. May be repeated. docs/runbook/snapshots.md has the steps before and after.
#[derive(Debug, Args, Serialize)]
#[command(after_help = "Example: fairdrop ledger-restored --yes")]
pub(crate) struct LedgerRestored {}

impl Command for LedgerRestored {
    fn call(&self) -> Call {
        Call::new(Function::DropAdmin, "ledger_restored", self)
    }

    fn cannot_be_undone(&self) -> Option<String> {
        Some(
            "A new epoch begins. No hold from before it ends, and every item stays paused, until you have compared \
             Redis with the ledger."
                .into(),
        )
    }

    fn show(&self, answer: &Value, _page: u32) -> String {
        table::fields(answer, &["epoch", "items", "written_to_ledger", "not_in_redis", "next"])
    }
}
