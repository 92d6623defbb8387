//! Restores an item's queue from the order logs of all regions, after its Redis was lost or replaced.
//!
//! While the item is being restored, the drain takes nothing. All records are read, the orders that still count are put
//! into the queue with their own stamps, and then the drain goes on. The queue sorts, so that the sequence of the reads
//! does not matter. Orders and withdrawals of buyers go on meanwhile.
//!
//! Everything is safe to repeat, after a crash at any point, and at the same time: an order is in the queue once.

mod bucket;
mod calls;
mod decide;
mod pass;
mod report;
mod sales;
mod source;
mod urgency;

pub use report::{RegionReport, ReplayReport};
pub use source::RecordSource;
pub use urgency::by_urgency;

use bucket::probe;
use calls::{Slots, repeat};
use futures::future::{Either, select};
use ledger::{Ledger, LedgerError};
use order_log::{OrderLogError, RETENTION};
use pass::{Pass, restore_all, withdraw_since};
use sales::SalesOfItem;
use shared::item::ItemId;
use shared::queue::{
    ItemError, LinkError, Queue, RESTORE_TIMEOUT, RestoreBegin, RestoreCause, RestoreEnd, RestoreGivenUp,
};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::pin::pin;
use std::time::{Duration, Instant};

/// How often a replay shows that it goes on: also while a log answers slowly, and no order is put back.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// A record may have a stamp that is this much older than its write: a write is repeated, and clocks differ.
const MARGIN: Duration = Duration::from_secs(10);
/// How long a log may take to show that it can be read, before the replay of an item that is sold stops its sales.
const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// From a replay to the next one: by then no process of order-place writes to the primary of before any more. A batch ends
/// within 22 s: a run of 12 s, whose last attempt takes 10 s at most.
pub const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// How to replay.
#[derive(Clone, Debug)]
pub struct ReplayOptions {
    /// Why the caller replays the item, as it has [found](Queue::restores_due): nothing is done if this no longer holds.
    /// `None`: it is replayed in any case.
    pub cause: Option<RestoreCause>,
    /// Regions whose logs are left out: an operator has decided so.
    pub without: Vec<String>,
    /// Another replay of the item is taken over if it made no step for this time.
    pub take_over_after: Duration,
    /// The time limit of the whole replay. After it the item goes on waiting for a replay.
    pub limit: Duration,
    /// When the item is to be replayed again, after this replay: the primary of before may have accepted orders after they
    /// were read. The caller does it ([`Queue::restores_due`]).
    pub again_after: Option<Duration>,
}

impl Default for ReplayOptions {
    fn default() -> Self {
        Self {
            cause: None,
            without: Vec::new(),
            take_over_after: RESTORE_TIMEOUT,
            limit: Duration::from_secs(600),
            again_after: None,
        }
    }
}

/// Why an item was not replayed. It goes on waiting for a replay, and no unit of it is sold, except after `NoSuchRegion`,
/// `NotDue` and `SalesGoOn`.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("could not read the order log of {region}: {error}")]
    RegionUnreadable { region: String, error: OrderLogError },
    #[error("there is no order log of region {0}")]
    NoSuchRegion(String),
    #[error("another replay of the item is in progress")]
    InProgress,
    #[error("another replay of the item has ended meanwhile")]
    NotDue,
    /// It was sold when the replay began, and is sold again. If the replay is not repeated, it has failed too often.
    #[error("{error}; the item is sold meanwhile")]
    SalesGoOn { error: Box<Self>, is_repeated: bool },
    #[error("another replay of the item has taken over")]
    TakenOver,
    #[error("another Redis has become the primary during the replay; it has to begin again")]
    PrimaryChanged,
    #[error("the replay was not complete within {} s", .0.as_secs())]
    TooLong(Duration),
    #[error(transparent)]
    Item(#[from] ItemError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl From<LinkError> for ReplayError {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Refused(code) if code == "NOTRESTORING" => Self::TakenOver,
            error => Self::Item(error.into()),
        }
    }
}

