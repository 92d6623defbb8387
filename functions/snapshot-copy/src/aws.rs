//! The calls to RDS through the SDK, with one client for each region.

use crate::api::{CopyRequest, Rds};
use crate::run::Regions;
use crate::snapshot::{Database, SnapshotQuota};
use aws_sdk_rds::Client;
use aws_sdk_rds::types::{DbInstance, Tag};
use rds::{PAGE, RdsError, Snapshot, pages, refusal};
use std::collections::BTreeMap;

/// RDS in one region.
#[derive(Debug)]
pub struct AwsRds {
    client: Client,
}

/// Builds the clients of the function's own region and of the targets. Opens no connection.
pub async fn regions(source_region: &str, targets: impl Iterator<Item = String>) -> Regions<AwsRds> {
    let config = sdk::config(source_region);
    let in_region = |region: &str| AwsRds { client: rds::client(&config, region) };
    Regions {
        source_region: source_region.to_owned(),
        source: in_region(source_region),
        targets: targets.map(|region| (region.clone(), in_region(&region))).collect(),
    }
}

impl Rds for AwsRds {
    async fn databases(&self) -> Result<Vec<Database>, RdsError> {
        let call = self.client.describe_db_instances().max_records(PAGE);
        pages(async |marker| {
            let page = call.clone().set_marker(marker).send().await.map_err(refusal)?;
            let found = page.db_instances().iter().filter_map(database).collect();
            Ok((found, page.marker))
        })
        .await
    }

    async fn snapshots(&self) -> Result<Vec<Snapshot>, RdsError> {
        rds::manual_snapshots(&self.client).await
    }

    async fn snapshot(&self, id: &str) -> Result<Snapshot, RdsError> {
        rds::one_snapshot(&self.client, id).await
    }

    async fn quota(&self) -> Result<Option<SnapshotQuota>, RdsError> {
        let answer = self.client.describe_account_attributes().send().await.map_err(refusal)?;
        let mut quotas = answer.account_quotas().iter();
        let quota = quotas.find(|quota| quota.account_quota_name() == Some("ManualSnapshots"));
        let number = |number: Option<i64>| number.and_then(|number| u32::try_from(number).ok());
        Ok(quota.and_then(|quota| Some(SnapshotQuota { used: number(quota.used)?, max: number(quota.max)? })))
    }

    async fn create(&self, database: &str, id: &str, tag: (&str, &str)) -> Result<(), RdsError> {
        let call =
            self.client.create_db_snapshot().db_instance_identifier(database).db_snapshot_identifier(id);
        call.tags(sdk_tag(tag)).send().await.map(drop).map_err(refusal)
    }

    async fn copy(&self, request: CopyRequest<'_>) -> Result<(), RdsError> {
        let call = self.client.copy_db_snapshot().source_db_snapshot_identifier(request.source_arn);
        let call = call
            .target_db_snapshot_identifier(request.id)
            .set_kms_key_id(request.kms_key_id.map(str::to_owned));
        // Tags of the original are not copied: a tag that begins with `aws:` cannot be sent.
        call.tags(sdk_tag(request.tag)).send().await.map(drop).map_err(refusal)
    }

    async fn delete(&self, id: &str) -> Result<(), RdsError> {
        self.client.delete_db_snapshot().db_snapshot_identifier(id).send().await.map(drop).map_err(refusal)
    }
}

fn sdk_tag((key, value): (&str, &str)) -> Tag {
    Tag::builder().key(key).value(value).build()
}

fn database(found: &DbInstance) -> Option<Database> {
    let tags = found.tag_list().iter();
    let tags: BTreeMap<String, String> = tags
        .filter_map(|tag| Some((tag.key()?.to_owned(), tag.value().unwrap_or_default().to_owned())))
        .collect();
    Some(Database {
        id: found.db_instance_identifier()?.to_owned(),
        status: found.db_instance_status().unwrap_or("in an unknown state").to_owned(),
        cluster: found.db_cluster_identifier().filter(|id| !id.is_empty()).map(str::to_owned),
        tags,
    })
}
