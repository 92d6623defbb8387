//! PostgreSQL: the ledger's server.

use crate::system::process::{Process, free_port, scaled};
use anyhow::{Context, Result, ensure};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long the server may take to let clients in, recovery after a crash included.
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
    /// The certificate.
    pub certificate: &'a str,
    /// The key.
    pub key: &'a str,
}

impl Postgres {
    /// Starts a server on a free port, with its log in `folder`. Its data is in a folder
    /// of its own: PostgreSQL refuses to run as root, and whom it runs as instead need not
    /// be let into `folder`.
    pub async fn start(folder: &Path, name: &str) -> Result<Self> {
        Self::start_with(folder, name, None).await
    }

    /// The same, and clients may ask for TLS.
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
            give(&data, "server.crt", tls.certificate)?;
            give(&data, "server.key", tls.key)?;
        }
        let port = free_port()?;
        let process = spawn(&data, port, &log, tls.is_some())?;
        let mut server = Self { process, port, folder, log, tls: tls.is_some() };
        server.wait_until_ready().await?;
        Ok(server)
    }

    /// Starts a server that follows another one: it copies `main`, which answers on
    /// `port_of_main` (its own, or a line's), and replays from there on.
    pub async fn start_replica(folder: &Path, name: &str, port_of_main: u16) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let (folder, data) = data_folder()?;
        let mut copy = unprivileged("pg_basebackup")?;
        copy.args(["-h", "127.0.0.1", "-p", &port_of_main.to_string(), "-U", "fairdrop", "--no-password"]);
        // With a slot, as a replica in another region has on RDS: main keeps what it has not had.
        copy.args(["--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf", "--no-sync"]);
        copy.args(["--create-slot", "--slot", name]).arg("-D").arg(&data);
        // It reads by a line that this very runtime carries, and must not keep it from doing so.
        tokio::task::spawn_blocking(move || run(&mut copy)).await??;
        let port = free_port()?;
        let process = spawn(&data, port, &log, false)?;
        let mut server = Self { process, port, folder, log, tls: false };
        server.wait_until_ready().await?;
        Ok(server)
    }

    /// The address as a client takes it.
    pub fn url(&self) -> String {
        format!("postgres://fairdrop@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process of the server that has `role` in its title, such as `startup`, which replays.
    pub fn child(&self, role: &str) -> Result<u32> {
        let output =
            Command::new("pgrep").args(["-P", &self.process.id().to_string(), "-f", role]).output()?;
        let found = String::from_utf8_lossy(&output.stdout);
        found
            .split_whitespace()
            .next()
            .and_then(|id| id.parse().ok())
            .with_context(|| format!("PostgreSQL has no process for {role}"))
    }

    /// Kills the server as SIGKILL does.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Ends it at once, with every connection, and as it should: it cleans up.
    pub fn stop(&mut self) {
        // SIGQUIT is PostgreSQL's immediate shutdown.
        let _ = Command::new("kill").args(["-QUIT", &self.process.id().to_string()]).status();
        let started = Instant::now();
        while self.process.is_running() && started.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends following, and waits until it takes writes.
    pub async fn promote(&self) -> Result<()> {
        let mut command = unprivileged("pg_ctl")?;
        command.args(["promote", "--wait", "--timeout=60", "-D"]).arg(self.folder.path().join("data"));
        let output = tokio::process::Command::from(command).output().await?;
        ensure!(
            output.status.success(),
            "pg_ctl promote: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// Ends it as a reboot does, with every connection closed and everything written, and starts it again.
    pub async fn reboot(&mut self) -> Result<()> {
        // SIGINT is PostgreSQL's fast shutdown.
        let _ = Command::new("kill").args(["-INT", &self.process.id().to_string()]).status();
        let started = Instant::now();
        while self.process.is_running() && started.elapsed() < scaled(READY_LIMIT) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.restart().await
    }

    /// Starts it again on the same port with the same data.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill();
        let started = Instant::now();
        loop {
            // Those who served connections may outlive a killed server for a moment.
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
            ensure!(self.process.is_running(), "PostgreSQL ended; see {}", self.log.display());
            ensure!(
                started.elapsed() < scaled(READY_LIMIT),
                "PostgreSQL lets nobody in; see {}",
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

/// A folder for a server's data, which belongs to whom the server runs as.
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

/// Writes a file that the server alone may read.
fn give(data: &Path, name: &str, text: &str) -> Result<()> {
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
        // When each commit was: how long after it somebody is told, and in a drill when which main sold.
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

/// `name` of the PostgreSQL that is installed, run by a user it accepts.
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

/// Where `name` is: on the path, or where packages put it.
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
    let output =
        command.output().with_context(|| format!("{:?} cannot be started", command.get_program()))?;
    ensure!(
        output.status.success(),
        "{:?} failed: {}",
        command.get_program(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
