//! RDS: the replica that is promoted, and the old main's database that is fenced.

use super::{call_aws, call_unless, obstacle};
use crate::fence::OldDatabase;
use crate::observation::{Answer, Observation, Obstacle};
use aws_sdk_rds::Client;
use aws_sdk_rds::types::{DbInstance, Endpoint, PendingModifiedValues, Tag, VpcSecurityGroupMembership};
use rds::Class;
use sdk::SdkConfig;
use shared::config::{self, ConfigError, Source};

/// The tag of a drill's copy; its value is the replica.
const DRILL_TAG: &str = "fairdrop:failover-drill";
/// RDS's answers about an instance that does not exist.
const NO_INSTANCE: [&str; 2] = ["DBInstanceNotFound", "DBInstanceNotFoundFault"];

/// The state of a drill's copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Copied {
    Missing,
    /// RDS creates, changes or deletes it.
    Changing,
    /// It takes connections.
    Ready {
        host: String,
        port: i32,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Instances {
    here: Client,
    there: Client,
    replica: String,
    main: String,
    /// The smallest class that the replica must have; main's class by default.
    class: Option<String>,
    /// A security group of main's region without rules.
    fence_group: Option<String>,
}

impl Instances {
    pub(super) fn from_config(
        source: Source<'_>,
        aws: &SdkConfig,
        region: &str,
        main_region: &str,
    ) -> Result<Self, ConfigError> {
        let class = config::optional(source, "FAIRDROP_FAILOVER_CLASS");
        if class.as_deref().is_some_and(|class| Class::parse(class).is_none()) {
            let why = "it is not an instance class whose size fairdrop knows";
            return Err(ConfigError::bad("FAIRDROP_FAILOVER_CLASS", why));
        }
        Ok(Self {
            here: rds::client(aws, region),
            there: rds::client(aws, main_region),
            replica: config::required(source, "FAIRDROP_REPLICA_INSTANCE")?,
            main: config::required(source, "FAIRDROP_MAIN_INSTANCE")?,
            class,
            fence_group: config::optional(source, "FAIRDROP_FENCE_GROUP"),
        })
    }

    /// The state of the replica's instance.
    /// `known_class` is main's class, if it is known.
    pub(super) async fn observe(&self, known_class: Option<&str>) -> Result<Observation, Obstacle> {
        let found = self.replica().await?;
        let class = found.db_instance_class().unwrap_or_default();
        let follows = source_of(&found).is_some();
        let is_big_enough = self.least_class(known_class).await.map(|least| is_enough(class, &least));
        Ok(Observation::instance(found.db_instance_status().unwrap_or_default(), follows, is_big_enough))
    }

    /// Changes that wait for the replica's maintenance window. Raising the class applies all of them.
    pub(super) async fn pending(&self) -> Result<Vec<&'static str>, Obstacle> {
        let found = self.replica().await?;
        Ok(found.pending_modified_values().map(names).unwrap_or_default())
    }

    /// The resource id, by which main names the replica's slot; empty if RDS does not return it.
    pub(super) async fn resource_id(&self) -> String {
        let found = self.replica().await.ok();
        found.and_then(|found| found.dbi_resource_id).unwrap_or_default()
    }

    /// The configured class, or main's class; `None` if it is not known and main's region does not answer.
    async fn least_class(&self, known: Option<&str>) -> Option<String> {
        match self.class.as_deref().or(known) {
            Some(class) => Some(class.to_owned()),
            None => self.main_class().await,
        }
    }

    /// Main's class; `None` if main's region does not answer.
    pub(super) async fn main_class(&self) -> Option<String> {
        describe(&self.there, &self.main).await.ok()?.db_instance_class
    }

    async fn replica(&self) -> Result<DbInstance, Obstacle> {
        describe(&self.here, &self.replica).await
    }

    /// Raises the replica's class, at once.
    pub(super) async fn raise(&self, known_class: Option<&str>) -> Result<Answer, Obstacle> {
        let class = self.least_class(known_class).await.ok_or_else(|| obstacle("cannot raise the replica's class: FailoverClass is not set, and main's region does not answer"))?;
        let call = self.here.modify_db_instance().db_instance_identifier(&self.replica);
        let call = call.db_instance_class(class).apply_immediately(true).send();
        Ok(match call_unless(&DEFINITE, "raising the replica's class", call).await? {
            Ok(_) => Answer::Done(String::new()),
            Err(why) => Answer::Refused(why),
        })
    }

    /// Promotes the replica. This cannot be undone. Its backups stay as they are: without values of its own, RDS would
    /// keep them for one day.
    pub(super) async fn promote(&self) -> Result<(), Obstacle> {
        let found = self.replica().await?;
        let call = self
            .here
            .promote_read_replica()
            .db_instance_identifier(&self.replica)
            .set_backup_retention_period(found.backup_retention_period.filter(|days| *days > 0))
            .set_preferred_backup_window(found.preferred_backup_window.filter(|window| !window.is_empty()));
        call_aws("promoting the replica", call.send()).await.map(drop)
    }

    /// The old main's database, without its sessions.
    pub(super) async fn observe_old_main(&self) -> Result<OldDatabase, Obstacle> {
        let fence = self.fence_group()?;
        let found = describe(&self.there, &self.main).await?;
        if source_of(&found).is_some() {
            // The operator has deleted the old main, and has created the new standby's replica under its name.
            let why = "it is a replica now, and is not fenced; if the old main was deleted, waive the step";
            return Err(obstacle(format!("{}: {why}", self.main)));
        }
        let groups = found.vpc_security_groups();
        let is_settled = groups.iter().all(|group| group.status() == Some("active"));
        let is_fence = |group: &VpcSecurityGroupMembership| group.vpc_security_group_id() == Some(fence);
        Ok(OldDatabase {
            is_closed: is_settled && !groups.is_empty() && groups.iter().all(is_fence),
            is_settled,
            is_rebooting: found.db_instance_status() == Some("rebooting"),
            writers: None,
            ended: 0,
        })
    }

    /// Replaces the security groups of the old main's database by the fence. RDS applies that as soon as possible in any
    /// case; asked to apply it immediately, it would also apply every pending change of the instance.
    pub(super) async fn fence(&self) -> Result<(), Obstacle> {
        let call = self.there.modify_db_instance().db_instance_identifier(&self.main);
        let call = call.vpc_security_group_ids(self.fence_group()?);
        call_aws("fencing the old main's database", call.send()).await.map(drop)
    }

    /// Reboots the old main's instance. RDS refuses while it changes the instance.
    pub(super) async fn reboot_old_main(&self) -> Result<(), Obstacle> {
        let call = self.there.reboot_db_instance().db_instance_identifier(&self.main);
        call_aws("rebooting the old main's instance", call.send()).await.map(drop)
    }

    pub(super) fn fence_group(&self) -> Result<&str, Obstacle> {
        self.fence_group.as_deref().ok_or_else(|| {
            obstacle("FenceSecurityGroup is not set: close the old main's database by hand, or set it")
        })
    }

    /// The same instances, with the copy in place of the replica.
    pub(super) fn for_copy(&self) -> Self {
        Self { replica: self.copy_id(), ..self.clone() }
    }

    fn copy_id(&self) -> String {
        format!("{}-drill", self.replica)
    }

    /// The state of the copy.
    pub(super) async fn copy(&self) -> Result<Copied, Obstacle> {
        let id = self.copy_id();
        let call = self.here.describe_db_instances().db_instance_identifier(&id);
        let Ok(found) = call_unless(&NO_INSTANCE, &id, call.send()).await? else {
            return Ok(Copied::Missing);
        };
        let Some(found) = found.db_instances.and_then(|all| all.into_iter().next()) else {
            return Ok(Copied::Missing);
        };
        let is_own = found.tag_list().iter().any(|tag| tag.key() == Some(DRILL_TAG));
        if !is_own {
            return Err(Obstacle(format!("the instance {id} exists and was not created by a drill")));
        }
        let endpoint = found.endpoint();
        let (host, port) = (endpoint.and_then(Endpoint::address), endpoint.and_then(Endpoint::port));
        match (found.db_instance_status(), host, port) {
            (Some("available"), Some(host), Some(port)) => Ok(Copied::Ready { host: host.into(), port }),
            _ => Ok(Copied::Changing),
        }
    }

    /// Creates the copy: a second replica of main, with the settings of the first.
    pub(super) async fn make_copy(&self) -> Result<(), Obstacle> {
        let (replica, main) = (self.replica().await?, describe(&self.there, &self.main).await?);
        let groups = replica.vpc_security_groups().iter().filter_map(|group| group.vpc_security_group_id());
        let mut call = self
            .here
            .create_db_instance_read_replica()
            .db_instance_identifier(self.copy_id())
            .set_source_db_instance_identifier(main.db_instance_arn)
            .set_db_instance_class(replica.db_instance_class.clone())
            .set_db_subnet_group_name(
                replica.db_subnet_group().and_then(|of| of.db_subnet_group_name.clone()),
            )
            .set_kms_key_id(replica.kms_key_id.clone())
            .set_enable_iam_database_authentication(replica.iam_database_authentication_enabled)
            .publicly_accessible(false)
            .multi_az(false)
            .tags(Tag::builder().key(DRILL_TAG).value(&self.replica).build());
        for group in groups {
            call = call.vpc_security_group_ids(group);
        }
        call_aws("creating the drill's copy", call.send()).await.map(drop)
    }

    /// Deletes the copy without a final snapshot. RDS refuses while it changes the copy.
    pub(super) async fn delete_copy(&self) -> Result<(), Obstacle> {
        let call = self.here.delete_db_instance().db_instance_identifier(self.copy_id());
        let call = call.skip_final_snapshot(true).delete_automated_backups(true);
        call_aws("deleting the drill's copy", call.send()).await.map(drop)
    }
}

