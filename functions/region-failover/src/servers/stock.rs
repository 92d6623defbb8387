//! Items under the new epoch: a unit is free only if neither ledger nor Redis has it as sold or reserved.

use super::obstacle;
use super::order_logs::await_replay;
use crate::observation::{Answer, Obstacle};
use crate::run::Run;
use ledger::LedgerError;
use reconcile::{ReconcileError, Stores, reconcile_at_rest};
use shared::item::ItemId;
use shared::queue::{ItemError, Keys, LinkError};
use std::collections::BTreeMap;

/// Limit of items that are set aside. More of them are a fault of a store, for which the run waits.
const MAX_SET_ASIDE: usize = 100;

/// Items of the ledger that are not under the new epoch in Redis yet.
pub async fn unreconciled(stores: &Stores, run: &Run) -> Result<Vec<ItemId>, Obstacle> {
    let mut left = Vec::new();
    for item_id in stores.ledger.item_ids().await.map_err(obstacle)? {
        match stores.queue.item(&item_id).await {
            Ok(item) if item.epoch == run.new_epoch() => {}
            Ok(_) => left.push(item_id),
            Err(error) if is_of_data(&error) => left.push(item_id),
            Err(error) => return Err(obstacle(error)),
        }
    }
    Ok(left)
}

/// Reconciles the items that are left, and returns what differed. An item that cannot be reconciled because of its own data
/// is set aside.
pub async fn reconcile_items(stores: &Stores, run: &Run) -> Result<Answer, Obstacle> {
    let mut left = unreconciled(stores, run).await?;
    left.retain(|item_id| !run.set_aside.contains_key(item_id));
    let mut differences: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut reconciled, mut withheld, mut failed, mut set_aside) = (0, 0, None, BTreeMap::new());
    for item_id in &left {
        match reconcile_item(stores, run, item_id, &mut differences).await {
            Ok(units) => (reconciled, withheld) = (reconciled + 1, withheld + u64::from(units)),
            // One failed item does not delay the others.
            Err(error) if is_of_item(&error) => drop(set_aside.insert(item_id.clone(), error.to_string())),
            Err(error) => failed = failed.or(Some(format!("could not reconcile item {item_id}: {error}"))),
        }
    }
    let first = set_aside.values().next().cloned().unwrap_or_default();
    let number = set_aside.len() + run.set_aside.len();
    if number > MAX_SET_ASIDE {
        return Err(Obstacle(format!("{number} items cannot be reconciled; the first one: {first}")));
    }
    let is_aside = |item_id: &ItemId| set_aside.contains_key(item_id) || run.set_aside.contains_key(item_id);
    if !set_aside.is_empty() && nothing_else_sells(stores, is_aside).await? {
        return Err(Obstacle(format!(
            "none of the items that are not closed can be reconciled, so that nothing could be sold; the first one: {first}"
        )));
    }
    let differences: Vec<String> = differences.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    let what = if differences.is_empty() { "nothing differed".into() } else { differences.join(", ") };
    let text = format!("reconciled {reconciled} items; withheld {withheld} units; {what}");
    Ok(Answer::Items { text, set_aside, failed })
}

/// Whether all items that are not closed are set aside, and there is one. Such a failure is more likely a store's fault.
async fn nothing_else_sells(stores: &Stores, is_aside: impl Fn(&ItemId) -> bool) -> Result<bool, Obstacle> {
    let (ledger, now) = (&stores.ledger, stores.queue.main_time().await.map_err(obstacle)?);
    let mut is_one_open = false;
    for item_id in ledger.item_ids().await.map_err(obstacle)? {
        let known = ledger.item(&item_id).await.map_err(obstacle)?;
        match known.item.closes_at.is_none_or(|closes_at| closes_at > now) {
            true if !is_aside(&item_id) => return Ok(false),
            is_open => is_one_open |= is_open,
        }
    }
    Ok(is_one_open)
}

async fn reconcile_item(
    stores: &Stores,
    run: &Run,
    item_id: &ItemId,
    differences: &mut BTreeMap<&'static str, u64>,
) -> Result<u32, ReconcileError> {
    match stores.queue.item(item_id).await {
        // Under the old epoch: no drain sells it before its units are withheld, even if this execution ends here.
        Err(error @ (ItemError::NoSuchItem(_) | ItemError::Corrupt { .. })) => {
            match reconcile::restore(stores, item_id, run.epoch).await? {
                // Malformed and not paused: what it has is not replaced.
                ..0 => return Err(error.into()),
                _ => *differences.entry("items that Redis had lost").or_default() += 1,
            }
        }
        Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    let reconciled = reconcile_at_rest(stores, item_id).await?;
    for (kind, buyers) in reconciled.differences {
        *differences.entry(kind).or_default() += buyers;
    }
    let withheld = withhold(stores, run, item_id, reconciled.stock_counted).await?;
    reconcile::restock(stores, item_id, true).await?;
    if !run.order_logs.is_empty() {
        await_replay(stores, item_id).await?;
    }
    let (key, epoch) = (Keys::of(item_id).item, run.new_epoch());
    // Last: from here on the drain takes the item as the new epoch's.
    stores
        .link
        .call(async |mut connection| {
            redis::cmd("HSET").arg(&key).arg("epoch").arg(epoch).query_async::<()>(&mut connection).await
        })
        .await
        .map_err(ItemError::from)?;
    Ok(withheld)
}

/// Withholds units that are free. What Redis has promised and the ledger does not have yet stays promised. Another Redis does
/// not know these promises: then more units are free than before, and are withheld in addition.
async fn withhold(stores: &Stores, run: &Run, item_id: &ItemId, free: i64) -> Result<u32, LedgerError> {
    let known = stores.ledger.item(item_id).await?;
    let already = if known.withheld_in_epoch == run.new_epoch() { known.withheld_for_epoch } else { 0 };
    let units = run.withhold.min(already.saturating_add(u32::try_from(free).unwrap_or(0)));
    stores.ledger.withhold(item_id, units, run.withhold > 0, run.new_epoch()).await
}

/// Whether the item's own data are at fault: no other item fails for this reason, and another try fails, too.
fn is_of_item(error: &ReconcileError) -> bool {
    match error {
        ReconcileError::Item(error) => is_of_data(error),
        // The next try writes its key again.
        ReconcileError::Incomplete(_) => false,
        ReconcileError::Ledger(error) => {
            matches!(error, LedgerError::Refused(_) | LedgerError::NoSuchItem(_))
        }
    }
}

/// Whether the item's keys in Redis are at fault, and not the server.
pub(super) fn is_of_data(error: &ItemError) -> bool {
    match error {
        // A key of another type; a script that fails on malformed values, or misses the item. A server that answers every
        // command so sets aside all items, and then the run waits.
        ItemError::Link(LinkError::Refused(code)) => matches!(code.as_str(), "WRONGTYPE" | "ERR" | "NOITEM"),
        ItemError::Link(_) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_set_aside_for_its_own_data_and_not_because_a_store_fails() {
        let item_id: ItemId = "shoe".parse().unwrap();
        let of_link = |error: LinkError| ReconcileError::from(ItemError::from(error));
        for (error, expected) in [
            (ItemError::Corrupt { item_id: item_id.clone(), field: "epoch" }.into(), true),
            (of_link(LinkError::Refused("WRONGTYPE".into())), true),
            (of_link(LinkError::Refused("ERR".into())), true),
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
