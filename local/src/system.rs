//! A running system: servers, regions, functions and schedules on one machine.

pub mod clock;
pub mod cpu;
pub mod folder;
pub mod intake;
mod options;
pub mod pages;
pub mod postgres;
pub mod process;
pub mod redis_server;
pub mod regions;
pub mod shop;
pub mod tls;
pub mod wan;

use crate::aws::dynamodb::DynamoDb;
use crate::aws::emulators::Moto;
use crate::aws::functions::{FunctionProcess, Launch, OVERLAPPING_RUNS};
use crate::aws::gateway::HttpGateway;
use crate::aws::identity::{AUDIENCE, ISSUER, IdentityProvider};
use crate::aws::lambda::{Emulator, Invoke, Invoked, MAX_INVOCATIONS};
use crate::aws::schedule::{self, Schedule};
use crate::aws::sockets::Sockets;
use crate::crowd::audit::DropResult;
use crate::system::folder::WorkFolder;
use crate::system::intake::{Intake, LogPath};
use crate::system::postgres::Postgres;
use crate::system::redis_server::Redis;
use crate::system::regions::WorldRegion;
use crate::system::wan::WanConnection;
use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use ledger::Ledger;
use serde_json::{Value, json};
use shared::item::ItemId;
use sqlx::{Connection, PgConnection};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use options::{Options, RegionOptions};

/// The name of the shop's event bus.
pub const EVENT_BUS: &str = "shop";

/// A running system. Dropping it stops all servers and functions.
#[derive(Debug)]
pub struct System {
    /// Main's Redis.
    pub redis: Redis,
    /// The read replica that the edge regions share.
    pub replica: Redis,
    /// The regions, main first.
    pub regions: Vec<RunningRegion>,
    /// The regions' registries of watchers, each in a database of its own; `None` without live updates.
    pub registry: Option<Redis>,
    /// The tables of the order logs; `None` without them.
    pub tables: Option<DynamoDb>,
    /// The ledger's PostgreSQL.
    pub postgres: Postgres,
    /// Who signs the buyers' tokens.
    pub identity: IdentityProvider,
    /// The drain's processes.
    pub drain: FunctionProcess,
    /// The checkout worker's processes.
    pub worker: FunctionProcess,
    /// The process of order-confirm.
    pub confirm: FunctionProcess,
    /// The publisher's processes, if there is a bus.
    pub events: Option<FunctionProcess>,
    /// The process of drop-admin.
    pub drop_admin: FunctionProcess,
    _schedules: Vec<Schedule>,
    logs: PathBuf,
    _folder: Option<WorkFolder>,
}

#[derive(Debug)]
pub struct RunningRegion {
    pub region: WorldRegion,
    pub gateway: HttpGateway,
    /// Its network connection to main's Redis.
    pub connection: WanConnection,
    pub intake: FunctionProcess,
    /// From its order log to main, if it has a log.
    pub log: Option<LogPath>,
    /// Its live updates, if the system has them.
    pub live: Option<Live>,
    _status: FunctionProcess,
    emulator: Emulator,
}

#[derive(Debug)]
pub struct Live {
    pub sockets: Sockets,
    /// The process of live-updates.
    pub updates: FunctionProcess,
    /// The processes of live-publish.
    pub publish: FunctionProcess,
    _schedule: Schedule,
}

impl RunningRegion {
    /// The region's Invoke API.
    pub fn invoke_api(&self) -> Invoke {
        self.emulator.invoke_api()
    }
}

impl System {
    /// Starts a system, with data and logs in a temporary folder.
    pub async fn start(options: &Options) -> Result<Self> {
        let folder = WorkFolder::new()?;
        let mut system = Self::start_in(folder.path(), options).await?;
        system._folder = Some(folder);
        Ok(system)
    }

