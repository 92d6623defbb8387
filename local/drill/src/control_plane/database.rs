//! RDS's instances, each a real PostgreSQL, and the changes that run in the background.

use super::api_error::ApiError;
use super::{ACCOUNT, Draws, locked};
use local::system::postgres::Postgres;
use local::system::wan::{ConnectionState, WanConnection};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long an instance's description is stale after a call.
const STALE: Duration = Duration::from_millis(700);
/// How long a change of security groups takes.
const GROUPS_TAKE: Duration = Duration::from_millis(400);

/// A server that several tasks may act on.
pub type Server = Arc<tokio::sync::Mutex<Postgres>>;

/// A database instance.
#[derive(Clone, Debug)]
pub struct DatabaseInstance {
    /// Its identifier, unique in its region.
    pub id: String,
    /// Its region.
    pub region: String,
    /// Its class.
    pub class: String,
    /// Its status in descriptions.
    pub status: &'static str,
    /// Whether a change was requested that its status does not show yet.
    pub is_stale: bool,
    /// The ARN of the instance that it replicates.
    pub source: Option<String>,
    /// Its resource id, which never changes.
    pub resource_id: String,
    /// Its security groups, each with its status.
    pub groups: Vec<(String, &'static str)>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Its class after the pending change.
    pub pending_class: Option<String>,
    /// The server.
    pub server: Server,
    /// The proxy through which clients reach the server: a security group without rules closes it.
    pub proxy: Arc<WanConnection>,
}

impl DatabaseInstance {
    /// Its ARN.
    pub fn arn(&self) -> String {
        format!("arn:aws:rds:{}:{ACCOUNT}:db:{}", self.region, self.id)
    }

    /// Region and identifier, which are unique together.
    fn key(&self) -> (String, String) {
        (self.region.clone(), self.id.clone())
    }
}

/// All instances, and the security groups that allow no traffic.
#[derive(Debug)]
pub struct DatabaseInstances {
    instances: Mutex<Vec<DatabaseInstance>>,
    deny_all: Mutex<Vec<String>>,
    pub(super) copies: Replicas,
    /// The region that has no instance of another class left.
    full: Mutex<Option<String>>,
    draws: Draws,
}

impl DatabaseInstances {
    pub(super) fn new(draws: Draws) -> Self {
        let (instances, deny_all, copies, full) = Default::default();
        Self { instances, deny_all, copies, full, draws }
    }

    /// Adds an instance.
    pub fn add(&self, instance: DatabaseInstance) {
        locked(&self.instances).push(instance);
    }

    /// Adds a security group that allows no traffic.
    pub fn add_deny_all(&self, group: &str) {
        locked(&self.deny_all).push(group.to_owned());
    }

    /// Allows replicas in a region.
    pub fn allow_replicas(&self, region: &str, sources: ReplicaSource) {
        locked(&self.copies.sources).insert(region.to_owned(), sources);
    }

    /// The instances of a region.
    pub fn of_region(&self, region: &str) -> Vec<DatabaseInstance> {
        locked(&self.instances).iter().filter(|instance| instance.region == region).cloned().collect()
    }

    /// The ARNs of the replicas of the instance with this ARN.
    pub(super) fn followers(&self, arn: &str) -> Vec<String> {
        let instances = locked(&self.instances);
        instances
            .iter()
            .filter(|one| one.source.as_deref() == Some(arn))
            .map(|follower| follower.arn())
            .collect()
    }

    /// Makes a backup of an instance, as AWS does each night, which takes `takes`.
    pub fn back_up(self: &Arc<Self>, region: &str, id: &str, takes: Duration) {
        self.work_on(region, id, "backing-up", takes);
    }

