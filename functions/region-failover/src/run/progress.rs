//! How a run changes: by an observation, by an action's result, or by a command of the operator. Pure: nothing here
//! calls a server.

use super::{Mode, Run, RunState, StepLog};
use crate::fence::Reboot;
use crate::observation::{Answer, FailoverAction, Loss, Observation, Obstacle};
use crate::steps::{AtLimit, Case, FailoverStep, StepVerdict};
use lease::LeaseTiming;
use shared::stamp::Stamp;

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
    /// The current step's limit in milliseconds, and what happens then.
    fn limit(&self) -> (u64, AtLimit) {
        match self.step.definition().limit.of(self.mode) {
            // A retry while the new main sells: later steps, as the fence, and another failover must not wait for it.
            (ms, AtLimit::Wait) if self.has_ended(FailoverStep::OpenSales) => (ms, AtLimit::Leave),
            limit => limit,
        }
    }

    /// How long an action of the current step may take at most, in milliseconds, so that the following steps do not wait for
    /// longer than its limit. `None` if the run waits for the step, or none follows in this pass.
    pub(crate) fn left_ms(&self, now_ms: u64) -> Option<u64> {
        let (limit_ms, then) = self.limit();
        let is_left = then == AtLimit::Leave && self.following().is_some();
        is_left.then(|| limit_ms.saturating_sub(self.elapsed_ms(now_ms)))
    }

    /// Whether the current step takes longer than its limit.
    pub(crate) fn is_late(&self, now_ms: u64) -> bool {
        self.elapsed_ms(now_ms) > self.limit().0
    }

    /// Aborts the run if that is still possible; returns whether it was.
    pub fn abort(&mut self, why: &str) -> bool {
        let can = self.can_abort();
        if can {
            // A drill has taken no lease of main's that it would have to return.
            self.state = if self.mode == Mode::Drill { RunState::Aborted } else { RunState::Aborting };
            self.why = why.into();
            // Main was not moved: the steps that were left will never be tried again.
            self.outstanding.clear();
        }
        can
    }

    /// Goes back to the first outstanding step of a degraded run.
    pub fn resume(&mut self) {
        let mut order = self.order_of_pass().into_iter();
        if self.state == RunState::Degraded
            && let Some(first) = order.find(|step| self.outstanding.contains(step))
        {
            self.state = RunState::Running;
            self.step = first;
            // What is tried again begins again.
            self.set_aside.clear();
            for step in &self.outstanding {
                let begun_by = step.definition().limit.begun_by;
                self.log.retain(|log| log.step != *step && Some(log.step) != begun_by);
            }
        }
    }

    /// Goes on with the Redis at `endpoint`, as the operator asked, from *move redis* on. Only a failover that has come to
    /// *move redis* and not to *open sales* can; another one returns its step. At *open sales* a write of the lease may be
    /// in transit: it would let drains sell while the items of the other Redis are not reconciled.
    pub fn use_redis(&mut self, endpoint: &str) -> Result<(), FailoverStep> {
        use FailoverStep::{MoveRedis, OpenSales, Promote, RaiseEpoch, Reconcile, Repoint};
        if self.state != RunState::Running || !self.is_past(MoveRedis) || self.is_past(OpenSales) {
            return Err(self.step);
        }
        // What was done with the Redis before is done again. The ledger's steps find their goal reached.
        let again = [MoveRedis, Promote, RaiseEpoch, Reconcile, Repoint];
        self.log.retain(|log| !again.contains(&log.step));
        self.outstanding.retain(|step| !again.contains(step));
        self.waived.retain(|step| !again.contains(step));
        self.set_aside.clear();
        self.refused = None;
        self.step = MoveRedis;
        self.redis_endpoint = Some(endpoint.into());
        Ok(())
    }

    /// Goes on without the order log of `region` if it cannot be read, as the operator asked. Only a failover that has not
    /// replayed the logs can; another one returns its step.
    pub fn without_log(&mut self, region: &str) -> Result<(), FailoverStep> {
        let may_go_on = matches!(self.state, RunState::Running | RunState::Degraded);
        if !may_go_on || self.has_ended(FailoverStep::Replay) {
            return Err(self.step);
        }
        // The step may be outstanding, because of other items. It does not wait for the other steps that are.
        if self.state == RunState::Degraded {
            self.resume();
            self.step = FailoverStep::Replay;
        }
        self.without_logs.insert(region.to_owned());
        Ok(())
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
            None => self.log.push(StepLog { last, ..StepLog::begun(step, now_ms) }),
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
        if self.log_of(step).is_none() {
            self.log.push(StepLog::begun(step, now_ms));
        }
        let case = Case { run: self, now, timing };
        let verdict = match observation {
            Ok(observation) => step.definition().decide(&case, observation),
            Err(Obstacle(why)) => StepVerdict::Wait(why.clone()),
        };
        if let Ok(observation) = observation {
            self.note(observation, verdict == StepVerdict::Done, now_ms);
        }
        let verdict = self.refused(verdict, now_ms);
        let verdict = if self.is_late(now_ms) { self.late(verdict) } else { verdict };
        match verdict {
            StepVerdict::Done => {
                self.update_log(|log| log.ended_ms = Some(now_ms));
                self.outstanding.retain(|left| *left != step);
                self.next_step()
            }
            StepVerdict::Do(action) => {
                self.update_log(|log| log.actions += 1);
                Decision::Do(action)
            }
            StepVerdict::Leave(why) => {
                self.set_outstanding(step, &why, now_ms);
                self.next_step()
            }
            StepVerdict::Halt(why) if self.can_abort() => self.begin_abort(why),
            // Past the point of no return the run waits for the operator: it never ends half done.
            StepVerdict::Wait(why) | StepVerdict::Halt(why) => {
                self.update_log(|log| log.last = why);
                Decision::Pause
            }
        }
    }

    /// What the verdict of a step becomes that takes longer than its limit.
    fn late(&self, verdict: StepVerdict) -> StepVerdict {
        let missing = match &verdict {
            StepVerdict::Wait(why) => why.clone(),
            _ => self.log_of(self.step).map(|log| log.last.clone()).unwrap_or_default(),
        };
        match self.limit().1 {
            _ if matches!(verdict, StepVerdict::Done | StepVerdict::Leave(_) | StepVerdict::Halt(_)) => {
                verdict
            }
            AtLimit::Abort => StepVerdict::Halt(format!("{} took too long: {missing}", self.step.name())),
            AtLimit::Leave if missing.is_empty() => {
                StepVerdict::Leave("it took longer than its limit".into())
            }
            AtLimit::Leave => StepVerdict::Leave(missing),
            AtLimit::GoOn => StepVerdict::Done,
            AtLimit::Wait => verdict,
        }
    }

    /// Notes what the report needs of an observation.
    fn note(&mut self, observation: &Observation, is_done: bool, now_ms: u64) {
        match observation {
            Observation::Lag { lease, ledger_is_here, redis_is_here, loss } if is_done => {
                let is_all_here = (*ledger_is_here, *redis_is_here) == (Some(true), Some(true));
                self.stopped_ms = Some(lease.expires_at.as_millis());
                self.stated = Some(if is_all_here { Loss::default() } else { *loss });
            }
            Observation::Ledger { follows: false, epoch, last } if *epoch == self.epoch => {
                self.inherited = Some(*last);
            }
            Observation::Restoring { .. } if is_done && self.order_logs.is_empty() => {
                self.update_log(|log| log.last = "no order log is configured: nothing was replayed".into());
            }
            Observation::Pointers { left } if !self.order_logs.is_empty() => {
                if !self.has_ended(FailoverStep::OpenSales) {
                    self.not_repointed.clear();
                }
                self.not_repointed.extend(left.iter().cloned());
            }
            Observation::Fence(found) if self.mode != Mode::Drill => {
                if let Some(last) = self.note_fence(found, is_done, now_ms) {
                    self.update_log(|log| log.last = last);
                }
            }
            _ => {}
        }
    }

    /// What the verdict of a step becomes after AWS has definitely refused its action: another try would change nothing.
    fn refused(&mut self, verdict: StepVerdict, now_ms: u64) -> StepVerdict {
        let may_be_left = self.step.definition().limit.then == AtLimit::Leave;
        match self.refused.take() {
            Some(why) if self.step == FailoverStep::BeginScaleUp => {
                self.set_outstanding(FailoverStep::ScaleUp, &why, now_ms);
                verdict
            }
            Some(why) if may_be_left && verdict != StepVerdict::Done => StepVerdict::Leave(why),
            _ => verdict,
        }
    }

    /// Takes the result of the last action. The next observation decides.
    pub fn performed(&mut self, action: &FailoverAction, answer: &Result<Answer, Obstacle>) {
        match answer {
            Ok(Answer::Refused(why)) => self.refused = Some(why.clone()),
            Ok(Answer::Done(_)) => match action {
                FailoverAction::DetachRedis => self.is_detaching = true,
                FailoverAction::ReplayAgain { regions } => {
                    self.not_repointed.retain(|region| !regions.contains(region));
                }
                FailoverAction::RebootOldMain => self.reboot = Some(Reboot::Accepted),
                _ => {}
            },
            Ok(Answer::Items { set_aside, .. }) => self.set_aside.extend(set_aside.clone()),
            Err(_) => {}
        }
        let (Ok(
            Answer::Done(last)
            | Answer::Refused(last)
            | Answer::Items { failed: Some(last), .. }
            | Answer::Items { text: last, failed: None, .. },
        )
        | Err(Obstacle(last))) = answer;
        if !last.is_empty() {
            self.update_log(|log| log.last.clone_from(last));
        }
    }

    fn begin_abort(&mut self, why: String) -> Decision {
        self.abort(&why);
        Decision::Again
    }

    /// Each pass tries an outstanding step once.
    fn set_outstanding(&mut self, step: FailoverStep, why: &str, now_ms: u64) {
        if !self.outstanding.contains(&step) {
            self.outstanding.push(step);
        }
        if self.log_of(step).is_none() {
            self.log.push(StepLog::begun(step, now_ms));
        }
        self.log.iter_mut().filter(|log| log.step == step).for_each(|log| why.clone_into(&mut log.last));
    }

    /// The steps in the order of this pass. Once all were tried, an outstanding *replay* is the last one: it may take long, and
    /// no other step waits for it.
    fn order_of_pass(&self) -> Vec<FailoverStep> {
        use FailoverStep::{FenceOldMain, Replay};
        let mut order = FailoverStep::order(self.mode).to_vec();
        if self.is_done(FenceOldMain) && self.outstanding.contains(&Replay) {
            order.retain(|step| *step != Replay);
            order.push(Replay);
        }
        order
    }

    /// The next step that was neither done before nor tried and left in this pass.
    fn following(&self) -> Option<FailoverStep> {
        use FailoverStep::{FenceOldMain, OpenSales, Replay, Repoint};
        // A run that an earlier release has brought to *replay*, which came before *open sales*.
        let after = if self.step == Replay && !self.has_ended(OpenSales) { Repoint } else { self.step };
        // *Replay* was left early, for the steps before this one.
        let is_tried_again = |step: FailoverStep| (step, after) == (Replay, FenceOldMain);
        let is_left = |step: FailoverStep| self.outstanding.contains(&step) && self.log_of(step).is_some();
        let later = self.order_of_pass().into_iter().skip_while(|step| *step != after).skip(1);
        let mut later = later.filter(|step| !self.has_ended(*step));
        later.find(|step| !is_left(*step) || is_tried_again(*step))
    }

    /// Goes to the next step, or ends.
    fn next_step(&mut self) -> Decision {
        match self.following() {
            Some(next) => {
                // What is tried again begins again.
                if self.outstanding.contains(&next) {
                    self.log.retain(|log| log.step != next);
                }
                self.step = next;
                Decision::Again
            }
            None if self.outstanding.is_empty() => self.end(RunState::Done),
            None => self.end(RunState::Degraded),
        }
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
#[path = "progress_tests.rs"]
mod tests;
