//! The ends of processes: those that died, that reached the function's time limit, or that took too long to start.

use super::{Environment, Pool, PoolState, lock};
use crate::aws::lambda::Invoked;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Pool {
    /// Removes processes that have ended, and starts one for an invocation that waits. Classic Lambda ends a process whose
    /// invocation has reached its time limit; here a kept one may serve others at the same time.
    pub(super) fn check(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        if self.scaling.is_classic() {
            end_late(&mut state, Instant::now());
        }
        let PoolState { environments, idle, waiting, .. } = &mut *state;
        environments.retain(|_, environment| !environment.has_ended());
        idle.retain(|number| environments.contains_key(number));
        waiting.retain(|waiting| !waiting.answered.is_closed());
        if let Some(limit) = self.scaling.init() {
            self.begin_again(&mut state, limit);
        }
        self.keep_one(&mut state);
        self.start_if_needed(&mut state);
    }

    /// Ends the processes whose INIT has taken longer than `limit`. Lambda runs INIT again with the first invocation, as a
    /// part of its time.
    fn begin_again(self: &Arc<Self>, state: &mut PoolState, limit: Duration) {
        let is_slow =
            |environment: &Environment| environment.is_starting() && environment.began.elapsed() > limit;
        let slow: Vec<u64> =
            state.environments.iter().filter(|(_, one)| is_slow(one)).map(|(number, _)| *number).collect();
        for number in slow {
            state.environments.remove(&number);
            state.init_again += 1;
            let Some(first) = state.waiting.pop_front() else { continue };
            let number = self.begin(state);
            if let Some(environment) = state.environments.get_mut(&number) {
                let until = Instant::now() + first.limit;
                environment.first = Some((first, until));
            }
        }
    }
}

/// Ends the processes that serve an invocation beyond its time limit: SIGKILL, in the middle of their work.
fn end_late(state: &mut PoolState, now: Instant) {
    let late: Vec<u64> =
        state.environments.iter().filter(|(_, one)| one.is_late(now)).map(|(number, _)| *number).collect();
    for number in late {
        let Some(environment) = state.environments.remove(&number) else { continue };
        state.timed_out += 1;
        let first = environment.first.map(|(first, _)| (first.answered, first.limit));
        let serving = environment.serving.into_values().map(|serving| (serving.answered, serving.limit));
        // A caller that has given up does not read it.
        serving.chain(first).for_each(|(answered, limit)| drop(answered.send(timed_out(limit))));
    }
}

/// What Lambda reports about an invocation that has reached the function's time limit.
fn timed_out(limit: Duration) -> Invoked {
    let message = format!("Error: Task timed out after {:.2} seconds", limit.as_secs_f64());
    Invoked::FunctionError(json!({ "errorType": "Sandbox.Timedout", "errorMessage": message }))
}

impl Environment {
    /// Whether it is in INIT, and takes an invocation that waits when it is ready.
    pub(super) fn is_starting(&self) -> bool {
        !self.is_ready && self.first.is_none()
    }

    fn is_late(&self, now: Instant) -> bool {
        let first = self.first.as_ref().map(|(_, until)| *until);
        self.serving.values().map(|serving| serving.until).chain(first).any(|until| now > until)
    }

    fn has_ended(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| !process.is_running())
    }
}
