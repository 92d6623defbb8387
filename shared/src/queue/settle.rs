//! What the ledger has decided, told to Redis; and what is due to be decided.

use super::{CANCELLED_OFFSET_MICROS, Keys, LinkError, MAX_BATCH, Queue};
use crate::item::ItemId;
use crate::stamp::Stamp;
use crate::user_token::UserToken;
use redis::Script;
use std::sync::LazyLock;

static SETTLE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("settle.lua")));
static DUE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("due.lua")));

/// A reservation's new state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// Whose.
    pub user_token: UserToken,
    /// Only a reservation with this score is changed; `None`: whatever there is.
    pub expected: Option<String>,
    /// What it becomes.
    pub outcome: ReservationOutcome,
}

/// What becomes of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservationOutcome {
    /// The unit is the buyer's.
    Sold,
    /// It waits for payment until then.
    Reserved {
        /// When the hold ends.
        until: Stamp,
    },
    /// It has ended unsold.
    Released {
        /// Whether there is a unit to go back to the stock. The ledger may have none.
        returns_unit: bool,
    },
}

/// Reservations whose time has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueBatch {
    /// Main's clock.
    pub now: Stamp,
    /// The reign under which main holds the item.
    pub epoch: u64,
    /// What is due.
    pub due: Vec<DueReservation>,
}

/// A reservation whose time has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueReservation {
    /// Whose.
    pub user_token: UserToken,
    /// Its score, as Redis writes it.
    pub score: String,
    /// When its hold ends, or would have ended.
    pub hold_until: Stamp,
    /// Whether its buyer gave it back.
    pub cancelled: bool,
}

impl Queue {
    /// Brings reservations of one item into line with the ledger, at most
    /// [`MAX_BATCH`] in one call. Returns how many were changed.
    pub async fn settle(&self, item_id: &ItemId, settlements: &[Settlement]) -> Result<u64, LinkError> {
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

    /// Up to [`MAX_BATCH`] reservations whose hold has ended or that were given back,
    /// oldest end first, after the first `skip` of them.
    pub async fn due(&self, item_id: &ItemId, skip: u32) -> Result<DueBatch, LinkError> {
        let keys = Keys::of(item_id);
        let reply: Vec<String> = self
            .link
            .call(async |mut connection| {
                DUE.key(&keys.item)
                    .key(&keys.reservations)
                    .arg(skip)
                    .arg(MAX_BATCH)
                    .invoke_async(&mut connection)
                    .await
            })
            .await?;
        parse(reply).ok_or_else(|| LinkError::Refused("the due script's answer makes no sense".into()))
    }
}

fn parse(reply: Vec<String>) -> Option<DueBatch> {
    let mut words = reply.into_iter();
    let now = Stamp::from_micros(words.next()?.parse().ok()?).ok()?;
    let epoch = words.next()?.parse().ok()?;
    let mut due = Vec::new();
    while let (Some(buyer), Some(score)) = (words.next(), words.next()) {
        let micros: u64 = score.parse().ok()?;
        let cancelled = micros < CANCELLED_OFFSET_MICROS;
        let hold_until = if cancelled { micros + CANCELLED_OFFSET_MICROS } else { micros };
        due.push(DueReservation {
            user_token: UserToken::parse(buyer).ok()?,
            score,
            hold_until: Stamp::from_micros(hold_until).ok()?,
            cancelled,
        });
    }
    Some(DueBatch { now, epoch, due })
}
