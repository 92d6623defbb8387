//! ElastiCache: which replication group of the Global Datastore takes writes.

use super::{call_aws, obstacle};
use crate::observation::{Observation, Obstacle, Role};
use aws_sdk_elasticache::Client;
use aws_sdk_elasticache::types::GlobalReplicationGroupInfo;
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

    /// The role of this region's group, and whether ElastiCache is not changing it. Only the group itself is asked: what
    /// the datastore's description shows of a member that has left differs.
    pub(super) async fn observe(&self) -> Result<(Role, bool), Obstacle> {
        let call = self.client.describe_replication_groups().replication_group_id(&self.group);
        let found = call_aws("describing this region's replication group", call.send()).await?;
        let group = found
            .replication_groups()
            .first()
            .ok_or_else(|| obstacle("ElastiCache has no replication group of this name in this region"))?;
        let member = group.global_replication_group_info();
        let described = member.and_then(GlobalReplicationGroupInfo::global_replication_group_member_role);
        Ok((role(described), group.status() == Some("available")))
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

/// The role of a group by its own description.
pub fn role(described: Option<&str>) -> Role {
    match described {
        Some(role) if role.eq_ignore_ascii_case("primary") => Role::Primary,
        Some(role) if !role.is_empty() => Role::Secondary,
        // The group has left the datastore.
        _ => Role::Alone,
    }
}

/// The role by ElastiCache and by the server itself: a primary counts once the server takes writes.
pub fn observation(
    (role, is_settled): (Role, bool),
    takes_writes: Result<bool, LinkError>,
) -> Result<Observation, Obstacle> {
    let should_take_writes = is_settled && role != Role::Secondary;
    match takes_writes {
        // A group that has left the datastore may be described as a secondary for a while.
        Ok(true) if role == Role::Secondary => Ok(Observation::Redis { role: Role::Alone, is_settled }),
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
        let left = Observation::Redis { role: Role::Alone, is_settled: true };
        assert_eq!(observation((Role::Secondary, true), Ok(true)), Ok(left));
        let follows = Observation::Redis { role: Role::Secondary, is_settled: true };
        assert_eq!(observation((Role::Secondary, true), Ok(false)), Ok(follows));
    }
}
