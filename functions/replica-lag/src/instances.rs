//! RDS: what it says of the two instances, and the one thing that may be changed.

use crate::raise::Raised;
use crate::sample::Instance;
use aws_sdk_rds::Client;
use aws_sdk_rds::types::{DbInstance, PendingModifiedValues};
use rds::{RdsError, refusal};

/// An instance that a failover has in hand bears this tag.
pub(crate) const FAILOVER_TAG: &str = "fairdrop:failover";
/// What RDS calls the entry of a replica's replication among its states.
const REPLICATION: &str = "read replication";

/// What RDS says of the instance `id`.
pub(crate) async fn describe(client: &Client, id: &str) -> Result<Instance, RdsError> {
    match client.describe_db_instances().db_instance_identifier(id).send().await.map_err(refusal) {
        Ok(found) => Ok(found.db_instances().first().map(instance).unwrap_or_default()),
        Err(RdsError::NotFound) => Ok(Instance::default()),
        Err(error) => Err(error),
    }
}

/// Gives the replica `id` a bigger class, at once.
pub(crate) async fn raise(client: &Client, id: &str, raise: &Raised) -> Result<(), RdsError> {
    let call = client.modify_db_instance().db_instance_identifier(id).db_instance_class(&raise.to);
    call.apply_immediately(true).send().await.map(drop).map_err(refusal)
}

fn instance(found: &DbInstance) -> Instance {
    let replication = found.status_infos().iter().find(|info| info.status_type() == Some(REPLICATION));
    let nothing = PendingModifiedValues::builder().build();
    Instance {
        exists: true,
        status: found.db_instance_status().unwrap_or_default().to_owned(),
        class: found.db_instance_class().unwrap_or_default().to_owned(),
        is_changing: found.pending_modified_values().is_some_and(|pending| *pending != nothing),
        replica_of: found
            .read_replica_source_db_instance_identifier()
            .filter(|source| !source.is_empty())
            .map(str::to_owned),
        replication: replication.and_then(|info| info.status()).map(str::to_owned),
        replication_is_normal: replication.and_then(|info| info.normal()),
        resource_id: found.dbi_resource_id().unwrap_or_default().to_owned(),
        is_in_failover: found.tag_list().iter().any(|tag| tag.key() == Some(FAILOVER_TAG)),
    }
}
