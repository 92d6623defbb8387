//! Lambda, one for each region: the functions that it can invoke, and its Invoke API for SDKs and the gateway.

mod asynchronous;
mod invoke_api;

pub use asynchronous::{EventEnd, EventRetries};

use crate::aws::environments::{Pool, Throttled};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// The longest invocation for a gateway: API Gateway's limit is 30 s.
pub const INVOKE_LIMIT: Duration = Duration::from_secs(30);

/// The timeout of a function that an API or a stream invokes, as template.yaml has it: a test compares the two. `None` for
/// others.
pub fn timeout_of(function: &str) -> Option<Duration> {
    Some(Duration::from_secs(match function {
        "order-intake" => 29,
        "order-status" | "live-updates" => 10,
        "order-confirm" => 20,
        "order-place" => 30,
        _ => return None,
    }))
}

/// Invocations of one function at once. More wait, in order of arrival.
pub const MAX_INVOCATIONS: u32 = 90;

/// A region's Lambda. Dropping it ends its Invoke API.
#[derive(Debug)]
pub struct Emulator {
    invoke: Invoke,
    server: JoinHandle<()>,
}

/// What invokes the functions of a region.
#[derive(Clone, Debug)]
pub struct Invoke {
    address: SocketAddr,
    admissions: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
    /// The processes of each function.
    pools: Arc<Mutex<HashMap<String, Weak<Pool>>>>,
    /// Functions that cannot be invoked, because their reserved concurrency is 0.
    parked: Arc<Mutex<HashSet<String>>>,
    /// Whether the region is unavailable.
    is_down: Arc<AtomicBool>,
}

/// The result of an invocation.
#[derive(Clone, Debug, PartialEq)]
pub enum Invoked {
    /// The function's answer.
    Answer(Value),
    /// The function's error: `errorType` and `errorMessage`.
    FunctionError(Value),
}

impl Emulator {
    /// Serves the Invoke API on a free port.
    pub async fn start() -> Result<Self> {
        let (listener, address) = invoke_api::listen(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let invoke = Invoke {
            address,
            admissions: Arc::default(),
            pools: Arc::default(),
            parked: Arc::default(),
            is_down: Arc::default(),
        };
        let server = tokio::spawn(invoke_api::serve(invoke.clone(), listener));
        Ok(Self { invoke, server })
    }

    /// Refuses every invocation, as if the region did not exist.
    pub fn kill(&mut self) {
        self.invoke.is_down.store(true, Ordering::Relaxed);
        self.server.abort();
    }

    /// Serves again, at the same address.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        let (listener, _) = invoke_api::listen(self.invoke.address)?;
        self.server = tokio::spawn(invoke_api::serve(self.invoke.clone(), listener));
        self.invoke.is_down.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// What invokes its functions.
    pub fn invoke_api(&self) -> Invoke {
        self.invoke.clone()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Invoke {
    /// Parks `function`, so that it cannot be invoked, or unparks it.
    pub fn park(&self, function: &str, is_parked: bool) {
        let mut parked = lock(&self.parked);
        if is_parked {
            parked.insert(function.to_owned());
        } else {
            parked.remove(function);
        }
    }

    /// Whether `function` cannot be invoked.
    pub fn is_parked(&self, function: &str) -> bool {
        lock(&self.parked).contains(function)
    }

    /// Waits until all invocations of `function` have ended, and holds new ones back until the returned permit is
    /// dropped. Returns `None` if this takes longer than `limit`.
    pub async fn quiet(&self, function: &str, limit: Duration) -> Option<OwnedSemaphorePermit> {
        timeout(limit, self.admission(function).acquire_many_owned(MAX_INVOCATIONS)).await.ok()?.ok()
    }

    fn admission(&self, function: &str) -> Arc<Semaphore> {
        let new = || Arc::new(Semaphore::new(MAX_INVOCATIONS as usize));
        lock(&self.admissions).entry(function.to_owned()).or_insert_with(new).clone()
    }

    /// The base of its URLs, for an SDK.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Lets invocations of `function` go to the processes of a pool.
    pub(crate) fn serve(&self, function: &str, pool: &Arc<Pool>) {
        lock(&self.pools).insert(function.to_owned(), Arc::downgrade(pool));
    }

    fn pool(&self, function: &str) -> Option<Arc<Pool>> {
        lock(&self.pools).get(function)?.upgrade()
    }

    /// The URL at which `function` is invoked.
    pub fn invoke_url(&self, function: &str) -> String {
        format!("http://{}{}", self.address, invoke_api::path(function))
    }

    /// Invokes `function` and waits at most [`INVOKE_LIMIT`].
    pub async fn call(&self, function: &str, event: &Value) -> Result<Invoked> {
        self.call_within(function, event.to_string(), INVOKE_LIMIT).await
    }

    /// Invokes `function` with any payload, which may take `limit`. Fails with [`Throttled`] if Lambda refuses it.
    pub async fn call_within(&self, function: &str, payload: String, limit: Duration) -> Result<Invoked> {
        if self.is_parked(function) {
            let why = "its reserved concurrency is 0";
            bail!(Throttled { function: function.to_owned(), why });
        }
        ensure!(
            !self.is_down.load(Ordering::Relaxed),
            "{function} cannot be invoked: its region is unavailable"
        );
        // A pool that serves one invocation a process has its own limits.
        if let Some(pool) = self.pool(function).filter(|pool| pool.is_classic()) {
            return pool.invoke(payload, limit).await;
        }
        let answer = timeout(limit, async {
            let admitted = self.admission(function);
            let _admitted = admitted.acquire().await?;
            // Its processes may have been replaced meanwhile.
            match self.pool(function) {
                Some(pool) => pool.invoke(payload, limit).await,
                None => bail!("{function} does not exist"),
            }
        });
        answer.await.with_context(|| format!("{function} did not answer within {} s", limit.as_secs_f64()))?
    }
}

#[cfg(test)]
mod tests;
