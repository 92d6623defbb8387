//! Child processes that end with their owner.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, setpriority_process};
use std::ffi::OsStr;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a server may take to answer after its start.
const START_LIMIT: Duration = Duration::from_secs(30);
const PORT_TRIES: u32 = 1_000;
/// How much longer than on an idle machine a wait may take, unless `FAIRDROP_TIMEOUT_FACTOR` says otherwise.
const TIMEOUT_FACTOR: u32 = 4;
/// Lines of the log that are shown if a process ends during its start.
const LAST_LINES: usize = 5;

/// A child process. It is killed when dropped, also when a test fails.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output in `log` (appended).
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let out = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let err = out.try_clone()?;
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().with_context(|| {
            format!("could not start {name} ({:?}); `make setup` installs it", command.get_program())
        })?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// The same process with a lower priority. Started through `nice`, it would cost one program more.
    pub fn yielding(self, yields: Yields) -> Self {
        // One that has ended already has no priority.
        let id = i32::try_from(self.id()).ok().and_then(Pid::from_raw);
        let _ = setpriority_process(id, yields as i32);
        self
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills the process, as SIGKILL does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until `port` answers on 127.0.0.1.
    pub async fn wait_for_port(&mut self, port: u16) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < scaled(START_LIMIT) {
            if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Ok(());
            }
            if !self.is_running() {
                bail!(
                    "{} ended during its start; `make setup` installs what is missing. The last lines of {}:\n{}",
                    self.name,
                    self.log.display(),
                    self.last_lines()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!(
            "{} did not answer on port {port} within {} s; its log is {}",
            self.name,
            scaled(START_LIMIT).as_secs(),
            self.log.display()
        )
    }

    fn last_lines(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().rev().take(LAST_LINES).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `limit`, multiplied by `FAIRDROP_TIMEOUT_FACTOR`: the one setting that says how busy this machine may be. It
/// applies to waits for servers and for results. They end as soon as what they wait for is there, so that a large
/// factor only delays the report of a failure.
pub fn scaled(limit: Duration) -> Duration {
    let factor = std::env::var("FAIRDROP_TIMEOUT_FACTOR").ok().and_then(|text| text.parse().ok());
    limit * factor.unwrap_or(TIMEOUT_FACTOR).clamp(1, 100)
}

/// A port on 127.0.0.1 for a server of this process, below the range that the system gives to outgoing connections.
///
/// A locked file for each port keeps other processes of this project from it until this one ends. Without the
/// lock two tests could find the same port free before either of their servers listens.
pub fn free_port() -> Result<u16> {
    static RESERVED: Mutex<Vec<File>> = Mutex::new(Vec::new());
    // A folder for each user, who alone may write to it. Between users, the attempt to listen decides.
    let home = std::env::var("HOME").unwrap_or_default();
    let user = home.rsplit('/').next().unwrap_or_default();
    let folder = std::env::temp_dir().join(format!("fairdrop-ports-{user}"));
    std::fs::create_dir_all(&folder)?;
    for _ in 0..PORT_TRIES {
        let port = rand::random_range(15_000..32_000);
        let Ok(file) = File::create(folder.join(port.to_string())) else { continue };
        if file.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            RESERVED.lock().unwrap_or_else(PoisonError::into_inner).push(file);
            return Ok(port);
        }
    }
    bail!("found no free port between 15000 and 32000 in {PORT_TRIES} attempts")
}

/// The workspace's folder.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// The folder of the built functions: `FAIRDROP_BIN_DIR`, or the folder of this program.
pub fn binaries() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("FAIRDROP_BIN_DIR") {
        return Ok(folder.into());
    }
    let here = std::env::current_exe()?;
    let built = here.ancestors().skip(1).take(3).find(|folder| folder.join("order-intake").is_file());
    built
        .map(Path::to_owned)
        .context("the functions are not built; run `make build`, or set FAIRDROP_BIN_DIR")
}

/// To whom a process leaves the processors of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Yields {
    /// To buyers and gateways: on AWS functions have machines of their own, and a gateway's stamp does not wait for them.
    ToGateways = 5,
    /// Also to the functions that yield to gateways: there are many processes for orders, and main decides, sells and
    /// takes payments meanwhile, as with machines of its own.
    ToFunctions = 10,
}

/// Where the program `name` is. A command that has its own `PATH` and no path to its program is started by `fork`, which
/// copies the page tables of this process.
pub(crate) fn on_path(name: &OsStr) -> PathBuf {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| PathBuf::from(name))
}

/// A tool that the project installs for itself, or one on the path.
pub fn tool(name: &str) -> PathBuf {
    let own = std::env::var_os("FAIRDROP_VENV").map_or_else(|| workspace().join(".venv"), PathBuf::from);
    // Some tools have a virtual environment of their own inside.
    let own = [own.join("bin").join(name), own.join(name).join("bin").join(name)];
    own.into_iter().find(|own| own.is_file()).unwrap_or_else(|| PathBuf::from(name))
}
