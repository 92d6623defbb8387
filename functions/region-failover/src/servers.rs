//! All servers that a failover observes and acts on: both ledgers, both Redis servers, the lease, and AWS.

mod action;
mod canary;
mod datastore;
pub(crate) mod drill;
mod fence;
mod functions;
mod instance;
mod observe;
mod order_logs;
mod other_redis;
mod readiness;
#[cfg(test)]
mod replay;
mod stock;

pub use datastore::{observation as redis_observation, role as redis_role};
pub use functions::{
    Described, PublishedStep, Readiness, RepointingStep, after_publishing, next_step, serves_orders,
};
pub use order_logs::{replay_again, replay_items, unrestored};
pub use stock::{reconcile_items, unreconciled};

use crate::observation::Obstacle;
use crate::run::Run;
use crate::store::{self, RunStore};
use aws_sdk_rds::error::{ProvideErrorMetadata, SdkError};
use datastore::DatastoreClient;
use fence::KeptSession;
use functions::Functions;
use instance::Instances;
use lease::{LeaseTable, LeaseTiming};
use ledger::Ledger;
use order_logs::OrderLogs;
use reconcile::Stores;
use shared::clock::Clock;
use shared::config::{self, ConfigError, RedisConfig, Source};
use shared::queue::{Link, Queue};
use std::borrow::Cow;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::timeout;

/// The variable with the URL of this region's Redis.
const STANDBY_REDIS: &str = "FAIRDROP_STANDBY_REDIS_URL";
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
    /// Empty if orders do not go through logs.
    logs: OrderLogs,
    pub(crate) runs: RunStore,
    /// The connection to the old main's ledger that outlives the fence.
    kept: KeptSession,
    /// The URLs of main's Redis and of this region's, as they are configured.
    main_redis: String,
    standby_redis: String,
    /// The stores with another Redis, by its URL.
    other: Arc<Mutex<Option<(String, Stores)>>>,
}

impl FailoverServers {
    /// Reads the configuration of a function in `region`. Nothing is connected yet.
    pub(crate) async fn from_config(source: Source<'_>, region: &str) -> Result<Self, ConfigError> {
        let main_region = config::required(source, "FAIRDROP_MAIN_REGION")?;
        let aws = sdk::config(region);
        let logs = OrderLogs::from_config(source)?;
        let stores = |redis: RedisConfig, ledger: Ledger| {
            let link = Link::new(redis);
            Stores { queue: Queue::new(link.clone()).with_order_logs(!logs.is_empty()), link, ledger }
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
            logs,
            runs: RunStore::new(aws_sdk_dynamodb::Client::new(&aws), &lease_table, store::FAILOVERS),
            kept: KeptSession::default(),
            main_redis: config::required(source, "FAIRDROP_MAIN_REDIS_URL")?,
            standby_redis: config::required(source, STANDBY_REDIS)?,
            other: Arc::default(),
        })
    }

    /// The servers of `run`: with another Redis, if the operator has named one.
    pub(crate) fn for_run(&self, run: &Run) -> Result<Cow<'_, Self>, Obstacle> {
        let Some(endpoint) = &run.redis_endpoint else { return Ok(Cow::Borrowed(self)) };
        let url = with_endpoint(&self.standby_redis, endpoint);
        let mut servers = self.clone();
        servers.standby = self.other_stores(&url)?;
        servers.functions.send_orders_to(url);
        Ok(Cow::Owned(servers))
    }

    /// Checks that the Redis at `endpoint` is another one, takes writes and is empty, or is used by the run `run_id` already.
    pub(crate) async fn check_other_redis(&self, endpoint: &str, run_id: &str) -> Result<(), Obstacle> {
        let url = with_endpoint(&self.standby_redis, endpoint);
        if [&self.standby_redis, &self.main_redis].contains(&&url) {
            return Err(obstacle(format!("{endpoint} is main's Redis or this region's: name another one")));
        }
        let mut known = vec![
            ("main's Redis", self.main.link.clone()),
            ("this region's Redis", self.standby.link.clone()),
        ];
        if let Some(live) = self.functions.live_redis().await {
            known.push(("the Redis of the live updates", link_at(&live)?));
        }
        let claimed = other_redis::claim(&self.other_stores(&url)?.link, &known, run_id).await;
        claimed.map_err(|Obstacle(why)| obstacle(format!("the Redis at {endpoint} cannot be used: {why}")))
    }

    fn other_stores(&self, url: &str) -> Result<Stores, Obstacle> {
        let mut known = self.other.lock().map_err(obstacle)?;
        if let Some((_, stores)) = known.as_ref().filter(|(of, _)| of == url) {
            return Ok(stores.clone());
        }
        let link = link_at(url)?;
        let queue = Queue::new(link.clone()).with_order_logs(!self.logs.is_empty());
        let stores = Stores { queue, link, ledger: self.standby.ledger.clone() };
        *known = Some((url.into(), stores.clone()));
        Ok(stores)
    }

    /// Main's instance class; `None` if main's region does not answer.
    pub(crate) async fn main_class(&self) -> Option<String> {
        self.instances.main_class().await
    }

    /// What waits for the replica's maintenance window, for the plan; `None` if RDS does not answer.
    pub(crate) async fn pending_changes(&self) -> Option<Vec<&'static str>> {
        self.instances.pending().await.ok()
    }
}

