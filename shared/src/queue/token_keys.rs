//! The identity provider's public keys on main's Redis, which replicates them to every region.

use super::{LinkError, Queue, TOKEN_KEYS};
use redis::Script;
use std::sync::LazyLock;
use std::time::Duration;

static STORE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("token_keys.lua")));

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

    /// The stored key set, if there is one and it can be read within `limit`.
    pub async fn token_keys_within(&self, limit: Duration) -> Result<Option<String>, LinkError> {
        self.link
            .run(limit, async |mut connection| {
                redis::cmd("HGET").arg(TOKEN_KEYS).arg("document").query_async(&mut connection).await
            })
            .await
    }
}
