//! Putting logged orders back into the queue of an item whose Redis was lost or replaced.
//!
//! While the item's hash has `restoring`, the item is being restored: the drain takes nothing from its queue, and place
//! refuses nothing for its age. The value is the token of the caller who restores it. On another primary than before, a
//! restore begins a new life of the queue: its watermark starts again.

use super::{BatchOrder, ItemError, Keys, LinkError, MAX_BATCH, Queue};
use crate::item::ItemId;
use redis::{AsyncCommands, Script};
use std::sync::LazyLock;
use std::time::Duration;

static BEGIN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("restore/begin.lua")));
static BATCH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("restore/batch.lua")));
static AGAIN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("restore/again.lua")));
static END: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("restore/end.lua")));

/// The value of `restoring` of an item that waits for a restore. The scripts have it, too.
pub const RESTORE_WANTED: &str = "wanted";
/// A restore without a step for this time has ended, and another one may take over.
pub const RESTORE_TIMEOUT: Duration = Duration::from_secs(30);
/// The pause after the first failed restore of an item that is sold. Each further one is twice as long.
pub const RESTORE_PAUSE: Duration = Duration::from_secs(30);
/// How often a restore of an item that is sold is repeated when it fails: for a quarter of an hour.
pub const RESTORE_REPETITIONS: u32 = 5;

/// Calls of one restore that may be in transit at the same time: each has a slot of its own. Redis serves other items
/// between them.
pub const RESTORE_SLOTS: usize = 4;

/// Names a call of a restore. Redis executes a call once, and answers a repetition as it answered the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoreCall {
    /// Below [`RESTORE_SLOTS`]. The next call in a slot follows when the call before was answered.
    pub slot: usize,
    /// Rises within the slot, from 1 on.
    pub number: u64,
}

/// What one batch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoredBatch {
    /// Orders that are new in the queue, or replaced a younger one of the buyer.
    pub placed: u64,
    /// Orders of buyers who have a unit.
    pub taken: u64,
    /// Orders that were withdrawn, and are no longer in the queue.
    pub withdrawn: u64,
}

/// How the end of a restore was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreEnd {
    Ended,
    /// Another restore has taken over, or has ended it.
    NotMine,
    /// Another server has become the primary since the beginning: the restore has to begin again.
    PrimaryChanged,
}

/// Whether a restore has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreBegin {
    Begun,
    /// Another restore is in progress.
    InProgress,
    /// The item is no longer as the caller has found it: another restore has ended meanwhile.
    NotDue,
}

/// What becomes of an item whose restore is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreGivenUp {
    /// It waits for another restore, which may begin at once. It is not sold until then.
    Waits,
    /// It was sold before, and is sold again. It is [due](Queue::restores_due) again later.
    SoldAndRepeated,
    /// It was sold before, and is sold again. It has failed too often, and is not repeated.
    SoldAndLeft,
    /// Another restore has taken over, or has ended it.
    NotMine,
}

/// Why an item has to be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreCause {
    /// Its queue was lost, or may lack its end. It is not sold until then.
    Wanted,
    /// Another run is at it. If that run has died, [`RESTORE_TIMEOUT`] later another one takes over.
    InProgress,
    /// It was restored some time ago, and is sold. The primary of before may have accepted orders since.
    Again,
}

impl RestoreCause {
    /// What the script compares with the item's state.
    fn condition(self) -> &'static str {
        match self {
            Self::Wanted | Self::InProgress => "waits",
            Self::Again => "again",
        }
    }
}

impl Queue {
    /// Begins to restore `item_id`, and names the caller `token`, whatever the item's state is. Returns whether it did: not if
    /// another restore made a step within `take_over_after`.
    pub async fn restore_begin(
        &self,
        item_id: &ItemId,
        token: &str,
        take_over_after: Duration,
    ) -> Result<bool, ItemError> {
        let begun = self.restore_begin_if(item_id, token, take_over_after, None).await?;
        Ok(begun == RestoreBegin::Begun)
    }

