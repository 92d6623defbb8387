//! Two whole regions on one machine, main and its standby, and an edge region beside them: what a
//! failover meets.
//!
//! Each region has servers, functions, an emulator and a gateway of its own. Whatever one of them has
//! to do with another goes by one of the [`Connections`], so that main can be cut off while it lives, or
//! killed whole. The [`ControlPlane`] is AWS's, and acts on all of it.

mod connections;
mod deployment;
mod region;
mod role_exchange;
mod servers;

pub use connections::{Connections, Cut};
pub use deployment::TwoRegionsSettings;
pub use region::RegionDeployment;

use crate::control_plane::database::DatabaseInstance;
use crate::control_plane::datastore::{GlobalDatastore, Member};
use crate::control_plane::replicas::ReplicaSource;
use crate::control_plane::{ControlPlane, Reachability};
use anyhow::{Context, Result, bail};
use ledger::Ledger;
use local::aws::emulators::{Moto, Service, query};
use local::aws::identity::IdentityProvider;
use local::aws::lambda::Invoked;
use local::system::regions::WorldRegion;
use serde_json::{Value, json};
use servers::RegionServers;
use shared::item::ItemId;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest that an invocation of region-failover may take.
const FAILOVER_LIMIT: Duration = Duration::from_secs(600);

/// Main and standby, and whoever else there is. Dropping it stops everything.
#[derive(Debug)]
pub struct TwoRegions {
    /// The regions: main, the standby, an edge.
    pub sites: Vec<RegionDeployment>,
    /// What lies between them.
    pub connections: Connections,
    /// AWS.
    pub control_plane: ControlPlane,
    /// Who signs the buyers' tokens.
    pub identity: IdentityProvider,
    /// As they are deployed.
    roles: Roles,
    settings: TwoRegionsSettings,
    folder: PathBuf,
    tables: Moto,
}

/// Which region is what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Roles {
    /// The one that sells.
    main: usize,
    /// The one that may take over.
    standby: usize,
}

/// The region that is main at first.
pub const MAIN: usize = 0;
/// The one that is its standby.
pub const STANDBY: usize = 1;

impl TwoRegions {
    /// Starts everything, with data and logs in `folder`: main sells, the standby follows.
    pub async fn start_in(folder: &Path, settings: &TwoRegionsSettings) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let [main, standby, edge] = deployment::REGIONS;
        let tables = Moto::start(folder, &[]).await?;
        tables.make_table(main.name, deployment::TABLE).await?;
        let control_plane = ControlPlane::open(&tables.url(), main.name).await?;
        let identity = IdentityProvider::new()?;

        let of_main = RegionServers::start_main(folder).await?;
        let to_main = connections::ToMain::lay(&of_main, [main, standby, edge]).await?;
        let of_standby = RegionServers::start_standby(folder, &to_main).await?;
        let connections = Connections::lay(to_main, &of_standby, control_plane.port()).await?;
        let roles = Roles { main: MAIN, standby: STANDBY };
        let plan = deployment::DeploymentPlan {
            settings,
            connections: &connections,
            identity: &identity,
            folder,
            aws: control_plane.url(),
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
        let sites = futures::future::try_join_all(opening).await?;
        for (index, site) in sites.iter().enumerate() {
            plan.deployments(index).into_iter().try_for_each(|one| site.fleet.deploy(one))?;
        }
        let (settings, folder) = (settings.clone(), folder.to_owned());
        let two = Self { sites, connections, control_plane, identity, roles, settings, folder, tables };
        two.describe_to_aws([&of_main, &of_standby])?;
        two.open_sales().await?;
        Ok(two)
    }

