//! Removing a buyer's name from the ledger and the order logs. Redis has nothing of an archived item.

use crate::operator::OperatorName;
use crate::{AdminError, App, items, void};
use aws_lc_rs::rand;
use futures::future::try_join_all;
use futures::stream::{self, StreamExt, TryStreamExt};
use ledger::{Erasure, NamedItem};
use order_log::{OrderLogError, RETENTION};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::item::ItemId;
use shared::queue::{ItemError, OrderState};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::time::Duration;

/// The most items that one command goes through.
const ITEMS: u32 = 500;
/// Items that are searched at the same time.
const PARALLEL: usize = 8;
const DAY: Duration = Duration::from_secs(24 * 3_600);
/// DynamoDB deletes a record within some days after the end of its retention; no document says within how many.
const EXPIRED: Duration = Duration::from_secs(30 * 24 * 3_600);
/// How long DynamoDB keeps backups for point-in-time recovery.
const LOG_BACKUPS: Duration = Duration::from_secs(35 * 24 * 3_600);
/// How long the dead-letter queue keeps an event, possibly a payment notice (`template.yaml`).
pub const DEAD_LETTERS: Duration = Duration::from_secs(14 * 24 * 3_600);
/// How long ElastiCache keeps the automatic snapshots of Redis (`stores.yaml`).
pub const REDIS_SNAPSHOTS: Duration = Duration::from_secs(24 * 3_600);
/// The longest life of a connection for live updates: the registry has its buyer until then (`shared/live`).
pub const LIVE_CONNECTION: Duration = Duration::from_secs(2 * 3_600);

/// Where the next command goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EraseCursor {
    item_id: ItemId,
    erased_as: Pseudonym,
}

/// `erased-` and 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Pseudonym(String);

impl Pseudonym {
    fn new() -> Result<Self, EraseError> {
        let mut random = [0_u8; 16];
        rand::fill(&mut random).map_err(|_| EraseError::NoRandomness)?;
        Ok(Self(random.iter().fold("erased-".to_owned(), |text, byte| format!("{text}{byte:02x}"))))
    }
}

impl TryFrom<String> for Pseudonym {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let is_so =
            text.strip_prefix("erased-").is_some_and(|hex| hex.len() == 32 && hex.bytes().all(is_hex));
        if is_so { Ok(Self(text)) } else { Err("`erased_as` must be `erased-` and 32 hexadecimal digits") }
    }
}

/// Why a buyer was not erased.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    #[error(
        "the buyer is in {} that are not archived: finish and archive them, then repeat the command; nothing was erased", list(.0)
    )]
    InItems(Vec<ItemId>),
    #[error(
        "could not read the order log of {region} or delete from it: {error}; the command can be repeated, and completes what was begun"
    )]
    Log { region: String, error: OrderLogError },
    #[error("the system has no random numbers; nothing was erased")]
    NoRandomness,
}

impl EraseError {
    /// The `errorType` of the invocation.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::InItems(_) => "BuyerInItems",
            Self::Log { .. } => "LogUnreadable",
            Self::NoRandomness => "NotErased",
        }
    }
}

/// The first items, as a text.
fn list(items: &[ItemId]) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<&str> = items.iter().take(SHOWN).map(ItemId::as_str).collect();
    let more = items.len().saturating_sub(SHOWN);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("items {}{rest}", shown.join(", "))
}

/// Erases a buyer from up to 500 archived items after `after`: the answer's `next` continues. Refused while the buyer is in
/// an item that is not archived. A repetition completes what was interrupted.
pub(crate) async fn erase(
    app: &App,
    buyer: &UserToken,
    by: &OperatorName,
    after: Option<EraseCursor>,
) -> Result<Value, AdminError> {
    items::refuse_elsewhere(app).await?;
    let fence = void::fence(app).await?;
    let now = app.queue.main_time().await.map_err(ItemError::from)?;
    let (start, pseudonym) = match after {
        Some(cursor) => (Some(cursor.item_id), cursor.erased_as),
        None => {
            refuse_in_items(app, buyer).await?;
            (None, Pseudonym::new()?)
        }
    };
    let page = app.ledger.named_items(start.as_ref(), ITEMS).await?;
    let (mut rows, mut records) = (0, 0);
    for item in page.iter().filter(|item| item.is_archived) {
        if has_records(item, now) {
            records += erase_from_logs(app, &item.item_id, buyer).await?;
        }
        if app.ledger.names_buyer(&item.item_id, buyer).await? {
            let erasure = Erasure { buyer, pseudonym: &pseudonym.0, by: by.as_str() };
            rows += app.ledger.erase(&item.item_id, erasure, fence).await?;
        }
    }
    let last = page.last().filter(|_| page.len() == ITEMS as usize);
    let next = last.map(|last| EraseCursor { item_id: last.item_id.clone(), erased_as: pseudonym.clone() });
    Ok(json!({
        "erased_as": pseudonym,
        "ledger_rows": rows,
        "log_records": records,
        "remains": remains(now, app.backups_kept),
        "next": next,
    }))
}

