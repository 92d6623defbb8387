//! Commands that only name an item: `describe`, `pause`, `resume`, `close`, `finish`, `archive`; and `list`.

use super::{Call, Command, Function};
use crate::table;
use clap::Args;
use serde::Serialize;
use serde_json::Value;

/// What matters during a drop comes first.
const FIRST: [&str; 22] = [
    "item_id",
    "name",
    "phase",
    "left",
    "removed",
    "finished_at",
    "archived_at",
    "paused",
    "stock_total",
    "stock_left",
    "orders_waiting",
    "reservations",
    "sold",
    "tasks_waiting",
    "opens_at",
    "closes_at",
    "main_time",
    "hold_seconds",
    "settle_window_ms",
    "settle_delay_ms",
    "epoch",
    "ledger",
];

/// An item with its counts, as `describe` and every command that changes one answers.
pub(super) fn show_item(answer: &Value) -> String {
    table::fields(answer, &FIRST)
}

macro_rules! item_commands {
    ($($(#[$about:meta])* $name:ident = $command:literal $(, asks $consequence:literal)?;)*) => {
        $(
            #[derive(Debug, Args, Serialize)]
            $(#[$about])*
            pub(crate) struct $name {
                #[arg(value_name = "ITEM")]
                item_id: String,
            }

            impl Command for $name {
                fn call(&self) -> Call {
                    Call::new(Function::DropAdmin, $command, self)
                }

                $(fn cannot_be_undone(&self) -> Option<String> {
                    Some(format!($consequence, self.item_id))
                })?

                fn show(&self, answer: &Value, _page: u32) -> String {
                    show_item(answer)
                }
            }
        )*
    };
}

item_commands! {
    /// Show an item as main's Redis and the ledger have it
    #[command(after_help = "Example: fairdrop describe sneaker-42 --json | jq .tasks_waiting")]
    Describe = "describe";
    /// Stop selling for a while: orders are accepted and keep their places
    Pause = "pause";
    /// Go on selling after `pause`
    Resume = "resume";
    /// Accept no orders of an item from now on
    Close = "close", asks "{}: all orders from now on are refused. Buyers must order again after a later opening.";
    /// End an item that has closed: orders that wait are removed, and units that are released go to no buyer
    ///
    /// Repeat the command if `left` is not 0; the checkout worker goes on, too. `update` with new times and stock makes the
    /// item open again.
    Finish = "finish", asks "The orders that wait for {} are removed, and their buyers get nothing, even if units are left.";
    /// Remove a finished item from Redis: the ledger keeps it for `describe`, `audit` and `export`
    ///
    /// Refused while a reservation waits for its payment, or the shop has not got all events.
    Archive = "archive", asks "{} leaves Redis, and its name is never used again.";
}

/// List the ids of all items, except archived ones
#[derive(Debug, Args, Serialize)]
pub(crate) struct List {
    /// List the archived ones instead
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    archived: bool,
}

impl Command for List {
    fn call(&self) -> Call {
        Call::new(Function::DropAdmin, "list", self)
    }

    fn show(&self, answer: &Value, _page: u32) -> String {
        match answer["items"].as_array() {
            Some(ids) => ids.iter().map(|id| table::cell("item_id", id)).collect::<Vec<_>>().join("\n"),
            None => table::fields(answer, &[]),
        }
    }

    fn next(&self, answer: &Value) -> Option<Value> {
        let mut payload = self.call().payload;
        payload["after"] = answer.get("next").filter(|next| !next.is_null())?.clone();
        Some(payload)
    }
}
