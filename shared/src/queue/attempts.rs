//! Payments that were reported before the end of a hold and are not decided: the hold waits for their repetition.
//!
//! The record is written before the ledger is asked. Redis executes one script at a time, so a payment that is recorded
//! before the hold's end is seen by every [`Queue::due`] after it.

use super::{CANCELLED_OFFSET_MICROS, Keys, LinkError, NO_HOLD_MICROS, Queue};
use crate::item::ItemId;
use crate::user_token::UserToken;
use redis::{AsyncCommands, Script};
use std::sync::LazyLock;
use std::time::Duration;

pub(super) static ATTEMPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("attempt.lua")));

/// The longest grace that a hold can have: records are kept for this long after the hold's end.
pub const MAX_HOLD_GRACE: Duration = Duration::from_secs(3_600);

impl Queue {
    /// Records that `notice`, a payment's outcome and reference, was reported for `buyer` now. Without a hold, or after
    /// its end, nothing is recorded.
    pub async fn record_attempt(
        &self,
        item_id: &ItemId,
        buyer: &UserToken,
        notice: &str,
    ) -> Result<(), LinkError> {
        let keys = Keys::of(item_id);
        self.link
            .call(async |mut connection| {
                ATTEMPT
                    .key(&keys.reservations)
                    .key(&keys.attempts)
                    .arg(buyer.as_str())
                    .arg(NO_HOLD_MICROS)
                    .arg(CANCELLED_OFFSET_MICROS)
                    .arg(MAX_HOLD_GRACE.as_micros())
                    .arg(notice)
                    .invoke_async::<u64>(&mut connection)
                    .await
                    .map(drop)
            })
            .await
    }

    /// Deletes the record of a notice that was decided while the hold goes on. Those of the buyer's other notices stay.
    pub async fn forget_attempt(
        &self,
        item_id: &ItemId,
        buyer: &UserToken,
        notice: &str,
    ) -> Result<(), LinkError> {
        let (key, record) = (Keys::of(item_id).attempts, format!("{} {notice}", buyer.as_str()));
        let (key, record) = (&key, &record);
        self.link.call(async |mut connection| connection.zrem(key, record).await).await
    }
}
