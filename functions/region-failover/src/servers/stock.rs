//! Items under the new epoch: a unit is free only if neither ledger nor Redis has it as sold or reserved.

use super::{FailoverServers, obstacle};
use crate::observation::Obstacle;
use crate::run::Run;
use reconcile::{ReconcileError, reconcile_at_rest};
use shared::item::ItemId;
use shared::queue::{ItemError, Keys};
use std::collections::BTreeMap;

impl FailoverServers {
    /// Items of the ledger that are not under the new epoch in Redis yet.
    pub(super) async fn unreconciled(&self, run: &Run) -> Result<Vec<ItemId>, Obstacle> {
        let mut left = Vec::new();
        for item_id in self.standby.ledger.item_ids().await.map_err(obstacle)? {
            match self.standby.queue.item(&item_id).await {
                Ok(item) if item.epoch == run.new_epoch() => {}
                Ok(_) | Err(ItemError::NoSuchItem(_) | ItemError::Corrupt { .. }) => left.push(item_id),
                Err(error) => return Err(obstacle(error)),
            }
        }
        Ok(left)
    }

    /// Reconciles these items, and returns what differed.
    pub(super) async fn reconcile(&self, run: &Run) -> Result<String, Obstacle> {
        let left = self.unreconciled(run).await?;
        let mut differences: BTreeMap<&str, u64> = BTreeMap::new();
        let (mut withheld, mut failed) = (0, None);
        for item_id in &left {
            match self.reconcile_item(run, item_id, &mut differences).await {
                Ok(units) => withheld += u64::from(units),
                // One failed item does not delay the others.
                Err(error) => {
                    failed = failed.or(Some(Obstacle(format!("could not reconcile item {item_id}: {error}"))))
                }
            }
        }
        failed.map_or(Ok(()), Err)?;
        let differences: Vec<String> = differences.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
        let what = if differences.is_empty() { "nothing differed".into() } else { differences.join(", ") };
        Ok(format!("reconciled {} items; withheld {withheld} units; {what}", left.len()))
    }

    async fn reconcile_item(
        &self,
        run: &Run,
        item_id: &ItemId,
        differences: &mut BTreeMap<&'static str, u64>,
    ) -> Result<u32, ReconcileError> {
        let both = &self.standby;
        match both.queue.item(item_id).await {
            Err(ItemError::NoSuchItem(_) | ItemError::Corrupt { .. }) => {
                reconcile::restore(both, item_id).await?;
                *differences.entry("items that Redis had lost").or_default() += 1;
            }
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let reconciled = reconcile_at_rest(both, item_id).await?;
        for (kind, buyers) in reconciled.differences {
            *differences.entry(kind).or_default() += buyers;
        }
        // Only free units are withheld. What Redis has promised and the ledger does not have yet stays promised.
        let free = u32::try_from(reconciled.stock_counted).unwrap_or(0);
        let (units, keeps_old_holds) = (run.withhold.min(free), run.withhold > 0);
        let withheld = both.ledger.withhold(item_id, units, keeps_old_holds, run.new_epoch()).await?;
        reconcile::restock(both, item_id, true).await?;
        let (key, epoch) = (Keys::of(item_id).item, run.new_epoch());
        // Last: from here on the drain takes the item as the new epoch's.
        both.link
            .call(async |mut connection| {
                redis::cmd("HSET").arg(&key).arg("epoch").arg(epoch).query_async::<()>(&mut connection).await
            })
            .await
            .map_err(ItemError::from)?;
        Ok(withheld)
    }
}
