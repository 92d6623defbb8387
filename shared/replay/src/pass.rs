//! One pass over the records of all regions, bucket by bucket.

use crate::decide::{Decided, Known, LeftOut, decide};
use crate::report::ReplayReport;
use crate::{RecordSource, ReplayError};
use futures::future::try_join_all;
use futures::stream::{self, StreamExt};
use ledger::{Ledger, Sale};
use order_log::{Bucket, LogRecord};
use shared::item::ItemId;
use shared::queue::{BatchOrder, LinkError, MAX_BATCH, MAX_PLACED, Queue, RestoredBatch, Withdrawal};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// Buckets that are read and put back at the same time, each from all regions.
const PARALLEL_BUCKETS: usize = 16;
/// Buyers whose rows are read from the ledger in one query.
const LEDGER_PAGE: usize = 5_000;
/// Calls to Redis of one batch, and the pause between them.
const MAX_ATTEMPTS: u32 = 5;
/// How often a bucket is repeated in which withdrawals removed orders.
const MAX_ROUNDS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// What a pass works with.
pub(crate) struct Pass<'a, S> {
    pub(crate) item_id: &'a ItemId,
    pub(crate) token: &'a str,
    pub(crate) queue: &'a Queue,
    pub(crate) ledger: &'a Ledger,
    pub(crate) logs: &'a [&'a S],
}

/// What one bucket's records led to.
struct BucketOutcome {
    /// Records and malformed ones, by region.
    read: Vec<(u64, u64)>,
    left_out: Vec<(usize, LeftOut)>,
    restored: Vec<(usize, u64, RestoredBatch)>,
}

impl BucketOutcome {
    fn withdrawn(&self) -> u64 {
        self.restored.iter().map(|(_, _, batch)| batch.withdrawn).sum()
    }
}

/// Puts the orders back that have a stamp at or after `since`, and applies the withdrawals. Without `places` it puts
/// orders back only where a withdrawal removed one. Adds to the report.
pub(crate) async fn run_pass<S: RecordSource>(
    pass: &Pass<'_, S>,
    since: Stamp,
    places: bool,
    report: &mut ReplayReport,
) -> Result<(), ReplayError> {
    let outcomes = (0..=u8::MAX).map(|bucket| run_bucket(pass, bucket, since, places));
    let mut outcomes = stream::iter(outcomes).buffer_unordered(PARALLEL_BUCKETS);
    while let Some(outcome) = outcomes.next().await {
        add(pass, outcome?, since == Stamp::EPOCH, report);
    }
    Ok(())
}

/// Repeats a bucket until no withdrawal removes an order: an order of the same buyer that arrived between the read and
/// the removal changed nothing, because the older one was still there, and would be lost.
async fn run_bucket<S: RecordSource>(
    pass: &Pass<'_, S>,
    bucket: u8,
    since: Stamp,
    places: bool,
) -> Result<BucketOutcome, ReplayError> {
    let mut outcome = run_round(pass, bucket, since, places).await?;
    let mut withdrawn = outcome.withdrawn();
    for _ in 0..MAX_ROUNDS {
        if withdrawn == 0 {
            return Ok(outcome);
        }
        let again = run_round(pass, bucket, since, true).await?;
        withdrawn = again.withdrawn();
        outcome.restored.extend(again.restored);
    }
    if withdrawn > 0 {
        // A buyer who orders and withdraws all the time must not keep the item from being sold.
        tracing::warn!(item_id = %pass.item_id, bucket, withdrawn, rounds = MAX_ROUNDS, "withdrawals went on while a bucket was restored; an order that arrived at the same moment may be missing");
    }
    Ok(outcome)
}

async fn run_round<S: RecordSource>(
    pass: &Pass<'_, S>,
    bucket: u8,
    since: Stamp,
    places: bool,
) -> Result<BucketOutcome, ReplayError> {
    let buckets = try_join_all(pass.logs.iter().map(|log| read(pass.item_id, *log, bucket, since))).await?;
    let read = buckets.iter().map(|one| (one.records.len() as u64, one.malformed)).collect();
    let records: Vec<Vec<LogRecord>> = buckets.into_iter().map(|one| one.records).collect();
    let in_ledger = in_ledger(pass, &records).await?;
    let Decided { orders, withdrawals, cancelled, left_out } = decide(&records, &in_ledger);
    let mut restored = Vec::new();
    for withdrawals in withdrawals.chunks(MAX_BATCH as usize) {
        restored.push((0, 0, restore(pass, withdrawals, &[]).await?));
    }
    for region in 0..if places { pass.logs.len() } else { 0 } {
        let of_region: Vec<BatchOrder> =
            orders.iter().filter(|(of, _)| *of == region).map(|(_, order)| order.clone()).collect();
        for orders in of_region.chunks(MAX_BATCH as usize) {
            restored.push((region, orders.len() as u64, restore(pass, &[], orders).await?));
        }
    }
    for withdrawals in cancelled.chunks(MAX_PLACED) {
        cancel(pass, withdrawals).await?;
    }
    Ok(BucketOutcome { read, left_out, restored })
}

