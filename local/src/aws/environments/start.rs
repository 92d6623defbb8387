//! Starts the processes of a pool, within the limits of `Scaling`.

use super::{ClassicLimits, Environment, Pool, PoolState, Scaling, lock};
use crate::system::process::Process;
use anyhow::Result;
use rustix::process::Signal;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// The period of the scaling rate.
const PERIOD: Duration = Duration::from_secs(10);

impl Pool {
    /// Starts a process, if the limits allow it. It serves the first invocation that waits when it is ready.
    ///
    /// On a busy machine the system takes milliseconds for it. A thread of its own waits for that, so that meanwhile other
    /// invocations are given to the processes that run.
    pub(super) fn start_one(self: &Arc<Self>, state: &mut PoolState) -> bool {
        if state.environments.len() >= self.scaling.most() || !self.rate_allows_one() {
            return false;
        }
        self.begin(state);
        true
    }

    /// Starts a process, whatever the limits are. Returns its number.
    pub(super) fn begin(self: &Arc<Self>, state: &mut PoolState) -> u64 {
        let number = self.prepare(state);
        let pool = self.clone();
        tokio::task::spawn_blocking(move || {
            let spawned = pool.spawn(number);
            pool.has_started(number, spawned);
        });
        number
    }

    /// Takes one from what the scaling rate of classic Lambda allows at the moment.
    fn rate_allows_one(&self) -> bool {
        let Scaling::Classic(ClassicLimits { scaling_rate, .. }) = self.scaling else { return true };
        let mut rate = lock(&self.rate);
        let most = f64::from(scaling_rate);
        let refilled = rate.1.elapsed().as_secs_f64() / PERIOD.as_secs_f64() * most;
        *rate = ((rate.0 + refilled).min(most), Instant::now());
        if rate.0 < 1.0 {
            return false;
        }
        rate.0 -= 1.0;
        true
    }

    /// Starts a process before anything else happens in the pool.
    pub(super) fn start_now(&self, state: &mut PoolState) -> Result<()> {
        let process = self.spawn(state.begun)?;
        let number = self.prepare(state);
        self.keep(state, number, process);
        Ok(())
    }

    fn spawn(&self, number: u64) -> Result<Process> {
        (self.spawn)(&format!("{}/{number}", self.address))
    }

    /// Makes the environment of a process that starts: the process may ask for an invocation at any moment.
    fn prepare(&self, state: &mut PoolState) -> u64 {
        let number = state.begun;
        let (work, received) = mpsc::channel(self.scaling.concurrency());
        let received = Arc::new(tokio::sync::Mutex::new(received));
        let environment = Environment {
            process: None,
            work,
            received,
            began: Instant::now(),
            is_ready: false,
            first: None,
            serving: HashMap::new(),
        };
        state.environments.insert(number, environment);
        state.begun += 1;
        number
    }

    /// The system has started a process, or could not.
    fn has_started(&self, number: u64, spawned: Result<Process>) {
        match spawned {
            Ok(process) => self.keep(&mut lock(&self.state), number, process),
            Err(error) => {
                // Its first invocation, if it has one, fails.
                lock(&self.state).environments.remove(&number);
                // It does not count for the scaling rate.
                lock(&self.rate).0 += 1.0;
                self.warn_not_started(&error);
            }
        }
    }

    /// Keeps a process that was started, unless its environment was ended meanwhile.
    fn keep(&self, state: &mut PoolState, number: u64, process: Process) {
        let Some(environment) = state.environments.get_mut(&number) else { return };
        environment.process = Some(process);
        // It has asked for an invocation before it could be frozen.
        if self.scaling.is_classic() && state.idle.contains(&number) {
            environment.signal(Signal::STOP);
        }
        state.started += 1;
    }

    pub(super) fn warn_not_started(&self, error: &anyhow::Error) {
        eprintln!("could not start a process of {}: {error:#}; trying again", self.function);
    }
}
