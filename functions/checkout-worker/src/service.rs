//! Records in the ledger that this worker serves, so that holds get a grace after an outage.
//!
//! A gap in the record is an outage, whatever its cause: no worker ran, no lease, no Redis or no ledger. A worker records
//! before it releases, so the first release after an outage already knows it.

use crate::WorkerContext;
use crate::item_work::RoundError;
use shared::item_runs;
use shared::stamp::Stamp;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// How often the record is written.
const SERVE_INTERVAL: Duration = Duration::from_secs(1);

/// What this process has recorded.
#[derive(Debug)]
pub(crate) struct ServiceRecord {
    most_grace: Duration,
    last: Mutex<Option<LastService>>,
}

#[derive(Debug)]
struct LastService {
    at: Instant,
    grace_until: Stamp,
}

impl ServiceRecord {
    pub(crate) fn new(most_grace: Duration) -> Self {
        Self { most_grace, last: Mutex::new(None) }
    }

    /// The end of the grace of a hold that ends at `hold_until`, and whose payment was reported in time.
    pub(crate) fn kept_until(&self, hold_until: Stamp) -> Stamp {
        hold_until.saturating_add(self.most_grace)
    }
}

impl WorkerContext {
    /// Records that this worker serves, if its last record is a second old. Items that do so at the same time wait for
    /// one write.
    pub(crate) async fn record_service(&self) -> Result<(), RoundError> {
        let mut last = self.service.last.lock().await;
        if last.as_ref().is_some_and(|last| last.at.elapsed() < SERVE_INTERVAL) {
            return Ok(());
        }
        let at = Instant::now();
        self.lease.permit()?;
        let now = self.queue.main_time().await?;
        let grace_until = self.ledger.serve(now, self.service.most_grace).await?;
        let is_new = last.as_ref().is_none_or(|last| last.grace_until != grace_until);
        if is_new && grace_until > now {
            tracing::warn!(
                grace_ms = u64::try_from(grace_until.saturating_since(now).as_millis()).unwrap_or(u64::MAX),
                "no worker had the lease, Redis and the ledger for more than 5 s, or Redis's clock was set back; until the grace is over, no hold ends"
            );
        }
        *last = Some(LastService { at, grace_until });
        Ok(())
    }

    /// Records the service until `until`, also while no item has work. A failure is not logged here: it is one of the
    /// lease, of Redis or of the ledger, whose heartbeats log it.
    pub(crate) async fn record_service_until(&self, until: Instant) {
        while Instant::now() < until {
            if let Ok(Err(error)) = tokio::time::timeout_at(until.into(), self.record_service()).await {
                tracing::debug!(%error, "could not record that the worker serves; trying again in 1 s");
            }
            item_runs::pause(SERVE_INTERVAL, until).await;
        }
    }
}
