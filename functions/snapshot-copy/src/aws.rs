//! RDS itself, one client for each region.

use crate::calendar::Moment;
use crate::policy::TAG_KEY;
use crate::presign;
use crate::rds::{CopyOrder, Rds, RdsError};
use crate::round::Regions;
use crate::snapshot::{Database, Quota, Snapshot, State};
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_rds::Client;
use aws_sdk_rds::config::retry::RetryConfig;
use aws_sdk_rds::config::timeout::TimeoutConfig;
use aws_sdk_rds::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_rds::types::{DbInstance, DbSnapshot, Tag};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// How much RDS lists in one answer at most.
const PAGE: i32 = 100;
/// The most pages of one list: 20,000 snapshots in a region.
const MAX_PAGES: usize = 200;
/// Tries of one call, the first one counted. Between two the client waits, with jitter,
/// up to 1, 2 and 4 seconds.
const MAX_TRIES: u32 = 4;
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
const TRY_LIMIT: Duration = Duration::from_secs(10);
/// The longest that one call may take, all tries and waits counted.
const CALL_LIMIT: Duration = Duration::from_secs(25);

/// RDS in one region.
#[derive(Debug)]
pub struct AwsRds {
    client: Client,
    region: String,
    credentials: Option<SharedCredentialsProvider>,
}

/// Clients for the function's own region and the others. Nothing is connected yet.
pub async fn regions(own: &str, targets: impl Iterator<Item = String>) -> Regions<AwsRds> {
    let config = aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new(own.to_owned()))
        .retry_config(
            RetryConfig::standard()
                .with_max_attempts(MAX_TRIES)
                .with_initial_backoff(Duration::from_secs(1))
                .with_max_backoff(Duration::from_secs(5)),
        )
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(CONNECT_LIMIT)
                .operation_attempt_timeout(TRY_LIMIT)
                .operation_timeout(CALL_LIMIT)
                .build(),
        )
        .load()
        .await;
    let in_region = |region: String| {
        let of_region =
            aws_sdk_rds::config::Builder::from(&config).region(Region::new(region.clone())).build();
        AwsRds { client: Client::from_conf(of_region), region, credentials: config.credentials_provider() }
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
        // Their tags come with them: no call for each.
        let call = self.client.describe_db_snapshots().snapshot_type("manual").max_records(PAGE);
        pages(async |marker| {
            let page = call.clone().set_marker(marker).send().await.map_err(refusal)?;
            let found = page.db_snapshots().iter().filter_map(snapshot).collect();
            Ok((found, page.marker))
        })
        .await
    }

    async fn snapshot(&self, id: &str) -> Result<Snapshot, RdsError> {
        let call = self.client.describe_db_snapshots().db_snapshot_identifier(id);
        let found = call.send().await.map_err(refusal)?;
        found.db_snapshots().iter().find_map(snapshot).ok_or(RdsError::NotFound)
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

/// All pages of a list.
async fn pages<T>(
    mut page: impl AsyncFnMut(Option<String>) -> Result<(Vec<T>, Option<String>), RdsError>,
) -> Result<Vec<T>, RdsError> {
    let mut all = Vec::new();
    let mut marker = None;
    for _ in 0..MAX_PAGES {
        let (found, next) = page(marker).await?;
        all.extend(found);
        marker = next.filter(|marker| !marker.is_empty());
        if marker.is_none() {
            return Ok(all);
        }
    }
    let message = format!("there are more than {MAX_PAGES} pages");
    Err(RdsError::Refused { code: "TooManyPages".into(), message })
}

fn sent((key, value): (&str, &str)) -> Tag {
    Tag::builder().key(key).value(value).build()
}

fn moment(at: Option<&aws_sdk_rds::primitives::DateTime>) -> Option<Moment> {
    at.map(|at| Moment::from_unix_seconds(at.secs()))
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

fn snapshot(found: &DbSnapshot) -> Option<Snapshot> {
    let tag = found.tag_list().iter().find(|tag| tag.key() == Some(TAG_KEY));
    Some(Snapshot {
        id: found.db_snapshot_identifier()?.to_owned(),
        arn: found.db_snapshot_arn()?.to_owned(),
        database: found.db_instance_identifier()?.to_owned(),
        state: State::of(found.status().unwrap_or_default()),
        // A copy's own time of creation is when it was copied.
        created: moment(found.original_snapshot_create_time().or(found.snapshot_create_time())),
        made: moment(found.snapshot_create_time()),
        database_time: moment(found.snapshot_database_time()),
        is_encrypted: found.encrypted().unwrap_or(false),
        is_copy: found.source_db_snapshot_identifier().is_some_and(|source| !source.is_empty()),
        tag: tag.and_then(|tag| tag.value()).map(str::to_owned),
    })
}

/// What an error of the SDK means here.
fn refusal<E: ProvideErrorMetadata, R>(error: SdkError<E, R>) -> RdsError {
    match &error {
        SdkError::ServiceError(_) => {
            meaning(error.code().unwrap_or_default(), error.message().unwrap_or_default())
        }
        SdkError::TimeoutError(_) => RdsError::Unreachable("it took too long".into()),
        SdkError::DispatchFailure(_) => RdsError::Unreachable("no connection".into()),
        _ => RdsError::Unreachable("an answer that makes no sense".into()),
    }
}

/// The codes are those of the RDS API reference; throttling has several names.
fn meaning(code: &str, message: &str) -> RdsError {
    match code {
        "DBSnapshotAlreadyExists" => RdsError::Exists,
        "DBSnapshotNotFound"
        | "DBInstanceNotFound"
        | "DBSnapshotNotFoundFault"
        | "DBInstanceNotFoundFault" => RdsError::NotFound,
        "InvalidDBInstanceState" | "InvalidDBSnapshotState" => RdsError::NotInState,
        // "Cannot copy more than 20 snapshots across regions" and "Cannot create more than
        // 100 manual snapshots" have one code.
        "SnapshotQuotaExceeded" if message.contains("across regions") || message.contains("in progress") => {
            RdsError::TooManyCopies
        }
        "SnapshotQuotaExceeded" => RdsError::TooManySnapshots,
        "Throttling" | "ThrottlingException" | "RequestLimitExceeded" | "TooManyRequestsException" => {
            RdsError::Throttled
        }
        "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" => {
            RdsError::Denied(message.to_owned())
        }
        "InternalFailure" | "InternalError" | "ServiceUnavailable" | "" => {
            RdsError::Unreachable(format!("RDS is not well: {code}"))
        }
        _ => RdsError::Refused { code: code.to_owned(), message: message.to_owned() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_quotas_with_one_code_are_told_apart() {
        let quota = |message| meaning("SnapshotQuotaExceeded", message);
        assert_eq!(quota("Cannot copy more than 20 snapshots across regions"), RdsError::TooManyCopies);
        assert_eq!(quota("Cannot create more than 100 manual snapshots"), RdsError::TooManySnapshots);
        assert_eq!(quota(""), RdsError::TooManySnapshots);
    }
}
