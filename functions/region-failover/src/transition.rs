//! How a run changes: by an observation, by an action's result, or by a command of the operator. Pure: nothing here
//! calls a server.

use crate::observation::{FailoverAction, Loss, Observation, Obstacle};
use crate::run::{Run, RunState, StepLog};
use crate::step::FailoverStep;
use crate::verdict::{self, StepVerdict, decide};
use lease::LeaseTiming;
use shared::stamp::Stamp;

/// How long RDS may take to make a drill's copy, in milliseconds.
pub const DRILL_COPY_LIMIT_MS: u64 = 120 * 60_000;
/// A drill's timeout for a step that a failover waits for without limit, in milliseconds.
pub const DRILL_STEP_LIMIT_MS: u64 = 30 * 60_000;

/// What the execution does next. It stores the run *before* it does anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Do this, then observe again.
    Do(FailoverAction),
    /// Observe again at once.
    Again,
    /// Observe again after the observe interval.
    Pause,
    /// The run is over.
    End,
}

impl Run {
    /// The current step's timeout in milliseconds. A drill waits longer for its copy, and has a timeout for every step.
    fn limit_ms(&self, observation: Option<&Observation>) -> Option<u64> {
        match (self.is_drill, self.step) {
            (true, FailoverStep::Precheck) => Some(DRILL_COPY_LIMIT_MS),
            // RDS deletes the copy, which takes time.
            (true, FailoverStep::FenceOldMain) => Some(DRILL_STEP_LIMIT_MS),
            (true, step) => step.limit_ms().or(Some(DRILL_STEP_LIMIT_MS)),
            (false, _) => verdict::limit_ms(self, observation),
        }
    }

    /// Aborts the run if that is still possible; returns whether it was.
    pub fn abort(&mut self, why: &str) -> bool {
        let can = self.can_abort();
        if can {
            // A drill has taken no lease of main's that it would have to return.
            self.state = if self.is_drill { RunState::Aborted } else { RunState::Aborting };
            self.why = why.into();
        }
        can
    }

    /// Goes back to the first outstanding step of a degraded run.
    pub fn resume(&mut self) {
        if self.state == RunState::Degraded
            && let Some(first) = self.outstanding.iter().min()
        {
            self.state = RunState::Running;
            self.step = *first;
            let outstanding = &self.outstanding;
            self.log.retain(|log| !outstanding.contains(&log.step));
        }
    }

    /// Gives up an outstanding step permanently, as the operator asked; returns whether it was outstanding.
    pub fn waive(&mut self, step: FailoverStep, why: &str, now_ms: u64) -> bool {
        if !self.outstanding.contains(&step) {
            return false;
        }
        self.outstanding.retain(|left| *left != step);
        self.waived.push(step);
        let last = format!("waived by the operator: {why}");
        match self.log.iter_mut().find(|log| log.step == step) {
            Some(log) => log.last = last,
            None => self.log.push(StepLog { step, began_ms: now_ms, ended_ms: None, actions: 0, last }),
        }
        if self.state == RunState::Degraded && self.outstanding.is_empty() {
            self.state = RunState::Done;
        } else if self.state == RunState::Running && self.step == step {
            self.next_step();
        }
        true
    }

    /// Takes an observation, and returns what to do next. `now` is the time at which the observation *began*, by the
    /// executing function's clock: a late answer says nothing about the time since.
    pub fn observed(
        &mut self,
        observation: &Result<Observation, Obstacle>,
        now: Stamp,
        timing: LeaseTiming,
    ) -> Decision {
        match self.state {
            RunState::Running => self.advance(observation, now, timing),
            RunState::Aborting => self.continue_abort(observation),
            RunState::Aborted | RunState::Degraded | RunState::Done => Decision::End,
        }
    }

