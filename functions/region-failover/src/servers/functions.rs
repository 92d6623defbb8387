//! Lambda and EventBridge Scheduler: to which Redis every region's functions send their orders, and whether the new
//! main's functions may run.

mod enable;
mod repointing;
mod rights;
mod wake;

use super::{call_aws, call_unless, obstacle};
use crate::observation::Obstacle;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::operation::get_function_configuration::GetFunctionConfigurationOutput;
use aws_sdk_lambda::types::{Environment, LastUpdateStatus};
use futures::future::{BoxFuture, join_all, try_join_all};
use sdk::{Region, SdkConfig};
use shared::config::{self, ConfigError, Source};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio::time::timeout;
use wake::{readiness, state_text};

pub use repointing::{Described, PublishedStep, RepointingStep, after_publishing, next_step, serves_orders};
pub use wake::Readiness;

/// Functions of every region that call main's Redis. token-keys-store runs in main and in the standby.
const EVERYWHERE: [&str; 6] =
    ["order-intake", "order-status", "order-place", "live-updates", "live-publish", "token-keys-store"];
/// Functions that not every deployment has.
const OPTIONAL: [&str; 4] = ["order-place", "live-updates", "live-publish", "token-keys-store"];
/// Functions of main alone. In the standby they cannot run until a failover.
const OF_MAIN: [&str; 4] = ["checkout-drain", "checkout-worker", "order-confirm", "drop-admin"];
/// The alias by which order-intake is invoked: it names a published version.
const ALIAS: &str = "live";
/// Limit of one observation or action in the lost region. What fails there is outstanding, and is tried again once the
/// new main sells.
const LOST_REGION_LIMIT: Duration = Duration::from_secs(2);
/// The variable with the URL of main's Redis.
const MAIN_REDIS: &str = "FAIRDROP_MAIN_REDIS_URL";
/// The variable with the URL of the region's own copy of it.
const REPLICA_REDIS: &str = "FAIRDROP_REPLICA_REDIS_URL";

/// The variable with the URL of the Redis of the live updates.
const LIVE_REDIS: &str = "FAIRDROP_LIVE_REDIS_URL";

/// The variable with the newest version that Lambda could not make active.
const FAILED_VERSION: &str = "FAILED_VERSION";
/// The variable with the concurrency that main's functions have in main: `checkout-drain=6,checkout-worker=6`.
const RESERVED: &str = "FAIRDROP_MAIN_CONCURRENCY";

/// Fails if the execution was overtaken: another one may have repointed the functions to another Redis meanwhile.
pub(super) type StillNewest<'a> = dyn Fn() -> BoxFuture<'a, Result<(), Obstacle>> + Sync + 'a;

/// The functions of all regions.
#[derive(Clone, Debug)]
pub(super) struct Functions {
    regions: BTreeMap<String, Client>,
    scheduler: aws_sdk_scheduler::Client,
    stack: String,
    here: String,
    new_main_redis: String,
    /// The operator has named another Redis: no region has a copy of it, and this region's copy is of the old one.
    has_no_copies: bool,
    schedules: [String; 2],
    /// The concurrency that is reserved for each of main's functions; empty if the deployment reserves none.
    reserved: BTreeMap<String, i32>,
}

impl Functions {
    pub(super) fn from_config(
        source: Source<'_>,
        aws: &SdkConfig,
        region: &str,
    ) -> Result<Self, ConfigError> {
        let regions = config::required(source, "FAIRDROP_REGIONS")?;
        let of_region = |region: &str| {
            let config = aws_sdk_lambda::config::Builder::from(aws).region(Region::new(region.to_owned()));
            (region.to_owned(), Client::from_conf(config.build()))
        };
        let regions: BTreeMap<String, Client> =
            regions.split(',').map(str::trim).filter(|name| !name.is_empty()).map(of_region).collect();
        if !regions.contains_key(region) {
            let why = "it must list every region that has a stack, this region included";
            return Err(ConfigError::bad("FAIRDROP_REGIONS", why));
        }
        Ok(Self {
            regions,
            scheduler: aws_sdk_scheduler::Client::new(aws),
            stack: config::required(source, "FAIRDROP_STACK")?,
            here: region.into(),
            new_main_redis: config::required(source, "FAIRDROP_STANDBY_REDIS_URL")?,
            has_no_copies: false,
            schedules: [
                config::required(source, "FAIRDROP_DRAIN_SCHEDULE")?,
                config::required(source, "FAIRDROP_WORKER_SCHEDULE")?,
            ],
            reserved: reserved(&config::optional(source, RESERVED).unwrap_or_default())?,
        })
    }

    /// From now on repoints to another Redis, at `url`. Every region's functions also read items from there.
    pub(super) fn send_orders_to(&mut self, url: String) {
        self.new_main_redis = url;
        self.has_no_copies = true;
    }

