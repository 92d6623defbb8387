//! A region's servers: the ledger's PostgreSQL behind a proxy, Redis, and its read replica.

use crate::control_plane::database::Server;
use anyhow::Result;
use local::system::postgres::Postgres;
use local::system::redis_server::Redis;
use local::system::wan::WanConnection;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// A region's servers. Cloning shares them.
#[derive(Clone, Debug)]
pub struct RegionServers {
    /// The ledger's server.
    pub postgres: Server,
    /// The proxy through which clients reach the ledger. A security group can close it.
    pub ledger_proxy: Arc<WanConnection>,
    /// The primary node of the region's replication group.
    pub redis: Arc<Mutex<Redis>>,
    /// Its read replica.
    pub replica: Arc<Mutex<Redis>>,
    /// The addresses for clients.
    pub urls: Urls,
}

/// The addresses of a region's servers.
#[derive(Clone, Debug)]
pub struct Urls {
    /// The ledger, through its proxy.
    pub ledger: String,
    pub redis: String,
    /// Its read replica.
    pub replica: String,
}

impl RegionServers {
    pub(super) async fn start_main(folder: &Path) -> Result<Self> {
        let (redis, postgres) =
            tokio::try_join!(Redis::start(folder, "redis-main"), Postgres::start(folder, "postgres-main"))?;
        Self::around(folder, "redis-main-replica", redis, postgres).await
    }

    /// Starts the standby, which reaches main's servers through these ports.
    pub(super) async fn start_standby(folder: &Path, main_redis: u16, main_ledger: u16) -> Result<Self> {
        let (redis, postgres) = tokio::try_join!(
            Redis::start_follower(folder, "redis-standby", main_redis),
            // This is the name of the replication slot, which ends in the instance's resource id.
            Postgres::start_replica(folder, "rds_standby_ledger", main_ledger)
        )?;
        Self::around(folder, "redis-standby-replica", redis, postgres).await
    }

    async fn around(folder: &Path, replica: &str, redis: Redis, postgres: Postgres) -> Result<Self> {
        let replica = Redis::start_replica(folder, replica, &redis).await?;
        let proxy = WanConnection::open(([127, 0, 0, 1], postgres.port()).into(), Duration::ZERO).await?;
        let urls = Urls { ledger: ledger_url(proxy.port()), redis: redis.url(), replica: replica.url() };
        let [redis, replica] = [redis, replica].map(|server| Arc::new(Mutex::new(server)));
        Ok(Self {
            postgres: Arc::new(Mutex::new(postgres)),
            ledger_proxy: Arc::new(proxy),
            redis,
            replica,
            urls,
        })
    }

    /// Replaces the ledger's server.
    pub(super) fn take_ledger(&mut self, postgres: Server, proxy: Arc<WanConnection>) {
        self.urls.ledger = ledger_url(proxy.port());
        (self.postgres, self.ledger_proxy) = (postgres, proxy);
    }

    pub(super) async fn kill(&self) {
        self.redis.lock().await.kill();
        self.postgres.lock().await.kill();
        self.replica.lock().await.kill();
    }

    pub(super) async fn revive(&self) -> Result<()> {
        self.redis.lock().await.restart().await?;
        self.postgres.lock().await.restart().await?;
        self.replica.lock().await.restart().await
    }
}

/// The ledger's address on a port.
pub(super) fn ledger_url(port: u16) -> String {
    format!("postgres://fairdrop@127.0.0.1:{port}/postgres?sslmode=disable")
}
