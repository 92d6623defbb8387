//! One region: its gateway, its emulator, its functions, and its servers, if it has any.

use super::deployment::{DRAIN_SCHEDULE, DeploymentPlan, STACK, WORKER_SCHEDULE, named};
use super::servers::RegionServers;
use crate::control_plane::functions::{Fleet, FleetOptions};
use anyhow::{Context, Result};
use local::aws::gateway::HttpGateway;
use local::aws::lambda::{Emulator, Invoke};
use local::system::regions::WorldRegion;
use local::system::wan::{ConnectionState, WanConnection};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// How long a gateway waits for a function.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long a function may take to start and answer.
const START_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct RegionDeployment {
    pub region: WorldRegion,
    /// Its functions and schedules.
    pub fleet: Arc<Fleet>,
    /// Its servers; an edge has none.
    pub servers: Option<RegionServers>,
    /// The proxy through which buyers reach the gateway.
    proxy: WanConnection,
    _gateway: HttpGateway,
    emulator: Mutex<Emulator>,
}

impl RegionDeployment {
    pub(super) async fn open(
        plan: &DeploymentPlan<'_>,
        region: WorldRegion,
        servers: Option<(&RegionServers, bool)>,
        addresses: std::collections::HashMap<String, String>,
    ) -> Result<Self> {
        let emulator = Emulator::start().await?;
        let invoke = emulator.invoke_api();
        let is_main = servers.is_some_and(|(_, is_main)| is_main);
        let gateway =
            HttpGateway::open(region.name, is_main, invoke.clone(), 0, ANSWER_LIMIT, Vec::new()).await?;
        let port: u16 = gateway.url().rsplit(':').next().unwrap_or_default().parse()?;
        let proxy = WanConnection::open(([127, 0, 0, 1], port).into(), Duration::ZERO).await?;
        let options = FleetOptions {
            region: region.name.into(),
            stack: STACK.into(),
            folder: plan.folder.to_owned(),
            binaries: plan.settings.binaries.clone(),
            addresses,
            minute: plan.settings.minute,
            draws: plan.draws.clone(),
        };
        Ok(Self {
            region,
            fleet: Arc::new(Fleet::new(invoke, options)),
            servers: servers.map(|(servers, _)| servers.clone()),
            proxy,
            _gateway: gateway,
            emulator: Mutex::new(emulator),
        })
    }

    /// Creates the schedules of drain and worker, enabled or not.
    pub(super) fn plan_schedules(&self, is_enabled: bool) -> Result<()> {
        for (schedule, function) in [(DRAIN_SCHEDULE, "checkout-drain"), (WORKER_SCHEDULE, "checkout-worker")]
        {
            self.fleet.plan(schedule, &named(function), is_enabled)?;
        }
        Ok(())
    }

    /// The address for buyers.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.proxy.port())
    }

    /// The region's Invoke API.
    pub fn invoke_api(&self) -> &Invoke {
        self.fleet.invoke_api()
    }

    /// Waits until `function` answers. The payload is malformed; any answer will do.
    pub(super) async fn answers(&self, function: &str) -> Result<()> {
        let asked = self.invoke_api().call_within(function, "null".into(), START_LIMIT).await;
        asked.map(drop).with_context(|| {
            format!("{function} did not start in {}; its log has the reason", self.region.name)
        })
    }

    /// Kills every process of the region as SIGKILL does.
    pub(super) async fn kill(&self) {
        self.proxy.set(ConnectionState::Refusing);
        self.fleet.kill_all();
        self.emulator.lock().await.kill();
        if let Some(servers) = &self.servers {
            servers.kill().await;
        }
    }

    /// Starts servers and functions again with the data on disk.
    pub(super) async fn revive(&self) -> Result<()> {
        if let Some(servers) = &self.servers {
            servers.revive().await?;
        }
        self.emulator.lock().await.restart()?;
        self.fleet.revive()?;
        self.proxy.set(ConnectionState::Up);
        Ok(())
    }
}
