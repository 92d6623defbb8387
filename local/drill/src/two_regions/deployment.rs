//! The configuration of the functions of each region, and the names of all resources.

use super::connections::Connections;
use super::servers::RegionServers;
use super::{MAIN, Roles, STANDBY};
use crate::control_plane::Draws;
use crate::control_plane::functions::{Deployment, Environment};
use local::aws::functions::OVERLAPPING_RUNS;
use local::aws::identity::{AUDIENCE, ISSUER, IdentityProvider};
use local::aws::schedule::run_seconds;
use local::system::regions::{WORLD, WorldRegion};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Main, the standby, and an edge.
pub(super) const REGIONS: [WorldRegion; 3] = [WORLD[0], WORLD[1], WORLD[3]];
pub(super) const STACK: &str = "fairdrop";
pub(super) const TABLE: &str = "fairdrop-main-lease";
/// The order log of each region, if orders go through one.
pub(super) const ORDER_LOG: &str = "fairdrop-order-log";
pub(super) const LEDGER_GROUP: &str = "sg-ledger";
pub(super) const FENCE_GROUP: &str = "sg-fence";
pub(super) const DATASTORE: &str = "ldgnf-fairdrop";
pub(super) const DRAIN_SCHEDULE: &str = "fairdrop-drain";
pub(super) const WORKER_SCHEDULE: &str = "fairdrop-worker";
/// Requests that one process of a function takes at once.
const CONCURRENCY: u32 = 32;
/// Processes of order-place: batches of different shards at the same time.
const PLACE_PROCESSES: u32 = 3;

/// Options of the regions.
#[derive(Clone, Debug)]
pub struct TwoRegionsSettings {
    /// How long the lease lasts, in seconds.
    pub lease_seconds: u64,
    /// The clock tolerance of the lease, in milliseconds.
    pub tolerance_ms: u64,
    /// The length of a minute of a schedule; a run of drain and worker is longer in proportion.
    pub minute: Duration,
    /// The class of main's database.
    pub main_class: String,
    /// The class of its replica; region-failover scales up a smaller one before the promotion.
    pub replica_class: String,
    /// Whether orders go through a log in each region.
    pub has_order_logs: bool,
    /// The folder of the built functions; by default the folder of this program.
    pub binaries: Option<PathBuf>,
    /// The seed of what AWS's documents leave open.
    pub seed: u64,
}

impl Default for TwoRegionsSettings {
    fn default() -> Self {
        Self {
            lease_seconds: 4,
            tolerance_ms: 200,
            minute: Duration::from_secs(5),
            main_class: "db.m7g.large".into(),
            replica_class: "db.m7g.large".into(),
            has_order_logs: false,
            binaries: None,
            seed: 0,
        }
    }
}

pub(super) fn named(function: &str) -> String {
    format!("{STACK}-{function}")
}

/// The name of a region's database instance, whatever its current role.
pub(super) fn instance(index: usize) -> &'static str {
    if index == STANDBY { "standby-ledger" } else { "main-ledger" }
}

/// A region by its index; main if there is none.
pub(super) fn region(index: usize) -> WorldRegion {
    REGIONS.get(index).copied().unwrap_or(REGIONS[MAIN])
}

pub(super) fn redis_group(region: &str) -> String {
    format!("fairdrop-{region}")
}

/// All that the configuration of functions depends on.
pub(super) struct DeploymentPlan<'a> {
    pub(super) settings: &'a TwoRegionsSettings,
    pub(super) connections: &'a Connections,
    pub(super) identity: &'a IdentityProvider,
    pub(super) folder: &'a Path,
    pub(super) aws: String,
    /// The address of DynamoDB for functions of the table's own region.
    pub(super) tables: String,
    pub(super) draws: Draws,
    pub(super) roles: Roles,
    /// The servers of main and standby.
    pub(super) servers: [&'a RegionServers; 2],
}

