//! Copies of items, for the edges: with what tells whether the copy may be trusted.

use super::heartbeat::{self, Heartbeat, HeartbeatReply};
use super::primary::on_primary;
use super::{ItemError, Keys, LinkError, Queue, ReadFrom, items};
use crate::item::{Item, ItemId};
use crate::stamp::Stamp;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A replica that is further behind counts as failed. The drain writes the heartbeat five times a second, the worker
/// once; the rest is for the journey and for clocks that differ. It is well below the time for which a lease is valid,
/// so that a lagging replica is noticed before its copy of the lease lapses.
pub const MAX_REPLICA_LAG: Duration = Duration::from_secs(3);

/// The server's clock, its heartbeat, and the item's fields.
type CopyReply = ((u64, u64), HeartbeatReply, HashMap<String, String>);

/// An item as one server had it, and the server's heartbeat of main.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemCopy {
    pub item: Item,
    pub heartbeat: Heartbeat,
    /// The server's clock at the read.
    pub read_at: Stamp,
    /// This process's clock before the read.
    pub asked_at: Instant,
}

impl ItemCopy {
    /// Whether the server was so far behind main that its copy may mislead. If main has never written a heartbeat (a
    /// new deployment), the lag is unknown, and the copy counts.
    pub fn is_stale(&self) -> bool {
        self.heartbeat.at.is_some_and(|beat| self.read_at.saturating_since(beat) > MAX_REPLICA_LAG)
    }

    /// Whether main could still sell when the copy was read.
    pub fn could_be_sold(&self) -> bool {
        self.heartbeat.may_sell(self.read_at)
    }

    /// Whether main may sell now, by this copy and by the clock of the server that it is from.
    pub fn may_be_sold(&self) -> bool {
        let micros = u64::try_from(self.asked_at.elapsed().as_micros()).unwrap_or(u64::MAX);
        let now = Stamp::saturating_from_micros(self.read_at.as_micros().saturating_add(micros));
        self.heartbeat.may_sell(now)
    }
}

impl Queue {
    /// One item and the heartbeat at one moment, in one round trip, with the time limit `limit` (to connect included)
    /// if it is shorter than the default. As main, a server that does not take writes refuses.
    pub async fn item_copy(
        &self,
        reader: ReadFrom,
        item_id: &ItemId,
        limit: Duration,
    ) -> Result<ItemCopy, ItemError> {
        let keys = Keys::of(item_id);
        let mut pipe = match reader {
            ReadFrom::Main => on_primary(&keys),
            ReadFrom::Replica => redis::pipe(),
        };
        pipe.atomic().cmd("TIME");
        heartbeat::request(&mut pipe);
        pipe.hgetall(&keys.item);
        let read = async |mut connection| {
            let asked_at = Instant::now();
            let reply: CopyReply = pipe.query_async(&mut connection).await?;
            Ok((asked_at, reply))
        };
        let (asked_at, (time, beat, fields)) = self.link.run(limit.min(self.link.call_limit()), read).await?;
        let read_at = Stamp::from_redis_time(time).map_err(|error| LinkError::Refused(error.to_string()))?;
        Ok(ItemCopy { item: items::parse(item_id, &fields)?, heartbeat: beat.into(), read_at, asked_at })
    }
}
