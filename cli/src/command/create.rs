//! `fairdrop create`

use super::items::show_item;
use super::{Call, Command, Function};
use crate::moment;
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

/// An opening within so many seconds leaves no time to correct a mistake.
const SOON_SECONDS: u64 = 60;

/// Put a new item on sale
#[derive(Debug, Args, Serialize)]
#[command(after_help = "\
Example: fairdrop create sneaker-42 --name 'Sneaker 42' --stock-total 500 --opens-at 2026-11-24T06:00:00Z --hold-seconds 600")]
pub(crate) struct Create {
    /// 1 to 64 characters of A-Z a-z 0-9 . _ -
    #[arg(value_name = "ITEM")]
    item_id: String,
    /// As buyers see it: 1 to 200 characters
    #[arg(long)]
    name: String,
    /// Units for sale
    #[arg(long, value_name = "UNITS")]
    stock_total: u32,
    /// When it opens: RFC 3339 with a zone, or microseconds since 1970
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    opens_at: u64,
    /// When it closes, in the same form; without it the item never closes
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    #[serde(skip_serializing_if = "Option::is_none")]
    closes_at: Option<u64>,
    /// Seconds that a reservation waits for payment, at most a day; 0 sells at once, without a payment
    #[arg(long, value_name = "SECONDS")]
    hold_seconds: u32,
    /// Seconds from a reservation to the latest end that pending payments give its hold, at most 14 days
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    max_hold_seconds: u32,
    /// Milliseconds from an order's stamp until it is served: 50 to 10000
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 2000)]
    settle_window_ms: u32,
}

impl Command for Create {
    fn call(&self) -> Call {
        Call::new(Function::DropAdmin, "create", &json!({ "item": self }))
    }

    fn cannot_be_undone(&self) -> Option<String> {
        let is_free = self.hold_seconds == 0;
        let opens_soon = self.opens_at < moment::in_seconds(SOON_SECONDS);
        let free = is_free.then_some("With --hold-seconds 0 each unit is sold without a payment.".to_owned());
        let opens = moment::text(self.opens_at);
        let soon = opens_soon.then(|| format!("The item opens at {opens}: its sale begins at once."));
        let consequences: Vec<String> = free.into_iter().chain(soon).collect();
        (!consequences.is_empty()).then(|| consequences.join(" "))
    }

    fn show(&self, answer: &Value, _page: u32) -> String {
        show_item(answer)
    }
}
