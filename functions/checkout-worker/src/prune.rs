//! Rows of the ledger that no decision needs any more.

use crate::WorkerContext;
use shared::stamp::Stamp;

const HOUR_SECONDS: u64 = 3_600;
/// How often a run starts.
const RUN_SECONDS: u64 = 60;

/// Deletes them in the first run of an hour: the table has no index by time.
pub(crate) async fn prune(context: &WorkerContext) {
    if context.lease.permit().is_err() || !context.queue.main_time().await.is_ok_and(begins_an_hour) {
        return;
    }
    match context.ledger.prune_unpaid_holds().await {
        Ok(pruned) => tracing::info!(pruned, "deleted unpaid holds of more than 90 days ago"),
        Err(error) => {
            tracing::warn!(%error, "could not delete old unpaid holds; the next try is in an hour");
        }
    }
    if let Err(error) = context.ledger.prune_attempts().await {
        tracing::warn!(%error, "could not delete old notes of payments; the next try is in an hour");
    }
}

fn begins_an_hour(now: Stamp) -> bool {
    now.as_micros() / 1_000_000 % HOUR_SECONDS < RUN_SECONDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_the_runs_of_an_hour_prunes() {
        let starts = (0..60).map(|minute| Stamp::from_micros((minute * 60 + 17) * 1_000_000).unwrap());
        assert_eq!(starts.filter(|now| begins_an_hour(*now)).count(), 1);
    }
}
