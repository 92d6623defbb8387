//! Which items exist, so that a flood of ids that do not exist costs main no read for each.
//!
//! The set of ids comes from main: that an item does not exist is a refusal, and a lagging replica must not make it. It
//! is read only while more than one unknown id arrives in a second, so that the first order of a process costs no
//! further round trip.

use super::MAX_AGE;
use crate::item::ItemId;
use crate::queue::{LinkError, Queue};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;

/// The ids of all items.
#[derive(Debug, Default)]
pub(super) struct KnownIds(Arc<AsyncMutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// The result of the latest read of the set, and when the read began (of a failed one: when it ended).
    ids: Option<(Instant, Result<HashSet<ItemId>, LinkError>)>,
    /// When an unknown id was last let through.
    let_through: Option<Instant>,
}

impl KnownIds {
    /// Whether `item_id`, which this process has not read yet, may exist: then it is worth a read.
    ///
    /// Of callers at the same time one reads the set, and the others wait for its result, also if that is an error. The
    /// read is a task of its own: from a distant main it may take longer than the caller waits.
    pub(super) async fn may_exist(
        &self,
        main: &Queue,
        item_id: &ItemId,
        limit: Duration,
    ) -> Result<bool, LinkError> {
        self.look_up(main, item_id, limit, true).await
    }

    /// Whether main has `item_id`, by a set that is at most [`MAX_AGE`] old. Otherwise like
    /// [`may_exist`](Self::may_exist).
    pub(super) async fn exist(
        &self,
        main: &Queue,
        item_id: &ItemId,
        limit: Duration,
    ) -> Result<bool, LinkError> {
        self.look_up(main, item_id, limit, false).await
    }

    async fn look_up(
        &self,
        main: &Queue,
        item_id: &ItemId,
        limit: Duration,
        lets_one_through: bool,
    ) -> Result<bool, LinkError> {
        let asked_at = Instant::now();
        let Ok(mut known) = timeout(limit, self.0.clone().lock_owned()).await else {
            return Err(LinkError::NotSent("another read of the set of items did not end in time".into()));
        };
        if let Some((read_at, ids)) = &known.ids
            && (*read_at >= asked_at || ids.is_ok() && read_at.elapsed() < MAX_AGE)
        {
            return ids.as_ref().map(|ids| ids.contains(item_id)).map_err(Clone::clone);
        }
        if lets_one_through && known.let_through.is_none_or(|at| at.elapsed() >= MAX_AGE) {
            known.let_through = Some(asked_at);
            return Ok(true);
        }
        let (main, item_id) = (main.clone(), item_id.clone());
        let read = tokio::spawn(async move {
            let mut read_at = Instant::now();
            let ids = main.item_ids_on_primary(main.call_limit()).await;
            if ids.is_err() {
                read_at = Instant::now();
            }
            let may_exist = ids.as_ref().map(|ids| ids.contains(&item_id)).map_err(Clone::clone);
            known.ids = Some((read_at, ids));
            may_exist
        });
        match timeout(limit.saturating_sub(asked_at.elapsed()), read).await {
            Ok(Ok(may_exist)) => may_exist,
            _ => Err(LinkError::Unanswered("the set of items was not read in time".into())),
        }
    }
}
