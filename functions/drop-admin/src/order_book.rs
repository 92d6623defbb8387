//! Every accepted order of an item in all regions, with its outcome, in a form that an outsider can check: with the audit of
//! the sales, `docs/check_order_book.py` recomputes who should have won. Buyers appear as a keyed hash.

use crate::audit::{AuditFormat, hash};
use crate::{AdminError, App};
use aws_lc_rs::hmac;
use futures::future::try_join_all;
use ledger::Sale;
use order_log::{LogRecord, RecordKind, RegionLog};
use replay::ReplayError;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::item::{Gate, ItemId, NewItem};
use shared::queue::ItemError;
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::collections::HashMap;

/// The most orders in one answer; Lambda limits an answer to 6 MB.
const PAGE_SIZE: usize = 20_000;
/// Buyers whose state is read at once.
const BUYERS: usize = 500;

/// The last order of an answer; the next answer begins after it. Orders that arrive meanwhile move no other one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BookCursor {
    bucket: u8,
    placed_at: Stamp,
    buyer: String,
    region: String,
}

impl BookCursor {
    fn of(bucket: u8, line: &BookLine) -> Self {
        let BookLine { region, placed_at, buyer, .. } = line;
        Self { bucket, placed_at: *placed_at, buyer: buyer.clone(), region: region.clone() }
    }

    fn is_before(&self, line: &BookLine) -> bool {
        (self.placed_at, &self.buyer, &self.region) < line.key()
    }
}

/// One order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct BookLine {
    region: String,
    placed_at: Stamp,
    buyer: String,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

impl BookLine {
    /// What orders the lines of a bucket. No two lines have the same.
    fn key(&self) -> (Stamp, &String, &String) {
        (self.placed_at, &self.buyer, &self.region)
    }
}

/// What main and the ledger have of a buyer.
#[derive(Clone, Debug, Default)]
struct BuyerFacts {
    sale: Option<Sale>,
    /// The stamp of the order that waits.
    queued: Option<Stamp>,
    /// Whether Redis has a unit for the buyer.
    has_unit: bool,
    is_excluded: bool,
}

/// One page of the order book, after `after`.
pub(crate) async fn order_book(
    app: &App,
    item_id: &ItemId,
    format: AuditFormat,
    after: Option<BookCursor>,
) -> Result<Value, AdminError> {
    if app.logs.is_empty() {
        return Err(AdminError::NoOrderLogs);
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, &app.ledger.audit_key().await?);
    // The ledger has it also after a loss of Redis.
    let item = app.ledger.item(item_id).await?.item;
    let mut page = BookPage::default();
    let mut next = None;
    for bucket in after.as_ref().map_or(0, |after| after.bucket)..=u8::MAX {
        let of_bucket = read_bucket(app, &item, &key, bucket).await?;
        next = page.add(bucket, of_bucket, after.as_ref(), PAGE_SIZE);
        if next.is_some() {
            break;
        }
    }
    let lines = page.lines;
    let mut answer = json!({ "item_id": item_id, "stock_total": item.stock_total, "next": next });
    match format {
        AuditFormat::Json => answer["orders"] = serde_json::to_value(&lines)?,
        AuditFormat::Csv => answer["csv"] = csv(&lines, after.is_none()).into(),
    }
    Ok(answer)
}

/// The lines of an answer.
#[derive(Default)]
struct BookPage {
    lines: Vec<BookLine>,
    /// The bucket of the last line.
    bucket: u8,
}

impl BookPage {
    /// Adds the lines of `bucket` after `after`, up to `most` lines in all. If lines of the bucket are left, returns the
    /// page's last line.
    fn add(
        &mut self,
        bucket: u8,
        of_bucket: Vec<BookLine>,
        after: Option<&BookCursor>,
        most: usize,
    ) -> Option<BookCursor> {
        let after = after.filter(|after| after.bucket == bucket);
        let mut left = of_bucket.into_iter().filter(|line| after.is_none_or(|after| after.is_before(line)));
        let before = self.lines.len();
        self.lines.extend(left.by_ref().take(most - before));
        if self.lines.len() > before {
            self.bucket = bucket;
        }
        let last = self.lines.last().map(|last| BookCursor::of(self.bucket, last));
        last.filter(|_| left.next().is_some())
    }
}

