//! The work on one item: rounds of new tasks and of holds that have ended.

use crate::Desk;
use lease::NotHeld;
use ledger::LedgerError;
use serde::Serialize;
use shared::item::ItemId;
use shared::item_runs::Ended;
use shared::queue::{LinkError, MAX_BATCH, Task};
use std::ops::AddAssign;
use std::time::{Duration, Instant};

/// The pause between two rounds that had something to do.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// The pause after a round with nothing to do.
const IDLE_PAUSE: Duration = Duration::from_millis(100);
/// The pause once there was nothing to do for [`QUIET_ROUNDS`]: most items are quiet
/// most of the time, and there may be a thousand.
const QUIET_PAUSE: Duration = Duration::from_millis(400);
const QUIET_ROUNDS: u32 = 20;
/// The pause after a failure.
const FAILURE_PAUSE: Duration = Duration::from_millis(500);

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Worked {
    /// Reservations that the ledger has taken.
    pub recorded: u64,
    /// Reservations that the ledger had no unit for.
    pub refused: u64,
    /// Reservations that ended unsold.
    pub released: u64,
    /// Tasks that could not be done and were put aside.
    pub buried: u64,
    /// Rounds that failed and were repeated.
    pub failures: u64,
}

impl AddAssign for Worked {
    fn add_assign(&mut self, more: Self) {
        self.recorded += more.recorded;
        self.refused += more.refused;
        self.released += more.released;
        self.buried += more.buried;
        self.failures += more.failures;
    }
}

/// Why a round was not finished. All of it will be done again.
#[derive(Debug, thiserror::Error)]
pub enum Unfinished {
    /// The ledger did not do it.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Redis did not do it.
    #[error(transparent)]
    Redis(#[from] LinkError),
    /// Main may not sell at the moment.
    #[error(transparent)]
    NotHeld(#[from] NotHeld),
    /// A reservation that a failover could lose is not acted on.
    #[error("too few replicas have the reservations")]
    TooFewReplicas,
}

/// How much there was to do in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// Something, and no more of it.
    Some,
    /// A full batch: there may be more.
    More,
}

impl Found {
    /// What `found` of at most [`MAX_BATCH`] means.
    pub(crate) fn of(found: usize) -> Self {
        match found {
            0 => Self::Nothing,
            found if found < MAX_BATCH as usize => Self::Some,
            _ => Self::More,
        }
    }
}

/// What the rounds of one item remember.
#[derive(Debug)]
pub struct ItemWork {
    pub(crate) desk: Desk,
    pub(crate) item_id: ItemId,
    /// Tasks taken in a round that failed.
    pub(crate) unfinished: Vec<Task>,
    pub(crate) claimed_at: Option<Instant>,
    pub(crate) forgot_at: Option<Instant>,
    /// Due reservations to pass over, since nothing can be done about them yet.
    pub(crate) due_to_skip: u32,
    pub(crate) done: Worked,
}

/// Works on `item_id` until `until`.
pub(crate) async fn run(desk: Desk, item_id: ItemId, until: Instant) -> Ended<Worked> {
    let mut work = ItemWork::new(desk, item_id);
    let mut ledger_is_here = false;
    let mut idle_rounds = 0;
    while Instant::now() < until {
        let pause = match work.round(ledger_is_here).await {
            Ok(found) => {
                ledger_is_here = true;
                idle_rounds = if found == Found::Nothing { idle_rounds + 1 } else { 0 };
                match found {
                    Found::More => Duration::ZERO,
                    Found::Some => BUSY_PAUSE,
                    Found::Nothing if idle_rounds < QUIET_ROUNDS => IDLE_PAUSE,
                    Found::Nothing => QUIET_PAUSE,
                }
            }
            Err(Unfinished::Redis(LinkError::Refused(code))) if code == "NOITEM" => {
                return Ended { done: work.done, look_again: true };
            }
            // The lease's keeper says so, once for all items.
            Err(Unfinished::NotHeld(_)) => FAILURE_PAUSE,
            Err(error) => {
                ledger_is_here &= !matches!(error, Unfinished::Ledger(LedgerError::Away(_)));
                work.done.failures += 1;
                metrics::counter!("worker_failures", "Item" => work.item_id.to_string()).increment(1);
                tracing::warn!(%error, item_id = %work.item_id, "a round is repeated");
                FAILURE_PAUSE
            }
        };
        let left = until.saturating_duration_since(Instant::now());
        tokio::time::sleep(pause.min(left)).await;
    }
    Ended { done: work.done, look_again: false }
}

impl ItemWork {
    /// The work on `item_id`, at its beginning.
    pub fn new(desk: Desk, item_id: ItemId) -> Self {
        Self {
            desk,
            item_id,
            unfinished: Vec::new(),
            claimed_at: None,
            forgot_at: None,
            due_to_skip: 0,
            done: Worked::default(),
        }
    }

    /// One round: a batch of tasks, then a batch of holds that have ended.
    pub async fn round(&mut self, ledger_is_here: bool) -> Result<Found, Unfinished> {
        if !ledger_is_here {
            self.desk.ledger.ready().await?;
        }
        self.desk.lease.permit()?;
        let tasks = self.work_tasks().await?;
        let due = self.release_due().await?;
        Ok(tasks.max(due))
    }
}
