//! PostgreSQL: the ledger's server.

use crate::system::process::{Process, free_port, scaled};
use anyhow::{Context, Result, ensure};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long the server may take to accept clients, recovery after a crash included.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// A running PostgreSQL with an empty database. It commits to disk, as a real one does.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    port: u16,
    folder: tempfile::TempDir,
    log: PathBuf,
    tls: bool,
}

/// A server's certificate and its private key, both PEM.
#[derive(Clone, Copy, Debug)]
pub struct Certificate<'a> {
    pub certificate: &'a str,
    pub key: &'a str,
}

impl Postgres {
    /// Starts a server on a free port, with its log in `folder`. Its data is in a folder
    /// of its own: PostgreSQL refuses to run as root, and the user it runs as may have no access to `folder`.
    pub async fn start(folder: &Path, name: &str) -> Result<Self> {
        Self::start_with(folder, name, None).await
    }

    /// Starts a server whose clients may use TLS.
    pub async fn start_with_tls(folder: &Path, name: &str, tls: Certificate<'_>) -> Result<Self> {
        Self::start_with(folder, name, Some(tls)).await
    }

    async fn start_with(folder: &Path, name: &str, tls: Option<Certificate<'_>>) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let (folder, data) = data_folder()?;
        let mut initdb = unprivileged("initdb")?;
        initdb.args(["--username=fairdrop", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"]);
        run(initdb.arg("-D").arg(&data))?;
        if let Some(tls) = tls {
            write_private(&data, "server.crt", tls.certificate)?;
            write_private(&data, "server.key", tls.key)?;
        }
        let port = free_port()?;
        let process = spawn(&data, port, &log, tls.is_some())?;
        let mut server = Self { process, port, folder, log, tls: tls.is_some() };
        server.wait_until_ready().await?;
        Ok(server)
    }

    /// Starts a streaming replica of the server on `port_of_main` (its own port, or a proxy's).
    pub async fn start_replica(folder: &Path, name: &str, port_of_main: u16) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let (folder, data) = data_folder()?;
        let mut copy = unprivileged("pg_basebackup")?;
        copy.args(["-h", "127.0.0.1", "-p", &port_of_main.to_string(), "-U", "fairdrop", "--no-password"]);
        // With a replication slot, as RDS has for a replica in another region: main keeps the WAL that the replica lacks.
        copy.args(["--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf", "--no-sync"]);
        copy.args(["--create-slot", "--slot", name]).arg("-D").arg(&data);
        // The copy may go through a proxy in this runtime, so it must not block the runtime.
        tokio::task::spawn_blocking(move || run(&mut copy)).await??;
        let port = free_port()?;
        let process = spawn(&data, port, &log, false)?;
        let mut server = Self { process, port, folder, log, tls: false };
        server.wait_until_ready().await?;
        Ok(server)
    }

    /// The address for clients.
    pub fn url(&self) -> String {
        format!("postgres://fairdrop@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The id of the server's process with `role` in its title, such as `startup`, which replays the WAL.
    pub fn child(&self, role: &str) -> Result<u32> {
        let output =
            Command::new("pgrep").args(["-P", &self.process.id().to_string(), "-f", role]).output()?;
        let found = String::from_utf8_lossy(&output.stdout);
        found
            .split_whitespace()
            .next()
            .and_then(|id| id.parse().ok())
            .with_context(|| format!("PostgreSQL (port {}) has no process with the role {role}", self.port))
    }

    /// Kills the server as SIGKILL does.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Stops the server at once, with every connection. Unlike a kill, this removes its shared memory.
    pub fn stop(&mut self) {
        // SIGQUIT is PostgreSQL's immediate shutdown.
        let _ = Command::new("kill").args(["-QUIT", &self.process.id().to_string()]).status();
        let started = Instant::now();
        while self.process.is_running() && started.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Promotes the replica, and waits until it accepts writes.
    pub async fn promote(&self) -> Result<()> {
        let mut command = unprivileged("pg_ctl")?;
        command.args(["promote", "--wait", "--timeout=60", "-D"]).arg(self.folder.path().join("data"));
        let output = tokio::process::Command::from(command).output().await?;
        ensure!(
            output.status.success(),
            "pg_ctl could not promote the replica: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// Restarts the server as a reboot does: connections are closed, and all data is written first.
    pub async fn reboot(&mut self) -> Result<()> {
        // SIGINT is PostgreSQL's fast shutdown.
        let _ = Command::new("kill").args(["-INT", &self.process.id().to_string()]).status();
        let started = Instant::now();
        while self.process.is_running() && started.elapsed() < scaled(READY_LIMIT) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.restart().await
    }

    /// Starts the server again on the same port with the same data.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill();
        let started = Instant::now();
        loop {
            // Processes of connections may outlive a killed server for a moment.
            self.process = spawn(&self.folder.path().join("data"), self.port, &self.log, self.tls)?;
            match self.wait_until_ready().await {
                Ok(()) => return Ok(()),
                Err(error) if started.elapsed() > scaled(READY_LIMIT) => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        self.process.wait_for_port(self.port).await?;
        let started = Instant::now();
        loop {
            let mut ready = Command::new(program("pg_isready")?);
            ready.args(["--quiet", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
            if ready.status()?.success() {
                return Ok(());
            }
            ensure!(
                self.process.is_running(),
                "PostgreSQL ended after its start; its log is {}",
                self.log.display()
            );
            ensure!(
                started.elapsed() < scaled(READY_LIMIT),
                "PostgreSQL did not accept clients within {} s; its log is {}",
                scaled(READY_LIMIT).as_secs(),
                self.log.display()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A folder for a server's data, owned by the user that the server runs as.
fn data_folder() -> Result<(tempfile::TempDir, PathBuf)> {
    let folder = tempfile::Builder::new().prefix("fairdrop-").tempdir()?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711))?;
    let data = folder.path().join("data");
    std::fs::create_dir(&data)?;
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700))?;
    if is_root()? {
        run(Command::new("chown").arg("postgres").arg(&data))?;
    }
    Ok((folder, data))
}

/// Writes a file that only the server may read.
fn write_private(data: &Path, name: &str, text: &str) -> Result<()> {
    let file = data.join(name);
    std::fs::write(&file, text)?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
    if is_root()? { run(Command::new("chown").arg("postgres").arg(&file)) } else { Ok(()) }
}

fn spawn(data: &Path, port: u16, log: &Path, tls: bool) -> Result<Process> {
    let mut command = unprivileged("postgres")?;
    command.arg("-D").arg(data).args(["-h", "127.0.0.1", "-p", &port.to_string()]);
    let settings = [
        "unix_socket_directories=",
        "shared_buffers=64MB",
        "max_connections=60",
        "log_min_messages=warning",
        // Times of commits: the bench measures how soon buyers are notified, and a drill which main sold when.
        "track_commit_timestamp=on",
    ];
    for setting in settings {
        command.args(["-c", setting]);
    }
    if tls {
        command.args(["-c", "ssl=on"]);
    }
    Process::start("postgres", &mut command, log)
}

/// The program `name` of the installed PostgreSQL, run by a user that PostgreSQL accepts.
fn unprivileged(name: &str) -> Result<Command> {
    let program = program(name)?;
    let mut command = if is_root()? {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.current_dir("/");
    Ok(command)
}

/// The path of `name`: on PATH, or where packages install it.
fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path =
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file());
    if let Some(program) = on_path {
        return Ok(program);
    }
    let mut installed: Vec<PathBuf> = ["/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt"]
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin").join(name)))
        .filter(|program| program.is_file())
        .collect();
    installed.sort();
    installed.pop().with_context(|| format!("PostgreSQL's {name} is not installed; run `make setup`"))
}

fn is_root() -> Result<bool> {
    let folder = tempfile::tempdir()?;
    Ok(folder.path().metadata()?.uid() == 0)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("could not start {:?}", command.get_program()))?;
    ensure!(
        output.status.success(),
        "{:?} failed: {}",
        command.get_program(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
