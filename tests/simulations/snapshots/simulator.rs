//! The clients of the simulated RDS, whose calls take time, are throttled or get no answer. The
//! [`SimulatedAccount`] behind them is stricter than RDS. Time is tokio's paused clock, and chance has a seed: the
//! same seed gives the same history.

use crate::snapshots::account::{
    Durations, PREFIX, RdsFaults, SimulatedAccount, SimulatedRegion, SimulatedSnapshot, show,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rds::{RdsError, Snapshot, Timestamp};
use snapshot_copy::api::{CopyRequest, Rds};
use snapshot_copy::snapshot::{Database, SnapshotQuota};
use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash};
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a call to a region hangs if the region is down.
const HANG: Duration = Duration::from_secs(25);
/// The longest time in ms that a throttled call takes with the client's own retries.
const THROTTLED: u64 = 12_000;

/// The account, shared by the regions' clients.
#[derive(Clone, Debug)]
pub(crate) struct Simulator(pub(crate) Rc<RefCell<SimulatedAccount>>);

/// RDS in one region of the account.
#[derive(Debug)]
pub(crate) struct SimulatedRds {
    simulator: Simulator,
    region: &'static str,
}

impl Simulator {
    pub(crate) fn new(seed: u64, regions: &[&'static str], quota: u32) -> Self {
        let new = |region: &&'static str| (*region, SimulatedRegion { quota, ..SimulatedRegion::default() });
        Self(Rc::new(RefCell::new(SimulatedAccount {
            rng: SmallRng::seed_from_u64(seed),
            start: Instant::now(),
            regions: regions.iter().map(new).collect(),
            databases: BTreeMap::new(),
            refused_at: BTreeMap::new(),
            id_taken_at: BTreeMap::new(),
            faults: RdsFaults::default(),
            durations: Durations { create: 60, copy: 60 },
            floor: 1,
            violations: Vec::new(),
            calls: 0,
            is_verbose: std::env::var_os("FAIRDROP_SEED").is_some(),
            digest: DefaultHasher::new(),
        })))
    }

    pub(crate) fn rds(&self, region: &'static str) -> SimulatedRds {
        SimulatedRds { simulator: self.clone(), region }
    }

    pub(crate) fn account(&self) -> RefMut<'_, SimulatedAccount> {
        self.0.borrow_mut()
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_unix_seconds(self.account().now())
    }

    pub(crate) fn chance<T>(&self, draw: impl FnOnce(&mut SmallRng) -> T) -> T {
        draw(&mut self.account().rng)
    }

    /// Adds a snapshot that fairdrop did not make.
    pub(crate) fn add_foreign(&self, region: &'static str, id: &str, database: &str, tag: Option<&str>) {
        self.add_known(region, id, database, tag, None);
    }

    /// Adds a snapshot from before the history.
    pub(crate) fn add_known(
        &self,
        region: &'static str,
        id: &str,
        database: &str,
        tag: Option<&str>,
        copied_from: Option<&str>,
    ) {
        let mut account = self.account();
        let now = account.now();
        let made = SimulatedSnapshot {
            id: id.to_owned(),
            database: database.to_owned(),
            tag: tag.map(str::to_owned),
            taken_at: now - 86_400,
            begun_at: now,
            ready_at: now,
            fails: false,
            source: copied_from.map(str::to_owned),
            is_late: false,
            hangs: false,
            is_of_another_instance: false,
            deleted_at: None,
            listed_from: now,
            listed_until: now,
            encrypted: false,
        };
        account.regions.entry(region).or_default().made.push(made);
    }

    /// Adds an original of an instance with the same identifier to a target region: from a time when that region was
    /// main, or by its own stack, which still runs.
    pub(crate) fn add_namesake(&self, region: &'static str, id: &str, database: &str, age: i64) {
        self.add_known(region, id, database, Some(PREFIX), None);
        let mut account = self.account();
        let now = account.now();
        if let Some(made) = account.regions.get_mut(region).and_then(|there| there.made.last_mut()) {
            made.is_of_another_instance = true;
            made.taken_at = now - age;
        }
    }