async fn read<S: RecordSource>(
    item_id: &ItemId,
    log: &S,
    bucket: u8,
    since: Stamp,
) -> Result<Bucket, ReplayError> {
    let unreadable = |error| ReplayError::RegionUnreadable { region: log.region().to_owned(), error };
    log.bucket(item_id, bucket, since).await.map_err(unreadable)
}

async fn in_ledger<S>(
    pass: &Pass<'_, S>,
    records: &[Vec<LogRecord>],
) -> Result<HashMap<UserToken, Known>, ReplayError> {
    let buyers: HashSet<&UserToken> = records.iter().flatten().map(|record| &record.user_token).collect();
    let buyers: Vec<&UserToken> = buyers.into_iter().collect();
    let mut found = HashMap::new();
    for page in buyers.chunks(LEDGER_PAGE) {
        let sales = pass.ledger.sales_of(pass.item_id, page).await?;
        found.extend(sales.into_iter().map(|(buyer, sale)| {
            let Sale { state, placed_at, released_at, .. } = sale;
            (buyer, Known { state, placed_at, released_at })
        }));
    }
    Ok(found)
}

/// One batch, repeated if Redis does not answer: a repetition changes nothing.
pub(crate) async fn restore<S>(
    pass: &Pass<'_, S>,
    withdrawals: &[BatchOrder],
    orders: &[BatchOrder],
) -> Result<RestoredBatch, ReplayError> {
    repeat(|| pass.queue.restore_batch(pass.item_id, pass.token, withdrawals, orders)).await
}

/// Cancels reservations that the buyers have withdrawn: a new primary may lack that. A worker releases them.
async fn cancel<S>(pass: &Pass<'_, S>, withdrawals: &[Withdrawal]) -> Result<(), ReplayError> {
    let answers = repeat(|| pass.queue.withdraw(pass.item_id, withdrawals, true)).await?;
    tracing::info!(item_id = %pass.item_id, ?answers, "applied withdrawals to reservations that the ledger still has");
    Ok(())
}

/// Repeats a call that changes nothing when it is repeated.
async fn repeat<T, Fut>(call: impl Fn() -> Fut) -> Result<T, ReplayError>
where
    Fut: Future<Output = Result<T, LinkError>>,
{
    let mut attempts = 0;
    loop {
        let answer = call().await;
        attempts += 1;
        match answer {
            Err(LinkError::NotSent(_) | LinkError::Unanswered(_)) if attempts < MAX_ATTEMPTS => {
                tokio::time::sleep(PAUSE).await;
            }
            other => return Ok(other?),
        }
    }
}

/// Adds a bucket's outcome to the report. Only the pass over all records counts what it read and left out: later passes
/// read some of the records again.
fn add<S: RecordSource>(
    pass: &Pass<'_, S>,
    outcome: BucketOutcome,
    is_first: bool,
    report: &mut ReplayReport,
) {
    for (region, log) in pass.logs.iter().enumerate() {
        let Some(of_region) = report.regions.get_mut(log.region()) else { continue };
        if is_first {
            let (read, malformed) = outcome.read.get(region).copied().unwrap_or_default();
            of_region.read += read;
            of_region.malformed += malformed;
            for (_, reason) in outcome.left_out.iter().filter(|(of, _)| *of == region) {
                *of_region.left_out.entry(*reason).or_default() += 1;
            }
        }
        for (_, sent, restored) in outcome.restored.iter().filter(|(of, ..)| *of == region) {
            of_region.placed += restored.placed;
            report.withdrawn_from_queue += restored.withdrawn;
            if is_first && restored.taken > 0 {
                *of_region.left_out.entry(LeftOut::Taken).or_default() += restored.taken;
            }
            if is_first {
                of_region.already_queued += sent.saturating_sub(restored.placed + restored.taken);
            }
        }
    }
}