    /// Starts a system, with data and logs in `folder`.
    pub async fn start_in(folder: &Path, options: &Options) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let (redis, postgres) =
            tokio::try_join!(Redis::start(folder, "redis-main"), Postgres::start(folder, "postgres"))?;
        let replica = Redis::start_replica(folder, "redis-replica", &redis).await?;
        let registry = match options.live {
            Some(_) => Some(Redis::start(folder, "redis-registry").await?),
            None => None,
        };
        let identity = IdentityProvider::new()?;
        let tables = match options.intake {
            Intake::Log => Some(DynamoDb::start(options.tables.clone()).await?),
            Intake::Direct => None,
        };
        let names: Vec<&str> = options.regions.iter().map(|options| options.region.name).collect();
        let of_log = tables.as_ref().map(|tables| intake::variables(tables, &names)).unwrap_or_default();
        let servers = Servers {
            redis: &redis,
            replica: &replica,
            registry: registry.as_ref(),
            tables: tables.as_ref(),
            of_log: &of_log,
        };
        let starting = options
            .regions
            .iter()
            .enumerate()
            .map(|(index, region)| start_region(folder, options, region, index, servers, &identity));
        let regions = try_join_all(starting).await?;
        let main = regions.first().context("the options have no region; at least main is needed")?;
        let run_seconds = schedule::run_seconds(options.run_every);
        let launch_in_main = |function, concurrency, processes| {
            let settings = [
                ("FAIRDROP_MAIN_REDIS_URL", redis.url()),
                ("FAIRDROP_LEDGER_URL", postgres.url()),
                ("FAIRDROP_DRAIN_RUN_SECONDS", run_seconds.clone()),
                ("FAIRDROP_WORKER_RUN_SECONDS", run_seconds.clone()),
                ("FAIRDROP_EVENTS_RUN_SECONDS", run_seconds.clone()),
                ("FAIRDROP_WAIT_REPLICAS", "1".into()),
                // A drop on this machine is short.
                ("FAIRDROP_HOLD_GRACE_SECONDS", "20".into()),
                // There is one worker here: if it is killed, the next run can claim its tasks soon.
                ("FAIRDROP_TASK_IDLE_AFTER_MS", "2000".into()),
            ];
            let mut environment: Vec<(String, String)> =
                settings.map(|(name, value)| (name.to_owned(), value)).into();
            if let Some(url) = &options.event_bus {
                environment.extend(Moto::environment_at(url));
                environment.push(("AWS_ENDPOINT_URL_EVENTBRIDGE".into(), url.clone()));
                environment.push(("FAIRDROP_EVENT_BUS".into(), EVENT_BUS.into()));
            }
            environment.extend(of_log.iter().cloned());
            environment.extend(options.of_main.iter().cloned());
            Launch {
                function,
                region: main.region.name.to_owned(),
                concurrency,
                processes,
                environment,
                wrapper: Vec::new(),
                binaries: options.binaries.clone(),
            }
        };
        let in_main = |function, concurrency, processes| {
            let launch = launch_in_main(function, concurrency, processes);
            FunctionProcess::start(launch, &main.invoke_api(), folder)
        };
        let limited = |function, concurrency, processes| match options.limits_in_main {
            Some(limits) => {
                let launch = launch_in_main(function, 1, 1);
                FunctionProcess::start_classic(launch, limits, &main.invoke_api(), folder)
            }
            None => in_main(function, concurrency, processes),
        };
        let drain = limited("checkout-drain", 1, OVERLAPPING_RUNS)?;
        let worker = in_main("checkout-worker", 1, OVERLAPPING_RUNS)?;
        let confirm = limited("order-confirm", 16, 1)?;
        let admin = in_main("drop-admin", 1, 1)?;
        let invoke = main.invoke_api();
        wait_for(&invoke, "drop-admin").await?;
        wait_for(&invoke, "order-confirm").await?;
        match invoke.call("drop-admin", &json!({ "command": "migrate" })).await? {
            Invoked::Answer(_) => {}
            Invoked::FunctionError(error) => bail!("drop-admin could not migrate the ledger: {error}"),
        }
        // After the migration, which the publisher needs.
        let events =
            options.event_bus.as_ref().map(|_| in_main("shop-events", 1, OVERLAPPING_RUNS)).transpose()?;
        let scheduled =
            ["checkout-drain", "checkout-worker"].into_iter().chain(events.as_ref().map(|_| "shop-events"));
        let schedules = scheduled
            .map(|function| Schedule::start(main.invoke_api(), &options.plan(function, main.region.name)))
            .collect();
        Ok(Self {
            redis,
            replica,
            registry,
            tables,
            postgres,
            regions,
            identity,
            drain,
            worker,
            confirm,
            events,
            drop_admin: admin,
            _schedules: schedules,
            logs: folder.to_owned(),
            _folder: None,
        })
    }

    /// The folder of all logs.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// Main's Invoke API.
    pub fn main_invoke_api(&self) -> Result<Invoke> {
        Ok(self.regions.first().context("the system has no main region")?.invoke_api())
    }

    /// The ledger, with connections of the caller's own.
    pub fn ledger(&self) -> Result<Ledger> {
        let url = self.postgres.url();
        Ok(Ledger::from_config(&|name: &str| (name == "FAIRDROP_LEDGER_URL").then(|| url.clone()))?)
    }

    /// What Redis and the ledger hold of an item.
    pub async fn drop_result(&self, item_id: &ItemId) -> Result<DropResult> {
        let mut outcome = DropResult::read(&mut self.redis.connect().await?, item_id).await?;
        outcome.read_ledger(&self.ledger()?, item_id).await?;
        Ok(outcome)
    }

    /// Whether the ledger keeps events: from the publisher's first run on.
    pub async fn events_are_wanted(&self) -> Result<bool> {
        let mut connection = PgConnection::connect(&self.postgres.url()).await?;
        Ok(sqlx::query_scalar("SELECT fairdrop.events_are_wanted()").fetch_one(&mut connection).await?)
    }

    /// Sends a command to `drop-admin`.
    pub async fn admin(&self, command: &Value) -> Result<Value> {
        match self.main_invoke_api()?.call("drop-admin", command).await? {
            Invoked::Answer(answer) => Ok(answer),
            Invoked::FunctionError(error) => bail!("drop-admin failed: {error}"),
        }
    }
}

