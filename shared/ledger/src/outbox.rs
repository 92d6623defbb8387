//! The outbox: events for the shop, written by the database in the transaction that decides a change
//! (`migrations/0009_outbox.sql`), and read here by their publisher.
//!
//! One publisher acts at a time, in a *turn*: a transaction with an advisory lock, which ends with its connection. It
//! reads pending events, the publisher sends them, and [`OutboxTurn::finish`] writes which of them are decided. If a
//! publisher dies in between, the next one sends the same events again.

mod upkeep;

pub use upkeep::{OutboxState, Republished};

use crate::items::{moment, stamp};
use crate::{CALL_LIMIT, Ledger, LedgerError};
use shared::item::ItemId;
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use sqlx::postgres::PgRow;
use sqlx::{Postgres, Row, Transaction};
use std::time::Duration;
use tokio::time::timeout;

/// A publisher must finish its turn within this time, since PostgreSQL ends a session that is idle in a transaction for
/// 10 s.
pub const TURN_LIMIT: Duration = Duration::from_secs(5);
/// The number of items in one turn.
const ITEMS_PER_TURN: i64 = 16;
/// The number of events of one item in one turn.
const EVENTS_PER_ITEM: i64 = 100;

/// An event of the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxEvent {
    pub item_id: ItemId,
    /// 1 for the item's first event; without gaps.
    pub sequence: u64,
    /// The epoch under which the change was decided.
    pub epoch: u64,
    /// When the change was decided, by the ledger's clock.
    pub at: Stamp,
    pub kind: OutboxEventKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutboxEventKind {
    /// A unit is reserved for the buyer.
    Reserved(EventSale),
    /// The hold of the reservation ends later than before.
    Extended(EventSale),
    /// The buyer has bought the unit.
    Sold(EventSale),
    /// The reservation ended without a sale.
    Released(EventSale),
    /// An operator has taken a reserved or sold unit back.
    Voided(EventSale),
    /// The item takes no orders from this moment on.
    Closed { closes_at: Stamp },
}

/// A sale after its change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSale {
    pub user_token: UserToken,
    pub placed_at: Stamp,
    pub reserved_at: Stamp,
    pub hold_until: Stamp,
    pub payment_reference: Option<String>,
}

/// A publisher's turn. Dropping it leaves all its events pending.
#[derive(Debug)]
pub struct OutboxTurn {
    transaction: Transaction<'static, Postgres>,
    /// Pending events. Those of an item are in the order of their sequence, and none is missing between them.
    pub events: Vec<OutboxEvent>,
    /// The first pending event that could not be read. It and its item's later ones stay pending.
    pub malformed: Option<MalformedEvent>,
    /// The last item of the turn, if there may be items after it.
    pub last_item: Option<ItemId>,
}

/// An event that the outbox has and that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MalformedEvent {
    pub item_id: String,
    pub sequence: i64,
    pub error: LedgerError,
}

/// The result of sending an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    Published,
    /// EventBridge refused it permanently, with this code.
    DeadLetter(&'static str),
}

/// The first pending events of the first items after `$1` that have any. The recursion finds each item by one look into
/// the index, however many events are pending.
const READ_PENDING: &str = "
    WITH RECURSIVE item (item_id, place) AS (
        SELECT min(item_id), 1 FROM fairdrop.outbox
         WHERE item_id > $1 AND published_at IS NULL AND dead_letter IS NULL
        UNION ALL
        SELECT (SELECT min(outbox.item_id) FROM fairdrop.outbox
                 WHERE outbox.item_id > item.item_id AND published_at IS NULL AND dead_letter IS NULL), place + 1
          FROM item WHERE item.item_id IS NOT NULL AND place < $2
    )
    SELECT event.* FROM item CROSS JOIN LATERAL (
        SELECT * FROM fairdrop.outbox
         WHERE outbox.item_id = item.item_id AND published_at IS NULL AND dead_letter IS NULL
         ORDER BY sequence LIMIT $3) AS event
     ORDER BY event.item_id, event.sequence";

