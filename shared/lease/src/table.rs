//! Where the record is kept: one item of a DynamoDB table, global with multi-Region strong
//! consistency where there are several regions. Every change names the version it comes from.

use crate::{LeaseRecord, LeaseTiming};
use aws_config::retry::RetryConfig;
use aws_config::{ConfigLoader, Region};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeValue, MultiRegionConsistency, ReturnValue, ReturnValuesOnConditionCheckFailure,
    TableDescription,
};
use sdk::TimeLimits;
use shared::stamp::Stamp;
use std::collections::HashMap;
use std::time::Duration;

/// The record's key.
const ID: &str = "main-lease";
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
const TRY_LIMIT: Duration = Duration::from_millis(1_200);
/// The longest that one call may take, both its tries counted: below the time between renewals.
const CALL_LIMIT: Duration = Duration::from_millis(2_600);
const MAX_TRIES: u32 = 2;

/// The table.
#[derive(Clone, Debug)]
pub struct LeaseTable {
    client: Client,
    name: String,
    id: String,
}

/// Why the record was not read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseTableError {
    /// Somebody else has written meanwhile, or the record does not allow it.
    #[error("the lease's record has changed meanwhile")]
    Conflict,
    /// There is no record yet.
    #[error("there is no lease yet; drop-admin's migrate makes it")]
    Missing,
    /// Two regions could both take the lease.
    #[error(
        "the lease's table has copies that differ for a moment, so that two regions could both sell: \
         it must be made anew with MultiRegionConsistency STRONG"
    )]
    NotStronglyConsistent,
    /// The table does not answer, or not with what was expected.
    #[error("the lease's table does not answer: {0}")]
    Unavailable(String),
}

type Attributes = HashMap<String, AttributeValue>;

impl LeaseTable {
    /// The table called `name`, as it is seen from `region`, with `aws`'s credentials and the limits above.
    /// Nothing is connected yet.
    pub async fn new(aws: ConfigLoader, region: &str, name: &str) -> Self {
        let limits = TimeLimits { connect: CONNECT_LIMIT, attempt: TRY_LIMIT, call: CALL_LIMIT };
        let retries = RetryConfig::standard()
            .with_max_attempts(MAX_TRIES)
            .with_initial_backoff(Duration::from_millis(100));
        let config = aws
            .region(Region::new(region.to_owned()))
            .timeout_config(limits.timeouts())
            .retry_config(retries)
            .load()
            .await;
        Self { client: Client::new(&config), name: name.to_owned(), id: ID.into() }
    }

    /// Another record of the same table, which nobody sells by: for a drill.
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

    /// The record as it is now.
    pub async fn load(&self) -> Result<LeaseRecord, LeaseTableError> {
        let call = self.client.get_item().table_name(&self.name).key("id", self.key()).consistent_read(true);
        let answer = call.send().await.map_err(|error| {
            unavailable(error.as_service_error().and_then(|service| service.meta().code()), &error)
        })?;
        read(answer.item().ok_or(LeaseTableError::Missing)?)
    }

    /// Refuses a table whose copies are not the same at every instant.
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

    /// Writes the first record; leaves one that is there as it is.
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

    /// Renews the record for a process of `region` whose clock says `now`, and returns it as it is
    /// then: renewed, or somebody else's, or closed.
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
            // The same as Record::renewed.
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

    /// Writes `to`, which was made of the record that has the version before it.
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
    let wrong =
        |field: &str| LeaseTableError::Unavailable(format!("its record has no {field} that can be read"));
    let text = |field: &str| item.get(field).and_then(|value| value.as_s().ok());
    let number = |field: &str| -> Result<u64, LeaseTableError> {
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

/// Whether a word written in one region is read in any other from then on: there is one copy, or all are the same.
fn is_consistent(table: &TableDescription) -> bool {
    table.replicas().is_empty() || table.multi_region_consistency() == Some(&MultiRegionConsistency::Strong)
}

/// The service's code, or what became of the connection.
fn unavailable(code: Option<&str>, error: &impl std::fmt::Display) -> LeaseTableError {
    LeaseTableError::Unavailable(code.map_or_else(|| error.to_string(), str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_dynamodb::types::ReplicaDescription;

    #[test]
    fn copies_that_differ_for_a_moment_keep_no_lease() {
        let table = |replicas: usize, consistency| {
            let copies = vec![ReplicaDescription::builder().region_name("us-west-2").build(); replicas];
            TableDescription::builder()
                .set_replicas(Some(copies))
                .set_multi_region_consistency(consistency)
                .build()
        };
        assert!(is_consistent(&table(0, None)));
        assert!(is_consistent(&table(1, Some(MultiRegionConsistency::Strong))));
        // An ordinary global table says nothing, or that it is eventually consistent.
        assert!(!is_consistent(&table(1, None)));
        assert!(!is_consistent(&table(1, Some(MultiRegionConsistency::Eventual))));
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_what_is_missing_is_named() {
        let record = LeaseRecord::first("main", 3).closed("run");
        let item = write(&record);
        assert_eq!(read(&item), Ok(record));
        for field in ["version", "main_region", "epoch", "expires_at", "is_open"] {
            let without: Attributes =
                item.clone().into_iter().filter(|(name, _)| name.as_str() != field).collect();
            let mut nonsense = item.clone();
            nonsense.insert(field.into(), AttributeValue::Null(true));
            for wrong in [without, nonsense] {
                let error = read(&wrong).unwrap_err().to_string();
                assert!(error.contains(field), "{field}: {error}");
            }
        }
    }
}
