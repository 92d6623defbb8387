//! Reading records. Every read is strongly consistent: an order that was accepted a moment ago is found.

use crate::attempts::{CallLimits, OF_READS, OF_SCANS};
use crate::record::{LogRecord, Malformed, bucket, expires_at, name, partition, sort_key};
use crate::{OrderLog, OrderLogError};
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::AttributeValue;
use shared::item::ItemId;
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::collections::HashMap;

/// Pages that are read of a bucket. DynamoDB limits a page to 1 MB, some thousand records.
const MAX_PAGES_OF_BUCKET: u32 = 200;
/// Records that are read at once to find a buyer's newest one. More than one is read only because the keys of a buyer
/// whose token begins with this buyer's token and a `#` lie in the same range.
const NEWEST: i32 = 10;
/// Pages that are read to find it.
const MAX_PAGES_OF_BUYER: u32 = 10;

pub(crate) type Position = HashMap<String, AttributeValue>;

/// The records of an item in one bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    pub records: Vec<LogRecord>,
    /// Records that cannot be read, and are not in `records`.
    pub malformed: u64,
}

impl OrderLog {
    /// The newest record of `user_token` for `item_id`.
    pub async fn latest_of(
        &self,
        item_id: &ItemId,
        user_token: &UserToken,
    ) -> Result<Option<LogRecord>, OrderLogError> {
        let mut from = None;
        for _ in 0..MAX_PAGES_OF_BUYER {
            let query = self.query_buyer(item_id, user_token).scan_index_forward(false).limit(NEWEST);
            let (records, next) = page(query, from, OF_READS, LogRecord::from_item).await?;
            let records: Vec<LogRecord> = records.into_iter().collect::<Result<_, _>>()?;
            if let Some(newest) = records.into_iter().find(|record| record.user_token == *user_token) {
                return Ok(Some(newest));
            }
            let Some(next) = next else { return Ok(None) };
            from = Some(next);
        }
        Err(OrderLogError::Refused("too many records of similar buyers".into()))
    }

    /// All records of `item_id` in `bucket` whose stamp is at or after `since`, in no order. An order of the same buyer in
    /// another region's log is in the bucket of the same number.
    pub async fn bucket_of(
        &self,
        item_id: &ItemId,
        bucket: u8,
        since: Stamp,
    ) -> Result<Bucket, OrderLogError> {
        // The answer leaves out what the query says, and what no caller reads: half of a record's bytes, which would have to
        // travel from region to region and be decoded.
        let mut query = self
            .query(partition(item_id, bucket))
            .key_condition_expression("#partition = :partition")
            .projection_expression("#sort, #kind, #outcome, #reason, #decided_at")
            .expression_attribute_names("#sort", name::SORT)
            .expression_attribute_names("#kind", name::KIND)
            .expression_attribute_names("#outcome", name::OUTCOME)
            .expression_attribute_names("#reason", name::REASON)
            .expression_attribute_names("#decided_at", name::DECIDED_AT);
        if since > Stamp::EPOCH {
            // The sort key begins with the buyer. This attribute contains the stamp, too, in whole seconds.
            query = query
                .filter_expression("#expires_at >= :expires_at")
                .expression_attribute_names("#expires_at", name::EXPIRES_AT)
                .expression_attribute_values(":expires_at", expires_at(since));
        }
        let (mut found, mut from) = (Bucket::default(), None);
        for _ in 0..MAX_PAGES_OF_BUCKET {
            let (records, next) =
                page(query.clone(), from, OF_SCANS, |item| LogRecord::of_item(item, item_id)).await?;
            found.records.reserve(records.len());
            for record in records {
                match record {
                    Ok(record) => found.records.push(record),
                    Err(error) => {
                        tracing::error!(%error, %item_id, bucket, "a record of the order log is malformed; it is passed over");
                        found.malformed += 1;
                    }
                }
            }
            // An answer may have a position without records after it.
            let Some(next) = next else { return Ok(found) };
            from = Some(next);
        }
        Err(OrderLogError::Refused("a bucket has too many records".into()))
    }

    /// The records of a buyer, and of those whose token begins with this buyer's token and a `#`.
    pub(crate) fn query_buyer(&self, item_id: &ItemId, user_token: &UserToken) -> QueryFluentBuilder {
        self.query(partition(item_id, bucket(user_token)))
            .key_condition_expression("#partition = :partition AND #sort BETWEEN :first AND :last")
            .expression_attribute_names("#sort", name::SORT)
            .expression_attribute_values(":first", AttributeValue::S(sort_key(user_token, Stamp::EPOCH)))
            .expression_attribute_values(":last", AttributeValue::S(sort_key(user_token, Stamp::MAX)))
    }

    fn query(&self, partition: String) -> QueryFluentBuilder {
        self.client
            .query()
            .table_name(&self.table)
            .consistent_read(true)
            .expression_attribute_names("#partition", name::PARTITION)
            .expression_attribute_values(":partition", AttributeValue::S(partition))
    }
}

/// One page, and the position of the next one.
pub(crate) async fn page(
    query: QueryFluentBuilder,
    from: Option<Position>,
    limits: CallLimits,
    read: impl Fn(&HashMap<String, AttributeValue>) -> Result<LogRecord, Malformed>,
) -> Result<(Vec<Result<LogRecord, Malformed>>, Option<Position>), OrderLogError> {
    let query = query.set_exclusive_start_key(from);
    let attempt = || {
        let query = query.clone();
        async move { query.send().await.map_err(|error| OrderLogError::of(&error)) }
    };
    let answer = limits.repeat(attempt).await?;
    let records = answer.items().iter().map(read).collect();
    Ok((records, answer.last_evaluated_key))
}
