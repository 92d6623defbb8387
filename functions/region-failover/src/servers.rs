//! All servers that a failover observes and acts on: both ledgers, both Redis servers, the lease, and AWS.

mod action;
mod canary;
mod datastore;
pub(crate) mod drill;
mod fence;
mod functions;
mod instance;
mod observe;
#[cfg(test)]
mod replay;
mod stock;

pub use datastore::{observation as redis_observation, role as redis_role};

use crate::observation::Obstacle;
use aws_sdk_rds::error::{ProvideErrorMetadata, SdkError};
use datastore::DatastoreClient;
use fence::KeptSession;
use functions::Functions;
use instance::Instances;
use lease::{LeaseTable, LeaseTiming};
use ledger::Ledger;
use reconcile::Stores;
use shared::clock::Clock;
use shared::config::{self, ConfigError, RedisConfig, Source};
use shared::queue::{Link, Queue};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Limit of one call to AWS with all attempts. Calls to other servers have limits of their own.
const CALL_LIMIT: Duration = Duration::from_secs(8);

#[derive(Clone, Debug)]
pub struct FailoverServers {
    pub(crate) lease: LeaseTable,
    pub(crate) timing: LeaseTiming,
    pub(crate) clock: Arc<Clock>,
    /// The old main's stores, reached from this region.
    pub(crate) main: Stores,
    /// The standby's own stores.
    pub(crate) standby: Stores,
    instances: Instances,
    datastore: DatastoreClient,
    functions: Functions,
    /// The connection to the old main's ledger that outlives the fence.
    kept: KeptSession,
}

impl FailoverServers {
    /// Reads the configuration of a function in `region`. Nothing is connected yet.
    pub(crate) async fn from_config(source: Source<'_>, region: &str) -> Result<Self, ConfigError> {
        let main_region = config::required(source, "FAIRDROP_MAIN_REGION")?;
        let aws = sdk::config(region);
        let stores = |redis: RedisConfig, ledger: Ledger| {
            let link = Link::new(redis);
            Stores { queue: Queue::new(link.clone()), link, ledger }
        };
        let lease_table = config::required(source, "FAIRDROP_LEASE_TABLE")?;
        Ok(Self {
            lease: LeaseTable::new(sdk::defaults(), region, &lease_table),
            timing: LeaseTiming::from_config(source)?,
            clock: Arc::new(Clock::machine()),
            main: stores(RedisConfig::main(source)?, Ledger::of_main(source, &main_region)?),
            standby: stores(RedisConfig::standby(source)?, Ledger::of_replica(source)?),
            instances: Instances::from_config(source, &aws, region, &main_region)?,
            datastore: DatastoreClient::from_config(source, &aws, region)?,
            functions: Functions::from_config(source, &aws, region)?,
            kept: KeptSession::default(),
        })
    }

    /// What waits for the replica's maintenance window, for the plan; `None` if RDS does not answer.
    pub(crate) async fn pending_changes(&self) -> Option<Vec<&'static str>> {
        self.instances.pending().await.ok()
    }
}

/// Calls AWS within the limit. `what` is the text that an obstacle begins with.
async fn call_aws<T, E, R>(
    what: &str,
    call: impl Future<Output = Result<T, SdkError<E, R>>>,
) -> Result<T, Obstacle>
where
    E: ProvideErrorMetadata,
{
    // Boxed, because an SDK's futures are large.
    match timeout(CALL_LIMIT, Box::pin(call)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Obstacle(format!("{what}: {}", rds::refusal(error)))),
        Err(_) => Err(Obstacle(format!("{what}: no answer from AWS within {} s", CALL_LIMIT.as_secs()))),
    }
}

/// An obstacle with the text of another library's error.
fn obstacle(error: impl std::fmt::Display) -> Obstacle {
    Obstacle(error.to_string())
}
