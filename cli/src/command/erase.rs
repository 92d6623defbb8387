//! `fairdrop erase`: removing a buyer's name.

use super::{Call, Command, Function};
use crate::table;
use clap::Args;
use serde::Serialize;
use serde_json::Value;

/// Remove a buyer's name from the ledger and the order logs
///
/// Refused while the buyer is in an item that is not archived. Rows stay with a pseudonym, so that audits still verify; the
/// references of payments stay, too. The answer names until when backups, the dead-letter queue and live connections may still
/// have the name. Goes through all items.
#[derive(Debug, Args, Serialize)]
#[command(after_help = "Example: fairdrop erase 'auth0|6532' --by Ann")]
pub(crate) struct Erase {
    /// The buyer: the `sub` of their access tokens
    #[arg(value_name = "BUYER")]
    buyer: String,
    /// Who erases, for the record
    #[arg(long, value_name = "NAME")]
    by: String,
}

impl Command for Erase {
    fn call(&self) -> Call {
        Call::new(Function::DropAdmin, "erase", self)
    }

    fn cannot_be_undone(&self) -> Option<String> {
        Some(format!("The name {} is replaced by a random pseudonym in all archived items.", self.buyer))
    }

    fn next(&self, answer: &Value) -> Option<Value> {
        let mut next = self.call();
        next.payload["after"] = answer.get("next").filter(|next| !next.is_null())?.clone();
        Some(next.payload)
    }

    fn show(&self, answer: &Value, _page: u32) -> String {
        let mut shown = answer.clone();
        if let (Some(fields), Some(remains)) = (shown.as_object_mut(), answer["remains"].as_object()) {
            fields.remove("remains");
            fields.extend(remains.clone());
        }
        table::fields(
            &shown,
            &[
                "erased_as",
                "ledger_rows",
                "log_records",
                "ledger_backups_end_at",
                "log_backups_end_at",
                "log_streams_end_at",
                "dead_letters_end_at",
                "redis_snapshots_end_at",
                "live_ends_at",
            ],
        )
    }
}
