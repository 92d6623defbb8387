//! Two whole regions on one machine, main and its standby, and an edge region: the setting of a failover.
//!
//! Each region has servers, functions, an emulator and a gateway of its own. All traffic between
//! regions goes through the [`Connections`], so that main can be partitioned while it keeps running, or
//! killed. The [`ControlPlane`] stands for AWS's, and acts on all servers and functions.

mod connections;
mod deployment;
mod region;
mod role_exchange;
mod servers;

pub use connections::{Connections, Cut};
pub use deployment::TwoRegionsSettings;
pub use region::RegionDeployment;

use crate::control_plane::database::{DatabaseInstance, ReplicaSource};
use crate::control_plane::datastore::{GlobalDatastore, Member};
use crate::control_plane::{ControlPlane, Draws, Reachability};
use anyhow::{Context, Result, bail};
use ledger::Ledger;
use local::aws::dynamodb::{DynamoDb, DynamoDbOptions};
use local::aws::emulators::{Service, query};
use local::aws::event_source::{EventSourceMapping, MappingOptions};
use local::aws::identity::IdentityProvider;
use local::aws::lambda::Invoked;
use local::system::regions::WorldRegion;
use order_log::LogRecord;
use serde_json::{Value, json};
use servers::RegionServers;
use shared::item::ItemId;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest that an invocation of region-failover may take.
const FAILOVER_LIMIT: Duration = Duration::from_secs(600);

/// Main, standby and an edge. Dropping it stops all servers and functions.
#[derive(Debug)]
pub struct TwoRegions {
    /// The regions: main, the standby, an edge.
    pub regions: Vec<RegionDeployment>,
    /// The network connections between them.
    pub connections: Connections,
    pub control_plane: ControlPlane,
    /// Who signs the buyers' tokens.
    pub identity: IdentityProvider,
    /// The roles with which the regions are deployed.
    roles: Roles,
    settings: TwoRegionsSettings,
    folder: PathBuf,
    /// From each order log to order-place.
    _mappings: Vec<EventSourceMapping>,
    tables: DynamoDb,
}

/// The event source mapping of a region, as template.yaml has it.
fn order_place_mapping(tables: &DynamoDb, region: &RegionDeployment, seed: u64) -> EventSourceMapping {
    let options = MappingOptions { seed, ..MappingOptions::order_place() };
    let name = region.region.name;
    EventSourceMapping::start(tables.url(), name, deployment::ORDER_LOG, region.invoke_api().clone(), options)
}

/// The roles of the two regions, as indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Roles {
    main: usize,
    standby: usize,
}

/// The index of the region that is main at first.
pub const MAIN: usize = 0;
/// The index of the region that is its standby at first.
pub const STANDBY: usize = 1;
/// Main, the standby, and an edge.
pub const REGION_COUNT: usize = deployment::REGIONS.len();

impl TwoRegions {
    /// Starts all regions, with data and logs in `folder`: main sells, the standby replicates it.
    pub async fn start_in(folder: &Path, settings: &TwoRegionsSettings) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let [main, standby, edge] = deployment::REGIONS;
        let tables =
            DynamoDb::start(DynamoDbOptions { seed: settings.seed, ..DynamoDbOptions::default() }).await?;
        tables.make_table(main.name, deployment::TABLE)?;
        let home = (main.name, deployment::TABLE);
        let control_plane = ControlPlane::open(&tables.url(), home, Draws::new(settings.seed)).await?;
        let identity = IdentityProvider::new()?;

