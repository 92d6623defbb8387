//! `fairdrop void`: taking a unit back.

use super::{Call, Command, Function};
use crate::table;
use clap::Args;
use serde::Serialize;
use serde_json::Value;

/// Take a buyer's reserved or sold unit back
///
/// The next buyer in the queue gets the unit. The shop gets the event `voided`, and returns the money: a later report of
/// the payment is refused with `unit-voided`. The buyer may order again, unless --bar is given.
#[derive(Debug, Args, Serialize)]
#[command(
    after_help = "Example: fairdrop void sneaker-42 'auth0|6532' --reason 'stolen card' --bar --by Ann"
)]
pub(crate) struct Void {
    #[arg(value_name = "ITEM")]
    item_id: String,
    /// The buyer: the `sub` of their access tokens
    #[arg(value_name = "BUYER")]
    buyer: String,
    /// Why, for the record and for everyone who reads the audit: 1 to 500 characters
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// The buyer gets no unit of the item any more
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    bar: bool,
    /// Who takes the unit back, for the record
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

impl Command for Void {
    fn call(&self) -> Call {
        Call::new(Function::DropAdmin, "void", self)
    }

    fn cannot_be_undone(&self) -> Option<String> {
        Some(format!("The unit of {} goes to the next buyer of {}.", self.buyer, self.item_id))
    }

    fn show(&self, answer: &Value, _page: u32) -> String {
        table::fields(answer, &["item_id", "buyer", "was", "payment_reference", "barred"])
    }
}
