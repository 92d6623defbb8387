//! The identity provider's public keys on main's Redis, which replicates them to every region.

use super::copies::MAX_REPLICA_LAG;
use super::heartbeat::{self, Heartbeat, HeartbeatReply};
use super::primary::token_keys_on_primary;
use super::{LinkError, Queue, ReadFrom, TOKEN_KEYS};
use crate::stamp::Stamp;
use redis::Script;
use std::sync::LazyLock;
use std::time::Duration;

static STORE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("token_keys.lua")));

/// The server's clock, its heartbeat, and the set with the time of its fetch.
type StoredReply = ((u64, u64), HeartbeatReply, (Option<String>, Option<u64>));

/// The key set as one server had it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTokenKeys {
    pub document: String,
    /// When its fetch began, by the clock of the main that stored it.
    pub fetched_at: Option<Stamp>,
    /// Whether the server was too far behind main, or has never had a heartbeat. Unlike an item, a key set has no gate
    /// on main behind it, so that an unknown lag does not pass.
    pub is_stale: bool,
}

impl Queue {
    /// Stores `document`, a key set whose fetch began `ago`, unless the stored set is newer. Without a document, stores
    /// nothing. Returns the age of the stored set by main's clock, if there is one.
    pub async fn store_token_keys(
        &self,
        document: Option<&str>,
        ago: Duration,
    ) -> Result<Option<Duration>, LinkError> {
        let ago_micros = u64::try_from(ago.as_micros()).unwrap_or(u64::MAX);
        let age: i64 = self
            .link
            .call(async |mut connection| {
                let mut script = STORE.key(TOKEN_KEYS);
                script.arg(document.unwrap_or_default()).arg(ago_micros);
                script.invoke_async(&mut connection).await
            })
            .await?;
        Ok(u64::try_from(age).ok().map(Duration::from_micros))
    }

    /// The stored key set, if there is one and it can be read within `limit`, with what tells whether it may be
    /// trusted. As main, a server that does not take writes refuses.
    pub async fn token_keys(
        &self,
        reader: ReadFrom,
        limit: Duration,
    ) -> Result<Option<StoredTokenKeys>, LinkError> {
        let mut pipe = match reader {
            ReadFrom::Main => token_keys_on_primary(),
            ReadFrom::Replica => redis::pipe(),
        };
        pipe.atomic().cmd("TIME");
        heartbeat::request(&mut pipe);
        pipe.cmd("HMGET").arg(TOKEN_KEYS).arg("document").arg("fetched_at");
        let read = async |mut connection| pipe.query_async::<StoredReply>(&mut connection).await;
        let (time, beat, (document, fetched_at)) = self.link.run(limit, read).await?;
        let read_at = Stamp::from_redis_time(time).map_err(|error| LinkError::Refused(error.to_string()))?;
        let beat = Heartbeat::from(beat).at;
        Ok(document.map(|document| StoredTokenKeys {
            document,
            fetched_at: fetched_at.map(Stamp::saturating_from_micros),
            is_stale: beat.is_none_or(|beat| read_at.saturating_since(beat) > MAX_REPLICA_LAG),
        }))
    }
}
