//! A region's deployed Lambda functions: configuration, versions, the alias that requests
//! use, concurrency, and the process; and the schedules that start them.

use super::api_error::ApiError;
use super::function_state::LambdaState;
use super::{Draws, locked};
use anyhow::Result;
use local::aws::functions::{FunctionProcess, Launch};
use local::aws::lambda::Invoke;
use local::aws::schedule::Schedule;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long an update of a function's configuration takes.
const UPDATE_TAKES: Duration = Duration::from_millis(300);
/// How long a process that is to be replaced may take to finish its invocations.
const QUIET_LIMIT: Duration = Duration::from_secs(4);

/// A function's environment.
pub type Environment = BTreeMap<String, String>;

/// A deployment of a function.
#[derive(Debug)]
pub struct Deployment {
    pub binary: &'static str,
    /// Requests that one process takes at once.
    pub concurrency: u32,
    /// The greatest number of processes.
    pub processes: u32,
    pub environment: Environment,
    /// The alias that requests use, if there is one.
    pub alias: Option<&'static str>,
    /// Whether it is deployed and cannot be invoked: its reserved concurrency is 0.
    pub is_parked: bool,
}

/// The state of a deployed function.
#[derive(Debug)]
pub(super) struct Deployed {
    deployment: Deployment,
    pub(super) revision: u64,
    pub(super) is_updating: bool,
    /// Its published versions, in order.
    pub(super) versions: Vec<Version>,
    /// The alias's version; the first is 1.
    pub(super) live: usize,
    pub(super) alias_revision: u64,
    pub(super) reserved: Option<u32>,
    pub(super) state: LambdaState,
    process: Option<FunctionProcess>,
}

/// A published version.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) environment: Environment,
    pub(super) state: LambdaState,
}

impl Deployed {
    pub(super) fn binary(&self) -> &'static str {
        self.deployment.binary
    }

    pub(super) fn alias(&self) -> Option<&'static str> {
        self.deployment.alias
    }

    pub(super) fn can_be_invoked(&self) -> bool {
        let is_active = self.live_version().is_none_or(|version| version.state == LambdaState::Active);
        self.reserved != Some(0) && self.state == LambdaState::Active && is_active
    }

    /// The version that the alias names, if there is an alias.
    fn live_version(&self) -> Option<&Version> {
        self.deployment.alias.and(self.versions.get(self.live.saturating_sub(1)))
    }

    /// The environment of `$LATEST`.
    pub(super) fn latest(&self) -> &Environment {
        &self.deployment.environment
    }

    /// The environment of the process that serves requests.
    fn serving(&self) -> &Environment {
        self.live_version().map_or(self.latest(), |version| &version.environment)
    }
}

/// The state of a schedule.
#[derive(Debug)]
pub(super) struct Planned {
    /// Its definition, which an update replaces as a whole.
    pub(super) definition: Value,
    /// The running schedule, while it is enabled.
    pub(super) running: Option<Schedule>,
}

/// A region's functions and schedules.
#[derive(Debug)]
pub struct Fleet {
    region: String,
    stack: String,
    invoke: Invoke,
    folder: PathBuf,
    binaries: Option<PathBuf>,
    /// The addresses by which this region reaches servers; those in other regions lead through a proxy.
    addresses: HashMap<String, String>,
    /// The length of a minute of a schedule.
    pub(super) minute: Duration,
    pub(super) draws: Draws,
    functions: Mutex<BTreeMap<String, Deployed>>,
    pub(super) schedules: Mutex<BTreeMap<String, Planned>>,
}

/// Options of a region's functions.
#[derive(Clone, Debug)]
pub struct FleetOptions {
    pub region: String,
    /// The prefix of the functions' names.
    pub stack: String,
    /// The folder of the logs.
    pub folder: PathBuf,
    /// The folder of the built functions; by default the folder of this program.
    pub binaries: Option<PathBuf>,
    /// Servers' addresses, and the address by which this region reaches each.
    pub addresses: HashMap<String, String>,
    /// The length of a minute of a schedule.
    pub minute: Duration,
    /// What the documents leave open.
    pub draws: Draws,
}

impl Fleet {
    /// A region without functions.
    pub fn new(invoke: Invoke, options: FleetOptions) -> Self {
        let FleetOptions { region, stack, folder, binaries, addresses, minute, draws } = options;
        let (functions, schedules) = Default::default();
        Self { region, stack, invoke, folder, binaries, addresses, minute, draws, functions, schedules }
    }

    pub fn region(&self) -> &str {
        &self.region
    }

    /// The region's Invoke API.
    pub fn invoke_api(&self) -> &Invoke {
        &self.invoke
    }

    /// Deploys a function, publishes its first version, and starts it unless it is parked.
    pub fn deploy(&self, deployment: Deployment) -> Result<()> {
        let name = self.name_of(deployment.binary);
        self.invoke.park(deployment.binary, deployment.is_parked);
        let mut deployed = Deployed {
            revision: 1,
            is_updating: false,
            versions: vec![Version {
                environment: deployment.environment.clone(),
                state: LambdaState::Active,
            }],
            live: 1,
            alias_revision: 1,
            reserved: deployment.is_parked.then_some(0),
            state: LambdaState::Active,
            process: None,
            deployment,
        };
        self.start(&mut deployed)?;
        locked(&self.functions).insert(name, deployed);
        Ok(())
    }

