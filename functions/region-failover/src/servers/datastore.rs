//! ElastiCache: which replication group of the Global Datastore takes writes.

use super::{call_aws, obstacle};
use crate::observation::{Observation, Obstacle, Role};
use aws_sdk_elasticache::Client;
use aws_sdk_elasticache::types::{GlobalReplicationGroup, GlobalReplicationGroupMember};
use sdk::SdkConfig;
use shared::config::{self, ConfigError, Source};
use shared::queue::LinkError;

/// The Global Datastore, reached from the standby's region.
#[derive(Clone, Debug)]
pub(super) struct DatastoreClient {
    client: Client,
    id: String,
    /// This region's replication group.
    group: String,
    region: String,
}

impl DatastoreClient {
    pub(super) fn from_config(
        source: Source<'_>,
        aws: &SdkConfig,
        region: &str,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            client: Client::new(aws),
            id: config::required(source, "FAIRDROP_REDIS_DATASTORE")?,
            group: config::required(source, "FAIRDROP_REDIS_GROUP")?,
            region: region.into(),
        })
    }

    /// The role of this region's group by ElastiCache, and whether no change is in progress.
    pub(super) async fn observe(&self) -> Result<(Role, bool), Obstacle> {
        let call = self.client.describe_global_replication_groups();
        let call = call.global_replication_group_id(&self.id).show_member_info(true);
        let found = call_aws("describing the Global Datastore", call.send()).await?;
        let datastore = found.global_replication_groups().first();
        let member = datastore.and_then(|datastore| self.own(datastore));
        match (datastore, member) {
            (Some(datastore), Some(member)) => Ok(status(datastore, member)),
            // The group has left the datastore.
            _ => self.observe_group().await,
        }
    }

    fn own<'a>(&self, datastore: &'a GlobalReplicationGroup) -> Option<&'a GlobalReplicationGroupMember> {
        datastore.members().iter().find(|member| {
            member.replication_group_id() == Some(&self.group)
                && member.replication_group_region() == Some(&self.region)
        })
    }

    async fn observe_group(&self) -> Result<(Role, bool), Obstacle> {
        let call = self.client.describe_replication_groups().replication_group_id(&self.group);
        let found = call_aws("describing this region's replication group", call.send()).await?;
        let group = found
            .replication_groups()
            .first()
            .ok_or_else(|| obstacle("ElastiCache has no replication group of this name in this region"))?;
        Ok((Role::Alone, group.status() == Some("available")))
    }

    /// Makes this region's group the primary. ElastiCache refuses while another change is in progress.
    pub(super) async fn failover(&self) -> Result<(), Obstacle> {
        let call = self.client.failover_global_replication_group().global_replication_group_id(&self.id);
        let call = call.primary_region(&self.region).primary_replication_group_id(&self.group);
        call_aws("moving Redis's primary", call.send()).await.map(drop)
    }

    /// Takes this region's group out of the datastore.
    pub(super) async fn detach(&self) -> Result<(), Obstacle> {
        let call = self.client.disassociate_global_replication_group().global_replication_group_id(&self.id);
        let call = call.replication_group_id(&self.group).replication_group_region(&self.region);
        call_aws("detaching Redis", call.send()).await.map(drop)
    }
}

fn status(datastore: &GlobalReplicationGroup, member: &GlobalReplicationGroupMember) -> (Role, bool) {
    let is_primary = member.role().is_some_and(|role| role.eq_ignore_ascii_case("primary"));
    let role = if is_primary { Role::Primary } else { Role::Secondary };
    let is_settled =
        datastore.status().is_some_and(|status| status == "available" || status == "primary-only")
            && member.status() == Some("associated");
    (role, is_settled)
}

/// The role by ElastiCache and by the server itself: a primary counts once the server takes writes.
pub(super) fn observation(
    (role, is_settled): (Role, bool),
    takes_writes: Result<bool, LinkError>,
) -> Result<Observation, Obstacle> {
    let should_take_writes = is_settled && role != Role::Secondary;
    match takes_writes {
        Ok(false) if should_take_writes => Err(obstacle(
            "ElastiCache reports this region's Redis as primary, but the server at StandbyRedisEndpoint does not take writes",
        )),
        Err(error) if should_take_writes => Err(obstacle(format!(
            "ElastiCache reports this region's Redis as primary, but StandbyRedisEndpoint does not answer: {error}"
        ))),
        _ => Ok(Observation::Redis { role, is_settled }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_primary_counts_once_the_server_itself_takes_writes() {
        let unavailable = || LinkError::NotSent("no connection in time".into());
        for role in [Role::Primary, Role::Alone] {
            assert_eq!(
                observation((role, true), Ok(true)),
                Ok(Observation::Redis { role, is_settled: true })
            );
            for (answer, text) in [(Ok(false), "does not"), (Err(unavailable()), "no connection in time")] {
                let Err(Obstacle(why)) = observation((role, true), answer) else { panic!("{role:?} counts") };
                assert!(why.contains("StandbyRedisEndpoint") && why.contains(text), "{why}");
            }
            // ElastiCache has not finished the change.
            assert_eq!(
                observation((role, false), Err(unavailable())),
                Ok(Observation::Redis { role, is_settled: false })
            );
        }
        let follows = Observation::Redis { role: Role::Secondary, is_settled: true };
        assert_eq!(observation((Role::Secondary, true), Ok(false)), Ok(follows));
    }
}
