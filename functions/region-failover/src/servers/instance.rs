//! RDS: the replica that is promoted, and the old main that is closed.

use super::{CALL_LIMIT, call_aws, obstacle};
use crate::observation::{Observation, Obstacle};
use aws_config::SdkConfig;
use aws_sdk_rds::Client;
use aws_sdk_rds::types::{DbInstance, Endpoint, PendingModifiedValues, Tag, VpcSecurityGroupMembership};
use rds::{Class, RdsError};
use shared::config::{self, ConfigError, Source};
use tokio::time::timeout;

/// The tag of an instance that a failover is working on.
const FAILOVER_TAG: &str = "fairdrop:failover";

/// A drill's copy bears this tag, with the replica it stands for.
const DRILL_TAG: &str = "fairdrop:failover-drill";

/// How a drill's copy stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Copied {
    /// There is none.
    Missing,
    /// It is being made, changed or deleted.
    Changing,
    /// It lets clients in.
    Ready {
        /// Where.
        host: String,
        /// And at which port.
        port: i32,
    },
}

/// The two instances.
#[derive(Clone, Debug)]
pub(super) struct Instances {
    here: Client,
    there: Client,
    replica: String,
    main: String,
    /// The least class that the replica is to have; by default main's.
    class: Option<String>,
    /// A security group of main's region that lets nobody in.
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
            let why = "it is no instance class whose size is known here";
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

    /// The replica's instance.
    pub(super) async fn observe(&self) -> Result<Observation, Obstacle> {
        let found = self.replica().await?;
        let class = found.db_instance_class().unwrap_or_default();
        let nothing = PendingModifiedValues::builder().build();
        let is_changing = found.pending_modified_values().is_some_and(|pending| *pending != nothing);
        Ok(Observation::Instance {
            follows: found.read_replica_source_db_instance_identifier().is_some_and(|from| !from.is_empty()),
            is_settled: found.db_instance_status() == Some("available") && !is_changing,
            is_big_enough: self.least_class().await.is_none_or(|least| is_enough(class, &least)),
        })
    }

    /// By which main's slot for the replica is known; empty where RDS does not say.
    pub(super) async fn resource_id(&self) -> String {
        let found = self.replica().await.ok();
        found.and_then(|found| found.dbi_resource_id).unwrap_or_default()
    }

    /// What was configured, or main's own class, or nothing where main's region does not say.
    async fn least_class(&self) -> Option<String> {
        match &self.class {
            Some(class) => Some(class.clone()),
            None => describe(&self.there, &self.main).await.ok()?.db_instance_class,
        }
    }

    async fn replica(&self) -> Result<DbInstance, Obstacle> {
        describe(&self.here, &self.replica).await
    }

    /// Gives the replica its bigger class, at once.
    pub(super) async fn raise(&self) -> Result<(), Obstacle> {
        let class = self.least_class().await.ok_or_else(|| obstacle("no class is known to raise it to"))?;
        let call = self.here.modify_db_instance().db_instance_identifier(&self.replica);
        call_aws("raising the class", call.db_instance_class(class).apply_immediately(true).send())
            .await
            .map(drop)
    }

    /// Promotes the replica. There is no way back.
    pub(super) async fn promote(&self) -> Result<(), Obstacle> {
        let call = self.here.promote_read_replica().db_instance_identifier(&self.replica);
        call_aws("promoting the replica", call.send()).await.map(drop)
    }

    /// Whether the old main lets nobody in.
    pub(super) async fn observe_fence(&self) -> Result<Observation, Obstacle> {
        let fence = self.fence_group()?;
        let found = describe(&self.there, &self.main).await?;
        let groups = found.vpc_security_groups();
        let is_settled = groups.iter().all(|group| group.status() == Some("active"));
        let is_fence = |group: &VpcSecurityGroupMembership| group.vpc_security_group_id() == Some(fence);
        let is_up = is_settled && !groups.is_empty() && groups.iter().all(is_fence);
        Ok(Observation::Fence { is_up, is_settled })
    }

