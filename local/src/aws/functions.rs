//! The built Lambda functions as processes.

use crate::aws::environments::{ClassicLimits, PoolFigures, Scaling, ServedPool};
use crate::aws::lambda::Invoke;
use crate::aws::wire;
use crate::system::process::{Process, Yields, binaries, on_path};
use crate::system::tls;
use anyhow::{Result, ensure};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Processes of a function whose scheduled runs overlap: its reserved concurrency in template.yaml.
pub const OVERLAPPING_RUNS: u32 = 6;

/// How a function's processes are started.
#[derive(Clone, Debug)]
pub struct Launch {
    pub function: &'static str,
    pub region: String,
    /// Requests that one process takes at once.
    pub concurrency: u32,
    /// The greatest number of processes: the function's reserved concurrency.
    pub processes: u32,
    /// Environment variables in addition to those that Lambda sets.
    pub environment: Vec<(String, String)>,
    /// Words before the program, for example `env NAME=value`.
    pub wrapper: Vec<String>,
    /// The folder of the built functions; by default the folder of this program.
    pub binaries: Option<PathBuf>,
}

/// A function that can be invoked. Dropping it kills its processes.
#[derive(Debug)]
pub struct FunctionProcess(ServedPool);

impl FunctionProcess {
    /// Starts the first process and keeps it running; invocations through `invoke` start more while all are busy.
    pub fn start(launch: Launch, invoke: &Invoke, folder: &Path) -> Result<Self> {
        let scaling = Scaling::Kept { concurrency: launch.concurrency, most: launch.processes };
        Self::with(scaling, launch, invoke, folder)
    }

    /// Starts no process: an invocation through `invoke` does if none is idle. Each serves one invocation at a time.
    pub fn start_classic(
        launch: Launch,
        limits: ClassicLimits,
        invoke: &Invoke,
        folder: &Path,
    ) -> Result<Self> {
        Self::with(Scaling::Classic(limits), launch, invoke, folder)
    }

    fn with(scaling: Scaling, launch: Launch, invoke: &Invoke, folder: &Path) -> Result<Self> {
        let function = launch.function;
        let yields = match scaling {
            Scaling::Classic(_) => Yields::ToFunctions,
            Scaling::Kept { .. } => Yields::ToGateways,
        };
        let served = ServedPool::start(function, scaling, Box::new(spawner(launch, folder, yields)?))?;
        invoke.serve(function, &served.pool);
        Ok(Self(served))
    }

    /// What its processes have done.
    pub fn figures(&self) -> PoolFigures {
        self.0.pool.figures()
    }

    /// Kills all processes as SIGKILL does, with every invocation in flight. If one is always kept, it is started again.
    pub fn kill(&self) {
        self.0.pool.kill();
    }

    /// The id of the oldest process.
    pub fn process_id(&self) -> u32 {
        self.process_ids().first().copied().unwrap_or_default()
    }

    /// The ids of all processes, the oldest first.
    pub fn process_ids(&self) -> Vec<u32> {
        self.0.pool.process_ids()
    }
}

/// What starts a process that finds the Runtime API at an address.
fn spawner(
    mut launch: Launch,
    folder: &Path,
    yields: Yields,
) -> Result<impl Fn(&str) -> Result<Process> + Send + Sync + use<>> {
    wire::checked_environment(launch.function, &mut launch.environment)?;
    let program = launch.binaries.clone().map_or_else(binaries, Ok)?.join(launch.function);
    ensure!(
        program.is_file(),
        "{} does not exist: the function is not built; run `make build`",
        program.display()
    );
    // A variable of the function itself wins, as each later value does.
    if launch.environment.iter().any(|(_, value)| value.starts_with("rediss://")) {
        let file = tls::authority_in(folder)?.display().to_string();
        launch.environment.insert(0, ("FAIRDROP_REDIS_CA_FILE".into(), file.clone()));
        // The SDK trusts what this machine trusts, and would read it from a file and then from a folder of 300 links, at
        // each start. No stand-in of AWS has TLS.
        launch.environment.insert(0, ("SSL_CERT_FILE".into(), file));
    }
    let log = folder.join(format!("{}-{}.log", launch.region, launch.function));
    Ok(move |runtime_api: &str| {
        let mut words = launch.wrapper.iter().map(OsString::from).chain([program.clone().into_os_string()]);
        let mut command = Command::new(on_path(&words.next().unwrap_or_default()));
        command.args(words);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("AWS_LAMBDA_RUNTIME_API", runtime_api)
            .env("AWS_LAMBDA_FUNCTION_NAME", launch.function)
            .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
            .env("AWS_LAMBDA_LOG_FORMAT", "JSON")
            .env("AWS_REGION", &launch.region)
            // As the template does, so that metrics have the same dimensions.
            .env("FAIRDROP_STACK", "fairdrop")
            .envs(launch.environment.iter().map(|(name, value)| (name, value)));
        if launch.concurrency > 1 {
            command.env("AWS_LAMBDA_MAX_CONCURRENCY", launch.concurrency.to_string());
        }
        Ok(Process::start(launch.function, &mut command, &log)?.yielding(yields))
    })
}
