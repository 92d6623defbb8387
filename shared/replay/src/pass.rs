//! One pass over the records of all regions, in groups of buckets.

use crate::bucket::{Settled, settle};
use crate::calls::{Slots, restore};
use crate::decide::LeftOut;
use crate::report::{RegionReport, ReplayReport};
use crate::sales::SalesOfItem;
use crate::{RecordSource, ReplayError};
use futures::future::try_join_all;
use futures::stream::{self, StreamExt, TryStreamExt};
use shared::item::{Item, ItemId};
use shared::queue::{BatchOrder, MAX_BATCH, Queue, RESTORE_SLOTS};
use shared::stamp::Stamp;

/// Buckets whose orders are put back together, in the order of their stamps. Buckets spread the buyers: in their order each
/// order would have another path through the long sorted set of the queue. In groups of this size, Redis needs two thirds of
/// the time.
const BUCKETS_OF_GROUP: usize = 16;
/// Groups at the same time: one is read while another one is put back.
const PARALLEL_GROUPS: usize = 2;

/// What a pass works with.
pub(crate) struct Pass<'a, S> {
    pub(crate) item_id: &'a ItemId,
    /// As main's Redis has it: the drain looks at the same times.
    pub(crate) item: Item,
    pub(crate) token: &'a str,
    pub(crate) queue: &'a Queue,
    pub(crate) sales: SalesOfItem<'a>,
    pub(crate) logs: &'a [&'a S],
    pub(crate) slots: Slots,
}

/// What a group's records led to, by region.
struct GroupOutcome {
    regions: Vec<RegionReport>,
    withdrawn: u64,
}

/// Reads all records that have a stamp at or after `since`, applies the withdrawals, and puts the orders back. Adds to the
/// report.
pub(crate) async fn restore_all<S: RecordSource>(
    pass: &Pass<'_, S>,
    since: Stamp,
    report: &mut ReplayReport,
) -> Result<(), ReplayError> {
    let buckets: Vec<u8> = (0..=u8::MAX).collect();
    let groups = buckets.chunks(BUCKETS_OF_GROUP).map(async |group| {
        let settled = try_join_all(group.iter().map(|bucket| settle(pass, *bucket, since))).await?;
        put_back(pass, settled).await
    });
    let mut outcomes = stream::iter(groups).buffer_unordered(PARALLEL_GROUPS);
    while let Some(outcome) = outcomes.next().await {
        let outcome = outcome?;
        report.withdrawn_from_queue += outcome.withdrawn;
        for (log, of_group) in pass.logs.iter().zip(&outcome.regions) {
            report.region(log.region()).add(of_group);
        }
    }
    Ok(())
}

/// Applies the withdrawals that have a stamp at or after `since`. Puts orders back only where a withdrawal removed one: a
/// withdrawal may be applied at any moment between the read of its order and the order's return. What was read and left out
/// is not counted again.
pub(crate) async fn withdraw_since<S: RecordSource>(
    pass: &Pass<'_, S>,
    since: Stamp,
    report: &mut ReplayReport,
) -> Result<(), ReplayError> {
    let buckets = (0..=u8::MAX).map(async |bucket| {
        let settled = settle(pass, bucket, since).await?;
        let orders = if settled.withdrawn > 0 { settled.orders } else { Vec::new() };
        put_back(pass, vec![Settled { orders, ..settled }]).await
    });
    let mut outcomes = stream::iter(buckets).buffer_unordered(BUCKETS_OF_GROUP * PARALLEL_GROUPS);
    while let Some(outcome) = outcomes.next().await {
        let outcome = outcome?;
        report.withdrawn_from_queue += outcome.withdrawn;
        for (log, of_bucket) in pass.logs.iter().zip(&outcome.regions) {
            report.region(log.region()).placed += of_bucket.placed;
        }
    }
    Ok(())
}

/// Puts the orders of some buckets back, by region and in the order of their stamps.
async fn put_back<S>(pass: &Pass<'_, S>, buckets: Vec<Settled>) -> Result<GroupOutcome, ReplayError> {
    let mut outcome = GroupOutcome { regions: vec![RegionReport::default(); pass.logs.len()], withdrawn: 0 };
    let mut orders: Vec<Vec<BatchOrder>> = vec![Vec::new(); pass.logs.len()];
    for settled in buckets {
        outcome.withdrawn += settled.withdrawn;
        for (of_group, of_bucket) in outcome.regions.iter_mut().zip(&settled.regions) {
            of_group.add(of_bucket);
        }
        for (region, order) in settled.orders {
            if let Some(of_region) = orders.get_mut(region) {
                of_region.push(order);
            }
        }
    }
    orders.iter_mut().for_each(|of_region| of_region.sort_unstable_by_key(|order| order.placed_at));
    let batches = orders.iter().enumerate().flat_map(|(region, of_region)| {
        of_region.chunks(MAX_BATCH as usize).map(move |batch| (region, batch))
    });
    let calls = batches.map(async |(region, batch)| {
        let restored = restore(pass, &[], batch).await?;
        Ok::<_, ReplayError>((region, batch.len() as u64, restored))
    });
    let mut answers = stream::iter(calls).buffer_unordered(RESTORE_SLOTS);
    while let Some((region, sent, restored)) = answers.try_next().await? {
        let Some(report) = outcome.regions.get_mut(region) else { continue };
        report.placed += restored.placed;
        report.already_queued += sent.saturating_sub(restored.placed + restored.taken);
        if restored.taken > 0 {
            *report.left_out.entry(LeftOut::Taken).or_default() += restored.taken;
        }
    }
    Ok(outcome)
}