impl Ledger {
    /// Begins a turn with the pending events of items after `after`. `None` if another publisher has the turn.
    pub async fn outbox_turn(&self, after: Option<&ItemId>) -> Result<Option<OutboxTurn>, LedgerError> {
        self.within_limit(async {
            let mut transaction = self.pool.begin().await?;
            // Neither the lock nor the reads get a transaction id, so a turn does not blur the loss that heartbeats
            // measure by these ids.
            let is_mine: bool = sqlx::query_scalar(
                "SELECT pg_try_advisory_xact_lock(hashtextextended('fairdrop.outbox', 0))",
            )
            .fetch_one(&mut *transaction)
            .await?;
            if !is_mine {
                return Ok(None);
            }
            let rows = sqlx::query(READ_PENDING)
                .bind(after.map_or("", ItemId::as_str))
                .bind(ITEMS_PER_TURN)
                .bind(EVENTS_PER_ITEM)
                .fetch_all(&mut *transaction)
                .await?;
            let of_items: Vec<&[PgRow]> = rows.chunk_by(|one, next| item_of(one) == item_of(next)).collect();
            let mut malformed = None;
            let events = of_items.iter().flat_map(|rows| readable(rows, &mut malformed)).collect();
            let last_item = rows.last().and_then(item_of).and_then(|item_id| item_id.parse().ok());
            Ok(Some(OutboxTurn {
                transaction,
                events,
                malformed,
                last_item: last_item.filter(|_| of_items.len() == ITEMS_PER_TURN as usize),
            }))
        })
        .await
    }
}

impl OutboxTurn {
    /// Ends the turn: the `decided` events are not sent again.
    pub async fn finish(self, decided: &[(&OutboxEvent, Decided)]) -> Result<(), LedgerError> {
        let Self { mut transaction, .. } = self;
        let items: Vec<&str> = decided.iter().map(|(event, _)| event.item_id.as_str()).collect();
        let sequences: Vec<i64> = decided.iter().map(|(event, _)| event.sequence.cast_signed()).collect();
        let dead_letters: Vec<Option<&str>> = decided
            .iter()
            .map(|(_, decided)| match decided {
                Decided::Published => None,
                Decided::DeadLetter(code) => Some(*code),
            })
            .collect();
        let work = async {
            if !decided.is_empty() {
                sqlx::query(
                    "UPDATE fairdrop.outbox AS event
                        SET dead_letter = decided.dead_letter,
                            published_at = CASE WHEN decided.dead_letter IS NULL
                                THEN (extract(epoch FROM clock_timestamp()) * 1000000)::bigint END
                       FROM unnest($1::text[], $2::bigint[], $3::text[]) AS decided (item_id, sequence, dead_letter)
                      WHERE event.item_id = decided.item_id AND event.sequence = decided.sequence",
                )
                .bind(&items)
                .bind(&sequences)
                .bind(&dead_letters)
                .execute(&mut *transaction)
                .await?;
            }
            Ok(transaction.commit().await?)
        };
        timeout(CALL_LIMIT, work)
            .await
            .unwrap_or_else(|_| Err(LedgerError::Unavailable("no answer in time".into())))
    }
}

fn item_of(row: &PgRow) -> Option<&str> {
    row.try_get("item_id").ok()
}

/// The events of one item, up to the first that is malformed: later ones must not overtake it. Other items go on.
fn readable(rows: &[PgRow], malformed: &mut Option<MalformedEvent>) -> Vec<OutboxEvent> {
    let mut events = Vec::with_capacity(rows.len());
    for row in rows {
        match read(row) {
            Ok(event) => events.push(event),
            Err(error) => {
                malformed.get_or_insert_with(|| MalformedEvent {
                    item_id: item_of(row).unwrap_or_default().to_owned(),
                    sequence: row.try_get("sequence").unwrap_or_default(),
                    error,
                });
                break;
            }
        }
    }
    events
}

fn read(row: &PgRow) -> Result<OutboxEvent, LedgerError> {
    let malformed = || LedgerError::Refused("the row of an event is malformed".into());
    let sale = || {
        Ok::<_, LedgerError>(EventSale {
            user_token: UserToken::parse(row.try_get::<String, _>("user_token")?).map_err(|_| malformed())?,
            placed_at: stamp(row.try_get("placed_at")?)?,
            reserved_at: stamp(row.try_get("reserved_at")?)?,
            hold_until: stamp(row.try_get("hold_until")?)?,
            payment_reference: row.try_get("payment_reference")?,
        })
    };
    let kind = match row.try_get("kind")? {
        "reserved" => OutboxEventKind::Reserved(sale()?),
        "extended" => OutboxEventKind::Extended(sale()?),
        "sold" => OutboxEventKind::Sold(sale()?),
        "released" => OutboxEventKind::Released(sale()?),
        "voided" => OutboxEventKind::Voided(sale()?),
        "closed" => OutboxEventKind::Closed { closes_at: stamp(row.try_get("closes_at")?)? },
        _ => return Err(malformed()),
    };
    let number = |column| row.try_get::<i64, _>(column).map(i64::unsigned_abs);
    Ok(OutboxEvent {
        item_id: row.try_get::<String, _>("item_id")?.parse().map_err(|_| malformed())?,
        sequence: number("sequence")?,
        epoch: number("epoch")?,
        at: stamp(row.try_get("at")?)?,
        kind,
    })
}