    /// RDS works on an instance by itself for a while, in `status`. An instance that changes already is left alone.
    pub fn work_on(self: &Arc<Self>, region: &str, id: &str, status: &'static str, takes: Duration) {
        let key = (region.to_owned(), id.to_owned());
        let begins = self.change(&key, |one| {
            let is_free = one.status == "available" && !one.is_stale;
            one.status = if is_free { status } else { one.status };
            is_free
        });
        if begins != Some(true) {
            return;
        }
        let all = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(takes).await;
            all.change(&key, |one| one.status = if one.status == status { "available" } else { one.status });
        });
    }

    /// A change of class that waits for the instance's maintenance window.
    pub fn leave_pending(&self, region: &str, id: &str, class: &str) {
        let key = (region.to_owned(), id.to_owned());
        self.change(&key, |one| one.pending_class = Some(class.to_owned()));
    }

    /// Whether RDS has instances of other classes in a region. It may have none while another region is down.
    pub fn set_capacity(&self, region: &str, has_capacity: bool) {
        *locked(&self.full) = (!has_capacity).then(|| region.to_owned());
    }

    pub(super) fn has_capacity(&self, region: &str) -> bool {
        locked(&self.full).as_deref() != Some(region)
    }

    pub(super) fn find(&self, region: &str, id: &str) -> Result<DatabaseInstance, ApiError> {
        let found = self.of_region(region).into_iter().find(|instance| instance.id == id);
        found.ok_or_else(|| ApiError::new(404, "DBInstanceNotFound", format!("DBInstance {id} not found.")))
    }

    pub(super) fn find_by_arn(&self, arn: &str) -> Result<DatabaseInstance, ApiError> {
        let found = locked(&self.instances).iter().find(|instance| instance.arn() == arn).cloned();
        found.ok_or_else(|| ApiError::new(404, "DBInstanceNotFound", format!("DBInstance {arn} not found.")))
    }

    /// Promotes a replica. Its description is stale for a while.
    pub(super) fn promote(self: &Arc<Self>, region: &str, id: &str) -> Result<DatabaseInstance, ApiError> {
        let instance = self.find(region, id)?;
        if instance.source.is_none() {
            return Err(invalid_state(format!("DB Instance {id} is not a read replica.")));
        }
        // No document refuses it while storage is optimised. The promotion itself is a change, which refuses a second one.
        if instance.status != "storage-optimization" || instance.is_stale {
            available(&instance)?;
        }
        let (all, key) = (self.clone(), instance.key());
        let server = instance.server.clone();
        all.change(&key, |one| one.is_stale = true);
        tokio::spawn(async move {
            tokio::time::sleep(STALE).await;
            all.change(&key, |one| (one.status, one.is_stale) = ("modifying", false));
            let mut server = server.lock().await;
            let promoted = server.promote().await;
            all.change(&key, |one| one.status = "rebooting");
            let rebooted = server.reboot().await;
            all.change(&key, |one| match promoted.and(rebooted) {
                Ok(()) => (one.source, one.status) = (None, "available"),
                Err(error) => {
                    eprintln!("could not promote {}: {error:#}", one.id);
                    one.status = "failed";
                }
            });
        });
        Ok(instance)
    }

    /// Changes the instance's class, with a restart, either now or in the next maintenance window, which
    /// never comes here.
    pub(super) fn resize(self: &Arc<Self>, instance: &DatabaseInstance, class: &str, now: bool) {
        let (all, key, class) = (self.clone(), instance.key(), class.to_owned());
        all.change(&key, |one| one.pending_class = Some(class.clone()));
        if !now {
            return;
        }
        let server = instance.server.clone();
        all.change(&key, |one| one.is_stale = true);
        tokio::spawn(async move {
            tokio::time::sleep(STALE).await;
            all.change(&key, |one| (one.status, one.is_stale) = ("modifying", false));
            let rebooted = server.lock().await.reboot().await;
            all.change(&key, |one| {
                one.status = if rebooted.is_ok() { "available" } else { "failed" };
                (one.class, one.pending_class) = (class, None);
            });
        });
    }

    /// Reboots the instance, which ends all connections. Its description is stale for a while.
    pub(super) fn reboot(self: &Arc<Self>, instance: &DatabaseInstance) {
        let (all, key) = (self.clone(), instance.key());
        let server = instance.server.clone();
        all.change(&key, |one| one.is_stale = true);
        tokio::spawn(async move {
            tokio::time::sleep(STALE).await;
            all.change(&key, |one| (one.status, one.is_stale) = ("rebooting", false));
            let rebooted = server.lock().await.reboot().await;
            all.change(&key, |one| one.status = if rebooted.is_ok() { "available" } else { "failed" });
        });
    }

    /// Changes the instance's security groups. If none of them allows traffic, no connection can be opened any more;
    /// open ones go on.
    pub(super) fn regroup(self: &Arc<Self>, instance: &DatabaseInstance, groups: &[&str]) {
        let (all, key) = (self.clone(), instance.key());
        let is_closed = groups.iter().all(|group| locked(&self.deny_all).iter().any(|deny| deny == group));
        let statuses = |status| groups.iter().map(|group| ((*group).to_owned(), status)).collect::<Vec<_>>();
        let (adding, active) = (statuses("adding"), statuses("active"));
        all.change(&key, |one| one.groups = adding);
        let proxy = instance.proxy.clone();
        tokio::spawn(async move {
            tokio::time::sleep(GROUPS_TAKE).await;
            proxy.set(if is_closed { ConnectionState::Fenced } else { ConnectionState::Up });
            all.change(&key, |one| one.groups = active);
        });
    }

    pub(super) fn deleting(&self, instance: &DatabaseInstance) {
        self.change(&instance.key(), |one| one.status = "deleting");
    }

    /// Removes the instance. Its server ends with its last owner.
    pub(super) fn forget(&self, instance: &DatabaseInstance) {
        locked(&self.instances).retain(|one| one.key() != instance.key());
    }

    fn change<T>(
        &self,
        key: &(String, String),
        change: impl FnOnce(&mut DatabaseInstance) -> T,
    ) -> Option<T> {
        locked(&self.instances).iter_mut().find(|one| one.key() == *key).map(change)
    }

    /// Refuses a change of an instance that is being changed. No document says whether storage that is being optimised
    /// obstructs other changes.
    pub(super) fn may_be_modified(&self, instance: &DatabaseInstance) -> Result<(), ApiError> {
        let is_optimised = instance.status == "storage-optimization" && !instance.is_stale;
        if is_optimised && self.draws.chance(0.5) { Ok(()) } else { available(instance) }
    }
}