    fn advance(
        &mut self,
        observation: &Result<Observation, Obstacle>,
        now: Stamp,
        timing: LeaseTiming,
    ) -> Decision {
        let (step, now_ms) = (self.step, now.as_millis());
        if !self.log.iter().any(|log| log.step == step) {
            let (actions, last) = (0, String::new());
            self.log.push(StepLog { step, began_ms: now_ms, ended_ms: None, actions, last });
        }
        let verdict = match observation {
            Ok(observation) => decide(step, self, observation, now, timing),
            Err(Obstacle(why)) => StepVerdict::Wait(why.clone()),
        };
        let observation = observation.as_ref().ok();
        let is_late = self.limit_ms(observation).is_some_and(|limit| self.step_elapsed_ms(now) > limit);
        if verdict != StepVerdict::Done && is_late {
            // A drill is not aborted because of its own copy: its schedule deletes that.
            if self.can_abort() && step != FailoverStep::FenceOldMain {
                return self.begin_abort(format!("{step:?} took too long"));
            }
            if verdict::may_be_skipped(self, observation) {
                if !self.outstanding.contains(&step) {
                    self.outstanding.push(step);
                }
                return self.end_step(now_ms, false);
            }
        }
        if verdict == StepVerdict::Done
            && let Some(Observation::Lag { lease, ledger_is_here, redis_is_here, loss }) = observation
        {
            let is_all_here = (*ledger_is_here, *redis_is_here) == (Some(true), Some(true));
            self.stopped_ms = Some(lease.expires_at.as_millis());
            self.stated = Some(if is_all_here { Loss { ms: 0, sales: 0 } } else { *loss });
        }
        if step == FailoverStep::RaiseEpoch
            && let Some(Observation::Ledger { follows: false, epoch, last }) = observation
            && *epoch == self.epoch
        {
            self.inherited = Some(*last);
        }
        match verdict {
            StepVerdict::Done => self.end_step(now_ms, true),
            StepVerdict::Do(action) => {
                self.update_log(|log| log.actions += 1);
                Decision::Do(action)
            }
            StepVerdict::Wait(why) => {
                self.update_log(|log| log.last = why);
                Decision::Pause
            }
            StepVerdict::Halt(why) if self.can_abort() => self.begin_abort(why),
            // Past the point of no return the run waits for the operator: it never ends half done.
            StepVerdict::Halt(why) => {
                self.update_log(|log| log.last = why);
                Decision::Pause
            }
        }
    }

    /// Logs the result of the last action.
    pub fn set_last(&mut self, result: &str) {
        self.update_log(|log| log.last = result.into());
    }

    fn begin_abort(&mut self, why: String) -> Decision {
        self.abort(&why);
        Decision::Again
    }

    fn end_step(&mut self, now_ms: u64, is_done: bool) -> Decision {
        let step = self.step;
        self.update_log(|log| log.ended_ms = is_done.then_some(now_ms));
        if is_done {
            self.outstanding.retain(|left| *left != step);
        }
        self.next_step()
    }

    fn next_step(&mut self) -> Decision {
        match self.step.next().filter(|next| !self.is_done_from(*next)) {
            Some(next) => {
                self.step = next;
                Decision::Again
            }
            None => match self.outstanding.first() {
                // Each pass tries a skipped step once.
                Some(_) => self.end(RunState::Degraded),
                None => self.end(RunState::Done),
            },
        }
    }

    /// Whether `step` and all later steps were done before: a resumed run repeats only what was skipped.
    fn is_done_from(&self, step: FailoverStep) -> bool {
        let was_observed =
            |step: FailoverStep| self.log.iter().any(|log| log.step == step && log.ended_ms.is_some());
        let is_done = |step: FailoverStep| was_observed(step) || self.waived.contains(&step);
        FailoverStep::ALL.into_iter().filter(|later| *later >= step).all(is_done)
    }

    fn continue_abort(&mut self, observation: &Result<Observation, Obstacle>) -> Decision {
        let Ok(Observation::Lease(lease)) = observation else { return Decision::Pause };
        let is_marked = lease.run.as_deref() == Some(&self.id);
        match lease.opened(&self.from, self.epoch, &self.id) {
            Some(opened) => Decision::Do(FailoverAction::WriteLease(opened)),
            // A killed execution may have sent a write that closes the lease and has not arrived yet. Marking the
            // record raises its version, and the late write then fails.
            None if !is_marked && lease.is_open => {
                Decision::Do(FailoverAction::WriteLease(lease.marked(&self.id)))
            }
            None => self.end(RunState::Aborted),
        }
    }

    fn end(&mut self, state: RunState) -> Decision {
        self.state = state;
        Decision::End
    }

    fn update_log(&mut self, write: impl FnOnce(&mut StepLog)) {
        let step = self.step;
        if let Some(log) = self.log.iter_mut().find(|log| log.step == step) {
            write(log);
        }
    }
}

#[cfg(test)]
#[path = "transition_tests.rs"]
mod tests;