type EnvironmentVariable = (&'static str, String);

impl DeploymentPlan<'_> {
    /// The functions of a region.
    pub(super) fn deployments(&self, index: usize) -> Vec<Deployment> {
        let mut deployments = self.everywhere(index);
        deployments.extend(self.of_main(index));
        deployments.extend(self.of_standby(index));
        deployments
    }

    fn of(&self, index: usize) -> &RegionServers {
        let [first, second] = self.servers;
        if index == STANDBY { second } else { first }
    }

    fn main(&self) -> &RegionServers {
        self.of(self.roles.main)
    }

    fn standby(&self) -> &RegionServers {
        self.of(self.roles.standby)
    }

    fn everywhere(&self, index: usize) -> Vec<Deployment> {
        // The edge has no replica, and reads main.
        let replica = self.servers.get(index).map_or(String::new(), |servers| servers.urls.replica.clone());
        let mut environment = vec![
            ("FAIRDROP_REGION", region(index).name.to_owned()),
            ("FAIRDROP_MAIN_REDIS_URL", self.main().urls.redis.clone()),
            ("FAIRDROP_REPLICA_REDIS_URL", replica),
            ("FAIRDROP_TOKEN_JWKS", self.identity.jwks().to_string()),
            ("FAIRDROP_TOKEN_ISSUER", ISSUER.into()),
            ("FAIRDROP_TOKEN_AUDIENCE", AUDIENCE.into()),
        ];
        if self.settings.has_order_logs {
            environment.push(("FAIRDROP_ORDER_LOG_TABLE", ORDER_LOG.into()));
            environment.push(("AWS_ENDPOINT_URL_DYNAMODB", self.tables.clone()));
            environment.extend(aws_environment(&self.aws));
        }
        let deployment = |binary, alias, (concurrency, processes)| Deployment {
            binary,
            concurrency,
            processes,
            environment: table(environment.clone()),
            alias,
            is_parked: false,
        };
        let of_requests = (CONCURRENCY, 1);
        let mut deployments = vec![
            deployment("order-intake", Some("live"), of_requests),
            deployment("order-status", None, of_requests),
        ];
        if self.settings.has_order_logs {
            deployments.push(deployment("order-place", None, (1, PLACE_PROCESSES)));
        }
        deployments
    }

    /// The functions of main alone, which the standby has deployed and parked.
    pub(super) fn of_main(&self, index: usize) -> Vec<Deployment> {
        let Some(own) = self.servers.get(index) else { return Vec::new() };
        let is_main = index == self.roles.main;
        let seconds = run_seconds(self.settings.minute);
        let mut environment = vec![
            ("FAIRDROP_MAIN_REDIS_URL", self.main().urls.redis.clone()),
            ("FAIRDROP_LEDGER_URL", own.urls.ledger.clone()),
            ("FAIRDROP_DRAIN_RUN_SECONDS", seconds.clone()),
            ("FAIRDROP_WORKER_RUN_SECONDS", seconds),
            ("FAIRDROP_WAIT_REPLICAS", "1".into()),
            ("FAIRDROP_TASK_IDLE_AFTER_MS", "2000".into()),
        ];
        environment.extend(self.leased(index));
        let functions = [
            ("checkout-drain", 1, OVERLAPPING_RUNS),
            ("checkout-worker", 1, OVERLAPPING_RUNS),
            ("order-confirm", 16, 1),
            ("drop-admin", 1, 1),
        ];
        let deployment = |(binary, concurrency, processes)| Deployment {
            binary,
            concurrency,
            processes,
            environment: table(environment.clone()),
            alias: None,
            is_parked: !is_main,
        };
        functions.map(deployment).into()
    }

    /// The variables of functions that act under the lease.
    fn leased(&self, index: usize) -> Vec<EnvironmentVariable> {
        let connection = if index == MAIN {
            &self.connections.main_to_tables
        } else {
            &self.connections.standby_to_tables
        };
        let tables = format!("http://127.0.0.1:{}", connection.port());
        let mut pairs = vec![
            ("FAIRDROP_REGION", region(index).name.to_owned()),
            ("FAIRDROP_LEASE_TABLE", TABLE.into()),
            ("FAIRDROP_LEASE_SECONDS", self.settings.lease_seconds.to_string()),
            ("FAIRDROP_LEASE_TOLERANCE_MS", self.settings.tolerance_ms.to_string()),
            ("AWS_ENDPOINT_URL_DYNAMODB", tables),
        ];
        if self.settings.has_order_logs {
            let logs = REGIONS.map(|region| format!("{}={ORDER_LOG}", region.name));
            pairs.push(("FAIRDROP_ORDER_LOGS", logs.join(",")));
        }
        pairs.extend(aws_environment(&self.aws));
        pairs
    }

    /// The function of the standby alone.
    pub(super) fn of_standby(&self, index: usize) -> Option<Deployment> {
        (index == self.roles.standby).then(|| self.region_failover())
    }

    fn region_failover(&self) -> Deployment {
        let Roles { main, standby } = self.roles;
        let mut environment = self.leased(standby);
        environment.extend([
            ("FAIRDROP_MAIN_REGION", region(main).name.to_owned()),
            ("FAIRDROP_LEDGER_URL", self.main().urls.ledger.clone()),
            ("FAIRDROP_REPLICA_URL", self.standby().urls.ledger.clone()),
            ("FAIRDROP_MAIN_REDIS_URL", self.main().urls.redis.clone()),
            ("FAIRDROP_STANDBY_REDIS_URL", self.standby().urls.redis.clone()),
            ("FAIRDROP_MAIN_INSTANCE", instance(main).into()),
            ("FAIRDROP_REPLICA_INSTANCE", instance(standby).into()),
            ("FAIRDROP_REDIS_DATASTORE", DATASTORE.into()),
            ("FAIRDROP_REDIS_GROUP", redis_group(region(standby).name)),
            ("FAIRDROP_REGIONS", REGIONS.map(|region| region.name).join(",")),
            ("FAIRDROP_STACK", STACK.into()),
            ("FAIRDROP_DRAIN_SCHEDULE", DRAIN_SCHEDULE.into()),
            ("FAIRDROP_WORKER_SCHEDULE", WORKER_SCHEDULE.into()),
            ("FAIRDROP_FENCE_GROUP", FENCE_GROUP.into()),
            ("FAIRDROP_FAILOVER_CLASS", self.settings.main_class.clone()),
            ("FAIRDROP_OBSERVE_INTERVAL_MS", "200".into()),
        ]);
        Deployment {
            binary: "region-failover",
            concurrency: 1,
            processes: 1,
            environment: environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            alias: None,
            is_parked: false,
        }
    }
}

/// The variables by which a function's SDK finds the control plane.
fn aws_environment(url: &str) -> [EnvironmentVariable; 4] {
    [
        ("AWS_ENDPOINT_URL", url.to_owned()),
        ("AWS_ACCESS_KEY_ID", "test".into()),
        ("AWS_SECRET_ACCESS_KEY", "test".into()),
        ("AWS_EC2_METADATA_DISABLED", "true".into()),
    ]
}

fn table(pairs: impl IntoIterator<Item = EnvironmentVariable>) -> Environment {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
