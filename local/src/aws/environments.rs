//! Execution environments: the processes of a function, which fetch their invocations from the Runtime API.
//!
//! An invocation for which no process is free starts one, within the limits of `Scaling`. Beyond them it is throttled, or
//! waits for a process, in order of arrival. A process that ends fails its invocations at once.

mod ends;
mod limits;
mod runtime_api;
mod start;

pub(crate) use limits::Scaling;
pub use limits::{ClassicLimits, Excess, Throttled};

use crate::aws::lambda::Invoked;
use crate::system::process::Process;
use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::{self, Debug, Formatter};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// How often processes are checked, and how often one is started for those who wait.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// The longest invocation of any function: Lambda's limit.
pub(super) const LONGEST: Duration = Duration::from_secs(900);

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
    /// `None` while the system starts it.
    process: Option<Process>,
    work: mpsc::Sender<Work>,
    /// Read by one request of the process at a time.
    received: Arc<tokio::sync::Mutex<mpsc::Receiver<Work>>>,
    /// When it began.
    began: Instant,
    /// Whether it has asked for an invocation yet.
    is_ready: bool,
    /// The invocation that it gets when it is ready, and until when, if it starts in that invocation's time.
    first: Option<(Invocation, Instant)>,
    /// The invocations that it serves, by their ids.
    serving: HashMap<String, Serving>,
}

/// An invocation that a process serves.
struct Serving {
    answered: oneshot::Sender<Invoked>,
    until: Instant,
    limit: Duration,
}

impl Environment {
    fn signal(&self, signal: Signal) {
        let id = self.process.as_ref().and_then(|process| i32::try_from(process.id()).ok());
        if let Some(pid) = id.and_then(Pid::from_raw) {
            // A process that has ended cannot be signalled; it is removed at the next check.
            let _ = kill_process(pid, signal);
        }
    }
}

#[derive(Default)]
struct PoolState {
    /// By number, in order of their starts.
    environments: BTreeMap<u64, Environment>,
    /// Processes that ask for an invocation, once for each that they ask for.
    idle: Vec<u64>,
    /// Invocations that wait for a process.
    waiting: VecDeque<Invocation>,
    /// Environments that were made. Not all of their processes could be started.
    begun: u64,
    started: u64,
    given: u64,
    invocations: u64,
    waited: u64,
    throttled: u64,
    timed_out: u64,
    init_again: u64,
}

impl PoolState {
    /// The invocation that waits the longest. One whose caller has given up waits no more.
    fn next_waiting(&mut self) -> Option<Invocation> {
        while let Some(first) = self.waiting.pop_front() {
            if !first.answered.is_closed() {
                return Some(first);
            }
        }
        None
    }
}

type Spawn = Box<dyn Fn(&str) -> Result<Process> + Send + Sync>;

/// The processes of one function.
pub(crate) struct Pool {
    function: &'static str,
    scaling: Scaling,
    spawn: Spawn,
    /// Where the processes find the Runtime API.
    address: String,
    /// How many processes classic Lambda may start at the moment, and since when.
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
    /// Invocations that were refused because of the limits. They are not among the others.
    pub throttled: u64,
    /// Processes that were killed at the function's time limit.
    pub timed_out: u64,
    /// Processes that took too long to start, and were started again.
    pub init_again: u64,
}

impl Debug for Pool {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("function", &self.function)
            .field("scaling", &self.scaling)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ServedPool {
    /// Serves the Runtime API for processes that `spawn` starts with its address.
    pub(crate) fn start(function: &'static str, scaling: Scaling, spawn: Spawn) -> Result<Self> {
        let (listener, address) = runtime_api::listen()?;
        let at_once = match scaling {
            Scaling::Classic(limits) => f64::from(limits.scaling_rate),
            Scaling::Kept { .. } => 0.0,
        };
        let rate = Mutex::new((at_once, Instant::now()));
        let pool = Arc::new(Pool { function, scaling, spawn, address, rate, state: Mutex::default() });
        if !scaling.is_classic() {
            pool.start_now(&mut lock(&pool.state))?;
        }
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
        self.pool.end();
        lock(&self.pool.state).waiting.clear();
    }
}

impl Pool {
    pub(crate) fn is_classic(&self) -> bool {
        self.scaling.is_classic()
    }

    pub(crate) fn figures(&self) -> PoolFigures {
        let state = lock(&self.state);
        PoolFigures {
            started: state.started,
            invocations: state.invocations,
            waited: state.waited,
            throttled: state.throttled,
            timed_out: state.timed_out,
            init_again: state.init_again,
        }
    }

    /// Kills all processes as SIGKILL does: their invocations fail. One that is always kept is started again.
    pub(crate) fn kill(&self) {
        self.end();
        self.keep_one(&mut lock(&self.state));
    }

    fn end(&self) {
        let mut state = lock(&self.state);
        state.idle.clear();
        state.environments.clear();
    }

    fn keep_one(&self, state: &mut PoolState) {
        if !self.scaling.is_classic()
            && state.environments.is_empty()
            && let Err(error) = self.start_now(state)
        {
            self.warn_not_started(&error);
        }
    }