    /// The same, if the item still has to be restored for the `cause` that the caller has [found](Self::restores_due).
    pub async fn restore_begin_if(
        &self,
        item_id: &ItemId,
        token: &str,
        take_over_after: Duration,
        cause: Option<RestoreCause>,
    ) -> Result<RestoreBegin, ItemError> {
        self.activate(item_id).await?;
        let keys = Keys::of(item_id);
        let limit =
            if take_over_after.is_zero() { String::new() } else { take_over_after.as_micros().to_string() };
        let condition = cause.map_or("", RestoreCause::condition);
        let begun = self.link.call(async |mut connection| {
            let mut script = BEGIN.key(&keys.item);
            script.key(&keys.restored).arg(token).arg(&limit).arg(condition);
            script.invoke_async::<i64>(&mut connection).await
        });
        match begun.await {
            Ok(1) => Ok(RestoreBegin::Begun),
            Ok(-1) => Err(ItemError::Finished(item_id.clone())),
            Ok(-2) => Ok(RestoreBegin::NotDue),
            Ok(_) => Ok(RestoreBegin::InProgress),
            Err(LinkError::Refused(code)) if code == "NOITEM" => Err(ItemError::NoSuchItem(item_id.clone())),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the withdrawn orders that are older than their `withdrawals`, then puts `orders` back. Refused as
    /// `NOTRESTORING` unless the restore `token` is in progress. Both lists together have at most [`MAX_BATCH`] entries, of
    /// one for each buyer. It may be repeated as the same `call`.
    pub async fn restore_batch(
        &self,
        item_id: &ItemId,
        token: &str,
        call: RestoreCall,
        withdrawals: &[BatchOrder],
        orders: &[BatchOrder],
    ) -> Result<RestoredBatch, LinkError> {
        debug_assert!(call.slot < RESTORE_SLOTS && call.number > 0);
        self.restore_step(item_id, token, Some(call), withdrawals, orders).await
    }

    /// Shows that the restore `token` goes on: no other one takes it over.
    pub async fn restore_goes_on(&self, item_id: &ItemId, token: &str) -> Result<(), LinkError> {
        self.restore_step(item_id, token, None, &[], &[]).await.map(drop)
    }

    async fn restore_step(
        &self,
        item_id: &ItemId,
        token: &str,
        call: Option<RestoreCall>,
        withdrawals: &[BatchOrder],
        orders: &[BatchOrder],
    ) -> Result<RestoredBatch, LinkError> {
        debug_assert!(withdrawals.len() + orders.len() <= MAX_BATCH as usize);
        let keys = Keys::of(item_id);
        let slot = call.map(|call| call.slot.to_string()).unwrap_or_default();
        let number = call.map_or(0, |call| call.number);
        let (placed, taken, withdrawn) = self
            .link
            .call(async |mut connection| {
                let mut script = BATCH.key(&keys.item);
                script.key(&keys.orders).key(&keys.reservations).key(&keys.restored);
                script.arg(token).arg(&slot).arg(number).arg(withdrawals.len());
                for order in withdrawals.iter().chain(orders) {
                    script.arg(order.placed_at.as_micros()).arg(order.user_token.as_str());
                }
                script.invoke_async(&mut connection).await
            })
            .await?;
        Ok(RestoredBatch { placed, taken, withdrawn })
    }

    /// Ends the restore `token` of `item_id`: the queue is complete, as far as is known. With `again_after` the item is
    /// [due](Self::restores_due) again then.
    pub async fn restore_end(
        &self,
        item_id: &ItemId,
        token: &str,
        again_after: Option<Duration>,
    ) -> Result<RestoreEnd, LinkError> {
        Ok(match self.end(item_id, token, Some(again_after)).await? {
            1 => RestoreEnd::Ended,
            -1 => RestoreEnd::PrimaryChanged,
            _ => RestoreEnd::NotMine,
        })
    }

    /// Gives up the restore `token` of `item_id`.
    pub async fn restore_give_up(&self, item_id: &ItemId, token: &str) -> Result<RestoreGivenUp, LinkError> {
        Ok(match self.end(item_id, token, None).await? {
            1 => RestoreGivenUp::Waits,
            2 => RestoreGivenUp::SoldAndRepeated,
            3 => RestoreGivenUp::SoldAndLeft,
            _ => RestoreGivenUp::NotMine,
        })
    }

    /// Lets `item_id` be [due](Self::restores_due) again `after` this time, also if it is being restored now. Returns whether it
    /// is: a finished item is not restored.
    pub async fn restore_later(&self, item_id: &ItemId, after: Duration) -> Result<bool, ItemError> {
        self.activate(item_id).await?;
        let (key, micros) = (Keys::of(item_id).item, after.as_micros().to_string());
        let call =
            async |mut connection| AGAIN.key(&key).arg(&micros).invoke_async::<i64>(&mut connection).await;
        match self.link.call(call).await {
            Ok(is_due) => Ok(is_due == 1),
            Err(LinkError::Refused(code)) if code == "NOITEM" => Err(ItemError::NoSuchItem(item_id.clone())),
            Err(error) => Err(error.into()),
        }
    }

    /// `None`: it is given up.
    async fn end(
        &self,
        item_id: &ItemId,
        token: &str,
        again_after: Option<Option<Duration>>,
    ) -> Result<i64, LinkError> {
        let keys = Keys::of(item_id);
        let micros = again_after.flatten().map(|time| time.as_micros().to_string()).unwrap_or_default();
        let is_complete = u8::from(again_after.is_some());
        let pause = RESTORE_PAUSE.as_micros().to_string();
        let call = async |mut connection| {
            let mut script = END.key(&keys.item);
            script.key(&keys.restored).arg(token).arg(is_complete).arg(&micros);
            script.arg(&pause).arg(RESTORE_REPETITIONS);
            script.invoke_async::<i64>(&mut connection).await
        };
        self.link.call(call).await
    }

    /// Which of `items` have to be restored now: those that wait for it or are being restored, and those whose last restore
    /// is due [again](Self::restore_end).
    pub async fn restores_due(&self, items: &[ItemId]) -> Result<Vec<(ItemId, RestoreCause)>, LinkError> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        let now = self.main_time().await?;
        let mut pipe = redis::pipe();
        for item_id in items {
            pipe.cmd("HMGET").arg(Keys::of(item_id).item).arg(&["restoring", "restore_again_at"]);
        }
        let found: Vec<(Option<String>, Option<u64>)> =
            self.link.call(async |mut connection| pipe.query_async(&mut connection).await).await?;
        let cause = |(restoring, again_at): (Option<String>, Option<u64>)| match (restoring, again_at) {
            (Some(state), _) if state == RESTORE_WANTED => Some(RestoreCause::Wanted),
            (Some(_), _) => Some(RestoreCause::InProgress),
            (None, Some(again_at)) if again_at <= now.as_micros() => Some(RestoreCause::Again),
            (None, _) => None,
        };
        Ok(items.iter().zip(found).filter_map(|(item, found)| Some((item.clone(), cause(found)?))).collect())
    }

    /// Which of `items` are being restored, or wait for it.
    pub async fn restoring_among(&self, items: &[ItemId]) -> Result<Vec<ItemId>, LinkError> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for item_id in items {
            pipe.hexists(Keys::of(item_id).item, "restoring");
        }
        let found: Vec<bool> =
            self.link.call(async |mut connection| pipe.query_async(&mut connection).await).await?;
        Ok(items.iter().zip(found).filter(|(_, is)| *is).map(|(item_id, _)| item_id.clone()).collect())
    }

    /// Whether `item_id` is being restored. An item that Redis does not have is not.
    pub async fn is_restoring(&self, item_id: &ItemId) -> Result<bool, LinkError> {
        let key = Keys::of(item_id).item;
        self.link.call(async |mut connection| connection.hexists(&key, "restoring").await).await
    }
}
