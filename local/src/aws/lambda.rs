//! cargo-lambda's emulator, one for each region: the Lambda Runtime API, from which functions fetch invocations,
//! and the Invoke API, which gateway and schedules call.

use crate::aws::classic::Pool;
use crate::aws::functions::Environments;
use crate::system::process::{Process, free_port, tool, workspace, yielding};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// The longest invocation for a gateway: API Gateway's limit is 30 s.
pub const INVOKE_LIMIT: Duration = Duration::from_secs(30);
/// The longest invocation of any function: Lambda's limit.
const LONG_INVOKE_LIMIT: Duration = Duration::from_secs(900);

#[derive(Debug)]
pub struct Emulator {
    process: Process,
    port: u16,
    log: PathBuf,
    invoke: Invoke,
}

/// Invocations of one function that may be inside the emulator. cargo-lambda 1.9
/// keeps those that wait for a process in a channel of 100, and stops permanently when
/// it is full. More invocations wait here, in order of arrival.
pub const MAX_INVOCATIONS: u32 = 90;

/// The Invoke API of an emulator.
#[derive(Clone, Debug)]
pub struct Invoke {
    address: String,
    client: reqwest::Client,
    admissions: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
    /// The processes of each function, to which invocations add.
    environments: Arc<Mutex<HashMap<String, Weak<Environments>>>>,
    /// The functions whose processes serve one invocation at a time, without the emulator.
    classic: Arc<Mutex<HashMap<String, Weak<Pool>>>>,
    /// Functions that cannot be invoked, because their reserved concurrency is 0.
    parked: Arc<Mutex<HashSet<String>>>,
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
    /// Starts an emulator on a free port, with its log in `folder`.
    pub async fn start(folder: &Path, region: &str) -> Result<Self> {
        let port = free_port()?;
        let log = folder.join(format!("{region}-emulator.log"));
        let process = spawn(port, &log).await?;
        let address = format!("127.0.0.1:{port}");
        let client = reqwest::Client::builder().pool_max_idle_per_host(256).build()?;
        let invoke = Invoke {
            address,
            client,
            admissions: Arc::default(),
            environments: Arc::default(),
            classic: Arc::default(),
            parked: Arc::default(),
        };
        Ok(Self { process, port, log, invoke })
    }

    /// Kills the emulator as SIGKILL does, with every invocation in flight.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts the emulator again at the same address.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill();
        self.process = spawn(self.port, &self.log).await?;
        Ok(())
    }

    /// The Invoke API.
    pub fn invoke_api(&self) -> Invoke {
        self.invoke.clone()
    }
}

async fn spawn(port: u16, log: &Path) -> Result<Process> {
    let mut command = yielding(tool("cargo-lambda"));
    command.args(["lambda", "watch", "--only-lambda-apis", "-A", "127.0.0.1", "-P", &port.to_string()]);
    command.args(["--timeout", &LONG_INVOKE_LIMIT.as_secs().to_string()]).current_dir(workspace());
    let mut process = Process::start("the Lambda emulator (cargo-lambda)", &mut command, log)?;
    process.wait_for_port(port).await?;
    Ok(process)
}

impl Invoke {
    /// Parks `function`, so that it cannot be invoked, or unparks it.
    pub fn park(&self, function: &str, is_parked: bool) {
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        if is_parked {
            parked.insert(function.to_owned());
        } else {
            parked.remove(function);
        }
    }

    /// Whether `function` cannot be invoked.
    pub fn is_parked(&self, function: &str) -> bool {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner).contains(function)
    }

    /// Waits until all invocations of `function` have ended, and holds new ones back until the returned permit is
    /// dropped. Returns `None` if this takes longer than `limit`.
    pub async fn quiet(&self, function: &str, limit: Duration) -> Option<OwnedSemaphorePermit> {
        timeout(limit, self.admission(function).acquire_many_owned(MAX_INVOCATIONS)).await.ok()?.ok()
    }

    /// The value of `AWS_LAMBDA_RUNTIME_API` for the process of `function`.
    pub fn runtime_api(&self, function: &str) -> String {
        format!("http://{}/.rt/{function}", self.address)
    }

    fn admission(&self, function: &str) -> Arc<Semaphore> {
        let mut admissions = self.admissions.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Semaphore::new(MAX_INVOCATIONS as usize));
        admissions.entry(function.to_owned()).or_insert_with(new).clone()
    }

    /// The base of its URLs, for an SDK.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Lets invocations of `function` start more of its processes.
    pub(crate) fn serve(&self, function: &str, environments: &Arc<Environments>) {
        let mut serving = self.environments.lock().unwrap_or_else(PoisonError::into_inner);
        serving.insert(function.to_owned(), Arc::downgrade(environments));
    }

    /// Lets invocations of `function` go to the processes of a pool.
    pub(crate) fn serve_classic(&self, function: &str, pool: &Arc<Pool>) {
        let mut classic = self.classic.lock().unwrap_or_else(PoisonError::into_inner);
        classic.insert(function.to_owned(), Arc::downgrade(pool));
    }

    fn pool(&self, function: &str) -> Option<Arc<Pool>> {
        self.classic.lock().unwrap_or_else(PoisonError::into_inner).get(function)?.upgrade()
    }

    /// Starts another process of `function` if all are busy, as Lambda does.
    fn make_room(&self, function: &str, admission: &Semaphore) {
        let serving = self.environments.lock().unwrap_or_else(PoisonError::into_inner).get(function).cloned();
        let free = u32::try_from(admission.available_permits()).unwrap_or(u32::MAX);
        if let Some(environments) = serving.and_then(|serving| serving.upgrade()) {
            environments.make_room(MAX_INVOCATIONS.saturating_sub(free));
        }
    }

    /// The URL at which `function` is invoked.
    pub fn invoke_url(&self, function: &str) -> String {
        format!("http://{}/2015-03-31/functions/{function}/invocations", self.address)
    }

    /// Invokes `function` and waits at most [`INVOKE_LIMIT`].
    pub async fn call(&self, function: &str, event: &Value) -> Result<Invoked> {
        self.call_within(function, event.to_string(), INVOKE_LIMIT).await
    }

    /// Invokes `function` with any payload.
    pub async fn call_within(&self, function: &str, payload: String, limit: Duration) -> Result<Invoked> {
        ensure!(!self.is_parked(function), "{function} cannot be invoked: its reserved concurrency is 0");
        if let Some(pool) = self.pool(function) {
            return pool.invoke(payload, limit).await;
        }
        let admission = self.admission(function);
        let (status, body) = timeout(limit, async {
            let _admitted = admission.acquire().await?;
            self.make_room(function, &admission);
            let response = self.client.post(self.invoke_url(function)).body(payload).send().await?;
            let status = response.status();
            anyhow::Ok((status, response.bytes().await?))
        })
        .await
        .with_context(|| format!("{function} did not answer within {} s", limit.as_secs_f64()))??;
        let value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        match status.as_u16() {
            200 => Ok(Invoked::Answer(value)),
            500 => Ok(Invoked::FunctionError(value)),
            other => bail!(
                "the Lambda emulator answered {other} for {function}: {}",
                String::from_utf8_lossy(&body)
            ),
        }
    }
}
