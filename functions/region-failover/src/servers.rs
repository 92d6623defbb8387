//! All that is looked at and acted on: both ledgers, both Redises, the lease, and AWS.

mod action;
mod canary;
mod datastore;
mod drill;
mod functions;
mod instance;
mod observe;
#[cfg(test)]
mod replay;
mod stock;

use crate::observation::Obstacle;
use aws_sdk_rds::error::{ProvideErrorMetadata, SdkError};
use datastore::GlobalDatastore;
use functions::Functions;
use instance::Instances;
use lease::{LeaseTable, LeaseTiming};
use ledger::Ledger;
use reconcile::Stores;
use shared::clock::Clock;
use shared::config::{self, ConfigError, RedisConfig, Source};
use shared::queue::{Link, Queue};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::timeout;

/// The longest that one question to AWS may take, its tries counted: all other questions have limits of
/// their own.
const CALL_LIMIT: Duration = Duration::from_secs(8);

/// Everything outside.
#[derive(Clone, Debug)]
pub struct FailoverServers {
    /// Who may sell.
    pub(crate) lease: LeaseTable,
    pub(crate) timing: LeaseTiming,
    pub(crate) clock: Arc<Clock>,
    /// The old main's, as they are reached from here.
    pub(crate) main: Stores,
    /// The standby's own.
    pub(crate) standby: Stores,
    instances: Instances,
    datastore: GlobalDatastore,
    functions: Functions,
    replica_url: String,
    /// Of a drill's copy: where it is, and its ledger there.
    copy_endpoint: Arc<Mutex<Option<String>>>,
    copy_ledger: Arc<Mutex<Option<(String, Ledger)>>>,
}

impl FailoverServers {
    /// Reads the configuration of a function in `region`. Nothing is connected yet.
    pub(crate) async fn from_config(source: Source<'_>, region: &str) -> Result<Self, ConfigError> {
        let main_region = config::required(source, "FAIRDROP_MAIN_REGION")?;
        let aws = sdk::config(region).await;
        let witnesses = |redis: RedisConfig, ledger: Ledger| {
            let link = Link::new(redis);
            Stores { queue: Queue::new(link.clone()), link, ledger }
        };
        let lease_table = config::required(source, "FAIRDROP_LEASE_TABLE")?;
        Ok(Self {
            lease: LeaseTable::new(sdk::defaults(), region, &lease_table).await,
            timing: LeaseTiming::from_config(source)?,
            clock: Arc::new(Clock::machine()),
            main: witnesses(RedisConfig::main(source)?, Ledger::of_main(source, &main_region)?),
            standby: witnesses(RedisConfig::standby(source)?, Ledger::of_replica(source)?),
            instances: Instances::from_config(source, &aws, region, &main_region)?,
            datastore: GlobalDatastore::from_config(source, &aws, region)?,
            functions: Functions::from_config(source, &aws, region)?,
            replica_url: config::required(source, "FAIRDROP_REPLICA_URL")?,
            copy_endpoint: Arc::default(),
            copy_ledger: Arc::default(),
        })
    }

    /// Says on the replica's instance that a failover has it in hand, or not any more: replica-lag changes
    /// nothing meanwhile. What does not succeed is not repeated: the tag stops nobody from failing over.
    pub(crate) async fn tag_replica(&self, run: Option<&str>) {
        if let Err(Obstacle(why)) = self.instances.tag_replica(run).await {
            tracing::warn!(why, "the replica's instance is not marked");
        }
    }
}

/// Asks AWS, and waits no longer than the limit.
async fn call_aws<T, E, R>(
    what: &str,
    call: impl Future<Output = Result<T, SdkError<E, R>>>,
) -> Result<T, Obstacle>
where
    E: ProvideErrorMetadata,
{
    // Boxed: an SDK's futures are deep.
    match timeout(CALL_LIMIT, Box::pin(call)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Obstacle(format!("{what}: {}", rds::refusal(error)))),
        Err(_) => Err(Obstacle(format!("{what}: no answer in time"))),
    }
}

/// What another library's error says.
fn obstacle(error: impl std::fmt::Display) -> Obstacle {
    Obstacle(error.to_string())
}
