//! What one process of the function keeps between invocations.

use crate::command::RunKind;
use crate::servers::FailoverServers;
use crate::servers::drill::DrillServers;
use crate::store::{self, MainClass, RunStore};
use crate::world::World;
use shared::config::{self, ConfigError, Source};
use std::time::Duration;

/// The function's configuration and clients.
#[derive(Debug)]
pub struct App {
    pub(crate) here: String,
    pub(crate) servers: FailoverServers,
    pub(crate) failovers: Track,
    pub(crate) drills: Track,
    pub(crate) main_class: MainClass,
    /// Time between two observations of a step that waits.
    pub(crate) observe_interval: Duration,
}

/// Runs of one kind: where they are stored, and what they act on.
#[derive(Debug)]
pub(crate) struct Track {
    pub(crate) store: RunStore,
    pub(crate) world: World,
}

impl App {
    /// Reads the configuration of a function in `region`. Nothing is connected yet.
    pub async fn from_config(source: Source<'_>, region: &str) -> Result<Self, ConfigError> {
        let table = config::required(source, "FAIRDROP_LEASE_TABLE")?;
        let client = aws_sdk_dynamodb::Client::new(&sdk::config(region));
        let interval_ms = config::number(source, "FAIRDROP_OBSERVE_INTERVAL_MS", 2_000, 50, 10_000)?;
        let servers = FailoverServers::from_config(source, region).await?;
        let drill = DrillServers::from_config(source, servers.clone())?;
        Ok(Self {
            here: region.into(),
            failovers: Track { store: servers.runs.clone(), world: World::Main(Box::new(servers.clone())) },
            main_class: MainClass::new(client.clone(), &table),
            drills: Track {
                store: RunStore::new(client, &table, store::DRILLS),
                world: World::Copy(Box::new(drill)),
            },
            servers,
            observe_interval: Duration::from_millis(interval_ms),
        })
    }

    /// The runs of the kind that a command names.
    pub(crate) fn track(&self, kind: RunKind) -> &Track {
        if kind.drill { &self.drills } else { &self.failovers }
    }

    /// Milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> u64 {
        self.servers.clock.now().as_millis()
    }
}
