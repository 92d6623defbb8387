//! The lease's table: one item of a DynamoDB table. With several regions it is a global table with multi-Region strong
//! consistency. Every write names the version that it is based on.

use crate::record::LeaseRecord;
use crate::timing::LeaseTiming;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeValue, MultiRegionConsistency, ReturnValue, ReturnValuesOnConditionCheckFailure,
    TableDescription,
};
use sdk::RetryConfig;
use sdk::TimeLimits;
use sdk::{Region, SdkConfigBuilder};
use shared::stamp::Stamp;
use std::collections::HashMap;
use std::time::Duration;

/// The record's key.
const ID: &str = "main-lease";
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
const TRY_LIMIT: Duration = Duration::from_millis(1_200);
/// Limit of one call with both attempts: shorter than the time between renewals.
const CALL_LIMIT: Duration = Duration::from_millis(2_600);
const MAX_TRIES: u32 = 2;

#[derive(Clone, Debug)]
pub struct LeaseTable {
    client: Client,
    name: String,
    id: String,
}

/// Why the record was not read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseTableError {
    /// The record has another version than the write is based on.
    #[error("could not write the lease record: another process has changed it")]
    Conflict,
    #[error("the lease table has no lease record yet; drop-admin's `migrate` creates it")]
    Missing,
    /// Two regions could both take the lease: split-brain.
    #[error(
        "the lease table is a global table without strong consistency, so that two regions could sell at the same \
         time: create it again with MultiRegionConsistency STRONG"
    )]
    NotStronglyConsistent,
    /// DynamoDB's error code, or what failed with the connection.
    #[error("the lease table is unavailable: {0}")]
    Unavailable(String),
    #[error("the lease record has no readable {0}")]
    Malformed(&'static str),
}

type Attributes = HashMap<String, AttributeValue>;

impl LeaseTable {
    /// The table `name` in `region`, with the credentials of `aws` and the limits above. Nothing is connected yet.
    pub fn new(aws: SdkConfigBuilder, region: &str, name: &str) -> Self {
        let limits = TimeLimits { connect: CONNECT_LIMIT, attempt: TRY_LIMIT, call: CALL_LIMIT };
        let retries = RetryConfig::standard()
            .with_max_attempts(MAX_TRIES)
            .with_initial_backoff(Duration::from_millis(100));
        let config = aws
            .region(Region::new(region.to_owned()))
            .timeout_config(limits.timeouts())
            .retry_config(retries)
            .build();
        Self { client: Client::new(&config), name: name.to_owned(), id: ID.into() }
    }

    /// Another record of the same table, for a drill: no process sells by it.
    pub fn named(&self, id: &str) -> Self {
        Self { id: id.into(), ..self.clone() }
    }

    fn key(&self) -> AttributeValue {
        AttributeValue::S(self.id.clone())
    }

    fn item(&self, record: &LeaseRecord) -> Attributes {
        let mut item = write(record);
        item.insert("id".into(), self.key());
        item
    }

    /// Reads the record, strongly consistent.
    pub async fn load(&self) -> Result<LeaseRecord, LeaseTableError> {
        let call = self.client.get_item().table_name(&self.name).key("id", self.key()).consistent_read(true);
        let answer = call.send().await.map_err(|error| {
            unavailable(error.as_service_error().and_then(|service| service.meta().code()), &error)
        })?;
        read(answer.item().ok_or(LeaseTableError::Missing)?)
    }

    /// Refuses a global table whose replicas are not strongly consistent.
    pub async fn must_be_consistent(&self) -> Result<(), LeaseTableError> {
        let described =
            self.client.describe_table().table_name(&self.name).send().await.map_err(|error| {
                unavailable(error.as_service_error().and_then(|service| service.meta().code()), &error)
            })?;
        if described.table().is_some_and(is_consistent) {
            Ok(())
        } else {
            Err(LeaseTableError::NotStronglyConsistent)
        }
    }

    /// Writes the first record. An existing record stays as it is, and is returned.
    pub async fn write_first(&self, first: &LeaseRecord) -> Result<LeaseRecord, LeaseTableError> {
        let call = self.client.put_item().table_name(&self.name).set_item(Some(self.item(first)));
        match call.condition_expression("attribute_not_exists(id)").send().await {
            Ok(_) => Ok(first.clone()),
            Err(error) => match error.as_service_error() {
                Some(service) if service.is_conditional_check_failed_exception() => self.load().await,
                service => Err(unavailable(service.and_then(|service| service.meta().code()), &error)),
            },
        }
    }