async fn describe(client: &Client, id: &str) -> Result<DbInstance, Obstacle> {
    let found = call_aws(id, client.describe_db_instances().db_instance_identifier(id).send()).await?;
    found
        .db_instances
        .and_then(|all| all.into_iter().next())
        .ok_or_else(|| obstacle(format!("RDS returned no instance {id}")))
}

/// The instance that `found` follows.
fn source_of(found: &DbInstance) -> Option<&str> {
    found.read_replica_source_db_instance_identifier().filter(|source| !source.is_empty())
}

/// The names of the settings that `pending` changes, as RDS's API has them.
fn names(pending: &PendingModifiedValues) -> Vec<&'static str> {
    let known = [
        ("DBInstanceClass", pending.db_instance_class.is_some()),
        ("AllocatedStorage", pending.allocated_storage.is_some()),
        ("EngineVersion", pending.engine_version.is_some()),
        ("MultiAZ", pending.multi_az.is_some()),
        ("StorageType", pending.storage_type.is_some()),
        ("Iops", pending.iops.is_some()),
        ("BackupRetentionPeriod", pending.backup_retention_period.is_some()),
        ("CACertificateIdentifier", pending.ca_certificate_identifier.is_some()),
    ];
    let names: Vec<&str> =
        known.into_iter().filter(|(_, is_pending)| *is_pending).map(|(name, _)| name).collect();
    let is_nothing = *pending == PendingModifiedValues::builder().build();
    if names.is_empty() && !is_nothing { vec!["another setting"] } else { names }
}

