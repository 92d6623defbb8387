//! The steps of a failover: one definition for each of them. Decisions, `plan`, `report` and the runbook's tables all
//! come from here.

mod gates;
mod replay;
mod sales;
mod stores;

pub(crate) use gates::log_needed;

use crate::observation::{FailoverAction, Observation, ObservationKind};
use crate::run::{Mode, Run};
use lease::LeaseTiming;
use serde::{Deserialize, Serialize};
use shared::item::ItemId;
use shared::stamp::Stamp;

/// A step. [`FailoverStep::order`] has the order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailoverStep {
    #[default]
    Precheck,
    StopSales,
    LagGate,
    BeginScaleUp,
    TakeLease,
    MoveRedis,
    ScaleUp,
    Promote,
    RaiseEpoch,
    Reconcile,
    Repoint,
    OpenSales,
    Replay,
    SmokeTest,
    FenceOldMain,
}

use FailoverStep::{
    BeginScaleUp, FenceOldMain, LagGate, MoveRedis, OpenSales, Precheck, Promote, RaiseEpoch, Reconcile,
    Replay, Repoint, ScaleUp, SmokeTest, StopSales, TakeLease,
};

/// Main sells until *stop sales*: the replica's class is raised before it.
const PLANNED: [FailoverStep; 14] = [
    Precheck,
    ScaleUp,
    StopSales,
    LagGate,
    TakeLease,
    MoveRedis,
    Promote,
    RaiseEpoch,
    Reconcile,
    Repoint,
    OpenSales,
    Replay,
    SmokeTest,
    FenceOldMain,
];
/// RDS changes the class while lease and Redis are moved.
const FORCED: [FailoverStep; 15] = [
    Precheck,
    StopSales,
    LagGate,
    BeginScaleUp,
    TakeLease,
    MoveRedis,
    ScaleUp,
    Promote,
    RaiseEpoch,
    Reconcile,
    Repoint,
    OpenSales,
    Replay,
    SmokeTest,
    FenceOldMain,
];

impl FailoverStep {
    /// The steps of a mode, in order.
    pub fn order(mode: Mode) -> &'static [Self] {
        if mode.is_forced() { &FORCED } else { &PLANNED }
    }

    /// Its name in texts: `move redis`.
    pub fn name(self) -> String {
        let quoted = serde_json::to_string(&self).unwrap_or_default();
        quoted.trim_matches('"').replace('_', " ")
    }

    pub fn definition(self) -> &'static StepDefinition {
        match self {
            Precheck => &gates::PRECHECK,
            StopSales => &gates::STOP_SALES,
            LagGate => &gates::LAG_GATE,
            TakeLease => &gates::TAKE_LEASE,
            MoveRedis => &stores::MOVE_REDIS,
            BeginScaleUp => &stores::BEGIN_SCALE_UP,
            ScaleUp => &stores::SCALE_UP,
            Promote => &stores::PROMOTE,
            RaiseEpoch => &stores::RAISE_EPOCH,
            Reconcile => &stores::RECONCILE,
            Repoint => &sales::REPOINT,
            Replay => &replay::REPLAY,
            OpenSales => &sales::OPEN_SALES,
            SmokeTest => &sales::SMOKE_TEST,
            FenceOldMain => &sales::FENCE_OLD_MAIN,
        }
    }
}

/// All that is particular to a step.
#[derive(Debug)]
pub struct StepDefinition {
    /// The precondition.
    pub needs: &'static str,
    pub does: &'static str,
    pub done_when: &'static str,
    pub observes: ObservationKind,
    pub limit: StepLimit,
    decide: fn(&Case<'_>, &Observation) -> StepVerdict,
}

impl StepDefinition {
    /// What the step decides by `observation`. An observation of another step's kind decides nothing: the step waits.
    pub fn decide(&self, case: &Case<'_>, observation: &Observation) -> StepVerdict {
        (self.decide)(case, observation)
    }
}

/// How long a drill waits for a step that a failover would wait for, in seconds.
const DRILL_WAITS_SECONDS: u64 = 30 * 60;

/// How long a step may take, in milliseconds, and what happens then.
#[derive(Clone, Copy, Debug)]
pub struct StepLimit {
    planned_ms: u64,
    forced_ms: u64,
    pub then: AtLimit,
    drill: (u64, AtLimit),
    /// An earlier step that begins this one. The limit counts from there.
    pub begun_by: Option<FailoverStep>,
    /// What the operator does if the step is outstanding.
    pub if_outstanding: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtLimit {
    /// The run aborts. Only steps before the point of no return have such a limit.
    Abort,
    /// The step is left outstanding.
    Leave,
    /// The next step follows. A later step has the same goal.
    GoOn,
    /// The run waits for the step all the same, and reports it as late.
    Wait,
}

impl AtLimit {
    /// For the plan and the runbook.
    pub fn words(self) -> &'static str {
        match self {
            Self::Abort => "the run aborts",
            Self::Leave => "the step is left outstanding",
            Self::GoOn => "the next step follows",
            Self::Wait => "the run waits, and reports the step as late",
        }
    }
}

impl StepLimit {
    /// A drill, which moves nothing, ends if a step takes too long.
    const fn new(then: AtLimit, seconds: u64) -> Self {
        let in_drill = if matches!(then, AtLimit::Wait) { DRILL_WAITS_SECONDS } else { seconds };
        let ms = seconds * 1_000;
        let drill = (in_drill * 1_000, AtLimit::Abort);
        Self { planned_ms: ms, forced_ms: ms, then, drill, begun_by: None, if_outstanding: "" }
    }