    /// The ids of all processes, the oldest first.
    pub(crate) fn process_ids(&self) -> Vec<u32> {
        let state = lock(&self.state);
        state
            .environments
            .values()
            .filter_map(|environment| Some(environment.process.as_ref()?.id()))
            .collect()
    }

    /// Invokes the function, which may take `limit`. Fails with [`Throttled`] beyond the limits, if they say so.
    pub(crate) async fn invoke(self: &Arc<Self>, payload: String, limit: Duration) -> Result<Invoked> {
        let timeout = self.scaling.timeout(limit);
        let answer = tokio::time::timeout(timeout, self.admit(payload, limit)?).await;
        let answer = answer.with_context(|| {
            format!("{} did not answer within {} s", self.function, timeout.as_secs_f64())
        })?;
        // An environment that ends drops its invocation.
        Ok(answer.unwrap_or_else(|_| {
            Invoked::FunctionError(
                json!({ "errorType": "Runtime.ExitError", "errorMessage": "the process has ended" }),
            )
        }))
    }

    /// Gives an invocation to a process that is idle, or lets it wait for one.
    fn admit(
        self: &Arc<Self>,
        payload: String,
        limit: Duration,
    ) -> Result<oneshot::Receiver<Invoked>, Throttled> {
        let (answered, answer) = oneshot::channel();
        let invocation = Invocation { payload, answered, limit };
        let mut state = lock(&self.state);
        let idle = if self.scaling.cold().is_none() { state.idle.pop() } else { None };
        if let Some(number) = idle {
            if let Some(environment) = state.environments.get(&number).filter(|_| self.scaling.is_classic()) {
                environment.signal(Signal::CONT);
            }
            self.give(&mut state, number, invocation, limit);
        } else {
            state.waiting.push_back(invocation);
            let is_provided = self.enough_are_starting(&state) || self.start_one(&mut state);
            if !is_provided && self.scaling.throttles() {
                state.waiting.pop_back();
                state.throttled += 1;
                let why = "its processes are all busy, and no other one may start now";
                return Err(Throttled { function: self.function.to_owned(), why });
            }
            state.waited += u64::from(!is_provided);
        }
        state.invocations += 1;
        Ok(answer)
    }

    fn enough_are_starting(&self, state: &PoolState) -> bool {
        let starting = state.environments.values().filter(|environment| environment.is_starting()).count();
        let may_start = self.scaling.cold().is_none_or(|most| starting < most);
        !may_start || state.waiting.len() <= starting * self.scaling.concurrency()
    }

    fn start_if_needed(self: &Arc<Self>, state: &mut PoolState) {
        if !self.enough_are_starting(state) {
            self.start_one(state);
        }
    }

    /// Gives an invocation to an environment that asks for one, for as long as `time`. If that has ended, the invocation is
    /// dropped and fails.
    ///
    /// The caller need not run for this: on a busy machine it may come late, and the process would wait for it.
    fn give(&self, state: &mut PoolState, number: u64, invocation: Invocation, time: Duration) {
        let Invocation { payload, answered, limit } = invocation;
        state.given += 1;
        let id = format!("{}-{}", self.function, state.given);
        let Some(environment) = state.environments.get_mut(&number) else { return };
        // A kept process has the longest time that Lambda allows, however long its caller waits.
        let told = if self.scaling.is_classic() { time } else { LONGEST };
        let time_ms = u64::try_from(told.as_millis()).unwrap_or(u64::MAX);
        let deadline_ms = (crate::system::clock::micros_now() / 1_000).saturating_add(time_ms);
        if environment.work.try_send(Work { id: id.clone(), payload, deadline_ms }).is_ok() {
            environment.serving.insert(id, Serving { answered, until: Instant::now() + time, limit });
        }
    }

    /// A process asks for its next invocation: it gets the one that waits the longest, or waits itself. On classic Lambda
    /// it is frozen meanwhile.
    fn is_free(self: &Arc<Self>, number: u64) -> Option<Arc<tokio::sync::Mutex<mpsc::Receiver<Work>>>> {
        let mut state = lock(&self.state);
        let environment = state.environments.get_mut(&number)?;
        let is_new = !std::mem::replace(&mut environment.is_ready, true);
        let received = environment.received.clone();
        if let Some((first, until)) = environment.first.take() {
            self.give(&mut state, number, first, until.saturating_duration_since(Instant::now()));
            return Some(received);
        }
        let may_serve = is_new || self.scaling.cold().is_none();
        if let Some(first) = may_serve.then(|| state.next_waiting()).flatten() {
            let limit = first.limit;
            self.give(&mut state, number, first, limit);
            self.start_if_needed(&mut state);
            return Some(received);
        }
        if self.scaling.is_classic() {
            state.environments.get(&number)?.signal(Signal::STOP);
        }
        state.idle.push(number);
        Some(received)
    }

    /// A process has answered.
    fn answered(&self, number: u64, id: &str, answer: Invoked) {
        let mut state = lock(&self.state);
        let serving = state.environments.get_mut(&number).and_then(|one| one.serving.remove(id));
        if let Some(serving) = serving {
            // A caller that has given up does not read it.
            let _ = serving.answered.send(answer);
        }
    }
}

#[cfg(test)]
mod tests;