    /// The stack of a target region takes a snapshot of its own instance, whose identifier is the same. The two stacks
    /// name their snapshots by the same slots.
    pub(crate) fn take_namesake(&self, region: &'static str, id: &str, database: &str) {
        let is_taken = self.account().regions[region].made.iter().any(|made| made.id == id);
        if !is_taken {
            self.add_namesake(region, id, database, 0);
            let mut account = self.account();
            let now = account.now();
            account.id_taken_at.insert((region, database.to_owned()), now);
        }
    }
}

impl SimulatedRds {
    /// A call takes time before and after its effect.
    async fn call<T>(
        &self,
        what: &str,
        id: &str,
        effect: impl FnOnce(&mut SimulatedAccount) -> Result<T, RdsError>,
    ) -> Result<T, RdsError> {
        let ms = |from: u64, to: u64| {
            Duration::from_millis(self.simulator.chance(|rng| rng.random_range(from..=to)))
        };
        tokio::time::sleep(ms(10, 300)).await;
        if self.simulator.account().regions[self.region].is_down {
            tokio::time::sleep(HANG).await;
            return Err(RdsError::Unreachable("the region is down".into()));
        }
        let throttled = self.simulator.account().faults.throttled;
        if self.simulator.chance(|rng| rng.random_bool(throttled)) {
            tokio::time::sleep(ms(1_000, THROTTLED)).await;
            return Err(RdsError::Throttled);
        }
        let done = {
            let mut account = self.simulator.account();
            let done = effect(&mut account);
            if account.is_verbose {
                let failed = done.as_ref().err().map(ToString::to_string).unwrap_or_default();
                println!(
                    "{} {} {what} {id} {failed}",
                    Timestamp::from_unix_seconds(account.now()),
                    self.region
                );
            }
            account.calls += 1;
            let now = account.now();
            (self.region, what, id, now, done.as_ref().err().map(ToString::to_string))
                .hash(&mut account.digest);
            done
        };
        tokio::time::sleep(ms(10, 300)).await;
        done
    }
}

impl Rds for SimulatedRds {
    async fn databases(&self) -> Result<Vec<Database>, RdsError> {
        self.call("databases", "", |account| {
            let ids: Vec<String> = account.databases.keys().cloned().collect();
            let database =
                |id: String| Database { status: account.status(&id).into(), id, ..Database::default() };
            Ok(ids.into_iter().map(database).collect())
        })
        .await
    }

    async fn snapshots(&self) -> Result<Vec<Snapshot>, RdsError> {
        self.call("snapshots", "", |account| Ok(account.list(self.region))).await
    }

    async fn snapshot(&self, id: &str) -> Result<Snapshot, RdsError> {
        let find = |account: &mut SimulatedAccount| {
            let now = account.now();
            let mut there = account.regions[self.region].made.iter();
            let made = there.find(|made| made.id == id && made.deleted_at.is_none());
            made.map(|made| show(made, self.region, now)).ok_or(RdsError::NotFound)
        };
        self.call("snapshot", id, find).await
    }

    async fn quota(&self) -> Result<Option<SnapshotQuota>, RdsError> {
        let quota = |account: &SimulatedAccount| SnapshotQuota {
            used: account.used(self.region),
            max: account.regions[self.region].quota,
        };
        self.call("quota", "", |account| Ok(Some(quota(account)))).await
    }

    async fn create(&self, database: &str, id: &str, tag: (&str, &str)) -> Result<(), RdsError> {
        self.call("create", id, |account| account.create(self.region, database, id, tag.1)).await
    }

    async fn copy(&self, request: CopyRequest<'_>) -> Result<(), RdsError> {
        self.call("copy", request.id, |account| account.copy(self.region, request)).await
    }

    async fn delete(&self, id: &str) -> Result<(), RdsError> {
        self.call("delete", id, |account| account.delete(self.region, id)).await
    }
}
