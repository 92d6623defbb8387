//! The sales of an item in the order of their reservations, in a form that an outsider can
//! check: `placed_at` never decreases down the list. Buyers appear as a keyed hash.

use crate::{AdminError, App};
use aws_lc_rs::hmac;
use ledger::{Exclusion, Sale, Void};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::item::ItemId;
use shared::region::RegionNumber;
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::collections::BTreeMap;

/// The most sales in one answer; Lambda limits an answer to 6 MB.
const PAGE_SIZE: u32 = 10_000;
/// The most voids in one answer.
const MAX_VOIDS: u32 = 1_000;
/// The most exclusions in one answer.
const MAX_EXCLUSIONS: u32 = 5_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AuditFormat {
    /// `sales`: a list of objects.
    #[default]
    Json,
    /// `csv`: a text with a header line and a line for each sale.
    Csv,
}

/// Where the next answer begins. The first answer has voids and exclusions, and those that it has no room for come after
/// the last sale.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum AuditCursor {
    Sale(SaleCursor),
    Rest(RestCursor),
}

/// The last sale of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SaleCursor {
    number: u64,
    reserved_at: Stamp,
    placed_at: Stamp,
    buyer: String,
}

/// How many voids and exclusions the answers before had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RestCursor {
    voids: u32,
    exclusions: u32,
}

/// A unit that an operator has taken back, also if its buyer was reserved again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct VoidLine {
    buyer: String,
    was: &'static str,
    placed_at: Stamp,
    reserved_at: Stamp,
    voided_at: Stamp,
    reason: String,
}

/// Buyers who were excluded for one reason at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct ExclusionLine {
    excluded_at: Stamp,
    reason: String,
    buyers: Vec<String>,
}

/// One sale.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct AuditLine {
    number: u64,
    buyer: String,
    state: &'static str,
    placed_at: Stamp,
    region: &'static str,
    reserved_at: Stamp,
    epoch: u64,
}

/// One page of an item's audit, after `after`.
pub(crate) async fn audit(
    app: &App,
    item_id: &ItemId,
    format: AuditFormat,
    after: Option<AuditCursor>,
) -> Result<Value, AdminError> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &app.ledger.audit_key().await?);
    let item = app.ledger.item(item_id).await?;
    let (after_sale, rest) = match &after {
        None => (None, Some(RestCursor::default())),
        Some(AuditCursor::Sale(cursor)) => (Some(cursor), None),
        Some(AuditCursor::Rest(rest)) => (None, Some(*rest)),
    };
    let sales = match (&after, after_sale) {
        (Some(AuditCursor::Rest(_)), _) => Vec::new(),
        (_, None) => app.ledger.sales(item_id, None, PAGE_SIZE).await?,
        (_, Some(cursor)) => {
            let start = find(app, item_id, &key, cursor).await?;
            app.ledger.sales(item_id, Some(&start), PAGE_SIZE).await?
        }
    };
    let first = after_sale.map_or(1, |cursor| cursor.number + 1);
    let lines: Vec<AuditLine> =
        sales.iter().zip(first..).map(|(sale, number)| line(&key, sale, number)).collect();
    let before = after_sale.map(|cursor| cursor.placed_at);
    let last_of_page = lines.last().filter(|_| sales.len() == PAGE_SIZE as usize);
    let next = match last_of_page {
        Some(last) => Some(AuditCursor::Sale(SaleCursor {
            number: last.number,
            reserved_at: last.reserved_at,
            placed_at: last.placed_at,
            buyer: last.buyer.clone(),
        })),
        None => more_after(app, item_id, rest.unwrap_or_default()).await?.map(AuditCursor::Rest),
    };
    let mut answer = json!({
        "item_id": item_id,
        "stock_total": item.item.stock_total,
        "units_taken": item.units_taken,
        "in_order": before.into_iter().chain(lines.iter().map(|line| line.placed_at)).is_sorted(),
        "next": next,
    });
    if let Some(rest) = rest {
        let voids = app.ledger.voids(item_id, rest.voids, MAX_VOIDS).await?;
        let voids: Vec<VoidLine> = voids.into_iter().map(|void| void_line(&key, void)).collect();
        answer["voids"] = serde_json::to_value(voids)?;
        let exclusions = app.ledger.exclusions_in_order(item_id, rest.exclusions, MAX_EXCLUSIONS).await?;
        answer["exclusions"] = serde_json::to_value(exclusion_lines(&key, &exclusions))?;
    }
    if after.is_none() {
        let unpaid = app.ledger.unpaid_holds(item_id).await?;
        answer["unpaid_holds"] = unpaid.holds.into();
        answer["unpaid_buyers"] = unpaid.buyers.into();
    }
    match format {
        AuditFormat::Json => answer["sales"] = serde_json::to_value(&lines)?,
        AuditFormat::Csv => answer["csv"] = csv(&lines, after.is_none()).into(),
    }
    Ok(answer)
}

