//! cargo-lambda's emulator: the Lambda Runtime API that the functions ask for work,
//! and the Invoke API that the gateway and the schedule call. One for each region.

use crate::process::{Process, free_port, tool, workspace, yielding};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// How long an invocation may take; API Gateway gives up after 30 s.
pub const INVOKE_LIMIT: Duration = Duration::from_secs(30);
/// How long the drain's own invocation may take.
const LONG_INVOKE_LIMIT: Duration = Duration::from_secs(900);

/// A running emulator.
#[derive(Debug)]
pub struct Emulator {
    _process: Process,
    invoke: Invoke,
}

/// Invocations of one function that may be inside the emulator. cargo-lambda 1.9
/// keeps those that wait for a process in a channel of 100, and stops for good when
/// it is full; more wait here, in the order in which they came.
pub const MAX_INVOCATIONS: u32 = 90;

/// The Invoke API of an emulator.
#[derive(Clone, Debug)]
pub struct Invoke {
    address: String,
    client: reqwest::Client,
    admissions: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
}

/// What came of an invocation.
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
        let mut command = yielding(tool("cargo-lambda"));
        command.args(["lambda", "watch", "--only-lambda-apis", "-A", "127.0.0.1", "-P", &port.to_string()]);
        command.args(["--timeout", &LONG_INVOKE_LIMIT.as_secs().to_string()]).current_dir(workspace());
        let log = folder.join(format!("{region}-emulator.log"));
        let mut process = Process::start("the Lambda emulator (cargo-lambda)", &mut command, &log)?;
        process.wait_for_port(port).await?;
        let address = format!("127.0.0.1:{port}");
        let client = reqwest::Client::builder().pool_max_idle_per_host(256).build()?;
        Ok(Self { _process: process, invoke: Invoke { address, client, admissions: Arc::default() } })
    }

    /// The Invoke API.
    pub fn invoke_api(&self) -> Invoke {
        self.invoke.clone()
    }
}

impl Invoke {
    /// What `AWS_LAMBDA_RUNTIME_API` must say to the process of `function`.
    pub fn runtime_api(&self, function: &str) -> String {
        format!("http://{}/.rt/{function}", self.address)
    }

    fn admission(&self, function: &str) -> Arc<Semaphore> {
        let mut admissions = self.admissions.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Semaphore::new(MAX_INVOCATIONS as usize));
        admissions.entry(function.to_owned()).or_insert_with(new).clone()
    }

    /// Where `function` is invoked.
    pub fn invoke_url(&self, function: &str) -> String {
        format!("http://{}/2015-03-31/functions/{function}/invocations", self.address)
    }

    /// Invokes `function` and waits at most [`INVOKE_LIMIT`].
    pub async fn call(&self, function: &str, event: &Value) -> Result<Invoked> {
        self.call_within(function, event.to_string(), INVOKE_LIMIT).await
    }

    /// Invokes `function` with a payload that may be anything.
    pub async fn call_within(&self, function: &str, payload: String, limit: Duration) -> Result<Invoked> {
        let admission = self.admission(function);
        let (status, body) = timeout(limit, async {
            let _admitted = admission.acquire().await?;
            let response = self.client.post(self.invoke_url(function)).body(payload).send().await?;
            let status = response.status();
            anyhow::Ok((status, response.bytes().await?))
        })
        .await
        .context("the function does not answer")??;
        let value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        match status.as_u16() {
            200 => Ok(Invoked::Answer(value)),
            500 => Ok(Invoked::FunctionError(value)),
            other => bail!("the emulator answers {other}: {}", String::from_utf8_lossy(&body)),
        }
    }
}