/// What no command can change, and until when it exists.
fn remains(now: Stamp, backups_kept: Option<Duration>) -> Value {
    json!({
        "ledger_backups_end_at": backups_kept.map(|kept| now.saturating_add(kept)),
        "log_backups_end_at": now.saturating_add(LOG_BACKUPS),
        "log_streams_end_at": now.saturating_add(DAY),
        "dead_letters_end_at": now.saturating_add(DEAD_LETTERS),
        "redis_snapshots_end_at": now.saturating_add(REDIS_SNAPSHOTS),
        "live_ends_at": now.saturating_add(LIVE_CONNECTION),
    })
}

/// Whether an order log may have records of the item.
fn has_records(item: &NamedItem, now: Stamp) -> bool {
    item.ended_at.is_none_or(|ended| ended.saturating_add(RETENTION + EXPIRED) > now)
}

async fn erase_from_logs(app: &App, item_id: &ItemId, buyer: &UserToken) -> Result<u64, EraseError> {
    let erase = async |log: &order_log::RegionLog| {
        let failed = |error| EraseError::Log { region: log.region.clone(), error };
        log.log.erase(item_id, buyer).await.map_err(failed)
    };
    Ok(try_join_all(app.logs.iter().map(erase)).await?.into_iter().sum())
}

/// Fails if the buyer is in an item that is not archived.
async fn refuse_in_items(app: &App, buyer: &UserToken) -> Result<(), AdminError> {
    let open = app.ledger.item_ids().await?;
    let found = stream::iter(open.into_iter().map(|item_id| async move {
        let is_in = is_in_item(app, &item_id, buyer).await?;
        Ok::<_, AdminError>(is_in.then_some(item_id))
    }));
    let found: Vec<Option<ItemId>> = found.buffered(PARALLEL).try_collect().await?;
    let found: Vec<ItemId> = found.into_iter().flatten().collect();
    if found.is_empty() { Ok(()) } else { Err(EraseError::InItems(found).into()) }
}

async fn is_in_item(app: &App, item_id: &ItemId, buyer: &UserToken) -> Result<bool, AdminError> {
    let state = app.queue.order_state(item_id, buyer).await.map_err(ItemError::from)?;
    if !matches!(state, OrderState::None) || app.ledger.names_buyer(item_id, buyer).await? {
        return Ok(true);
    }
    for log in &app.logs {
        let failed = |error| EraseError::Log { region: log.region.clone(), error };
        if log.log.latest_of(item_id, buyer).await.map_err(failed)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pseudonyms_are_random_and_checked() {
        let (one, other) = (Pseudonym::new().unwrap(), Pseudonym::new().unwrap());
        assert_ne!(one, other);
        assert_eq!(Pseudonym::try_from(one.0.clone()), Ok(one));
        for wrong in ["ann", "erased-", "erased-0123", &format!("erased-{}", "G".repeat(32))] {
            assert!(Pseudonym::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_long_list_of_items_is_shortened() {
        let items = |count: usize| (0..count).map(|n| format!("i{n}").parse().unwrap()).collect::<Vec<_>>();
        assert_eq!(list(&items(2)), "items i0, i1");
        assert!(list(&items(12)).ends_with("i9 and 2 more"));
    }

    #[test]
    fn an_item_that_ended_long_ago_has_no_records() {
        let day = |days: u64| Stamp::from_micros(days * 86_400_000_000).unwrap();
        let item = |ended_at| NamedItem { item_id: "a".parse().unwrap(), ended_at, is_archived: true };
        assert!(has_records(&item(Some(day(100))), day(136)));
        assert!(!has_records(&item(Some(day(100))), day(138)));
        assert!(has_records(&item(None), day(1_000)));
    }
}
