//! RDS itself, one client for each region.

use crate::api::{CopyOrder, Rds};
use crate::presign;
use crate::round::Regions;
use crate::snapshot::{Database, Quota};
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_rds::Client;
use aws_sdk_rds::types::{DbInstance, Tag};
use rds::{PAGE, RdsError, Snapshot, pages, refusal};
use std::collections::BTreeMap;
use std::time::SystemTime;

/// RDS in one region.
#[derive(Debug)]
pub struct AwsRds {
    client: Client,
    region: String,
    credentials: Option<SharedCredentialsProvider>,
}

/// Clients for the function's own region and the others. Nothing is connected yet.
pub async fn regions(own: &str, targets: impl Iterator<Item = String>) -> Regions<AwsRds> {
    let config = rds::sdk_config(own).await;
    let in_region = |region: String| AwsRds {
        client: rds::client(&config, &region),
        region,
        credentials: config.credentials_provider(),
    };
    Regions {
        own: own.to_owned(),
        source: in_region(own.to_owned()),
        targets: targets.map(|region| (region.clone(), in_region(region))).collect(),
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

    async fn quota(&self) -> Result<Option<Quota>, RdsError> {
        let answer = self.client.describe_account_attributes().send().await.map_err(refusal)?;
        let mut quotas = answer.account_quotas().iter();
        let quota = quotas.find(|quota| quota.account_quota_name() == Some("ManualSnapshots"));
        let number = |number: Option<i64>| number.and_then(|number| u32::try_from(number).ok());
        Ok(quota.and_then(|quota| Some(Quota { used: number(quota.used)?, most: number(quota.max)? })))
    }

    async fn create(&self, database: &str, id: &str, tag: (&str, &str)) -> Result<(), RdsError> {
        let call =
            self.client.create_db_snapshot().db_instance_identifier(database).db_snapshot_identifier(id);
        call.tags(sent(tag)).send().await.map(drop).map_err(refusal)
    }

    async fn copy(&self, order: CopyOrder<'_>) -> Result<(), RdsError> {
        let url = if presign::is_needed(order.source_arn) { Some(self.signed(order).await?) } else { None };
        let call = self.client.copy_db_snapshot().source_db_snapshot_identifier(order.source_arn);
        let call =
            call.target_db_snapshot_identifier(order.id).set_kms_key_id(order.kms_key_id.map(str::to_owned));
        // The original's own tags are not copied: there may be some that nobody can send.
        call.tags(sent(order.tag)).set_pre_signed_url(url).send().await.map(drop).map_err(refusal)
    }

    async fn delete(&self, id: &str) -> Result<(), RdsError> {
        self.client.delete_db_snapshot().db_snapshot_identifier(id).send().await.map(drop).map_err(refusal)
    }
}

impl AwsRds {
    async fn signed(&self, order: CopyOrder<'_>) -> Result<String, RdsError> {
        let unsigned = |why: String| RdsError::Denied(format!("the copy's URL cannot be signed: {why}"));
        let provider = self.credentials.as_ref().ok_or_else(|| unsigned("no credentials".into()))?;
        let credentials =
            provider.provide_credentials().await.map_err(|error| unsigned(error.to_string()))?;
        presign::url(order, &self.region, credentials, SystemTime::now()).map_err(unsigned)
    }
}

fn sent((key, value): (&str, &str)) -> Tag {
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
