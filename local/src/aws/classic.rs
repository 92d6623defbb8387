//! Classic Lambda: a process of a function serves one invocation at a time, and is frozen between two of them.
//!
//! An invocation for which no process is idle starts one, as long as the scaling rate allows it: so many at once, and as
//! many more in each 10 s. On AWS both are 1,000 for each function. A machine with two cores has far fewer: see
//! [`ClassicLimits`]. Where Lambda would throttle, the invocation waits here for a process, in order of arrival, since a
//! thousand processes would not be busy.

mod runtime_api;

use crate::aws::lambda::Invoked;
use crate::system::process::Process;
use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::collections::{HashMap, VecDeque};
use std::fmt::{self, Debug, Formatter};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// How often processes are checked, and how often one is started for those who wait.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// The period of the scaling rate.
const PERIOD: Duration = Duration::from_secs(10);

/// How many processes a function has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassicLimits {
    /// New processes at once, and as many more in each 10 s; 1,000 on AWS.
    pub scaling_rate: u32,
    /// Processes in all: the function's reserved concurrency.
    pub most: u32,
}

/// An invocation that has no process yet.
struct Invocation {
    payload: String,
    answered: oneshot::Sender<Invoked>,
    limit: Duration,
}

/// What a process is given.
#[derive(Debug)]
struct Work {
    id: String,
    payload: String,
    deadline_ms: u64,
}

struct Environment {
    process: Process,
    work: mpsc::Sender<Work>,
    /// Read by one request of the process at a time.
    received: Arc<tokio::sync::Mutex<mpsc::Receiver<Work>>>,
    /// Whether it has asked for an invocation yet.
    is_ready: bool,
    serving: Option<Serving>,
}

/// The invocation that a process serves.
struct Serving {
    id: String,
    answered: oneshot::Sender<Invoked>,
    until: Instant,
}

impl Environment {
    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw) {
            // A process that has ended cannot be signalled; it is removed at the next check.
            let _ = kill_process(pid, signal);
        }
    }
}

#[derive(Default)]
struct PoolState {
    environments: HashMap<u64, Environment>,
    idle: Vec<u64>,
    /// Invocations that wait for a process.
    waiting: VecDeque<Invocation>,
    begun: u64,
    given: u64,
    invocations: u64,
    waited: u64,
}

type Spawn = Box<dyn Fn(&str) -> Result<Process> + Send + Sync>;

/// The processes of one function.
pub(crate) struct Pool {
    function: &'static str,
    limits: ClassicLimits,
    spawn: Spawn,
    /// Where the processes find the Runtime API.
    address: String,
    rate: Mutex<(f64, Instant)>,
    state: Mutex<PoolState>,
}

/// A pool that is served. Dropping it kills its processes.
#[derive(Debug)]
pub(crate) struct ServedPool {
    pub(crate) pool: Arc<Pool>,
    tasks: [JoinHandle<()>; 2],
}

/// What a function's processes have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct PoolFigures {
    /// Processes that were started.
    pub started: u64,
    pub invocations: u64,
    /// Invocations that waited, because no process was idle.
    pub waited: u64,
}

impl Debug for Pool {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("function", &self.function)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ServedPool {
    /// Serves the Runtime API for processes that `spawn` starts with its address.
    pub(crate) fn start(function: &'static str, limits: ClassicLimits, spawn: Spawn) -> Result<Self> {
        let (listener, address) = runtime_api::listen()?;
        let rate = Mutex::new((f64::from(limits.scaling_rate), Instant::now()));
        let pool = Arc::new(Pool { function, limits, spawn, address, rate, state: Mutex::default() });
        let serving = tokio::spawn(runtime_api::serve(pool.clone(), listener));
        let kept = pool.clone();
        let checking = tokio::spawn(async move {
            loop {
                tokio::time::sleep(CHECK_INTERVAL).await;
                kept.check();
            }
        });
        Ok(Self { pool, tasks: [serving, checking] })
    }
}

impl Drop for ServedPool {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.pool.kill();
    }
}

impl Pool {
    pub(crate) fn figures(&self) -> PoolFigures {
        let state = lock(&self.state);
        PoolFigures { started: state.begun, invocations: state.invocations, waited: state.waited }
    }

    /// Kills all processes as SIGKILL does, with every invocation in flight.
    pub(crate) fn kill(&self) {
        let mut state = lock(&self.state);
        state.idle.clear();
        state.environments.clear();
    }

    pub(crate) fn process_ids(&self) -> Vec<u32> {
        lock(&self.state).environments.values().map(|environment| environment.process.id()).collect()
    }

    /// Invokes the function, and waits at most `limit`.
    pub(crate) async fn invoke(&self, payload: String, limit: Duration) -> Result<Invoked> {
        let answer = tokio::time::timeout(limit, self.admit(payload, limit)).await;
        let answer = answer
            .with_context(|| format!("{} did not answer within {} s", self.function, limit.as_secs_f64()))?;
        // An environment that ends drops its invocation.
        Ok(answer.unwrap_or_else(|_| {
            Invoked::FunctionError(
                json!({ "errorType": "Runtime.ExitError", "errorMessage": "the process has ended" }),
            )
        }))
    }