    /// Regions of which a function does not send its orders here yet, or does not answer. The region `lost` is not waited
    /// for.
    pub(super) async fn not_repointed(&self, lost: Option<&str>) -> Vec<String> {
        let all = self.regions.iter().map(async |(region, client)| {
            let asked = self.of_region(region).map(|function| self.is_repointed(client, function));
            let is_repointed = with_lost_limit(region, lost, try_join_all(asked)).await;
            let is_repointed = is_repointed.is_ok_and(|all| all.into_iter().all(|one| one));
            (!is_repointed).then(|| region.clone())
        });
        join_all(all).await.into_iter().flatten().collect()
    }

    /// Regions whose functions cannot all be read, and so could not be repointed.
    pub(super) async fn not_readable(&self) -> Vec<String> {
        let all = self.regions.iter().map(async |(region, client)| {
            let asked = self.of_region(region).map(async |function| {
                let found = self.describe(client, function, None).await?;
                found.map_or(Ok(()), |found| variables(&found).map(drop))
            });
            try_join_all(asked).await.is_err().then(|| region.clone())
        });
        join_all(all).await.into_iter().flatten().collect()
    }

    /// The URL of this region's Redis of the live updates; `None` if there is none, or Lambda does not answer.
    pub(super) async fn live_redis(&self) -> Option<String> {
        let found = self.describe(self.client_here().ok()?, "live-publish", None).await.ok()??;
        variables(&found).ok()?.remove(LIVE_REDIS).filter(|url| !url.is_empty())
    }

    fn of_region(&self, region: &str) -> impl Iterator<Item = &'static str> {
        let is_here = region == self.here;
        EVERYWHERE.into_iter().chain(OF_MAIN.into_iter().filter(move |_| is_here))
    }

    async fn is_repointed(&self, client: &Client, function: &str) -> Result<bool, Obstacle> {
        let alias = alias_of(function);
        let Some(found) = self.describe(client, function, alias).await? else { return Ok(true) };
        let described = self.described(&found)?;
        Ok(if alias.is_some() { serves_orders(described) } else { described.is_repointed() })
    }

    fn described(&self, found: &GetFunctionConfigurationOutput) -> Result<Described, Obstacle> {
        Ok(Described {
            readiness: readiness(found.state()),
            is_changing: found.last_update_status() == Some(&LastUpdateStatus::InProgress),
            has_failed: found.last_update_status() == Some(&LastUpdateStatus::Failed),
            finds_main: self.finds_main(&variables(found)?),
        })
    }

    fn finds_main(&self, variables: &HashMap<String, String>) -> bool {
        let reads_copy = variables.get(REPLICA_REDIS).is_some_and(|copy| !copy.is_empty());
        variables.get(MAIN_REDIS) == Some(&self.new_main_redis) && !(self.has_no_copies && reads_copy)
    }

    /// Takes every function that is not repointed one step further. `has_copies`: the other regions' Redis still follow
    /// this one; if not, the functions read items from here, too. The region `lost` is not waited for.
    pub(super) async fn repoint(
        &self,
        has_copies: bool,
        lost: Option<&str>,
        still_newest: &StillNewest<'_>,
    ) -> Result<(), Obstacle> {
        let all = self.regions.iter().flat_map(|(region, client)| {
            let keeps_copy = !self.has_no_copies && (region == &self.here || has_copies);
            self.of_region(region).map(move |function| {
                with_lost_limit(
                    region,
                    lost,
                    self.repoint_function(client, function, keeps_copy, still_newest),
                )
            })
        });
        // All at the same time: a lost region does not delay the others.
        join_all(all).await.into_iter().collect::<Result<Vec<()>, Obstacle>>().map(drop)
    }

    async fn repoint_function(
        &self,
        client: &Client,
        function: &str,
        keeps_copy: bool,
        still_newest: &StillNewest<'_>,
    ) -> Result<(), Obstacle> {
        let Some(found) = self.describe(client, function, None).await? else { return Ok(()) };
        let version = match alias_of(function) {
            Some(alias) => self.describe(client, function, Some(alias)).await?,
            None => None,
        };
        let version = version.map(|version| self.described(&version)).transpose()?;
        match next_step(self.described(&found)?, version) {
            RepointingStep::Done | RepointingStep::Wait => Ok(()),
            RepointingStep::Wake => self.wake(client, function, None).await,
            RepointingStep::Update => {
                // After the revision was read: if another execution is the newest by now, its update changes the revision.
                still_newest().await?;
                self.send_here(client, function, found, keeps_copy).await
            }
            RepointingStep::Publish => self.publish(client, function, found, still_newest).await,
        }
    }

    /// Sends the function's orders to the new main.
    async fn send_here(
        &self,
        client: &Client,
        function: &str,
        found: GetFunctionConfigurationOutput,
        keeps_copy: bool,
    ) -> Result<(), Obstacle> {
        let name = self.name(function);
        let mut variables = variables(&found)?;
        variables.insert(MAIN_REDIS.into(), self.new_main_redis.clone());
        if !keeps_copy && let Some(copy) = variables.get_mut(REPLICA_REDIS) {
            copy.clear();
        }
        let broken = (readiness(found.state()) == Readiness::Broken).then(|| state_text(&name, &found));
        let updated = update(client, &name, variables, found.revision_id).await;
        updated.map_err(|Obstacle(why)| match broken {
            Some(state) => Obstacle(format!("{state}; {why}")),
            None => Obstacle(why),
        })
    }

    /// Publishes the function's configuration, and lets the alias name the version.
    async fn publish(
        &self,
        client: &Client,
        function: &str,
        found: GetFunctionConfigurationOutput,
        still_newest: &StillNewest<'_>,
    ) -> Result<(), Obstacle> {
        let name = self.name(function);
        let call = client.publish_version().function_name(&name).set_revision_id(found.revision_id.clone());
        let published = call_aws(&name, call.send()).await?;
        let next = after_publishing(readiness(published.state()));
        let version =
            published.version.ok_or_else(|| obstacle("Lambda published a version without a number"))?;
        match next {
            PublishedStep::Wait => return Ok(()),
            PublishedStep::Change => {
                tracing::warn!(
                    function = name,
                    version,
                    "Lambda could not make the new version active; the next one follows after an update"
                );
                let mut variables = variables(&found)?;
                variables.insert(FAILED_VERSION.into(), version);
                return update(client, &name, variables, found.revision_id).await;
            }
            PublishedStep::Name | PublishedStep::NameAndWake => {}
        }
        still_newest().await?;
        let call = client.update_alias().function_name(&name).name(ALIAS).function_version(version);
        call_aws(&name, call.send()).await?;
        match next {
            PublishedStep::NameAndWake => self.wake(client, function, Some(ALIAS)).await,
            _ => Ok(()),
        }
    }

    /// The function's configuration; `None` if it is optional and not deployed.
    async fn describe(
        &self,
        client: &Client,
        function: &str,
        alias: Option<&str>,
    ) -> Result<Option<GetFunctionConfigurationOutput>, Obstacle> {
        let name = self.name(function);
        let call = client.get_function_configuration().function_name(&name);
        let call = call.set_qualifier(alias.map(str::to_owned)).send();
        let missing: &[&str] =
            if OPTIONAL.contains(&function) { &["ResourceNotFoundException"] } else { &[] };
        call_unless(missing, &name, call).await.map(Result::ok)
    }

    fn name(&self, function: &str) -> String {
        format!("{}-{function}", self.stack)
    }

    fn client_here(&self) -> Result<&Client, Obstacle> {
        self.regions.get(&self.here).ok_or_else(|| obstacle("this region is not in FAIRDROP_REGIONS"))
    }
}

