//! Items under the new epoch: a unit is free only if neither ledger nor Redis has it as sold or reserved.

use super::{FailoverServers, obstacle};
use crate::observation::{Answer, Obstacle};
use crate::run::Run;
use ledger::LedgerError;
use reconcile::{ReconcileError, reconcile_at_rest};
use shared::item::ItemId;
use shared::queue::{ItemError, Keys, LinkError};
use std::collections::BTreeMap;

/// Limit of items that are set aside. More of them are a fault of a store, for which the run waits.
const MAX_SET_ASIDE: usize = 100;

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

    /// Reconciles these items, and returns what differed. An item that cannot be reconciled because of its own data is set
    /// aside.
    pub(super) async fn reconcile(&self, run: &Run) -> Result<Answer, Obstacle> {
        let mut left = self.unreconciled(run).await?;
        left.retain(|item_id| !run.set_aside.contains_key(item_id));
        let mut differences: BTreeMap<&str, u64> = BTreeMap::new();
        let (mut withheld, mut failed, mut set_aside) = (0, None, BTreeMap::new());
        for item_id in &left {
            match self.reconcile_item(run, item_id, &mut differences).await {
                Ok(units) => withheld += u64::from(units),
                // One failed item does not delay the others.
                Err(error) if is_of_item(&error) => {
                    drop(set_aside.insert(item_id.clone(), error.to_string()))
                }
                Err(error) => {
                    failed = failed.or(Some(Obstacle(format!("could not reconcile item {item_id}: {error}"))))
                }
            }
        }
        failed.map_or(Ok(()), Err)?;
        if set_aside.len() + run.set_aside.len() > MAX_SET_ASIDE {
            let (number, why) = (set_aside.len(), set_aside.into_values().next().unwrap_or_default());
            return Err(Obstacle(format!("{number} items cannot be reconciled; the first one: {why}")));
        }
        let differences: Vec<String> = differences.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
        let what = if differences.is_empty() { "nothing differed".into() } else { differences.join(", ") };
        let number = left.len() - set_aside.len();
        let text = format!("reconciled {number} items; withheld {withheld} units; {what}");
        Ok(Answer::Reconciled(text, set_aside))
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

/// Whether the item's own data are at fault: no other item fails for this reason, and another try fails, too.
fn is_of_item(error: &ReconcileError) -> bool {
    match error {
        // Of Redis's own refusals only the one about a key of another type. The others are about the server.
        ReconcileError::Item(ItemError::Link(LinkError::Refused(text))) => text.contains("WRONGTYPE"),
        ReconcileError::Item(ItemError::Link(_)) => false,
        ReconcileError::Item(_) => true,
        ReconcileError::Ledger(error) => {
            matches!(error, LedgerError::Refused(_) | LedgerError::NoSuchItem(_))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_set_aside_for_its_own_data_and_not_because_a_store_fails() {
        let item_id: ItemId = "shoe".parse().unwrap();
        let of_link = |error: LinkError| ReconcileError::from(ItemError::from(error));
        let wrong_type = "WRONGTYPE: Operation against a key holding the wrong kind of value";
        for (error, expected) in [
            (ItemError::Corrupt { item_id: item_id.clone(), field: "epoch" }.into(), true),
            (of_link(LinkError::Refused(wrong_type.into())), true),
            (LedgerError::Refused("sales_stock".into()).into(), true),
            (LedgerError::NoSuchItem(item_id).into(), true),
            (of_link(LinkError::Refused("LOADING".into())), false),
            (of_link(LinkError::NotSent("no connection in time".into())), false),
            (of_link(LinkError::Unanswered("timed out".into())), false),
            (LedgerError::Unavailable("no connection in time".into()).into(), false),
            (LedgerError::StaleEpoch.into(), false),
        ] {
            assert_eq!(is_of_item(&error), expected, "{error}");
        }
    }
}
