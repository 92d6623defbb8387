//! Lists of an item that come in pages: `audit`, `export` and `order-book`.

use super::{Call, Command, Function};
use crate::failure::Failure;
use crate::table;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    Table,
    Csv,
}

/// What every list has.
#[derive(Debug, Args)]
struct Listing {
    #[arg(value_name = "ITEM")]
    item_id: String,
    /// A table for reading, or CSV with times in microseconds since 1970
    #[arg(long, value_enum, default_value_t = Form::Table)]
    format: Form,
}

impl Listing {
    /// The first page of `command`.
    fn call(&self, command: &str) -> Call {
        let format = match self.format {
            Form::Table => "json",
            Form::Csv => "csv",
        };
        Call::new(Function::DropAdmin, command, &json!({ "item_id": self.item_id, "format": format }))
    }
}

/// The CSV as it came, or the rows of the member `list` below the other members.
fn show(answer: &Value, page: u32, list: &str, columns: &[&str]) -> String {
    if let Some(csv) = answer["csv"].as_str() {
        return csv.to_owned();
    }
    let mut head = answer.clone();
    let Some(fields) = head.as_object_mut() else { return table::fields(answer, &[]) };
    fields.remove("next");
    let rows = fields.remove(list).unwrap_or_default();
    // Later pages have other members only if these are lists that go on.
    let goes_on = head.get("exclusions").is_some();
    let above = if page == 0 || goes_on { table::fields(&head, &["item_id"]) } else { String::new() };
    table::join(&above, &table::rows(rows.as_array().map_or(&[][..], Vec::as_slice), columns))
}

/// The payload of the page after `answer`.
fn next(mut first: Call, answer: &Value) -> Option<Value> {
    first.payload["after"] = answer.get("next").filter(|next| !next.is_null())?.clone();
    Some(first.payload)
}

/// List the buyers who have bought a unit of an item, for shipping, or whose unit was voided
///
/// Fetches all pages (5,000 units each). The ledger records each page, with who exports and when. In CSV an apostrophe
/// stands before a value that begins with = + - @ or ', so that a spreadsheet does not run it. Import the columns as text:
/// a spreadsheet rounds long numbers, and drops leading zeros.
#[derive(Debug, Args)]
#[command(after_help = "Example: fairdrop export sneaker-42 --by Ann --format csv > sneaker-42.csv")]
pub(crate) struct Export {
    #[command(flatten)]
    listing: Listing,
    /// Who exports, for the record
    #[arg(long, value_name = "NAME")]
    by: String,
    /// List the units that were taken back after their sale or reservation: do not ship them
    #[arg(long)]
    voided: bool,
}

impl Command for Export {
    fn call(&self) -> Call {
        let mut call = self.listing.call("export");
        call.payload["by"] = json!(self.by);
        if self.voided {
            call.payload["of"] = json!("voided");
        }
        call
    }

    fn show(&self, answer: &Value, page: u32) -> String {
        let list = if self.voided { "voided" } else { "sold" };
        show(answer, page, list, &["user_token", "payment_reference", "placed_at", "reserved_at"])
    }

    fn next(&self, answer: &Value) -> Option<Value> {
        next(self.call(), answer)
    }
}

/// List every sale of an item in the order of its reservations, for everyone to check
///
/// Fetches all pages (10,000 sales each). Buyers appear as keyed hashes. Exit code 1: a page is not in the order of the
/// stamps.
#[derive(Debug, Args)]
#[command(after_help = "Example: fairdrop audit sneaker-42 --format csv > sneaker-42.csv")]
pub(crate) struct Audit {
    #[command(flatten)]
    listing: Listing,
}

impl Command for Audit {
    fn call(&self) -> Call {
        self.listing.call("audit")
    }

    fn show(&self, answer: &Value, page: u32) -> String {
        show(
            answer,
            page,
            "sales",
            &["number", "buyer", "state", "placed_at", "region", "reserved_at", "epoch"],
        )
    }

    fn next(&self, answer: &Value) -> Option<Value> {
        next(self.call(), answer).filter(|_| answer["in_order"] != false)
    }

    fn verdict(&self, answer: &Value) -> Result<(), Failure> {
        if answer["in_order"] == false {
            let item_id = &self.listing.item_id;
            let why = format!(
                "the sales of {item_id} are not in the order of their stamps; the audit stops at this page"
            );
            return Err(Failure::Negative(why));
        }
        Ok(())
    }
}

/// List every accepted order of an item in all regions with its outcome, for everyone to check
///
/// Fetches all pages. Buyers appear as keyed hashes, as in `audit`. docs/check_order_book.py compares both lists.
#[derive(Debug, Args)]
#[command(after_help = "Example: fairdrop order-book sneaker-42 --format csv > orders.csv")]
pub(crate) struct OrderBook {
    #[command(flatten)]
    listing: Listing,
}

impl Command for OrderBook {
    fn call(&self) -> Call {
        self.listing.call("order_book")
    }

    fn show(&self, answer: &Value, page: u32) -> String {
        show(answer, page, "orders", &["region", "placed_at", "buyer", "outcome", "reason"])
    }

    fn next(&self, answer: &Value) -> Option<Value> {
        next(self.call(), answer)
    }
}