/// Answers to `ModifyDBInstance` that another try within minutes does not change: RDS has no instance of the class, or no
/// place for it, or the request itself is at fault. A state that ends is not among them.
pub(super) const DEFINITE: [&str; 13] = [
    "InsufficientDBInstanceCapacity",
    "InvalidVPCNetworkStateFault",
    "StorageTypeNotSupported",
    "StorageQuotaExceeded",
    "ProvisionedIopsNotAvailableInAZFault",
    "NetworkTypeNotSupported",
    "KMSKeyNotAccessibleFault",
    "DBUpgradeDependencyFailure",
    "DBInstanceNotFound",
    "InvalidParameterCombination",
    "InvalidParameterValue",
    "ValidationError",
    "AccessDenied",
];

/// Whether `class` is at least as big as `least`. A class of unknown size is enough only if it is the same class.
fn is_enough(class: &str, least: &str) -> bool {
    match (Class::parse(class), Class::parse(least)) {
        (Some(own), Some(least)) => own.size >= least.size,
        _ => class == least,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bigger_class_is_enough_and_an_unknown_class_is_not() {
        assert!(is_enough("db.r6g.xlarge", "db.r6g.large") && is_enough("db.m7g.large", "db.r6g.large"));
        assert!(!is_enough("db.r6g.large", "db.r6g.xlarge") && !is_enough("db.r5b.metal", "db.r6g.large"));
        assert!(is_enough("db.r5b.metal", "db.r5b.metal"));
    }
}
