//! What RDS reports of the two instances.

use crate::sample::InstanceSample;
use aws_sdk_rds::Client;
use aws_sdk_rds::types::DbInstance;
use rds::{RdsError, refusal};

/// RDS lists a replica's replication under this name in `StatusInfos`.
const REPLICATION: &str = "read replication";

/// What RDS reports of the instance `id`. An instance that RDS does not have is reported as not existing.
pub(crate) async fn describe(client: &Client, id: &str) -> Result<InstanceSample, RdsError> {
    match client.describe_db_instances().db_instance_identifier(id).send().await.map_err(refusal) {
        Ok(found) => Ok(found.db_instances().first().map(instance).unwrap_or_default()),
        Err(RdsError::NotFound) => Ok(InstanceSample::default()),
        Err(error) => Err(error),
    }
}

fn instance(found: &DbInstance) -> InstanceSample {
    let replication = found.status_infos().iter().find(|info| info.status_type() == Some(REPLICATION));
    InstanceSample {
        exists: true,
        status: found.db_instance_status().unwrap_or_default().to_owned(),
        class: found.db_instance_class().unwrap_or_default().to_owned(),
        replica_of: found
            .read_replica_source_db_instance_identifier()
            .filter(|source| !source.is_empty())
            .map(str::to_owned),
        replication: replication.and_then(|info| info.status()).map(str::to_owned),
        replication_is_normal: replication.and_then(|info| info.normal()),
        resource_id: found.dbi_resource_id().unwrap_or_default().to_owned(),
    }
}
