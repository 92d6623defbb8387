//! `fairdrop exclude` and `limit-unpaid`: buyers who get no unit.

use super::items::show_item;
use super::{Call, Command, Function};
use crate::table;
use clap::Args;
use serde::Serialize;
use serde_json::Value;

/// Exclude buyers of an item: they lose their places in the queue, and get no unit
///
/// It works before the opening, too. Buyers who have a unit keep it and are named in the answer: use `void` for them.
/// For a long list: xargs -d '\n' -n 1000 fairdrop exclude sneaker-42 --yes --reason bots < list.txt
#[derive(Debug, Args, Serialize)]
#[command(after_help = "Example: fairdrop exclude sneaker-42 --reason bots 'auth0|6532' 'auth0|6533'")]
pub(crate) struct Exclude {
    #[arg(value_name = "ITEM")]
    item_id: String,
    /// The buyers: the `sub` of their access tokens
    #[arg(value_name = "BUYER", required = true, num_args = 1..=1000)]
    buyers: Vec<String>,
    /// Why, for the record and for everyone who reads the audit: 1 to 500 characters
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who excludes them, for the record
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

impl Command for Exclude {
    fn call(&self) -> Call {
        Call::new(Function::DropAdmin, "exclude", self)
    }

    fn cannot_be_undone(&self) -> Option<String> {
        Some(format!("{} buyers lose their places and get no unit of {}.", self.buyers.len(), self.item_id))
    }

    fn show(&self, answer: &Value, _page: u32) -> String {
        table::fields(answer, &["item_id", "excluded", "new", "in_redis", "with_unit"])
    }
}

/// Refuse units of an item to buyers who often reserve and do not pay
///
/// A buyer with this number of unpaid holds of any items in the last 30 days is excluded when a unit of this item would be
/// reserved for them; the unit goes to the next buyer. Holds that buyers cancelled do not count.
#[derive(Debug, Args, Serialize)]
#[command(after_help = "Example: fairdrop limit-unpaid sneaker-42 3")]
pub(crate) struct LimitUnpaid {
    #[arg(value_name = "ITEM")]
    item_id: String,
    /// 1 to 100 unpaid holds; 0 removes the limit
    #[arg(value_name = "HOLDS")]
    limit: u16,
}

impl Command for LimitUnpaid {
    fn call(&self) -> Call {
        Call::new(Function::DropAdmin, "limit_unpaid", self)
    }

    fn cannot_be_undone(&self) -> Option<String> {
        let (limit, item) = (self.limit, &self.item_id);
        (limit > 0).then(|| format!("buyers with {limit} unpaid holds in the last 30 days are excluded from {item} when their turn comes."))
    }

    fn show(&self, answer: &Value, _page: u32) -> String {
        show_item(answer)
    }
}