    /// Gives an invocation to a process that is idle, or lets it wait for one.
    fn admit(&self, payload: String, limit: Duration) -> oneshot::Receiver<Invoked> {
        let (answered, answer) = oneshot::channel();
        let invocation = Invocation { payload, answered, limit };
        let mut state = lock(&self.state);
        state.invocations += 1;
        if let Some(number) = state.idle.pop() {
            if let Some(environment) = state.environments.get(&number) {
                environment.signal(Signal::CONT);
            }
            self.give(&mut state, number, invocation);
        } else {
            state.waiting.push_back(invocation);
            let is_started = self.start_one(&mut state);
            state.waited += u64::from(!is_started);
        }
        answer
    }

    /// Starts a process, if the limits allow it. It serves the first invocation that waits when it is ready.
    fn start_one(&self, state: &mut PoolState) -> bool {
        let mut rate = lock(&self.rate);
        let most = f64::from(self.limits.scaling_rate);
        let refilled = rate.1.elapsed().as_secs_f64() / PERIOD.as_secs_f64() * most;
        *rate = ((rate.0 + refilled).min(most), Instant::now());
        if rate.0 < 1.0 || state.environments.len() >= self.limits.most as usize {
            return false;
        }
        let number = state.begun;
        match (self.spawn)(&format!("{}/{number}", self.address)) {
            Ok(process) => {
                let (work, received) = mpsc::channel(1);
                let received = Arc::new(tokio::sync::Mutex::new(received));
                state
                    .environments
                    .insert(number, Environment { process, work, received, is_ready: false, serving: None });
                (state.begun, rate.0) = (state.begun + 1, rate.0 - 1.0);
                true
            }
            Err(error) => {
                eprintln!("could not start a process of {}: {error:#}; trying again", self.function);
                false
            }
        }
    }

    /// Gives an invocation to an environment that has none. If that has ended, the invocation is dropped and fails.
    ///
    /// The caller need not run for this: on a busy machine it may come late, and the process would wait for it.
    fn give(&self, state: &mut PoolState, number: u64, invocation: Invocation) {
        let Invocation { payload, answered, limit } = invocation;
        state.given += 1;
        let id = format!("{}-{}", self.function, state.given);
        let Some(environment) = state.environments.get_mut(&number) else { return };
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let deadline_ms = (crate::system::clock::micros_now() / 1_000).saturating_add(limit_ms);
        if environment.work.try_send(Work { id: id.clone(), payload, deadline_ms }).is_ok() {
            environment.serving = Some(Serving { id, answered, until: Instant::now() + limit });
        }
    }

    /// A process asks for its next invocation: it gets the one that waits the longest, or is frozen.
    fn is_free(&self, number: u64) -> Option<Arc<tokio::sync::Mutex<mpsc::Receiver<Work>>>> {
        let mut state = lock(&self.state);
        let environment = state.environments.get_mut(&number)?;
        environment.is_ready = true;
        let received = environment.received.clone();
        while let Some(first) = state.waiting.pop_front() {
            // One whose caller has given up waits no more.
            if !first.answered.is_closed() {
                self.give(&mut state, number, first);
                return Some(received);
            }
        }
        state.environments.get(&number)?.signal(Signal::STOP);
        state.idle.push(number);
        Some(received)
    }

    /// A process has answered.
    fn answered(&self, number: u64, id: &str, answer: Invoked) {
        let mut state = lock(&self.state);
        let serving = state.environments.get_mut(&number).and_then(|environment| environment.serving.take());
        if let Some(serving) = serving.filter(|serving| serving.id == id) {
            // A caller that has given up does not read it.
            let _ = serving.answered.send(answer);
        }
    }

    /// Removes processes that have ended or whose invocation has timed out, and starts one for an invocation that waits.
    fn check(&self) {
        let mut state = lock(&self.state);
        let now = Instant::now();
        let ended = |environment: &mut Environment| {
            let is_late = environment.serving.as_ref().is_some_and(|serving| now > serving.until);
            is_late || !environment.process.is_running()
        };
        let gone: Vec<u64> =
            state.environments.iter_mut().filter_map(|(number, one)| ended(one).then_some(*number)).collect();
        state.idle.retain(|number| !gone.contains(number));
        gone.iter().for_each(|number| drop(state.environments.remove(number)));
        state.waiting.retain(|waiting| !waiting.answered.is_closed());
        let starting = state.environments.values().filter(|environment| !environment.is_ready).count();
        if state.waiting.len() > starting {
            self.start_one(&mut state);
        }
    }
}

#[cfg(test)]
#[path = "classic_tests.rs"]
mod tests;