/// The replicas that are being created, and what each region needs to create one.
#[derive(Debug, Default)]
pub(super) struct Replicas {
    /// By region.
    pub(super) sources: Mutex<BTreeMap<String, ReplicaSource>>,
    pub(super) pending_replica: Mutex<Vec<PendingReplica>>,
}

/// What a region needs to create replicas.
#[derive(Clone, Debug)]
pub struct ReplicaSource {
    /// The folder for their logs.
    pub logs: PathBuf,
    /// The port through which they reach their source.
    pub source: u16,
}

/// A replica that is being created.
#[derive(Clone, Debug)]
pub(super) struct PendingReplica {
    pub(super) id: String,
    pub(super) region: String,
    pub(super) class: String,
    pub(super) source: String,
    pub(super) groups: Vec<String>,
    pub(super) tags: BTreeMap<String, String>,
}

/// Refuses a change of an instance that is being changed.
pub(super) fn available(instance: &DatabaseInstance) -> Result<(), ApiError> {
    match instance.status {
        "available" if !instance.is_stale => Ok(()),
        status => {
            Err(invalid_state(format!("DB instance {} is not available: it is {status}.", instance.id)))
        }
    }
}

fn invalid_state(message: String) -> ApiError {
    ApiError::new(400, "InvalidDBInstanceState", message)
}
