//! The heartbeat of a process that keeps the lease: it renews the lease for the edges, too.

use crate::keeper::{Lease, LeaseError};
use shared::permit::Permit;
use shared::queue::Queue;
use std::time::{Duration, Instant};

impl Lease {
    /// Writes main's clock and the lease's end to Redis until `until`, once in `every`. Pauses while this region does not
    /// hold the lease, since another region may be main.
    pub async fn write_heartbeats(&self, queue: &Queue, every: Duration, until: Instant) {
        while Instant::now() < until {
            if let Ok(permit) = self.permit() {
                write(queue, permit).await;
            }
            let left = until.saturating_duration_since(Instant::now());
            tokio::time::sleep(every.min(left)).await;
        }
    }

    /// What this process may do now. If the lease is about to end, renews it first, for this process and for the edges.
    pub async fn permit_now(&self, queue: &Queue) -> Result<Permit, LeaseError> {
        if let Ok(permit) = self.permit() {
            return Ok(permit);
        }
        self.renew().await?;
        let permit = self.permit()?;
        let queue = queue.clone();
        // Not awaited: the caller's work does not depend on it.
        tokio::spawn(async move { write(&queue, permit).await });
        Ok(permit)
    }
}

async fn write(queue: &Queue, permit: Permit) {
    if let Err(error) = queue.write_heartbeat(permit).await {
        tracing::debug!(%error, "could not write the heartbeat to Redis; it is tried again");
    }
}
