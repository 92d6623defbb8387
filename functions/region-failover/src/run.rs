//! A run, as it is stored. `run/progress.rs` has how it changes.

mod progress;

pub use progress::Decision;

use crate::fence::Reboot;
use crate::observation::{Loss, ObservationKind};
use crate::steps::FailoverStep;
use ledger::LastSigns;
use serde::{Deserialize, Serialize};
use shared::item::ItemId;
use std::collections::{BTreeMap, BTreeSet};

/// How long the Global Datastore may take to move, in milliseconds, if the operator does not say.
pub const REDIS_WAIT_MS: u64 = 5 * 60_000;

/// What is moved, and whether the old main takes part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Main answers; nothing is lost.
    #[default]
    Planned,
    /// Main is lost.
    Forced {
        /// The loss that the operator has accepted.
        accepted: Loss,
    },
    /// The steps of a planned failover on temporary copies: nothing of main's is moved.
    Drill,
}

impl Mode {
    pub fn is_forced(self) -> bool {
        matches!(self, Self::Forced { .. })
    }
}

/// The state of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    #[default]
    Running,
    /// The run gives the lease back to the old main.
    Aborting,
    /// Nothing was moved.
    Aborted,
    /// The new main sells. A step was left outstanding, and is tried again when the run is resumed.
    Degraded,
    /// The new main sells, and every step is done.
    Done,
}

/// The log of one step. Times are milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepLog {
    pub step: FailoverStep,
    /// When it was first observed.
    pub began_ms: u64,
    /// When it was observed to be done.
    pub ended_ms: Option<u64>,
    /// The number of actions taken for it.
    pub actions: u32,
    /// What it waited for last, or what failed last.
    pub last: String,
}

impl StepLog {
    fn begun(step: FailoverStep, began_ms: u64) -> Self {
        Self { step, began_ms, ended_ms: None, actions: 0, last: String::new() }
    }
}

/// A failover or a drill.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub id: String,
    pub mode: Mode,
    /// The old main.
    pub from: String,
    /// The new main.
    pub to: String,
    /// The epoch that ends.
    pub epoch: u64,
    /// Units of each item to withhold.
    pub withhold: u32,
    /// Whether it may begin within an hour of the last one.
    pub skip_cooldown: bool,
    /// How long the Global Datastore may take, before Redis is detached from it.
    #[serde(default = "redis_wait_ms")]
    pub redis_wait_ms: u64,
    /// Seconds from the end of the last failover to the beginning of this one; `None` if there was none.
    pub since_last_seconds: Option<u64>,
    /// When the last failover ended that was not aborted, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub last_ended_ms: Option<u64>,
    pub state: RunState,
    /// The current step.
    pub step: FailoverStep,
    pub log: Vec<StepLog>,
    /// Steps that were left and are still to be done.
    pub outstanding: Vec<FailoverStep>,
    /// Steps that the operator has waived: they are not tried again.
    #[serde(default)]
    pub waived: Vec<FailoverStep>,
    /// Whether ElastiCache has accepted to detach the standby's Redis. A group that leaves is not asked to become the
    /// primary.
    #[serde(default)]
    pub is_detaching: bool,
    /// Main's instance class when the run began, if it was known.
    #[serde(default)]
    pub main_class: Option<String>,
    /// The endpoint of another Redis, which the operator named in place of this region's member of the datastore.
    #[serde(default)]
    pub redis_endpoint: Option<String>,
    /// Regions that had an order log when the run began.
    #[serde(default)]
    pub order_logs: BTreeSet<String>,
    /// Regions without whose order log the run may go on, as the operator decided. A log that can be read is read all the
    /// same.
    #[serde(default)]
    pub without_logs: BTreeSet<String>,
    /// Regions that were not repointed before sales opened, and whose orders since then are not replayed. None without order
    /// logs.
    #[serde(default)]
    pub not_repointed: BTreeSet<String>,
    /// Items that could not be reconciled or restored, and why. They are not sold until a later try succeeds.
    #[serde(default)]
    pub set_aside: BTreeMap<ItemId, String>,
    /// What AWS has definitely refused to do for the current step.
    #[serde(default)]
    pub refused: Option<String>,
    /// The reboot of the old main's instance, if there was one.
    #[serde(default)]
    pub reboot: Option<Reboot>,
    /// Why it was aborted.
    pub why: String,
    /// When the old main's lease ended: main has sold nothing since. Milliseconds since the Unix epoch.
    pub stopped_ms: Option<u64>,
    /// What the standby lacked when the lag gate let the run pass.
    pub stated: Option<Loss>,
    /// The old main's newest heartbeat and sale in the promoted ledger, before its epoch began.
    #[serde(default)]
    pub inherited: Option<LastSigns>,
}

