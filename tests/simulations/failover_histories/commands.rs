//! The operator's commands: at any moment of a run, most often soon after a step has begun.

use crate::failover_histories::history::{Event, FailoverHistory};
use crate::failover_histories::world::SECOND;
use region_failover::{FailoverStep, RunState};

/// The share of steps that an operator reacts to.
const REACTIONS: f64 = 0.04;

impl FailoverHistory {
    /// A step begins. The operator, who follows the run, may send a command while it lasts, or a later one.
    pub(crate) fn react(&mut self) {
        if self.operator.chance(REACTIONS) {
            let longest = self.operator.one_of(&[2, 30, 400]);
            let delay = self.operator.within(0, longest * SECOND);
            self.after(delay, Event::Command);
        }
    }

    /// The operator sends a command. The function executes the run that accepts it.
    pub(crate) fn command(&mut self) {
        if self.ended_at.is_some() {
            return;
        }
        let is_accepted = match self.operator.within(0, 9) {
            0..=5 => self.use_redis(),
            6 | 7 => self.go_on_without_log(),
            8 => self.change(|run| run.abort("an operator")),
            // Other steps are waived if they cannot be done: here they can.
            _ => self.change(|run| {
                let steps = [FailoverStep::ScaleUp, FailoverStep::SmokeTest];
                steps.into_iter().any(|step| run.waive(step, "it suffices", 1))
            }),
        };
        if !is_accepted {
            return;
        }
        match self.run.state {
            RunState::Done => self.ended_at = Some(self.world.now),
            _ => self.execute(),
        }
    }

    /// The operator, who looks at a run that waits for a log, decides to go on without it, or to wait.
    pub(crate) fn decide_about_logs(&mut self) {
        let waits = self.run.step == FailoverStep::Replay && self.run.state == RunState::Running;
        let is_needed = self.needed_log().is_some();
        if waits && is_needed && self.world.more_draws.chance(0.5) {
            assert!(self.go_on_without_log(), "the run has not replayed the logs");
        }
    }

    fn needed_log(&self) -> Option<String> {
        self.world.unreadable_logs().into_keys().find(|region| !self.run.may_leave_log(region))
    }

    fn go_on_without_log(&mut self) -> bool {
        let Some(region) = self.needed_log() else { return false };
        self.change(|run| run.without_log(&region).is_ok())
    }

    /// The operator names another Redis, which is empty. Most operators have none: then the run must end without it.
    pub(crate) fn use_redis(&mut self) -> bool {
        if !self.has_spare {
            return false;
        }
        let endpoint = format!("spare-{}.example:6379", self.version);
        let is_accepted = self.change(|run| run.use_redis(&endpoint).is_ok());
        if is_accepted {
            self.world.use_spare(endpoint);
        }
        is_accepted
    }
}
