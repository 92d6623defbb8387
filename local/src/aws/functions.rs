//! The built Lambda functions as processes. A process that ends is started again, and another one starts while all are
//! busy, as Lambda starts execution environments.

use crate::aws::classic::{ClassicLimits, PoolFigures, ServedPool};
use crate::aws::lambda::Invoke;
use crate::aws::wire;
use crate::system::process::{Process, binaries, yielding};
use crate::system::tls;
use anyhow::{Result, ensure};
use std::fmt::{self, Debug, Formatter};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// How often each process is checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
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

/// A function whose processes are kept running. Dropping it kills them.
#[derive(Debug)]
pub struct FunctionProcess {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Processes that ask the emulator, and what keeps them running.
    Shared(Arc<Environments>, JoinHandle<()>),
    /// Processes that serve one invocation at a time.
    Classic(ServedPool),
}

/// The execution environments of a function, at least one.
pub(crate) struct Environments {
    processes: Mutex<Vec<Process>>,
    spawn: Box<dyn Fn() -> Result<Process> + Send + Sync>,
    /// Requests that one process takes at once.
    concurrency: u32,
    most: u32,
}

impl Environments {
    fn lock(&self) -> MutexGuard<'_, Vec<Process>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts processes until there are enough for `invocations` at once, or as many as there may be. One that cannot be
    /// started is tried again at the next invocation.
    pub(crate) fn make_room(&self, invocations: u32) {
        let needed = invocations.div_ceil(self.concurrency.max(1)).min(self.most);
        let mut processes = self.lock();
        while processes.len() < needed as usize {
            let Ok(process) = (self.spawn)() else { return };
            processes.push(process);
        }
    }

    fn restart_ended(&self) {
        for process in self.lock().iter_mut() {
            if !process.is_running()
                && let Ok(restarted) = (self.spawn)()
            {
                *process = restarted;
            }
        }
    }
}

impl Debug for Environments {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environments").field("processes", &self.processes).finish_non_exhaustive()
    }
}

impl FunctionProcess {
    /// Starts the first process and keeps it running; invocations through `invoke` start more.
    pub fn start(launch: Launch, invoke: &Invoke, folder: &Path) -> Result<Self> {
        let runtime_api = invoke.runtime_api(launch.function);
        let (function, concurrency, most) = (launch.function, launch.concurrency, launch.processes.max(1));
        let spawn_at = spawner(launch, folder)?;
        let spawn = move || spawn_at(&runtime_api);
        let processes = Mutex::new(vec![spawn()?]);
        let environments = Arc::new(Environments { processes, spawn: Box::new(spawn), concurrency, most });
        invoke.serve(function, &environments);
        let kept = environments.clone();
        let supervisor = tokio::spawn(async move {
            loop {
                tokio::time::sleep(CHECK_INTERVAL).await;
                kept.restart_ended();
            }
        });
        Ok(Self { kind: Kind::Shared(environments, supervisor) })
    }

    /// Starts no process: an invocation through `invoke` does if none is idle. Each serves one invocation at a time.
    pub fn start_classic(
        launch: Launch,
        limits: ClassicLimits,
        invoke: &Invoke,
        folder: &Path,
    ) -> Result<Self> {
        let function = launch.function;
        let served = ServedPool::start(function, limits, Box::new(spawner(launch, folder)?))?;
        invoke.serve_classic(function, &served.pool);
        Ok(Self { kind: Kind::Classic(served) })
    }

    /// What processes that serve one invocation at a time have done.
    pub fn figures(&self) -> Option<PoolFigures> {
        match &self.kind {
            Kind::Shared(..) => None,
            Kind::Classic(served) => Some(served.pool.figures()),
        }
    }

    /// Kills all processes as SIGKILL does, with every invocation in flight. One is started again.
    pub fn kill(&self) {
        match &self.kind {
            Kind::Shared(environments, _) => {
                let mut processes = environments.lock();
                processes.truncate(1);
                processes.iter_mut().for_each(Process::kill);
            }
            Kind::Classic(served) => served.pool.kill(),
        }
    }

    /// The id of the first process.
    pub fn process_id(&self) -> u32 {
        self.process_ids().first().copied().unwrap_or_default()
    }

    /// The ids of all processes.
    pub fn process_ids(&self) -> Vec<u32> {
        match &self.kind {
            Kind::Shared(environments, _) => environments.lock().iter().map(Process::id).collect(),
            Kind::Classic(served) => served.pool.process_ids(),
        }
    }
}

impl Drop for FunctionProcess {
    fn drop(&mut self) {
        if let Kind::Shared(environments, supervisor) = &self.kind {
            supervisor.abort();
            environments.lock().clear();
        }
    }
}

/// What starts a process that finds the Runtime API at an address.
fn spawner(
    mut launch: Launch,
    folder: &Path,
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
        launch.environment.insert(0, ("FAIRDROP_REDIS_CA_FILE".into(), file));
    }
    let log = folder.join(format!("{}-{}.log", launch.region, launch.function));
    Ok(move |runtime_api: &str| {
        let mut words = launch.wrapper.iter().map(AsRef::as_ref).chain([program.as_os_str()]);
        let mut command = yielding(words.next().unwrap_or_default());
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
        Process::start(launch.function, &mut command, &log)
    })
}