/// The position behind the voids and exclusions of an answer that began at `rest`, if there are more.
async fn more_after(app: &App, item_id: &ItemId, rest: RestCursor) -> Result<Option<RestCursor>, AdminError> {
    let next = RestCursor { voids: rest.voids + MAX_VOIDS, exclusions: rest.exclusions + MAX_EXCLUSIONS };
    let has_more = !app.ledger.voids(item_id, next.voids, 1).await?.is_empty()
        || !app.ledger.exclusions_in_order(item_id, next.exclusions, 1).await?.is_empty();
    Ok(has_more.then_some(next))
}

fn void_line(key: &hmac::Key, void: Void) -> VoidLine {
    VoidLine {
        buyer: hash(key, &void.user_token),
        was: void.was.name(),
        placed_at: void.placed_at,
        reserved_at: void.reserved_at,
        voided_at: void.voided_at,
        reason: void.reason,
    }
}

/// By moment and reason, since a command can exclude a thousand buyers. The hashes are in no order of the names.
fn exclusion_lines(key: &hmac::Key, exclusions: &[Exclusion]) -> Vec<ExclusionLine> {
    let mut lines: BTreeMap<(Stamp, &str), Vec<String>> = BTreeMap::new();
    for one in exclusions {
        lines.entry((one.excluded_at, &one.reason)).or_default().push(hash(key, &one.user_token));
    }
    let line = |((excluded_at, reason), mut buyers): ((Stamp, &str), Vec<String>)| {
        buyers.sort_unstable();
        ExclusionLine { excluded_at, reason: reason.to_owned(), buyers }
    };
    lines.into_iter().map(line).collect()
}

/// The sale at which a page ended. The cursor contains only the hash of its buyer.
async fn find(app: &App, item_id: &ItemId, key: &hmac::Key, cursor: &SaleCursor) -> Result<Sale, AdminError> {
    let candidates = app.ledger.sales_at(item_id, cursor.reserved_at, cursor.placed_at).await?;
    let found = candidates.into_iter().find(|sale| hash(key, &sale.user_token) == cursor.buyer);
    found.ok_or(AdminError::NoSuchCursor)
}

fn line(key: &hmac::Key, sale: &Sale, number: u64) -> AuditLine {
    AuditLine {
        number,
        buyer: hash(key, &sale.user_token),
        state: sale.state.name(),
        placed_at: sale.placed_at,
        region: RegionNumber::of(sale.placed_at),
        reserved_at: sale.reserved_at,
        epoch: sale.epoch,
    }
}

/// HMAC-SHA256 of the buyer's token, in hexadecimal.
pub(crate) fn hash(key: &hmac::Key, buyer: &UserToken) -> String {
    let tag = hmac::sign(key, buyer.as_str().as_bytes());
    tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn csv(lines: &[AuditLine], with_names: bool) -> String {
    let mut text = String::new();
    if with_names {
        text.push_str("number,buyer,state,placed_at,region,reserved_at,epoch\n");
    }
    // No value contains a comma, a quote or a line break.
    for line in lines {
        let AuditLine { number, buyer, state, placed_at, region, reserved_at, epoch } = line;
        let (placed_at, reserved_at) = (placed_at.as_micros(), reserved_at.as_micros());
        text.push_str(&format!("{number},{buyer},{state},{placed_at},{region},{reserved_at},{epoch}\n"));
    }
    text
}
