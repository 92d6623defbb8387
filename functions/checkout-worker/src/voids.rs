//! Voided units that drop-admin has not written to Redis, since it or Redis failed after the ledger's commit.

use crate::WorkerContext;
use reconcile::ReconcileError;
use shared::item_runs;
use shared::queue::ItemError;
use std::time::{Duration, Instant};

/// How often the worker looks for them.
const INTERVAL: Duration = Duration::from_secs(5);
const MAX_VOIDS: u32 = 100;
/// Until then drop-admin may be writing a void itself.
const AGE: Duration = Duration::from_secs(5);

/// Writes them until `until`.
pub(crate) async fn settle_until(context: &WorkerContext, until: Instant) {
    while Instant::now() < until {
        if context.lease.permit().is_ok()
            && let Ok(Err(error)) = tokio::time::timeout_at(until.into(), context.settle_voids()).await
        {
            tracing::warn!(%error, "could not look for voided units, or could not write one to Redis; trying again in 5 s");
        }
        item_runs::pause(INTERVAL, until).await;
    }
}

impl WorkerContext {
    /// Writes them once. A void whose item has malformed keys does not keep the others waiting.
    pub async fn settle_voids(&self) -> Result<(), ReconcileError> {
        let mut failed = 0;
        for void in self.ledger.unsettled_voids(AGE, MAX_VOIDS).await? {
            let item_id = &void.item_id;
            match reconcile::settle_void(&self.queue, &self.ledger, &void).await {
                Ok(()) => {
                    tracing::info!(%item_id, "wrote a voided unit to Redis, which drop-admin had not done");
                }
                Err(error) if is_of_the_item(&error) => {
                    failed += 1;
                    tracing::warn!(%error, %item_id, void_id = void.void_id, "could not write a voided unit to Redis because of the item's own data; it is not sold again until that is repaired");
                }
                Err(error) => return Err(error),
            }
        }
        metrics::gauge!("voids_unsettled").set(f64::from(failed));
        Ok(())
    }
}

fn is_of_the_item(error: &ReconcileError) -> bool {
    matches!(error, ReconcileError::Item(ItemError::Link(error)) if error.is_of_the_keys())
}
