//! Redis: the main region's primary, and a read replica.

use crate::system::process::{Process, free_port, scaled};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a connection may take: this machine may be busy for seconds while it starts other servers.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long a new replica may take to copy its primary.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(20);

/// A running redis-server.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: u16,
    folder: PathBuf,
    primary: Option<u16>,
}

impl Redis {
    /// Starts a server on a free port, with its files in `folder`. It appends every
    /// change to a file, so that a restart loses no acknowledged write.
    pub async fn start(folder: &Path, name: &str) -> Result<Self> {
        Self::start_with(folder, name, None).await
    }

    /// Starts a read replica of `primary` and waits until it has caught up.
    pub async fn start_replica(folder: &Path, name: &str, primary: &Redis) -> Result<Self> {
        Self::start_follower(folder, name, primary.port).await
    }

    /// Starts a replica of the server that answers on `port_of_primary` (its own port, or a proxy's), and
    /// waits until it has caught up.
    pub async fn start_follower(folder: &Path, name: &str, port_of_primary: u16) -> Result<Self> {
        let replica = Self::start_with(folder, name, Some(port_of_primary)).await?;
        let started = Instant::now();
        while started.elapsed() < scaled(CATCH_UP_LIMIT) {
            let mut connection = replica.connect().await?;
            let info: String = redis::cmd("INFO").arg("replication").query_async(&mut connection).await?;
            if info.contains("master_link_status:up") {
                return Ok(replica);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("the replica {name} did not catch up with its primary on port {port_of_primary} in time")
    }

    /// Makes the server a replica of the one on `port_of_primary`, also after a restart. With `None` it becomes a
    /// primary and accepts writes.
    pub async fn follow(&mut self, port_of_primary: Option<u16>) -> Result<()> {
        let mut connection = self.connect().await?;
        let mut command = redis::cmd("REPLICAOF");
        match port_of_primary {
            Some(port) => command.arg("127.0.0.1").arg(port),
            None => command.arg("NO").arg("ONE"),
        };
        command.query_async::<()>(&mut connection).await?;
        self.primary = port_of_primary;
        Ok(())
    }

    async fn start_with(folder: &Path, name: &str, primary: Option<u16>) -> Result<Self> {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder)?;
        let port = free_port()?;
        let process = spawn(&folder, port, primary).await?;
        Ok(Self { process, port, folder, primary })
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address for clients.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The process id.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Opens a connection.
    pub async fn connect(&self) -> Result<redis::aio::MultiplexedConnection> {
        let options = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(scaled(CONNECT_LIMIT)))
            .set_response_timeout(Some(Duration::from_secs(30)));
        let client = redis::Client::open(self.url())?;
        client
            .get_multiplexed_async_connection_with_config(&options)
            .await
            .with_context(|| format!("Redis did not answer on port {}", self.port))
    }

    /// Kills the server as SIGKILL does.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts the server again on the same port with the same files.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill();
        self.process = spawn(&self.folder, self.port, self.primary).await?;
        Ok(())
    }
}

async fn spawn(folder: &Path, port: u16, primary: Option<u16>) -> Result<Process> {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]).arg("--dir").arg(folder);
    command.args(["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]);
    command.args(["--repl-diskless-sync-delay", "0"]);
    if let Some(primary) = primary {
        command.args(["--replicaof", "127.0.0.1", &primary.to_string()]);
    }
    let mut process = Process::start("redis-server", &mut command, &folder.join("log"))?;
    process.wait_for_port(port).await?;
    Ok(process)
}
