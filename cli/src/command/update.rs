//! `fairdrop update`

use super::items::show_item;
use super::{Call, Command, Function};
use crate::moment;
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

/// Change an item, also during its sale; what is not given stays as it is
///
/// An item that was finished opens again if opens_at, closes_at and, unless units are left, stock_total are given.
#[derive(Debug, Args)]
#[command(after_help = "Example: fairdrop update sneaker-42 --stock-total 600")]
pub(crate) struct Update {
    #[arg(value_name = "ITEM")]
    item_id: String,
    #[command(flatten)]
    changes: Changes,
    /// New stock of an item that has closed goes to the orders that wait
    #[arg(long)]
    serve_waiting: bool,
}

#[derive(Debug, Args, Serialize)]
#[group(required = true, multiple = true)]
struct Changes {
    /// As buyers see it: 1 to 200 characters
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Units for sale, at least the number that is already taken
    #[arg(long, value_name = "UNITS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    stock_total: Option<u32>,
    /// When it opens: RFC 3339 with a zone, or microseconds since 1970
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    #[serde(skip_serializing_if = "Option::is_none")]
    opens_at: Option<u64>,
    /// When it closes, in the same form
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    #[serde(skip_serializing_if = "Option::is_none")]
    closes_at: Option<u64>,
    /// Seconds that a later reservation waits for payment, at most a day; 0 sells at once
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    hold_seconds: Option<u32>,
    /// Seconds from a reservation to the latest end that pending payments give its hold, at most 14 days
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_hold_seconds: Option<u32>,
    /// Milliseconds from an order's stamp until it is served: 50 to 10000
    #[arg(long, value_name = "MILLISECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    settle_window_ms: Option<u32>,
}

impl Command for Update {
    fn call(&self) -> Call {
        let serve_waiting = self.serve_waiting.then_some(true);
        let fields =
            json!({ "item_id": self.item_id, "changes": self.changes, "serve_waiting": serve_waiting });
        Call::new(Function::DropAdmin, "update", &fields)
    }

    fn cannot_be_undone(&self) -> Option<String> {
        let Changes { stock_total, opens_at, closes_at, hold_seconds, .. } = &self.changes;
        let at = |moment: &u64| moment::text(*moment);
        let consequences: Vec<String> = [
            stock_total.map(|units| format!("The stock becomes {units}: additional units are sold at once.")),
            opens_at.as_ref().map(|opens| format!("Orders are accepted from {} on.", at(opens))),
            closes_at.as_ref().map(|closes| format!("Buyers are refused from {} on.", at(closes))),
            (*hold_seconds == Some(0)).then(|| "Later units are sold without a payment.".to_owned()),
        ]
        .into_iter()
        .flatten()
        .collect();
        (!consequences.is_empty()).then(|| consequences.join(" "))
    }

    fn show(&self, answer: &Value, _page: u32) -> String {
        show_item(answer)
    }
}
