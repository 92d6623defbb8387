//! The work on one item: rounds of new tasks and ended holds.

use crate::WorkerContext;
use lease::LeaseError;
use ledger::LedgerError;
use serde::Serialize;
use shared::item::ItemId;
use shared::item_runs::{self, ItemRunEnd, Listed};
use shared::queue::{IdleRules, LinkError, MAX_BATCH, Task};
use std::ops::AddAssign;
use std::time::{Duration, Instant};

/// The pause after a round with work to do.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// The pause after a round without work.
const IDLE_PAUSE: Duration = Duration::from_millis(100);
/// The pause after [`QUIET_ROUNDS`] rounds without work: most items are quiet most of the
/// time, and there may be a thousand.
const QUIET_PAUSE: Duration = Duration::from_millis(400);
const QUIET_ROUNDS: u32 = 20;
const FAILURE_PAUSE: Duration = Duration::from_millis(500);
/// How often the worker checks whether an item without work is idle.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// The worker checks an idle item this long before its idle time ends: if nothing has changed, the drain sends no
/// command for it.
pub(crate) const RECHECK_EARLIER: Duration = Duration::from_secs(30);

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Worked {
    /// Reservations that the ledger has recorded.
    pub recorded: u64,
    /// Reservations that the ledger had no unit for.
    pub refused: u64,
    /// Reservations of excluded buyers: their units return to the stock.
    pub excluded: u64,
    /// Reservations that ended unsold.
    pub released: u64,
    /// Tasks that could not be processed, and were moved to the dead letters.
    pub dead_lettered: u64,
    /// Rounds that failed, and were repeated.
    pub failures: u64,
}

impl AddAssign for Worked {
    fn add_assign(&mut self, more: Self) {
        self.recorded += more.recorded;
        self.refused += more.refused;
        self.excluded += more.excluded;
        self.released += more.released;
        self.dead_lettered += more.dead_lettered;
        self.failures += more.failures;
    }
}

/// Why a round failed. The next round repeats it.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Redis(#[from] LinkError),
    /// This region may not sell at the moment.
    #[error(transparent)]
    LeaseError(#[from] LeaseError),
    /// The worker does not act on a reservation that a failover could lose.
    #[error("too few Redis replicas have acknowledged the reservations")]
    TooFewReplicas,
}

/// How much work a round found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BatchFill {
    Empty,
    /// Less than a full batch: there is no more.
    Partial,
    /// [`MAX_BATCH`]: there may be more.
    Full,
}

impl BatchFill {
    pub(crate) fn of(found: usize) -> Self {
        match found {
            0 => Self::Empty,
            found if found < MAX_BATCH as usize => Self::Partial,
            _ => Self::Full,
        }
    }
}

/// The state of the work on one item between rounds.
#[derive(Debug)]
pub struct ItemWork {
    pub(crate) context: WorkerContext,
    pub(crate) item_id: ItemId,
    /// Tasks of a failed round, which the next round repeats.
    pub(crate) pending: Vec<Task>,
    pub(crate) claimed_at: Option<Instant>,
    pub(crate) trimmed_at: Option<Instant>,
    idle_checked_at: Option<Instant>,
    /// Due reservations to skip, since their tasks have not reached the ledger yet.
    pub(crate) due_to_skip: u32,
    pub(crate) done: Worked,
}

/// Works on `item_id` until `until`, or until it is idle.
pub(crate) async fn run(
    context: WorkerContext,
    item_id: ItemId,
    listed: Listed,
    until: Instant,
) -> ItemRunEnd<Worked> {
    let mut work = ItemWork::new(context, item_id);
    let mut ledger_is_ready = false;
    let mut idle_rounds = 0;
    while Instant::now() < until && listed.is_listed() {
        let pause = match work.round(ledger_is_ready).await {
            Ok(found) => {
                ledger_is_ready = true;
                idle_rounds = if found == BatchFill::Empty { idle_rounds + 1 } else { 0 };
                if found == BatchFill::Empty && work.is_idle().await {
                    break;
                }
                match found {
                    BatchFill::Full => Duration::ZERO,
                    BatchFill::Partial => BUSY_PAUSE,
                    BatchFill::Empty if idle_rounds < QUIET_ROUNDS => IDLE_PAUSE,
                    BatchFill::Empty => QUIET_PAUSE,
                }
            }
            Err(RoundError::Redis(LinkError::Refused(code))) if code == "NOITEM" => {
                return ItemRunEnd { done: work.done, restart: true };
            }
            // The lease keeper logs this once, for all items.
            Err(RoundError::LeaseError(_)) => FAILURE_PAUSE,
            Err(error) => {
                ledger_is_ready &= !matches!(error, RoundError::Ledger(LedgerError::Unavailable(_)));
                work.done.failures += 1;
                metrics::counter!("worker_failures", "Item" => work.item_id.to_string()).increment(1);
                tracing::warn!(%error, item_id = %work.item_id, "a round of an item failed; repeating it");
                FAILURE_PAUSE
            }
        };
        item_runs::pause(pause, until).await;
    }
    ItemRunEnd { done: work.done, restart: true }
}

impl ItemWork {
    pub fn new(context: WorkerContext, item_id: ItemId) -> Self {
        Self {
            context,
            item_id,
            pending: Vec::new(),
            claimed_at: None,
            trimmed_at: None,
            idle_checked_at: None,
            due_to_skip: 0,
            done: Worked::default(),
        }
    }

    /// One round: a batch of tasks, then a batch of ended holds.
    pub async fn round(&mut self, ledger_is_ready: bool) -> Result<BatchFill, RoundError> {
        if !ledger_is_ready {
            self.context.ledger.ready().await?;
        }
        self.context.lease.permit()?;
        if let Err(error) = self.context.record_service().await {
            // This release runs before its migration: reservations are recorded, and no hold ends.
            if matches!(&error, RoundError::Ledger(ledger) if ledger.needs_migration()) {
                self.work_tasks().await?;
            }
            return Err(error);
        }
        let tasks = self.work_tasks().await?;
        let due = self.release_due().await?;
        Ok(tasks.max(due))
    }

    /// Whether nothing can give the item work for a while, so that main's functions may leave it alone.
    async fn is_idle(&mut self) -> bool {
        if self.idle_checked_at.is_some_and(|at| at.elapsed() < IDLE_CHECK_INTERVAL) {
            return false;
        }
        self.idle_checked_at = Some(Instant::now());
        match self.context.queue.mark_idle(&self.item_id, &IdleRules::default()).await {
            Ok(idle) => idle,
            Err(error) => {
                tracing::debug!(%error, item_id = %self.item_id, "could not check whether an item is idle; trying again in 10 s");
                false
            }
        }
    }
}
