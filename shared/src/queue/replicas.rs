//! Whether main's replicas have all of main's writes. The worker does not act on a reservation that a failover could
//! lose.

use super::{LinkError, Queue, REPLICATION_MARKER};
use std::time::Duration;

/// The time to live of [`REPLICATION_MARKER`].
const MARKER_LIFETIME: Duration = Duration::from_secs(10);

impl Queue {
    /// Waits for at most `limit` until `replicas` replicas have all of main's writes up to now; returns whether they
    /// have. The connection sends nothing else in the meantime. It writes a marker first: `WAIT` waits for the last
    /// write of *this connection*, and a new connection has none.
    pub async fn wait_for_replicas(&self, replicas: u32, limit: Duration) -> Result<bool, LinkError> {
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let (acknowledged,): (u32,) = self
            .link
            .call(async |mut connection| {
                let mut pipe = redis::pipe();
                pipe.cmd("SET")
                    .arg(REPLICATION_MARKER)
                    .arg("")
                    .arg("EX")
                    .arg(MARKER_LIFETIME.as_secs())
                    .ignore();
                pipe.cmd("WAIT").arg(replicas).arg(limit_ms);
                pipe.query_async(&mut connection).await
            })
            .await?;
        Ok(acknowledged >= replicas)
    }
}
