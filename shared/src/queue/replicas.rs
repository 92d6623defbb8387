//! Whether main's replicas have what main has: what a failover could lose is not acted on.

use super::{LinkError, Queue, REPLICATION_MARK};
use std::time::Duration;

/// How long [`REPLICATION_MARK`] stays.
const MARK_LASTS: Duration = Duration::from_secs(10);

impl Queue {
    /// Waits until `replicas` replicas have everything that main has now, at most for `limit`; says whether
    /// they do. Nothing else passes on the connection meanwhile. A mark is written first: the server waits
    /// for the last write of *this connection*, and one that was opened anew has none.
    pub async fn wait_for_replicas(&self, replicas: u32, limit: Duration) -> Result<bool, LinkError> {
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let (acknowledged,): (u32,) = self
            .link
            .call(async |mut connection| {
                let mut pipe = redis::pipe();
                pipe.cmd("SET").arg(REPLICATION_MARK).arg("").arg("EX").arg(MARK_LASTS.as_secs()).ignore();
                pipe.cmd("WAIT").arg(replicas).arg(limit_ms);
                pipe.query_async(&mut connection).await
            })
            .await?;
        Ok(acknowledged >= replicas)
    }
}