/// A run that was stored without the field has the default.
fn redis_wait_ms() -> u64 {
    REDIS_WAIT_MS
}

impl Run {
    pub fn new(id: &str, mode: Mode, (from, to): (&str, &str), epoch: u64, withhold: u32) -> Self {
        Self {
            id: id.into(),
            mode,
            from: from.into(),
            to: to.into(),
            epoch,
            withhold,
            redis_wait_ms: redis_wait_ms(),
            ..Self::default()
        }
    }

    /// When main was moved: when the new main sold. Steps that are retried later do not count. `None` as long as it does
    /// not sell.
    fn moved_ms(&self) -> Option<u64> {
        self.log_of(FailoverStep::OpenSales).and_then(|log| log.ended_ms)
    }

    /// Notes when main was moved last. `previous` is the run before this one; aborted runs are passed over.
    pub fn set_previous(&mut self, previous: Option<&Self>, now_ms: u64) {
        self.last_ended_ms = previous.and_then(|previous| previous.moved_ms().or(previous.last_ended_ms));
        self.since_last_seconds = self.last_ended_ms.map(|ended| now_ms.saturating_sub(ended) / 1_000);
    }

    /// The old main's region in a forced run: no step waits long for its answers.
    pub fn lost_region(&self) -> Option<&str> {
        self.mode.is_forced().then_some(self.from.as_str())
    }

    /// Whether the run may go on without the order log of `region`.
    pub fn may_leave_log(&self, region: &str) -> bool {
        self.without_logs.contains(region)
    }

    /// The epoch that begins.
    pub fn new_epoch(&self) -> u64 {
        self.epoch + 1
    }

    /// What to observe next; `None` if the run is over.
    pub fn observation_kind(&self) -> Option<ObservationKind> {
        match self.state {
            RunState::Running => Some(self.step.definition().observes),
            RunState::Aborting => Some(ObservationKind::Lease),
            RunState::Aborted | RunState::Degraded | RunState::Done => None,
        }
    }

    /// Whether it can still be aborted: nothing has been moved.
    pub fn can_abort(&self) -> bool {
        self.state == RunState::Running
            && (self.mode == Mode::Drill || !self.is_past(FailoverStep::MoveRedis))
    }

    /// Whether the run is at `step`, or after it.
    fn is_past(&self, step: FailoverStep) -> bool {
        let order = FailoverStep::order(self.mode);
        self.log_of(step).is_some()
            || order.iter().skip_while(|one| **one != step).any(|one| *one == self.step)
    }

    pub(crate) fn log_of(&self, step: FailoverStep) -> Option<&StepLog> {
        self.log.iter().find(|log| log.step == step)
    }

    /// How long the current step has taken so far, in milliseconds: since it was begun, also if an earlier step did so.
    pub fn elapsed_ms(&self, now_ms: u64) -> u64 {
        let first = self.step.definition().limit.begun_by.and_then(|step| self.log_of(step));
        // An earlier step that did not act, or whose action failed, has begun nothing: `last` has the failure.
        let first = first.filter(|log| log.actions > 0 && log.last.is_empty());
        let began_ms = first.or_else(|| self.log_of(self.step)).map(|log| log.began_ms);
        began_ms.map_or(0, |began| now_ms.saturating_sub(began))
    }

    /// The number of actions taken for the current step so far.
    pub fn step_actions(&self) -> u32 {
        self.log_of(self.step).map_or(0, |log| log.actions)
    }

    /// Whether `step` was observed to be done, left for now, or waived.
    pub fn is_done(&self, step: FailoverStep) -> bool {
        self.has_ended(step) || self.outstanding.contains(&step)
    }

    /// Whether `step` was observed to be done, or waived.
    pub(crate) fn has_ended(&self, step: FailoverStep) -> bool {
        self.log_of(step).is_some_and(|log| log.ended_ms.is_some()) || self.waived.contains(&step)
    }

    /// Whether it is running or aborting.
    pub fn is_active(&self) -> bool {
        matches!(self.state, RunState::Running | RunState::Aborting)
    }
}
