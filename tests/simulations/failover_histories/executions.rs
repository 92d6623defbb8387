//! Executions of the failover: each has read the run, and the newest version counts. They are killed, overtaken, and
//! started once too often.

use crate::failover_histories::history::{Event, FailoverHistory};
use crate::failover_histories::world::{SECOND, TIMING};
use region_failover::{Answer, Decision, FailoverAction, Observation, Obstacle, Run, RunState};
use shared::stamp::Stamp;

/// How often a run may end with outstanding steps before its history ends.
const MAX_PASSES: u32 = 4;

/// How often AWS may refuse something definitely before the new main sells: answers get lost, and calls are repeated.
const MAX_REFUSALS: u32 = 6;

/// An execution, with the run as it has read it.
pub(crate) struct Execution {
    pub(crate) run: Run,
    version: u64,
    clock: i64,
}

/// What an execution has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) execution: usize,
    pub(crate) action: FailoverAction,
    /// The execution is killed before the answer, or has sent the action twice and this is the second.
    pub(crate) is_forgotten: bool,
    /// The run of the execution when it sent the action.
    pub(crate) run: Run,
}

impl FailoverHistory {
    /// The schedule, or an operator, starts an execution: the first, or another one after a kill, or one too many.
    pub(crate) fn start(&mut self) {
        let is_over = self.ended_at.is_some() || matches!(self.run.state, RunState::Aborted | RunState::Done);
        if is_over {
            return;
        }
        self.execute();
        if self.world.draws.chance(0.03) {
            self.change(|run| run.abort("an operator"));
        }
        self.decide_about_logs();
        if self.world.more_draws.chance(0.05) {
            self.use_redis();
        }
        let again = self.world.draws.within(20 * SECOND, 200 * SECOND);
        self.after(again, Event::Start);
    }

    pub(crate) fn execute(&mut self) {
        let clock = self.world.draws.clock();
        let mut run = self.run.clone();
        run.resume();
        self.executions.push(Some(Execution { run, version: self.version, clock }));
        self.after(0, Event::Observe(self.executions.len() - 1));
    }

    /// Saves the run, changed by an operator's command; returns whether the run has accepted the command.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Run) -> bool) -> bool {
        let mut run = self.run.clone();
        let is_accepted = change(&mut run);
        if is_accepted {
            (self.run, self.version) = (run, self.version + 1);
        }
        is_accepted
    }

    pub(crate) fn observe(&mut self, execution: usize) {
        let Some(Some(one)) = self.executions.get(execution) else { return };
        let (run, clock, kind) = (one.run.clone(), one.clock, one.run.observation_kind());
        let Some(kind) = kind else { return };
        if self.world.draws.chance(0.01) {
            return self.kill(execution);
        }
        let observation = self.world.observe(&run, kind, clock);
        let delay = self.world.draws.delay();
        let observed_at = self.world.clock(clock);
        self.after(delay, Event::Observed { execution, observed_at, observation });
    }

    fn kill(&mut self, execution: usize) {
        self.kills += 1;
        self.executions[execution] = None;
    }

    pub(crate) fn observed(
        &mut self,
        execution: usize,
        observed_at: Stamp,
        observation: &Result<Observation, Obstacle>,
    ) {
        let Some(Some(mut one)) = self.executions.get_mut(execution).map(Option::take) else { return };
        if self.world.draws.chance(0.01) {
            return self.kill(execution);
        }
        let next = one.run.observed(observation, observed_at, TIMING);
        // Saved first, and only by an execution that has read the newest version.
        if one.version != self.version {
            self.kills += 1;
            return;
        }
        self.version += 1;
        let begins = self.run.step != one.run.step;
        self.run.clone_from(&one.run);
        if begins {
            self.react();
        }
        one.version = self.version;
        match next {
            Decision::Do(action) => self.send(execution, action),
            Decision::Again => self.after(1_000, Event::Observe(execution)),
            Decision::Pause => {
                let pause = self.world.draws.within(500_000, 5 * SECOND);
                self.after(pause, Event::Observe(execution));
            }
            Decision::End => {
                self.passes += 1;
                // Another execution may do what is outstanding.
                let may_be_fixed = self.run.state == RunState::Degraded && self.passes < MAX_PASSES;
                if !may_be_fixed || self.world.draws.chance(0.5) {
                    self.ended_at.get_or_insert(self.world.now);
                }
                return;
            }
        }
        self.executions[execution] = Some(one);
    }

    fn send(&mut self, execution: usize, action: FailoverAction) {
        let is_planned = !self.run.mode.is_forced();
        if action == FailoverAction::RaiseClass && is_planned && !self.world.table.is_open {
            self.world.fault("no region sells while a planned run raises the replica's class");
        }
        let (delay, is_forgotten) = (self.world.draws.delay(), self.world.draws.chance(0.02));
        if self.world.draws.chance(0.05) {
            // Sent twice, and the second one late.
            let late = self.world.draws.delay() + self.world.draws.delay();
            let again = Sent { execution, action: action.clone(), is_forgotten: true, run: self.run.clone() };
            self.after(late, Event::Do(Box::new(again)));
        }
        let sent = Sent { execution, action, is_forgotten, run: self.run.clone() };
        self.after(delay, Event::Do(Box::new(sent)));
        self.kills += u32::from(is_forgotten);
    }

    /// An action arrives, and its answer goes back to the execution.
    pub(crate) fn arrive(&mut self, sent: &Sent) {
        let answer = self.world.perform(&sent.action, &sent.run);
        self.refusals += u32::from(matches!(answer, Ok(Answer::Refused(_))));
        if self.refusals > MAX_REFUSALS && !self.world.table.is_open {
            self.world.fault(
                "AWS is asked again and again for what it has definitely refused, and no region sells",
            );
        }
        if sent.is_forgotten {
            return;
        }
        if let Some(Some(one)) = self.executions.get_mut(sent.execution) {
            one.run.performed(&sent.action, &answer);
        }
        let pause = self.world.draws.within(1_000, SECOND);
        self.after(pause, Event::Observe(sent.execution));
    }
}