    /// Renews the record for a process of `region` whose clock says `now`. Returns the record as it is afterwards: renewed,
    /// or another region's, or closed.
    pub async fn renew(
        &self,
        region: &str,
        now: Stamp,
        timing: LeaseTiming,
    ) -> Result<LeaseRecord, LeaseTableError> {
        let call = self
            .client
            .update_item()
            .table_name(&self.name)
            .key("id", self.key())
            .update_expression("SET expires_at = :until ADD version :one")
            // The same rule as LeaseRecord::renewed.
            .condition_expression("main_region = :me AND is_open = :yes AND expires_at < :until")
            .expression_attribute_values(":me", AttributeValue::S(region.to_owned()))
            .expression_attribute_values(":yes", AttributeValue::Bool(true))
            .expression_attribute_values(":until", number(now.saturating_add(timing.lasts).as_micros()))
            .expression_attribute_values(":one", number(1))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match call.send().await {
            Ok(answer) => read(answer.attributes().ok_or(LeaseTableError::Missing)?),
            Err(error) => match error.as_service_error() {
                Some(service) if service.is_conditional_check_failed_exception() => self.load().await,
                service => Err(unavailable(service.and_then(|service| service.meta().code()), &error)),
            },
        }
    }

    /// Writes `to`, which is based on the record with the version before its own.
    pub async fn change(&self, to: &LeaseRecord) -> Result<(), LeaseTableError> {
        let call = self
            .client
            .put_item()
            .table_name(&self.name)
            .set_item(Some(self.item(to)))
            .condition_expression("version = :before")
            .expression_attribute_values(":before", number(to.version.saturating_sub(1)));
        match call.send().await {
            Ok(_) => Ok(()),
            Err(error) => match error.as_service_error() {
                Some(service) if service.is_conditional_check_failed_exception() => {
                    Err(LeaseTableError::Conflict)
                }
                service => Err(unavailable(service.and_then(|service| service.meta().code()), &error)),
            },
        }
    }
}

fn number(n: u64) -> AttributeValue {
    AttributeValue::N(n.to_string())
}

fn write(record: &LeaseRecord) -> Attributes {
    let mut item = Attributes::from([
        ("version".to_owned(), number(record.version)),
        // `region` is one of DynamoDB's reserved words.
        ("main_region".to_owned(), AttributeValue::S(record.region.clone())),
        ("epoch".to_owned(), number(record.epoch)),
        ("expires_at".to_owned(), number(record.expires_at.as_micros())),
        ("is_open".to_owned(), AttributeValue::Bool(record.is_open)),
    ]);
    if let Some(run) = &record.run {
        item.insert("run".to_owned(), AttributeValue::S(run.clone()));
    }
    item
}

fn read(item: &Attributes) -> Result<LeaseRecord, LeaseTableError> {
    let wrong = LeaseTableError::Malformed;
    let text = |field: &str| item.get(field).and_then(|value| value.as_s().ok());
    let number = |field: &'static str| -> Result<u64, LeaseTableError> {
        let value = item.get(field).and_then(|value| value.as_n().ok());
        value.and_then(|n| n.parse().ok()).ok_or_else(|| wrong(field))
    };
    Ok(LeaseRecord {
        version: number("version")?,
        region: text("main_region").cloned().ok_or_else(|| wrong("main_region"))?,
        epoch: number("epoch")?,
        expires_at: Stamp::from_micros(number("expires_at")?).map_err(|_| wrong("expires_at"))?,
        is_open: item
            .get("is_open")
            .and_then(|value| value.as_bool().ok())
            .copied()
            .ok_or_else(|| wrong("is_open"))?,
        run: text("run").cloned(),
    })
}

/// Whether a value written in one region is read in every other region from then on.
fn is_consistent(table: &TableDescription) -> bool {
    table.replicas().is_empty() || table.multi_region_consistency() == Some(&MultiRegionConsistency::Strong)
}

/// The service's error code, or what failed with the connection.
fn unavailable(code: Option<&str>, error: &impl std::fmt::Display) -> LeaseTableError {
    LeaseTableError::Unavailable(code.map_or_else(|| error.to_string(), str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_dynamodb::types::ReplicaDescription;

    #[test]
    fn an_eventually_consistent_global_table_is_refused() {
        let table = |replicas: usize, consistency| {
            let copies = vec![ReplicaDescription::builder().region_name("us-west-2").build(); replicas];
            TableDescription::builder()
                .set_replicas(Some(copies))
                .set_multi_region_consistency(consistency)
                .build()
        };
        assert!(is_consistent(&table(0, None)));
        assert!(is_consistent(&table(1, Some(MultiRegionConsistency::Strong))));
        // An ordinary global table reports no consistency, or eventual consistency.
        assert!(!is_consistent(&table(1, None)));
        assert!(!is_consistent(&table(1, Some(MultiRegionConsistency::Eventual))));
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_the_error_names_a_missing_field() {
        let record = LeaseRecord::first("main", 3).closed("run");
        let item = write(&record);
        assert_eq!(read(&item), Ok(record));
        for field in ["version", "main_region", "epoch", "expires_at", "is_open"] {
            let without: Attributes =
                item.clone().into_iter().filter(|(name, _)| name.as_str() != field).collect();
            let mut malformed = item.clone();
            malformed.insert(field.into(), AttributeValue::Null(true));
            for wrong in [without, malformed] {
                let error = read(&wrong).unwrap_err().to_string();
                assert!(error.contains(field), "{field}: {error}");
            }
        }
    }
}