    pub(super) fn name_of(&self, binary: &str) -> String {
        format!("{}-{binary}", self.stack)
    }

    /// Removes a function, with its process.
    pub fn remove(&self, binary: &str) {
        locked(&self.functions).retain(|_, deployed| deployed.binary() != binary);
    }

    /// Kills every process of the region as SIGKILL does. None is started before [`Fleet::revive`].
    pub fn kill_all(&self) {
        locked(&self.functions).values_mut().for_each(|deployed| deployed.process = None);
    }

    /// Kills the process of a function as SIGKILL does. A new one is started.
    pub fn kill(&self, binary: &str) {
        let functions = locked(&self.functions);
        let processes = functions.values().filter(|deployed| deployed.binary() == binary);
        processes.filter_map(|deployed| deployed.process.as_ref()).for_each(FunctionProcess::kill);
    }

    /// The id of a function's process, if it has one.
    pub fn process_id(&self, binary: &str) -> Option<u32> {
        let functions = locked(&self.functions);
        let found = functions.values().find(|deployed| deployed.binary() == binary)?;
        found.process.as_ref().map(FunctionProcess::process_id)
    }

    /// Starts every function that can be invoked, with its current configuration.
    pub fn revive(&self) -> Result<()> {
        locked(&self.functions).values_mut().try_for_each(|deployed| self.start(deployed))
    }

    fn start(&self, deployed: &mut Deployed) -> Result<()> {
        if !deployed.can_be_invoked() {
            return Ok(());
        }
        let leads = |value: &String| self.addresses.get(value).unwrap_or(value).clone();
        let environment = deployed.serving().iter().map(|(name, value)| (name.clone(), leads(value)));
        let launch = Launch {
            function: deployed.binary(),
            region: self.region.clone(),
            concurrency: deployed.deployment.concurrency,
            processes: deployed.deployment.processes,
            environment: environment.collect(),
            wrapper: Vec::new(),
            binaries: self.binaries.clone(),
        };
        // The old process ends before the new one starts.
        deployed.process = None;
        deployed.process = Some(FunctionProcess::start(launch, &self.invoke, Path::new(&self.folder))?);
        Ok(())
    }

    /// Reads or changes a function, by its name or its ARN.
    pub(super) fn with<T>(
        &self,
        name: &str,
        work: impl FnOnce(&mut Deployed) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let name = name.rsplit(':').next().unwrap_or(name);
        let mut functions = locked(&self.functions);
        let missing = || {
            let arn = self.arn(name);
            ApiError::new(404, "ResourceNotFoundException", format!("Function not found: {arn}"))
        };
        work(functions.get_mut(name).ok_or_else(missing)?)
    }

    /// The ARN of a function of the region.
    pub(super) fn arn(&self, name: &str) -> String {
        let name = name.rsplit(':').next().unwrap_or(name);
        format!("arn:aws:lambda:{}:{}:function:{name}", self.region, super::ACCOUNT)
    }

    /// Updates a function's environment.
    pub(super) fn configure(self: &Arc<Self>, name: &str, environment: Environment) -> Result<(), ApiError> {
        self.with(name, |deployed| {
            deployed.deployment.environment = environment;
            deployed.revision += 1;
            deployed.is_updating = true;
            Ok(())
        })?;
        let (fleet, name) = (self.clone(), name.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(UPDATE_TAKES).await;
            // Behind an alias, the new environment serves no request before it is published.
            let is_behind = fleet.with(&name, |deployed| Ok(deployed.alias().is_some())).unwrap_or(false);
            if !is_behind {
                fleet.restart(&name).await;
            }
            let _ = fleet.with(&name, |deployed| {
                deployed.is_updating = false;
                Ok(())
            });
        });
        Ok(())
    }

    /// Replaces the process when its invocations have ended.
    pub(super) async fn restart(&self, name: &str) {
        let Ok(binary) = self.with(name, |deployed| Ok(deployed.binary())) else { return };
        let _quiet = self.invoke.quiet(binary, QUIET_LIMIT).await;
        let _ = self.with(name, |deployed| {
            // A region that is down starts no process.
            if deployed.process.is_some() {
                self.start(deployed).unwrap_or_else(|error| eprintln!("could not start {binary}: {error:#}"));
            }
            Ok(())
        });
    }

    /// Sets a function's reserved concurrency; `None` removes it.
    pub(super) fn reserve(&self, name: &str, reserved: Option<u32>) -> Result<(), ApiError> {
        self.with(name, |deployed| {
            let could_be_invoked = deployed.can_be_invoked();
            deployed.reserved = reserved;
            self.apply(deployed, could_be_invoked)
        })
    }

    /// Lets the function be invoked, or not, after a change.
    pub(super) fn apply(&self, deployed: &mut Deployed, could_be_invoked: bool) -> Result<(), ApiError> {
        self.invoke.park(deployed.binary(), !deployed.can_be_invoked());
        if could_be_invoked || !deployed.can_be_invoked() {
            return Ok(());
        }
        let failed = |error: anyhow::Error| ApiError::new(500, "ServiceException", format!("{error:#}"));
        self.start(deployed).map_err(failed)
    }
}