/// Restores the queue of `item_id` from `logs`.
pub async fn replay<S: RecordSource>(
    item_id: &ItemId,
    queue: &Queue,
    ledger: &Ledger,
    logs: &[S],
    options: &ReplayOptions,
) -> Result<ReplayReport, ReplayError> {
    if let Some(unknown) = options.without.iter().find(|name| logs.iter().all(|log| log.region() != *name)) {
        return Err(ReplayError::NoSuchRegion(unknown.clone()));
    }
    // The standard library's hash keys are random.
    let token = format!("{:016x}", RandomState::new().build_hasher().finish());
    let logs: Vec<&S> =
        logs.iter().filter(|log| !options.without.iter().any(|name| name == log.region())).collect();
    // A log that does not answer stops no sales.
    let probed = match options.cause {
        Some(RestoreCause::Again) => probe(item_id, &logs, queue.main_time().await?, PROBE_LIMIT).await,
        _ => Ok(()),
    };
    match queue.restore_begin_if(item_id, &token, options.take_over_after, options.cause).await? {
        RestoreBegin::Begun => {}
        RestoreBegin::InProgress => return Err(ReplayError::InProgress),
        RestoreBegin::NotDue => return Err(ReplayError::NotDue),
    }
    let outcome = match probed {
        Ok(()) => put_back(item_id, &token, queue, ledger, &logs, options).await,
        Err(error) => Err(error),
    };
    let error = match outcome {
        Ok(report) => return Ok(report),
        Err(error) => error,
    };
    let given_up = queue.restore_give_up(item_id, &token).await.inspect_err(|error| {
        tracing::warn!(%error, %item_id, "could not give up a replay that failed; the next one begins when this one has timed out");
    });
    Err(match given_up {
        Ok(RestoreGivenUp::SoldAndRepeated) => {
            ReplayError::SalesGoOn { error: Box::new(error), is_repeated: true }
        }
        Ok(RestoreGivenUp::SoldAndLeft) => {
            ReplayError::SalesGoOn { error: Box::new(error), is_repeated: false }
        }
        Ok(RestoreGivenUp::Waits | RestoreGivenUp::NotMine) | Err(_) => error,
    })
}

/// Puts the orders back, and ends the replay `token`, which has begun.
async fn put_back<S: RecordSource>(
    item_id: &ItemId,
    token: &str,
    queue: &Queue,
    ledger: &Ledger,
    logs: &[&S],
    options: &ReplayOptions,
) -> Result<ReplayReport, ReplayError> {
    let passes = async {
        let item = queue.item_on_primary(item_id).await?;
        let sales = SalesOfItem::new(item_id, ledger);
        let pass = Pass { item_id, item, token, queue, sales, logs, slots: Slots::default() };
        match select(pin!(run_passes(&pass)), pin!(keep_alive(&pass))).await {
            Either::Left((report, _)) => report,
            Either::Right((error, _)) => Err(error),
        }
    };
    let passes = tokio::time::timeout(options.limit, passes);
    let report = passes.await.unwrap_or(Err(ReplayError::TooLong(options.limit)))?;
    match queue.restore_end(item_id, token, options.again_after).await? {
        RestoreEnd::Ended => Ok(ReplayReport { without: options.without.clone(), ..report }),
        RestoreEnd::NotMine => Err(ReplayError::TakenOver),
        RestoreEnd::PrimaryChanged => Err(ReplayError::PrimaryChanged),
    }
}

/// Makes steps that do nothing, so that no other replay takes this one over. Ends only with an error.
async fn keep_alive<S>(pass: &Pass<'_, S>) -> ReplayError {
    loop {
        tokio::time::sleep(KEEP_ALIVE_INTERVAL).await;
        if let Err(error) = repeat(|| pass.queue.restore_goes_on(pass.item_id, pass.token)).await {
            return error;
        }
    }
}

/// Reads all records and puts the orders back. Orders that are written meanwhile come through the stream. A second pass
/// reads what was written since, and puts no order back: a withdrawal may have been applied between the read of its
/// order and the order's return to the queue. DynamoDB reads, and bills, all records in each pass: there are only two.
async fn run_passes<S: RecordSource>(pass: &Pass<'_, S>) -> Result<ReplayReport, ReplayError> {
    let started = Instant::now();
    let mut report = ReplayReport::of(pass.item_id, pass.logs.iter().map(|log| log.region()));
    let began_at = pass.queue.main_time().await?;
    // DynamoDB deletes expired records late and in any order: a withdrawal may be gone while its order is still there.
    restore_all(pass, began_at.saturating_sub(RETENTION), &mut report).await?;
    // Of an item without records no order was put back.
    if report.read() > 0 {
        withdraw_since(pass, began_at.saturating_sub(MARGIN), &mut report).await?;
    }
    report.took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(item_id = %pass.item_id, records = report.read(), placed = report.placed(), took_ms = report.took_ms, "the queue of an item was restored from the order logs");
    Ok(report)
}
