//! `fairdrop reconcile`, `rebuild`, `replay` and `sell-withheld`: Redis against the ledger and the order logs.
//! `republish`: the shop against the ledger.

use super::items::show_item;
use super::{Call, Command, Function};
use crate::failure::Failure;
use crate::table;
use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value};

/// Compare Redis with the ledger, and repair Redis on request
///
/// While tasks wait, the comparison is incomplete: `pause` the item, and wait until `describe` shows no waiting task.
/// Fetches all pages. Exit code 1: an item could not be compared, and its error says why.
#[derive(Debug, Args, Serialize)]
#[command(after_help = "Example: fairdrop reconcile sneaker-42 --repair --yes")]
pub(crate) struct Reconcile {
    /// One item; all items of the ledger without it
    #[arg(value_name = "ITEM")]
    item_id: Option<String>,
    /// Change Redis to what the ledger says
    #[arg(long)]
    repair: bool,
}

impl Command for Reconcile {
    fn call(&self) -> Call {
        Call::new(Function::DropAdmin, "reconcile", self)
    }

    fn cannot_be_undone(&self) -> Option<String> {
        let items = self.item_id.as_deref().unwrap_or("every item");
        self.repair.then(|| {
            format!("Redis's reservations and stock of {items} are changed to what the ledger says.")
        })
    }

    fn next(&self, answer: &Value) -> Option<Value> {
        let mut next = self.call();
        next.payload["after"] = answer.get("next").filter(|next| !next.is_null())?.clone();
        Some(next.payload)
    }

    fn verdict(&self, answer: &Value) -> Result<(), Failure> {
        let items = answer["items"].as_object().into_iter().flatten();
        let failed: Vec<&str> =
            items.filter(|(_, item)| item["error"].is_string()).map(|(id, _)| id.as_str()).collect();
        if failed.is_empty() {
            return Ok(());
        }
        Err(Failure::Negative(format!("these items could not be compared: {}", failed.join(", "))))
    }

    fn show(&self, answer: &Value, _page: u32) -> String {
        let Some(items) = answer["items"].as_object() else { return table::fields(answer, &[]) };
        let row = |(id, item): (&String, &Value)| {
            let mut row = Map::from_iter([("item_id".to_owned(), Value::from(id.clone()))]);
            row.extend(item.as_object().cloned().unwrap_or_default());
            Value::Object(row)
        };
        let list: Vec<Value> = items.iter().map(row).collect();
        table::rows(
            &list,
            &[
                "item_id",
                "tasks_waiting",
                "stock_left",
                "stock_counted",
                "differences",
                "item_fields",
                "error",
            ],
        )
    }
}

/// Restore an item in Redis from the ledger
#[derive(Debug, Args, Serialize)]
pub(crate) struct Rebuild {
    #[arg(value_name = "ITEM")]
    item_id: String,
}

impl Command for Rebuild {
    fn call(&self) -> Call {
        Call::new(Function::DropAdmin, "rebuild", self)
    }

    fn cannot_be_undone(&self) -> Option<String> {
        Some(format!(
            "Reservations and sales of {} that only Redis has are discarded. Orders that wait in Redis stay.",
            self.item_id
        ))
    }

    fn show(&self, answer: &Value, _page: u32) -> String {
        table::fields(answer, &["item_id", "units_taken"])
    }
}

/// Publish an item's events for the shop again, dead letters included
///
/// Fetches all pages (50,000 events each). Events that were published more than 14 days ago are gone. The shop recognises repetitions by their id.
#[derive(Debug, Args, Serialize)]
#[command(after_help = "Example: fairdrop republish sneaker-42 --from 1")]
pub(crate) struct Republish {
    #[arg(value_name = "ITEM")]
    item_id: String,
    /// The sequence of the first event
    #[arg(long, value_name = "SEQUENCE")]
    from: u64,
}

impl Command for Republish {
    fn call(&self) -> Call {
        Call::new(Function::DropAdmin, "republish", self)
    }

    fn show(&self, answer: &Value, _page: u32) -> String {
        table::fields(answer, &["item_id", "events"])
    }

    fn next(&self, answer: &Value) -> Option<Value> {
        let mut next = self.call();
        next.payload["from"] = answer.get("next").filter(|next| !next.is_null())?.clone();
        Some(next.payload)
    }
}

/// Restore an item's queue in Redis from the order logs of all regions
///
/// The worker does the same by itself after a loss of Redis. Nothing of the item is sold until the replay ends. In a stack
/// without order logs it ends the wait of an item for a replay.
#[derive(Debug, Args, Serialize)]
#[command(after_help = "Example: fairdrop replay sneaker-42 --without eu-west-1")]
pub(crate) struct Replay {
    #[arg(value_name = "ITEM")]
    item_id: String,
    /// A region whose log cannot be read, and whose waiting orders lose their places; may be repeated
    #[arg(long, value_name = "REGION")]
    without: Vec<String>,
}

impl Command for Replay {
    fn call(&self) -> Call {
        Call::new(Function::DropAdmin, "replay", self)
    }

    fn cannot_be_undone(&self) -> Option<String> {
        let regions = self.without.join(", ");
        let why = || format!("Waiting orders of {regions} that Redis has lost are overtaken by all others.");
        (!self.without.is_empty()).then(why)
    }
}

/// Put units on sale that a failover has withheld
#[derive(Debug, Args, Serialize)]
#[command(after_help = "Example: fairdrop sell-withheld sneaker-42 --keep 0")]
pub(crate) struct SellWithheld {
    #[arg(value_name = "ITEM")]
    item_id: String,
    /// Units that stay withheld
    #[arg(long, value_name = "UNITS")]
    keep: u32,
}

impl Command for SellWithheld {
    fn call(&self) -> Call {
        Call::new(Function::DropAdmin, "sell_withheld", self)
    }

    fn cannot_be_undone(&self) -> Option<String> {
        Some(format!("All withheld units of {} except {} go to the next buyers.", self.item_id, self.keep))
    }

    fn show(&self, answer: &Value, _page: u32) -> String {
        show_item(answer)
    }
}