    /// What AWS knows of the servers.
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
                region: self.region(index).name.into(),
                class: class.into(),
                status: "available",
                is_stale: false,
                source: source.take(),
                // The standby's slot on main bears the end of it, as on RDS.
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
            account.databases.let_copies_be_made(self.region(region).name, sources);
        }
        let member = |index: usize, of: &RegionServers, ports: [(usize, u16); 1]| Member {
            group: deployment::redis_group(self.region(index).name),
            region: self.region(index).name.into(),
            server: of.redis.clone(),
            ports: ports.map(|(from, port)| (self.region(from).name.to_owned(), port)).into(),
        };
        let members = vec![
            member(MAIN, main, [(STANDBY, self.connections.redis_to_main.port())]),
            member(STANDBY, standby, [(MAIN, self.connections.redis_to_standby.port())]),
        ];
        account.set_datastore(GlobalDatastore::new(
            deployment::DATASTORE,
            members,
            account.reachability().clone(),
        ))?;
        self.sites.iter().for_each(|site| account.add_fleet(site.fleet.clone()));
        Ok(())
    }

    /// Waits until everybody answers, and lets main sell.
    async fn open_sales(&self) -> Result<()> {
        let [of_main, of_standby] = [self.site(MAIN)?, self.site(STANDBY)?];
        for site in &self.sites {
            site.answers("order-intake").await?;
            site.answers("order-status").await?;
        }
        of_main.answers("drop-admin").await?;
        of_standby.answers("region-failover").await?;
        self.admin(MAIN, &json!({ "command": "migrate" })).await?;
        of_main.plan_schedules(true)?;
        of_standby.plan_schedules(false)
    }

    fn region(&self, index: usize) -> WorldRegion {
        deployment::region(index)
    }

    /// A region.
    pub fn site(&self, index: usize) -> Result<&RegionDeployment> {
        self.sites.get(index).context("there is no such region")
    }

    /// Sends a command to a region's `drop-admin`.
    pub async fn admin(&self, index: usize, command: &Value) -> Result<Value> {
        match self.site(index)?.invoke_api().call("drop-admin", command).await? {
            Invoked::Answer(answer) => Ok(answer),
            Invoked::FunctionError(error) => bail!("drop-admin: {error}"),
        }
    }

    /// Sends a command to `region-failover` in the standby, as whoever may invoke it.
    pub async fn failover(&self, command: &Value) -> Result<Value> {
        let invoke = self.site(self.roles.standby)?.invoke_api();
        match invoke.call_within("region-failover", command.to_string(), FAILOVER_LIMIT).await? {
            Invoked::Answer(answer) => Ok(answer),
            Invoked::FunctionError(error) => bail!("region-failover: {error}"),
        }
    }

    /// Whether main may renew its lease, by the table itself.
    pub async fn lease_is_open(&self) -> Result<bool> {
        let input = json!({
            "TableName": deployment::TABLE, "Key": { "id": { "S": "main-lease" } }, "ConsistentRead": true,
        });
        let home = (self.region(MAIN).name, "dynamodb");
        let found = self.tables.json(home, "DynamoDB_20120810.GetItem", &input).await?;
        found["Item"]["is_open"]["BOOL"].as_bool().context("there is no lease")
    }

    /// The replica's region and instance, as AWS knows it.
    pub fn replica(&self) -> (String, String) {
        let Roles { standby, .. } = self.roles;
        (self.region(standby).name.to_owned(), deployment::instance(standby).to_owned())
    }

    /// Kills region-failover's process as SIGKILL does, wherever it is; a new one follows.
    pub fn kill_failover(&self) -> Result<()> {
        self.site(self.roles.standby)?.fleet.kill("region-failover");
        Ok(())
    }

    /// Cuts main off while it lives: its buyers reach it, and it reaches nobody.
    pub fn cut_main_off(&self, cut: Cut) {
        self.connections.cut(Some(cut));
        self.control_plane.account().reachability().set(self.region(MAIN).name, Reachability::Silent);
    }

    /// Restores what was cut.
    pub fn restore(&self) {
        self.connections.cut(None);
        self.control_plane.account().reachability().set(self.region(MAIN).name, Reachability::Up);
    }

    /// Kills main whole: every process of it, as SIGKILL does.
    pub async fn kill_main(&self) -> Result<()> {
        self.control_plane.account().reachability().set(self.region(MAIN).name, Reachability::Gone);
        self.site(MAIN)?.kill().await;
        Ok(())
    }

    /// Brings main back with what it has on disk.
    pub async fn revive_main(&self) -> Result<()> {
        self.site(MAIN)?.revive().await?;
        self.control_plane.account().reachability().set(self.region(MAIN).name, Reachability::Up);
        Ok(())
    }

    /// Takes main's ledger out from behind the fence, as a person does who is to look into it.
    pub async fn reopen_main_ledger(&self) -> Result<()> {
        let parameters = [
            ("DBInstanceIdentifier", deployment::instance(MAIN)),
            ("VpcSecurityGroupIds.VpcSecurityGroupId.1", deployment::LEDGER_GROUP),
            ("ApplyImmediately", "true"),
        ];
        self.rds(MAIN, "ModifyDBInstance", &parameters).await?;
        // The proxy opens a moment later.
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(())
    }

    /// A call of RDS in a region, as a person makes it.
    async fn rds(&self, index: usize, action: &str, parameters: &[(&str, &str)]) -> Result<()> {
        let service = Service { name: "rds", version: "2014-10-31", region: self.region(index).name };
        let url = self.control_plane.url();
        query(&reqwest::Client::new(), &url, service, action, parameters).await.map(drop)
    }

    /// A region's ledger itself, whatever its proxy and its lines are like, over connections of the
    /// caller's own.
    pub async fn ledger(&self, index: usize) -> Result<Ledger> {
        let url = self.ledger_url(index).await?;
        Ok(Ledger::from_config(&|name: &str| (name == "FAIRDROP_LEDGER_URL").then(|| url.clone()))?)
    }

    /// Its address.
    pub async fn ledger_url(&self, index: usize) -> Result<String> {
        let servers = self.site(index)?.servers.as_ref().context("the region has no servers")?;
        Ok(servers.postgres.lock().await.url())
    }

    /// A connection to a region's Redis itself.
    pub async fn redis(&self, index: usize) -> Result<redis::aio::MultiplexedConnection> {
        let servers = self.site(index)?.servers.as_ref().context("the region has no servers")?;
        servers.redis.lock().await.connect().await
    }

    /// Whether every region's gateway knows the item.
    pub async fn is_known_everywhere(&self, item_id: &ItemId) -> Result<bool> {
        for site in &self.sites {
            if reqwest::get(format!("{}/items/{item_id}", site.url())).await?.status() != 200 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