/// The servers of a system that its regions use.
#[derive(Clone, Copy)]
struct Servers<'a> {
    redis: &'a Redis,
    replica: &'a Redis,
    registry: Option<&'a Redis>,
    tables: Option<&'a DynamoDb>,
    /// The variables by which functions find the order logs.
    of_log: &'a [(String, String)],
}

async fn start_region(
    folder: &Path,
    options: &Options,
    region_options: &RegionOptions,
    index: usize,
    servers: Servers<'_>,
    identity: &IdentityProvider,
) -> Result<RunningRegion> {
    let region = region_options.region;
    let one_way = Duration::from_secs_f64(region.round_trip_ms / 2_000.0);
    let connection = WanConnection::open(([127, 0, 0, 1], servers.redis.port()).into(), one_way).await?;
    let emulator = Emulator::start().await?;
    let invoke = emulator.invoke_api();
    let gateway = HttpGateway::open(
        region.name,
        index == 0,
        invoke.clone(),
        region_options.gateway_clock_offset_ms,
        options.answer_limit,
        options.origins.clone(),
    )
    .await?;
    let mut environment: Vec<(String, String)> = vec![
        ("FAIRDROP_REGION".into(), region.name.into()),
        ("FAIRDROP_MAIN_REDIS_URL".into(), redis_server::url_at(connection.port())),
        ("FAIRDROP_REPLICA_REDIS_URL".into(), servers.replica.url()),
        ("FAIRDROP_TOKEN_JWKS".into(), identity.jwks().to_string()),
        ("FAIRDROP_TOKEN_ISSUER".into(), ISSUER.into()),
        ("FAIRDROP_TOKEN_AUDIENCE".into(), AUDIENCE.into()),
    ];
    environment.extend(servers.of_log.iter().cloned());
    environment.extend(options.of_edges.iter().cloned());
    let launch = |function, concurrency, processes, more: &[(String, String)]| Launch {
        function,
        region: region.name.to_owned(),
        concurrency,
        processes,
        environment: [&environment, more].concat(),
        wrapper: region_options.wrapper.clone(),
        binaries: options.binaries.clone(),
    };
    let start = |function, concurrency, processes, more: &[(String, String)]| {
        FunctionProcess::start(launch(function, concurrency, processes, more), &invoke, folder)
    };
    let start_classic = |function, limits| {
        FunctionProcess::start_classic(launch(function, 1, 1, &[]), limits, &invoke, folder)
    };
    let intake = match options.classic {
        Some(limits) => start_classic("order-intake", limits)?,
        None => start("order-intake", options.intake_concurrency, 1, &[])?,
    };
    let log = match servers.tables {
        Some(tables) => {
            tables.make_order_log(region.name, intake::TABLE, 0)?;
            let place = start_classic("order-place", intake::OF_PLACE)?;
            Some(LogPath::open(place, tables, region.name, invoke.clone()))
        }
        None => None,
    };
    let status = start("order-status", 8, 1, &[])?;
    let live = match (options.live, servers.registry) {
        (Some(limits), Some(registry)) => {
            let sockets = Sockets::open(region.name, invoke.clone(), limits).await?;
            // Each region has a database of its own; on AWS each has a server.
            let mut more = vec![("FAIRDROP_LIVE_REDIS_URL".into(), format!("{}/{index}", registry.url()))];
            let updates = start("live-updates", MAX_INVOCATIONS, 1, &more)?;
            more.extend(Moto::environment_at(&sockets.endpoint()));
            more.push(("FAIRDROP_LIVE_ENDPOINT".into(), sockets.endpoint()));
            let run_seconds = schedule::run_seconds(options.run_every);
            more.push(("FAIRDROP_PUBLISH_RUN_SECONDS".into(), run_seconds));
            more.extend(options.of_publish.iter().cloned());
            let publish = start("live-publish", 1, OVERLAPPING_RUNS, &more)?;
            wait_for(&invoke, "live-updates").await?;
            wait_for(&invoke, "live-publish").await?;
            let schedule = Schedule::start(invoke.clone(), &options.plan("live-publish", region.name));
            Some(Live { sockets, updates, publish, _schedule: schedule })
        }
        _ => None,
    };
    wait_for(&invoke, "order-intake").await?;
    wait_for(&invoke, "order-status").await?;
    Ok(RunningRegion { region, gateway, connection, intake, log, live, _status: status, emulator })
}

/// Waits until `function` answers. The payload is malformed; any answer will do.
async fn wait_for(invoke: &Invoke, function: &str) -> Result<()> {
    invoke
        .call_within(function, "null".into(), Duration::from_secs(30))
        .await
        .map(drop)
        .with_context(|| format!("{function} did not start; its log has the reason"))
}
