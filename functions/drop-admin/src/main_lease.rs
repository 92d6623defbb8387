//! The main lease, as operators create and see it.

use crate::{AdminError, App};
use lease::{LeaseRecord, LeaseStatus};
use serde_json::{Value, json};

/// Creates the lease for this region, if a lease table is configured and has none yet. From then on
/// the ledger refuses sales without a lease.
pub(crate) async fn create_lease(app: &App) -> Result<Option<LeaseRecord>, AdminError> {
    let Some(record) = app.lease.create(app.ledger.epoch().await?).await? else { return Ok(None) };
    if Some(record.region.as_str()) != app.lease.region() {
        return Err(AdminError::NotMain(record.region));
    }
    app.ledger.sell_by_lease().await?;
    Ok(Some(record))
}

/// The lease record, the ledger's epoch, and what they mean for this region.
pub(crate) async fn show_lease(app: &App) -> Result<Value, AdminError> {
    let lease = app.lease.status().await?.ok_or(AdminError::NoLease)?;
    let ledger_epoch = app.ledger.epoch().await.ok();
    let means = meaning(&lease, app.lease.region().unwrap_or_default(), ledger_epoch);
    let LeaseStatus { record, remaining_ms } = lease;
    Ok(json!({ "lease": record, "remaining_ms": remaining_ms, "ledger_epoch": ledger_epoch, "means": means }))
}

fn meaning(
    LeaseStatus { record, remaining_ms }: &LeaseStatus,
    here: &str,
    ledger_epoch: Option<u64>,
) -> String {
    if !record.is_open {
        "a failover has closed the lease: no region sells".into()
    } else if record.region != here {
        format!("main is {}: this region does not sell", record.region)
    } else if *remaining_ms <= 0 {
        "the lease has expired: no region sells until main renews it".into()
    } else if ledger_epoch.is_some_and(|epoch| epoch != record.epoch) {
        "the ledger that this region reaches has another epoch: it refuses sales".into()
    } else {
        "main sells".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_meaning_of_a_lease_names_the_reason_for_not_selling() {
        let record = LeaseRecord::first("here", 2);
        let check = |record: &LeaseRecord, remaining_ms, epoch, expected: &str| {
            let text = meaning(&LeaseStatus { record: record.clone(), remaining_ms }, "here", epoch);
            assert!(text.contains(expected), "{text}");
        };
        check(&record, 1, Some(2), "main sells");
        check(&record, 1, None, "main sells");
        check(&record, 0, Some(2), "expired");
        check(&record, 1, Some(1), "another epoch");
        check(&record.closed("run"), 1, Some(2), "closed");
        check(&LeaseRecord::first("there", 3), 1, Some(2), "main is there");
    }
}