fn link_at(url: &str) -> Result<Link, Obstacle> {
    let source: Source<'_> = &|name: &str| match name {
        STANDBY_REDIS => Some(url.to_owned()),
        _ => config::process_environment(name),
    };
    RedisConfig::standby(source).map(Link::new).map_err(obstacle)
}

/// The URL of another Redis: with the scheme of the configured one, and so with TLS if that has it.
fn with_endpoint(configured: &str, endpoint: &str) -> String {
    let scheme = configured.split_once("://").map_or("rediss", |(scheme, _)| scheme);
    format!("{scheme}://{endpoint}")
}

/// Calls AWS within the limit. `what` is the text that an obstacle begins with.
async fn call_aws<T, E, R>(
    what: &str,
    call: impl Future<Output = Result<T, SdkError<E, R>>>,
) -> Result<T, Obstacle>
where
    E: ProvideErrorMetadata,
{
    call_unless(&[], what, call).await?.map_err(Obstacle)
}

/// The same, but an error with one of `codes` is an answer, and no obstacle: its text is returned.
async fn call_unless<T, E, R>(
    codes: &[&str],
    what: &str,
    call: impl Future<Output = Result<T, SdkError<E, R>>>,
) -> Result<Result<T, String>, Obstacle>
where
    E: ProvideErrorMetadata,
{
    // Boxed, because an SDK's futures are large.
    match timeout(CALL_LIMIT, Box::pin(call)).await {
        Ok(Ok(answer)) => Ok(Ok(answer)),
        Ok(Err(error)) => {
            let is_answer = error.code().is_some_and(|code| codes.contains(&code));
            let why = format!("{what}: {}", rds::refusal(error));
            if is_answer { Ok(Err(why)) } else { Err(Obstacle(why)) }
        }
        Err(_) => Err(Obstacle(format!("{what}: no answer from AWS within {} s", CALL_LIMIT.as_secs()))),
    }
}

/// An obstacle with the text of another library's error.
fn obstacle(error: impl std::fmt::Display) -> Obstacle {
    Obstacle(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_redis_has_tls_like_the_configured_one() {
        assert_eq!(
            with_endpoint("rediss://standby.example:6379", "other.example:6380"),
            "rediss://other.example:6380"
        );
        assert_eq!(with_endpoint("redis://127.0.0.1:1", "127.0.0.1:2"), "redis://127.0.0.1:2");
    }
}