        let of_main = RegionServers::start_main(folder).await?;
        let to_main = connections::ToMain::lay(&of_main, [main, standby, edge]).await?;
        let of_standby =
            RegionServers::start_standby(folder, to_main.redis.port(), to_main.ledger.port()).await?;
        let connections = Connections::lay(to_main, &of_standby, control_plane.port()).await?;
        let roles = Roles { main: MAIN, standby: STANDBY };
        let plan = deployment::DeploymentPlan {
            settings,
            connections: &connections,
            identity: &identity,
            folder,
            aws: control_plane.url(),
            tables: tables.url(),
            draws: control_plane.account().draws().clone(),
            roles,
            servers: [&of_main, &of_standby],
        };
        let servers = [Some((&of_main, true)), Some((&of_standby, false)), None];
        let opening = servers.into_iter().enumerate().zip([main, standby, edge]);
        let opening = opening.map(|((index, servers), region)| {
            RegionDeployment::open(
                &plan,
                region,
                servers,
                connections.addresses(index, &of_main, &of_standby),
            )
        });
        let regions = futures::future::try_join_all(opening).await?;
        for (index, region) in regions.iter().enumerate() {
            plan.deployments(index).into_iter().try_for_each(|one| region.fleet.deploy(one))?;
        }
        let mut mappings = Vec::new();
        for region in regions.iter().filter(|_| settings.has_order_logs) {
            tables.make_order_log(region.region.name, deployment::ORDER_LOG, 0)?;
            mappings.push(order_place_mapping(&tables, region, settings.seed));
        }
        let (settings, folder) = (settings.clone(), folder.to_owned());
        let two = Self {
            regions,
            connections,
            control_plane,
            identity,
            roles,
            settings,
            folder,
            _mappings: mappings,
            tables,
        };
        two.describe_to_aws([&of_main, &of_standby])?;
        two.open_sales().await?;
        Ok(two)
    }

    /// Registers the servers in the control plane.
    fn describe_to_aws(&self, servers: [&RegionServers; 2]) -> Result<()> {
        let (account, settings) = (self.control_plane.account(), &self.settings);
        let [main, standby] = servers;
        let mut source = None;
        for (index, of, class) in
            [(MAIN, main, settings.main_class.as_str()), (STANDBY, standby, settings.replica_class.as_str())]
        {
            let id = deployment::instance(index);
            let instance = DatabaseInstance {
                id: id.into(),
                region: self.world_region(index).name.into(),
                class: class.into(),
                status: "available",
                is_stale: false,
                source: source.take(),
                // The name of the standby's replication slot on main ends in it, as on RDS.
                resource_id: id.to_uppercase(),
                groups: vec![(deployment::LEDGER_GROUP.into(), "active")],
                tags: [].into(),
                pending_class: None,
                server: of.postgres.clone(),
                proxy: of.ledger_proxy.clone(),
            };
            source = Some(instance.arn());
            account.databases.add(instance);
        }
        account.databases.add_deny_all(deployment::FENCE_GROUP);
        for (region, source) in
            [(STANDBY, &self.connections.ledger_to_main), (MAIN, &self.connections.ledger_to_standby)]
        {
            let sources = ReplicaSource { logs: self.folder.clone(), source: source.port() };
            account.databases.allow_replicas(self.world_region(region).name, sources);
        }
        let member = |index: usize, of: &RegionServers, ports: [(usize, u16); 1]| Member {
            group: deployment::redis_group(self.world_region(index).name),
            region: self.world_region(index).name.into(),
            server: of.redis.clone(),
            ports: ports.map(|(from, port)| (self.world_region(from).name.to_owned(), port)).into(),
        };
        let members = vec![
            member(MAIN, main, [(STANDBY, self.connections.redis_to_main.port())]),
            member(STANDBY, standby, [(MAIN, self.connections.redis_to_standby.port())]),
        ];
        account.set_datastore(GlobalDatastore::new(
            deployment::DATASTORE,
            members,
            account.reachability().clone(),
            account.draws().clone(),
        ))?;
        self.regions.iter().for_each(|region| account.add_fleet(region.fleet.clone()));
        Ok(())
    }

    /// Waits until all functions answer, and enables main's schedules.
    async fn open_sales(&self) -> Result<()> {
        let [of_main, of_standby] = [self.region(MAIN)?, self.region(STANDBY)?];
        for region in &self.regions {
            region.answers("order-intake").await?;
            region.answers("order-status").await?;
        }
        of_main.answers("drop-admin").await?;
        of_standby.answers("region-failover").await?;
        self.admin(MAIN, &json!({ "command": "migrate" })).await?;
        of_main.plan_schedules(true)?;
        of_standby.plan_schedules(false)
    }

    pub(crate) fn world_region(&self, index: usize) -> WorldRegion {
        deployment::region(index)
    }

    /// A region by its index.
    pub fn region(&self, index: usize) -> Result<&RegionDeployment> {
        self.regions.get(index).with_context(|| format!("there is no region {index}"))
    }

    /// Sends a command to a region's `drop-admin`.
    pub async fn admin(&self, index: usize, command: &Value) -> Result<Value> {
        match self.region(index)?.invoke_api().call("drop-admin", command).await? {
            Invoked::Answer(answer) => Ok(answer),
            Invoked::FunctionError(error) => bail!("drop-admin failed: {error}"),
        }
    }

    /// Sends a command to `region-failover` in the standby, as an operator does.
    pub async fn failover(&self, command: &Value) -> Result<Value> {
        let invoke = self.region(self.roles.standby)?.invoke_api();
        match invoke.call_within("region-failover", command.to_string(), FAILOVER_LIMIT).await? {
            Invoked::Answer(answer) => Ok(answer),
            Invoked::FunctionError(error) => bail!("region-failover failed: {error}"),
        }
    }

    /// Whether the lease's record allows main to renew it.
    pub async fn lease_is_open(&self) -> Result<bool> {
        let items = self.tables.items(self.world_region(MAIN).name, deployment::TABLE)?;
        let lease = items.iter().find(|item| item["id"]["S"] == "main-lease");
        lease.and_then(|lease| lease["is_open"]["BOOL"].as_bool()).context("the table has no lease")
    }

    /// Region and name of the replica's database instance.
    pub fn replica(&self) -> (String, String) {
        let Roles { standby, .. } = self.roles;
        (self.world_region(standby).name.to_owned(), deployment::instance(standby).to_owned())
    }

    /// Kills region-failover's process as SIGKILL does, in the middle of its work. A new one is started.
    pub fn kill_failover(&self) -> Result<()> {
        self.region(self.roles.standby)?.fleet.kill("region-failover");
        Ok(())
    }

    /// Partitions main while it keeps running. Its own buyers still reach it.
    pub fn cut_main_off(&self, cut: Cut) {
        self.connections.cut(Some(cut));
        self.control_plane.account().reachability().set(self.world_region(MAIN).name, Reachability::Silent);
    }

    /// Ends the partition.
    pub fn restore(&self) {
        self.connections.cut(None);
        self.control_plane.account().reachability().set(self.world_region(MAIN).name, Reachability::Up);
    }

    /// Kills every process of main, as SIGKILL does.
    pub async fn kill_main(&self) -> Result<()> {
        self.control_plane.account().reachability().set(self.world_region(MAIN).name, Reachability::Gone);
        self.region(MAIN)?.kill().await;
        Ok(())
    }

    /// Starts main again with its data on disk.
    pub async fn revive_main(&self) -> Result<()> {
        self.region(MAIN)?.revive().await?;
        self.control_plane.account().reachability().set(self.world_region(MAIN).name, Reachability::Up);
        Ok(())
    }

    /// Moves main's ledger out of the fence's security group, as an operator does to inspect it.
    pub async fn reopen_main_ledger(&self) -> Result<()> {
        let parameters = [
            ("DBInstanceIdentifier", deployment::instance(MAIN)),
            ("VpcSecurityGroupIds.VpcSecurityGroupId.1", deployment::LEDGER_GROUP),
            ("ApplyImmediately", "true"),
        ];
        self.rds(MAIN, "ModifyDBInstance", &parameters).await?;
        // The security group takes effect a moment later.
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(())
    }

    /// A call of RDS in a region, as an operator makes it.
    async fn rds(&self, index: usize, action: &str, parameters: &[(&str, &str)]) -> Result<()> {
        let service = Service { name: "rds", version: "2014-10-31", region: self.world_region(index).name };
        let url = self.control_plane.url();
        query(&reqwest::Client::new(), &url, service, action, parameters).await.map(drop)
    }

    /// A region's ledger, with connections of the caller's own that bypass all proxies.
    pub async fn ledger(&self, index: usize) -> Result<Ledger> {
        let url = self.ledger_url(index).await?;
        Ok(Ledger::from_config(&|name: &str| (name == "FAIRDROP_LEDGER_URL").then(|| url.clone()))?)
    }

    /// The address of a region's ledger that bypasses all proxies.
    pub async fn ledger_url(&self, index: usize) -> Result<String> {
        let servers =
            self.region(index)?.servers.as_ref().with_context(|| format!("region {index} has no servers"))?;
        Ok(servers.postgres.lock().await.url())
    }

    /// A connection to a region's Redis that bypasses all proxies.
    pub async fn redis(&self, index: usize) -> Result<redis::aio::MultiplexedConnection> {
        let servers =
            self.region(index)?.servers.as_ref().with_context(|| format!("region {index} has no servers"))?;
        servers.redis.lock().await.connect().await
    }

    /// The records of a region's order log; none if orders go through no log.
    pub fn order_log(&self, index: usize) -> Result<Vec<LogRecord>> {
        if !self.settings.has_order_logs {
            return Ok(Vec::new());
        }
        let items = self.tables.items(self.world_region(index).name, deployment::ORDER_LOG)?;
        let images = items.iter().filter_map(Value::as_object);
        images.map(|image| LogRecord::from_image(image).context("a record is malformed")).collect()
    }

    /// Whether every region's gateway knows the item.
    pub async fn is_known_everywhere(&self, item_id: &ItemId) -> Result<bool> {
        for region in &self.regions {
            if reqwest::get(format!("{}/items/{item_id}", region.url())).await?.status() != 200 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
