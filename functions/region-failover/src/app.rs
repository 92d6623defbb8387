//! What one process of the function keeps between invocations.

use crate::servers::FailoverServers;
use crate::store::{self, RunStore};
use shared::config::{self, ConfigError, Source};
use std::time::Duration;

/// The function's configuration and clients.
#[derive(Debug)]
pub struct App {
    pub(crate) here: String,
    pub(crate) servers: FailoverServers,
    pub(crate) failovers: RunStore,
    pub(crate) drills: RunStore,
    /// Time between two observations of a step that waits.
    pub(crate) observe_interval: Duration,
}

impl App {
    /// Reads the configuration of a function in `region`. Nothing is connected yet.
    pub async fn from_config(source: Source<'_>, region: &str) -> Result<Self, ConfigError> {
        let table = config::required(source, "FAIRDROP_LEASE_TABLE")?;
        let client = aws_sdk_dynamodb::Client::new(&sdk::config(region));
        let interval_ms = config::number(source, "FAIRDROP_OBSERVE_INTERVAL_MS", 2_000, 50, 10_000)?;
        Ok(Self {
            here: region.into(),
            servers: FailoverServers::from_config(source, region).await?,
            failovers: RunStore::new(client.clone(), &table, store::FAILOVERS),
            drills: RunStore::new(client, &table, store::DRILLS),
            observe_interval: Duration::from_millis(interval_ms),
        })
    }

    pub(crate) fn store(&self, is_drill: bool) -> &RunStore {
        if is_drill { &self.drills } else { &self.failovers }
    }

    /// Milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> u64 {
        self.servers.clock.now().as_millis()
    }
}
