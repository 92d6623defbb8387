//! The built Lambda functions as processes. A process that ends is started again, as
//! Lambda starts a new execution environment.

use crate::aws::lambda::Invoke;
use crate::system::process::{Process, binaries, yielding};
use anyhow::{Result, ensure};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// How often each process is checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// How a function's process is started.
#[derive(Clone, Debug)]
pub struct Launch {
    pub function: &'static str,
    pub region: String,
    /// Requests that one process takes at once.
    pub concurrency: u32,
    /// Environment variables in addition to those that Lambda sets.
    pub environment: Vec<(String, String)>,
    /// Words before the program, for example `env NAME=value`.
    pub wrapper: Vec<String>,
    /// The folder of the built functions; by default the folder of this program.
    pub binaries: Option<PathBuf>,
}

/// A function whose process is kept running.
#[derive(Debug)]
pub struct FunctionProcess {
    process: Arc<Mutex<Process>>,
    supervisor: JoinHandle<()>,
}

impl FunctionProcess {
    /// Starts the process and keeps it running.
    pub fn start(launch: Launch, invoke: &Invoke, folder: &Path) -> Result<Self> {
        let program = launch.binaries.clone().map_or_else(binaries, Ok)?.join(launch.function);
        ensure!(
            program.is_file(),
            "{} does not exist: the function is not built; run `make build`",
            program.display()
        );
        let log = folder.join(format!("{}-{}.log", launch.region, launch.function));
        let runtime_api = invoke.runtime_api(launch.function);
        let spawn = move || -> Result<Process> {
            let mut words = launch.wrapper.iter().map(AsRef::as_ref).chain([program.as_os_str()]);
            let mut command = yielding(words.next().unwrap_or_default());
            command.args(words);
            command
                .env_clear()
                .env("PATH", std::env::var_os("PATH").unwrap_or_default())
                .env("AWS_LAMBDA_RUNTIME_API", &runtime_api)
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
        };
        let process = Arc::new(Mutex::new(spawn()?));
        let kept = process.clone();
        let supervisor = tokio::spawn(async move {
            loop {
                tokio::time::sleep(CHECK_INTERVAL).await;
                let mut process = lock(&kept);
                if !process.is_running()
                    && let Ok(restarted) = spawn()
                {
                    *process = restarted;
                }
            }
        });
        Ok(Self { process, supervisor })
    }

    /// Kills the process as SIGKILL does. A new one is started.
    pub fn kill(&self) {
        lock(&self.process).kill();
    }

    /// The id of the current process.
    pub fn process_id(&self) -> u32 {
        lock(&self.process).id()
    }
}

impl Drop for FunctionProcess {
    fn drop(&mut self) {
        self.supervisor.abort();
        lock(&self.process).kill();
    }
}

fn lock(process: &Mutex<Process>) -> MutexGuard<'_, Process> {
    process.lock().unwrap_or_else(PoisonError::into_inner)
}