/// Replaces the function's variables. The revision id makes Lambda refuse that if the function was changed since it was read.
async fn update(
    client: &Client,
    name: &str,
    variables: HashMap<String, String>,
    revision: Option<String>,
) -> Result<(), Obstacle> {
    let environment = Environment::builder().set_variables(Some(variables)).build();
    let call = client.update_function_configuration().function_name(name).environment(environment);
    call_aws(name, call.set_revision_id(revision).send()).await.map(drop)
}

/// Reads `checkout-drain=6,checkout-worker=6`.
fn reserved(text: &str) -> Result<BTreeMap<String, i32>, ConfigError> {
    let pairs = text.split(',').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, executions) = pair.split_once('=')?;
        let executions = executions.parse().ok().filter(|number| *number > 0)?;
        OF_MAIN.contains(&name).then(|| (name.to_owned(), executions))
    });
    pairs.collect::<Option<_>>().ok_or_else(|| {
        ConfigError::bad(RESERVED, "it must list functions of main and executions: checkout-drain=6")
    })
}

/// The alias by which `function` is invoked, if it is.
fn alias_of(function: &str) -> Option<&'static str> {
    (function == "order-intake").then_some(ALIAS)
}

/// Waits for `work` in `region`; in the lost region not longer than its limit.
async fn with_lost_limit<T>(
    region: &str,
    lost: Option<&str>,
    work: impl Future<Output = Result<T, Obstacle>>,
) -> Result<T, Obstacle> {
    if lost != Some(region) {
        return work.await;
    }
    timeout(LOST_REGION_LIMIT, work)
        .await
        .unwrap_or_else(|_| Err(obstacle("the lost region does not answer")))
}

/// All variables of a function. Lambda replaces them as a whole, so that a function whose variables cannot be read must
/// not be updated.
fn variables(found: &GetFunctionConfigurationOutput) -> Result<HashMap<String, String>, Obstacle> {
    let variables = found.environment().filter(|environment| environment.error().is_none());
    let variables = variables.and_then(|environment| environment.variables()).cloned();
    variables.ok_or_else(|| {
        obstacle(
            "a function's variables cannot be read: does a KMS key encrypt them that this role may not use?",
        )
    })
}