    /// Puts the old main behind a security group that lets nobody in.
    pub(super) async fn fence(&self) -> Result<(), Obstacle> {
        let call = self.there.modify_db_instance().db_instance_identifier(&self.main);
        let call = call.vpc_security_group_ids(self.fence_group()?).apply_immediately(true);
        call_aws("closing the old main", call.send()).await.map(drop)
    }

    pub(super) fn fence_group(&self) -> Result<&str, Obstacle> {
        self.fence_group.as_deref().ok_or_else(|| {
            obstacle("no FenceSecurityGroup is given: close the old main's database by hand, or give one")
        })
    }

    /// These, with the copy in the replica's place.
    pub(super) fn for_copy(&self) -> Self {
        Self { replica: self.copy_id(), ..self.clone() }
    }

    fn copy_id(&self) -> String {
        format!("{}-drill", self.replica)
    }

    /// How the copy stands.
    pub(super) async fn copy(&self) -> Result<Copied, Obstacle> {
        let id = self.copy_id();
        let call = self.here.describe_db_instances().db_instance_identifier(&id);
        let answer = timeout(CALL_LIMIT, Box::pin(call.send())).await.map_err(obstacle)?;
        let found = match answer.map_err(rds::refusal) {
            Ok(found) => found.db_instances.and_then(|all| all.into_iter().next()),
            Err(RdsError::NotFound) => None,
            Err(error) => return Err(Obstacle(format!("{id}: {error}"))),
        };
        let Some(found) = found else { return Ok(Copied::Missing) };
        let is_own = found.tag_list().iter().any(|tag| tag.key() == Some(DRILL_TAG));
        if !is_own {
            return Err(Obstacle(format!("there is an instance {id} that no drill has made")));
        }
        let endpoint = found.endpoint();
        let (host, port) = (endpoint.and_then(Endpoint::address), endpoint.and_then(Endpoint::port));
        match (found.db_instance_status(), host, port) {
            (Some("available"), Some(host), Some(port)) => Ok(Copied::Ready { host: host.into(), port }),
            _ => Ok(Copied::Changing),
        }
    }

    /// Makes the copy: a replica of main beside the replica, as that is.
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
        call_aws("making the copy", call.send()).await.map(drop)
    }

    /// Deletes the copy, with all it holds. Refused while something is done to it.
    pub(super) async fn delete_copy(&self) -> Result<(), Obstacle> {
        let call = self.here.delete_db_instance().db_instance_identifier(self.copy_id());
        let call = call.skip_final_snapshot(true).delete_automated_backups(true);
        call_aws("deleting the copy", call.send()).await.map(drop)
    }

    /// Tags the replica for `run`, or takes the tag off.
    pub(super) async fn tag_replica(&self, run: Option<&str>) -> Result<(), Obstacle> {
        let arn = self.replica().await?.db_instance_arn.ok_or_else(|| obstacle("it has no ARN"))?;
        match run {
            Some(run) => {
                let tag = Tag::builder().key(FAILOVER_TAG).value(run).build();
                let call = self.here.add_tags_to_resource().resource_name(arn).tags(tag);
                call_aws("tagging the replica", call.send()).await.map(drop)
            }
            None => {
                let call = self.here.remove_tags_from_resource().resource_name(arn).tag_keys(FAILOVER_TAG);
                call_aws("taking the tag off", call.send()).await.map(drop)
            }
        }
    }
}

async fn describe(client: &Client, id: &str) -> Result<DbInstance, Obstacle> {
    let found = call_aws(id, client.describe_db_instances().db_instance_identifier(id).send()).await?;
    found
        .db_instances
        .and_then(|all| all.into_iter().next())
        .ok_or_else(|| obstacle(format!("{id} is not there")))
}

/// A class whose size is not known counts as enough where it is the very one.
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
    fn a_bigger_class_is_enough_and_an_unknown_one_is_not() {
        assert!(is_enough("db.r6g.xlarge", "db.r6g.large") && is_enough("db.m7g.large", "db.r6g.large"));
        assert!(!is_enough("db.r6g.large", "db.r6g.xlarge") && !is_enough("db.r5b.metal", "db.r6g.large"));
        assert!(is_enough("db.r5b.metal", "db.r5b.metal"));
    }
}
