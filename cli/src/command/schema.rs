//! `fairdrop migrate` and `fairdrop lease`

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