/// The orders of one bucket in all regions, by stamp.
async fn read_bucket(
    app: &App,
    item: &NewItem,
    key: &hmac::Key,
    bucket: u8,
) -> Result<Vec<BookLine>, AdminError> {
    let regions = try_join_all(app.logs.iter().map(|log| records(log, &item.item_id, bucket))).await?;
    let mut of_buyers: HashMap<&UserToken, Vec<(&str, &LogRecord)>> = HashMap::new();
    for (log, records) in app.logs.iter().zip(&regions) {
        for record in records {
            of_buyers.entry(&record.user_token).or_default().push((&log.region, record));
        }
    }
    let buyers: Vec<&UserToken> = of_buyers.keys().copied().collect();
    let mut facts = HashMap::new();
    for page in buyers.chunks(BUYERS) {
        let mut sales = app.ledger.sales_of(&item.item_id, page).await?;
        let excluded = app.ledger.excluded_among(&item.item_id, page).await?;
        let states = app.queue.stamps_and_units(&item.item_id, page).await.map_err(ItemError::from)?;
        for (buyer, (queued, has_unit)) in page.iter().zip(states) {
            let is_excluded = excluded.contains(*buyer);
            facts.insert(*buyer, BuyerFacts { sale: sales.remove(*buyer), queued, has_unit, is_excluded });
        }
    }
    let mut lines: Vec<BookLine> = Vec::new();
    for (buyer, records) in of_buyers {
        let known = facts.remove(buyer).unwrap_or_default();
        let name = hash(key, buyer);
        lines.extend(outcomes(item, &known, &records).into_iter().map(
            |(region, placed_at, outcome, reason)| BookLine {
                region: region.to_owned(),
                placed_at,
                buyer: name.clone(),
                outcome,
                reason,
            },
        ));
    }
    lines.sort_by(|a, b| a.key().cmp(&b.key()));
    Ok(lines)
}

async fn records(log: &RegionLog, item_id: &ItemId, bucket: u8) -> Result<Vec<LogRecord>, AdminError> {
    let unreadable = |error| ReplayError::RegionUnreadable { region: log.region.clone(), error };
    Ok(log.log.bucket_of(item_id, bucket, Stamp::EPOCH).await.map_err(unreadable)?.records)
}

type Outcome<'a> = (&'a str, Stamp, &'static str, Option<&'static str>);

/// The outcome of each order of one buyer.
fn outcomes<'a>(item: &NewItem, known: &BuyerFacts, records: &[(&'a str, &LogRecord)]) -> Vec<Outcome<'a>> {
    let left_at = records
        .iter()
        .filter(|(_, record)| record.kind == RecordKind::Leave)
        .map(|(_, record)| record.placed_at)
        .max();
    let sold_at = known.sale.as_ref().map(|sale| sale.placed_at);
    // Redis does not have the stamp of a reservation: it is the oldest order that nothing else explains.
    let mut unit_without_sale = known.has_unit && known.sale.as_ref().is_none_or(|sale| sale.is_over());
    let mut orders: Vec<_> = records.iter().filter(|(_, record)| record.kind == RecordKind::Order).collect();
    orders.sort_by_key(|(_, record)| record.placed_at);
    let outcome = |(region, order): &&(&'a str, &LogRecord)| {
        let placed_at = order.placed_at;
        let (outcome, reason) = if sold_at == Some(placed_at) {
            (known.sale.as_ref().map_or("sold", |sale| sale.state.name()), None)
        } else if known.queued == Some(placed_at) && !known.is_excluded {
            ("queued", None)
        } else if let Some(refusal) = order.refusal {
            ("refused", Some(refusal.reason.slug()))
        } else if left_at.is_some_and(|left_at| placed_at < left_at) {
            ("withdrawn", None)
        } else if Gate::at(item.opens_at, item.closes_at, placed_at) != Gate::Open {
            ("refused", Some(if placed_at < item.opens_at { "not-open-yet" } else { "closed" }))
        } else if known.queued.is_none_or(|queued| placed_at < queued)
            && sold_at.is_none_or(|sold_at| placed_at > sold_at)
            && std::mem::take(&mut unit_without_sale)
        {
            ("reserved", None)
        } else if known.is_excluded {
            ("excluded", None)
        } else if known.queued.is_some() || sold_at.is_some() || known.has_unit {
            ("repeated", None)
        } else {
            ("undecided", None)
        };
        (*region, placed_at, outcome, reason)
    };
    orders.iter().map(outcome).collect()
}

fn csv(lines: &[BookLine], with_names: bool) -> String {
    let mut text = String::new();
    if with_names {
        text.push_str("region,placed_at,buyer,outcome,reason\n");
    }
    // No value contains a comma, a quote or a line break.
    for BookLine { region, placed_at, buyer, outcome, reason } in lines {
        let reason = reason.unwrap_or_default();
        text.push_str(&format!("{region},{},{buyer},{outcome},{reason}\n", placed_at.as_micros()));
    }
    text
}

#[cfg(test)]
#[path = "order_book_tests.rs"]
mod tests;
