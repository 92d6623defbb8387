//! Writing the ledger's decisions to Redis, and reading the reservations that are due for one.

use super::{CANCELLED_OFFSET_MICROS, Keys, LinkError, MAX_BATCH, Queue};
use crate::item::ItemId;
use crate::stamp::Stamp;
use crate::user_token::UserToken;
use redis::Script;
use std::sync::LazyLock;

pub(super) static SETTLE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("settle.lua")));
pub(super) static DUE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("due.lua")));

/// A change of one reservation in Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    pub user_token: UserToken,
    /// Only a reservation with this score is changed; with `None`, any, except that a voided unit is not sold.
    pub expected: Option<String>,
    pub outcome: ReservationOutcome,
}

/// The new state of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservationOutcome {
    Sold,
    /// It waits for payment until `until`.
    Reserved {
        until: Stamp,
    },
    /// It ended without a sale.
    Released {
        /// Whether its unit returns to the stock. The ledger may have none for it.
        returns_unit: bool,
    },
    /// An operator has taken the unit back; it returns to the stock.
    Voided,
    /// The buyer gets no unit of the item; the unit returns to the stock.
    Excluded,
}

/// Reservations that are due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueBatch {
    /// By main's clock.
    pub now: Stamp,
    /// The item's epoch in Redis.
    pub epoch: u64,
    pub due: Vec<DueReservation>,
}

/// A reservation whose hold has ended or whose buyer has cancelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueReservation {
    pub user_token: UserToken,
    /// Its score, as Redis formats it.
    pub score: String,
    /// The end of the hold, also if the buyer has cancelled before.
    pub hold_until: Stamp,
    /// Whether its buyer gave it back.
    pub cancelled: bool,
    /// Whether a payment was reported before the hold's end and is not decided.
    pub has_attempt: bool,
}

impl Queue {
    /// Applies the ledger's decisions to reservations of one item, in calls of at most [`MAX_BATCH`]. Returns the number
    /// of changed reservations. Each change can return a unit to the stock or adds a task: the item is active then.
    pub async fn settle(&self, item_id: &ItemId, settlements: &[Settlement]) -> Result<u64, LinkError> {
        if settlements.is_empty() {
            return Ok(0);
        }
        self.activate(item_id).await?;
        let keys = Keys::of(item_id);
        let mut changed = 0;
        for batch in settlements.chunks(MAX_BATCH as usize) {
            let mut script = SETTLE.key(&keys.item);
            script.key(&keys.reservations).key(&keys.tasks);
            for one in batch {
                let (score, returns_unit) = match one.outcome {
                    ReservationOutcome::Sold => ("+inf".to_owned(), false),
                    ReservationOutcome::Reserved { until } => (until.to_string(), false),
                    ReservationOutcome::Released { returns_unit } => ("released".to_owned(), returns_unit),
                    ReservationOutcome::Voided => ("voided".to_owned(), true),
                    ReservationOutcome::Excluded => ("excluded".to_owned(), true),
                };
                script.arg(one.user_token.as_str()).arg(one.expected.as_deref().unwrap_or_default());
                script.arg(score).arg(u8::from(returns_unit));
            }
            changed += self
                .link
                .call(async |mut connection| script.invoke_async::<u64>(&mut connection).await)
                .await?;
        }
        Ok(changed)
    }

    /// Up to [`MAX_BATCH`] reservations whose hold has ended or whose buyer has cancelled,
    /// oldest end first, after the first `skip` of them.
    pub async fn due(&self, item_id: &ItemId, skip: u32) -> Result<DueBatch, LinkError> {
        let keys = Keys::of(item_id);
        let reply: Vec<String> = self
            .link
            .call(async |mut connection| {
                DUE.key(&keys.item)
                    .key(&keys.reservations)
                    .key(&keys.attempts)
                    .arg(skip)
                    .arg(MAX_BATCH)
                    .invoke_async(&mut connection)
                    .await
            })
            .await?;
        parse(reply).ok_or_else(|| LinkError::Refused("the due script returned a malformed answer".into()))
    }
}

fn parse(reply: Vec<String>) -> Option<DueBatch> {
    let mut words = reply.into_iter();
    let now = Stamp::from_micros(words.next()?.parse().ok()?).ok()?;
    let epoch = words.next()?.parse().ok()?;
    let mut due = Vec::new();
    while let (Some(buyer), Some(score), Some(attempt)) = (words.next(), words.next(), words.next()) {
        let micros: u64 = score.parse().ok()?;
        let cancelled = micros < CANCELLED_OFFSET_MICROS;
        let hold_until = if cancelled { micros + CANCELLED_OFFSET_MICROS } else { micros };
        due.push(DueReservation {
            user_token: UserToken::parse(buyer).ok()?,
            score,
            hold_until: Stamp::from_micros(hold_until).ok()?,
            cancelled,
            has_attempt: attempt == "1",
        });
    }
    Some(DueBatch { now, epoch, due })
}
