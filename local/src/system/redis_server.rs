//! Redis: the main region's primary, and a read replica.

use crate::system::process::{Process, free_port, scaled};
use crate::system::tls;
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
    has_tls: bool,
}

impl Redis {
    /// Starts a server on a free port, with its files in `folder`. It appends every
    /// change to a file, so that a restart loses no acknowledged write. As on AWS it speaks TLS only.
    pub async fn start(folder: &Path, name: &str) -> Result<Self> {
        Self::start_with(folder, name, None, true).await
    }

    /// Starts a server without TLS, to measure the cost of commands alone.
    pub async fn start_without_tls(folder: &Path, name: &str) -> Result<Self> {
        Self::start_with(folder, name, None, false).await
    }

    /// Starts a read replica of `primary` and waits until it has caught up.
    pub async fn start_replica(folder: &Path, name: &str, primary: &Redis) -> Result<Self> {
        Self::start_follower(folder, name, primary.port).await
    }

    /// Starts a replica of the server that answers on `port_of_primary` (its own port, or a proxy's), and
    /// waits until it has caught up.
    pub async fn start_follower(folder: &Path, name: &str, port_of_primary: u16) -> Result<Self> {
        let replica = Self::start_with(folder, name, Some(port_of_primary), true).await?;
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

    async fn start_with(folder: &Path, name: &str, primary: Option<u16>, has_tls: bool) -> Result<Self> {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder)?;
        let port = free_port()?;
        let process = spawn(&folder, port, primary, has_tls).await?;
        Ok(Self { process, port, folder, primary, has_tls })
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address for clients.
    pub fn url(&self) -> String {
        if self.has_tls { url_at(self.port) } else { format!("redis://127.0.0.1:{}", self.port) }
    }

    /// The certificate of the authority that clients trust.
    pub fn authority_file(&self) -> PathBuf {
        self.folder.join(tls::AUTHORITY_FILE)
    }

    /// A client that trusts the server's certificate.
    pub fn client(&self) -> Result<redis::Client> {
        if !self.has_tls {
            return Ok(redis::Client::open(self.url())?);
        }
        let certificates = redis::TlsCertificates { client_tls: None, root_cert: Some(tls::authority()?) };
        Ok(redis::Client::build_with_tls(self.url(), certificates)?)
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
        self.client()?
            .get_multiplexed_async_connection_with_config(&options)
            .await
            .with_context(|| format!("Redis did not answer on port {}", self.port))
    }

    /// Kills the server as SIGKILL does.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Kills the server, and starts an empty one on the same port.
    pub async fn restart_empty(&mut self) -> Result<()> {
        self.process.kill();
        let data = self.folder.join("appendonlydir");
        std::fs::remove_dir_all(&data).with_context(|| format!("could not remove {}", data.display()))?;
        self.restart().await
    }

    /// Starts the server again on the same port with the same files.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill();
        self.process = spawn(&self.folder, self.port, self.primary, self.has_tls).await?;
        Ok(())
    }
}

/// The address of a server, or of a proxy to one.
pub fn url_at(port: u16) -> String {
    format!("rediss://127.0.0.1:{port}")
}

/// The variables by which a client in this process finds the Redis at `url`.
pub fn setting(name: &str, url: &str) -> Option<String> {
    match name {
        "FAIRDROP_MAIN_REDIS_URL" => Some(url.to_owned()),
        "FAIRDROP_REDIS_CA_FILE" => tls::authority_file().filter(|_| url.starts_with("rediss://")),
        _ => None,
    }
}

async fn spawn(folder: &Path, port: u16, primary: Option<u16>, has_tls: bool) -> Result<Process> {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1"]).arg("--dir").arg(folder);
    if has_tls {
        let files = tls::server_files(folder)?;
        command.args(["--port", "0", "--tls-port", &port.to_string()]);
        command.args(["--tls-auth-clients", "no", "--tls-replication", "yes"]);
        command.arg("--tls-ca-cert-file").arg(files.authority);
        command.arg("--tls-cert-file").arg(files.certificate).arg("--tls-key-file").arg(files.key);
    } else {
        command.args(["--port", &port.to_string()]);
    }
    command.args(["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]);
    command.args(["--repl-diskless-sync-delay", "0"]);
    if let Some(primary) = primary {
        command.args(["--replicaof", "127.0.0.1", &primary.to_string()]);
    }
    let mut process = Process::start("redis-server", &mut command, &folder.join("log"))?;
    process.wait_for_port(port).await?;
    Ok(process)
}