    const fn if_outstanding(self, if_outstanding: &'static str) -> Self {
        Self { if_outstanding, ..self }
    }

    const fn begun_by(self, step: FailoverStep) -> Self {
        Self { begun_by: Some(step), ..self }
    }

    const fn forced(self, seconds: u64) -> Self {
        Self { forced_ms: seconds * 1_000, ..self }
    }

    const fn drill(self, then: AtLimit, seconds: u64) -> Self {
        Self { drill: (seconds * 1_000, then), ..self }
    }

    /// The limit in `mode`, in milliseconds, and what happens then.
    pub fn of(&self, mode: Mode) -> (u64, AtLimit) {
        match mode {
            Mode::Planned => (self.planned_ms, self.then),
            Mode::Forced { .. } => (self.forced_ms, self.then),
            Mode::Drill => self.drill,
        }
    }
}

/// A step of a run, at the time at which its observation began by the executing function's clock.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    pub run: &'a Run,
    pub now: Stamp,
    pub timing: LeaseTiming,
}

impl Case<'_> {
    /// How long the step has taken so far, in milliseconds.
    fn elapsed_ms(&self) -> u64 {
        self.run.elapsed_ms(self.now.as_millis())
    }
}

/// What a step decides. Pure: deciding calls no server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepVerdict {
    /// The step's goal is reached: the next step follows.
    Done,
    /// Do this, then observe again.
    Do(FailoverAction),
    /// The goal will be reached without an action. The text says what is missing.
    Wait(String),
    /// The goal cannot be reached now, and the new main can sell without it: the step is outstanding.
    Leave(String),
    /// The goal cannot be reached. The run aborts if it still can.
    Halt(String),
}

impl StepVerdict {
    /// Why a step that takes no action is not done; `None` if it is.
    pub(crate) fn refusal(self) -> Option<String> {
        match self {
            Self::Wait(why) | Self::Leave(why) | Self::Halt(why) => Some(why),
            Self::Done | Self::Do(_) => None,
        }
    }
}

fn wait(why: &str) -> StepVerdict {
    StepVerdict::Wait(why.into())
}

/// What a step decides that works on items: `left` are those that are not done.
fn left_items(run: &Run, left: &[ItemId], action: FailoverAction) -> StepVerdict {
    if left.is_empty() {
        return StepVerdict::Done;
    }
    let reason = |item_id: &ItemId| run.set_aside.get(item_id).map(|why| format!("{item_id}: {why}"));
    match left.iter().map(reason).collect::<Option<Vec<String>>>() {
        // The other items sell.
        Some(reasons) => StepVerdict::Leave(format!("set aside, and not sold: {}", reasons.join("; "))),
        None => StepVerdict::Do(action),
    }
}

fn wrong_observation() -> StepVerdict {
    wait("the observation does not belong to this step")
}

/// A step on the critical path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PathEntry {
    pub step: FailoverStep,
    /// Its limit.
    pub limit_seconds: u64,
    /// When it ends at the latest if every step takes as long as its limit, in seconds since the path began.
    pub ends_seconds: u64,
}

/// The time in which no region sells, step by step. Planned: from *stop sales*. Forced: from the beginning, since main is
/// lost. It ends when the new main sells.
pub fn critical_path(mode: Mode) -> Vec<PathEntry> {
    let first = if mode.is_forced() { Precheck } else { StopSales };
    let order = FailoverStep::order(mode).iter().skip_while(|step| **step != first);
    let mut path: Vec<PathEntry> = Vec::new();
    for step in order {
        let definition = step.definition();
        let limit_seconds = definition.limit.of(mode).0 / 1_000;
        let before = path.last().map_or(0, |entry| entry.ends_seconds);
        let begun = path.iter().find(|entry| Some(entry.step) == definition.limit.begun_by);
        let ends_seconds = match begun {
            // It has gone on beside the steps since then.
            Some(begun) => before.max(begun.ends_seconds - begun.limit_seconds + limit_seconds),
            None => before + limit_seconds,
        };
        path.push(PathEntry { step: *step, limit_seconds, ends_seconds });
        if *step == OpenSales {
            break;
        }
    }
    path
}

#[cfg(test)]
#[path = "steps/tests.rs"]
mod tests;
