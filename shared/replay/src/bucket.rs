//! One bucket of all regions: its records, what follows from them, and its withdrawals.

use crate::calls::{cancel, restore};
use crate::decide::{Decided, decide};
use crate::pass::Pass;
use crate::report::RegionReport;
use crate::{RecordSource, ReplayError};
use futures::future::try_join_all;
use order_log::{Bucket, LogRecord, OrderLogError};
use shared::item::{Gate, ItemId};
use shared::queue::{BatchOrder, MAX_BATCH, MAX_PLACED};
use shared::stamp::Stamp;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// How often a bucket is read again in which withdrawals removed orders.
const MAX_ROUNDS: u32 = 5;
/// Buckets that the process reads at the same time, of all items and regions: each needs a connection, and Lambda gives a
/// process 1,024 files.
const MAX_READS: usize = 256;
static READS: Semaphore = Semaphore::const_new(MAX_READS);

/// A bucket whose withdrawals are applied, and whose orders are to be put back.
pub(crate) struct Settled {
    /// Orders with the positions of their regions.
    pub(crate) orders: Vec<(usize, BatchOrder)>,
    /// What was read of each region, and left out.
    pub(crate) regions: Vec<RegionReport>,
    /// Orders that the withdrawals removed from the queue.
    pub(crate) withdrawn: u64,
}

/// Reads a bucket, and applies the withdrawals. Repeats this until no withdrawal removes an order: an order of the same
/// buyer that arrived between the read and the removal changed nothing, because the older one was still there, and would be
/// lost.
pub(crate) async fn settle<S: RecordSource>(
    pass: &Pass<'_, S>,
    bucket: u8,
    since: Stamp,
) -> Result<Settled, ReplayError> {
    let (mut withdrawn, mut rounds) = (0, 0);
    loop {
        let settled = round_of(pass, bucket, since).await?;
        withdrawn += settled.withdrawn;
        rounds += 1;
        if settled.withdrawn > 0 && rounds <= MAX_ROUNDS {
            continue;
        }
        if settled.withdrawn > 0 {
            // A buyer who orders and withdraws all the time must not keep the item from being sold.
            tracing::warn!(item_id = %pass.item_id, bucket, withdrawn, rounds, "withdrawals went on while a bucket was restored; an order that arrived at the same moment may be missing");
        }
        return Ok(Settled { withdrawn, ..settled });
    }
}

async fn round_of<S: RecordSource>(
    pass: &Pass<'_, S>,
    bucket: u8,
    since: Stamp,
) -> Result<Settled, ReplayError> {
    let buckets = try_join_all(pass.logs.iter().map(|log| read(pass.item_id, *log, bucket, since))).await?;
    let mut regions: Vec<RegionReport> = buckets
        .iter()
        .map(|one| RegionReport {
            read: one.records.len() as u64,
            malformed: one.malformed,
            ..RegionReport::default()
        })
        .collect();
    let records: Vec<Vec<LogRecord>> = buckets.into_iter().map(|one| one.records).collect();
    let in_ledger = pass.sales.of(&records).await?;
    let Decided { orders, withdrawals, cancelled, left_out } =
        decide(&records, &in_ledger, |placed_at| pass.item.gate(placed_at) == Gate::Open);
    for (region, reason) in left_out {
        if let Some(report) = regions.get_mut(region) {
            *report.left_out.entry(reason).or_default() += 1;
        }
    }
    let mut withdrawn = 0;
    for withdrawals in withdrawals.chunks(MAX_BATCH as usize) {
        withdrawn += restore(pass, withdrawals, &[]).await?.withdrawn;
    }
    for withdrawals in cancelled.chunks(MAX_PLACED) {
        cancel(pass, withdrawals).await?;
    }
    Ok(Settled { orders, regions, withdrawn })
}

/// Reads one bucket of all logs, for at most `limit` each: fails if one of them cannot be read.
pub(crate) async fn probe<S: RecordSource>(
    item_id: &ItemId,
    logs: &[&S],
    now: Stamp,
    limit: Duration,
) -> Result<(), ReplayError> {
    let probed = logs.iter().map(async |log| match timeout(limit, read(item_id, *log, 0, now)).await {
        Ok(answer) => answer,
        Err(_) => {
            let error = OrderLogError::Unanswered(format!("no answer within {} s", limit.as_secs()));
            Err(ReplayError::RegionUnreadable { region: log.region().to_owned(), error })
        }
    });
    try_join_all(probed).await.map(drop)
}

async fn read<S: RecordSource>(
    item_id: &ItemId,
    log: &S,
    bucket: u8,
    since: Stamp,
) -> Result<Bucket, ReplayError> {
    // Nothing closes the semaphore.
    let _permit = READS.acquire().await;
    let unreadable = |error| ReplayError::RegionUnreadable { region: log.region().to_owned(), error };
    log.bucket(item_id, bucket, since).await.map_err(unreadable)
}
