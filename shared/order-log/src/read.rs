//! Reading records. Every read is strongly consistent: an order that was accepted a moment ago is found.

use crate::attempts::OF_READS;
use crate::record::{LogRecord, bucket, name, partition, sort_key};
use crate::{OrderLog, OrderLogError};
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::AttributeValue;
use futures::stream::{self, Stream, StreamExt};
use shared::item::ItemId;
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::collections::HashMap;

/// The most records of a page.
pub const MAX_PAGE: i32 = 1_000;
/// Buckets of an item that are read at the same time.
pub const PARALLEL_BUCKETS: usize = 16;
/// Records that are read at once to find a buyer's newest one. More than one is read only because the keys of a buyer
/// whose token begins with this buyer's token and a `#` lie in the same range.
const NEWEST: i32 = 10;
/// Pages that are read to find it.
const MAX_PAGES_OF_BUYER: u32 = 10;

type Position = HashMap<String, AttributeValue>;

impl OrderLog {
    /// The newest record of `user_token` for `item_id`.
    pub async fn latest_of(
        &self,
        item_id: &ItemId,
        user_token: &UserToken,
    ) -> Result<Option<LogRecord>, OrderLogError> {
        let mut from = None;
        for _ in 0..MAX_PAGES_OF_BUYER {
            let query = self
                .query(partition(item_id, bucket(user_token)))
                .key_condition_expression("#partition = :partition AND #sort BETWEEN :first AND :last")
                .expression_attribute_names("#sort", name::SORT)
                .expression_attribute_values(":first", AttributeValue::S(sort_key(user_token, Stamp::EPOCH)))
                .expression_attribute_values(":last", AttributeValue::S(sort_key(user_token, Stamp::MAX)))
                .scan_index_forward(false)
                .limit(NEWEST);
            let (records, next) = page(query, from).await?;
            if let Some(newest) = records.into_iter().find(|record| record.user_token == *user_token) {
                return Ok(Some(newest));
            }
            let Some(next) = next else { return Ok(None) };
            from = Some(next);
        }
        Err(OrderLogError::Refused("too many records of similar buyers".into()))
    }

    /// All records of `item_id`, in pages of at most [`MAX_PAGE`] and in no order. After an error the stream goes on with
    /// other buckets: the caller decides whether the rest is of use.
    pub fn orders_of(
        &self,
        item_id: &ItemId,
    ) -> impl Stream<Item = Result<Vec<LogRecord>, OrderLogError>> + use<> {
        let buckets = (0..=u8::MAX).map(|bucket| self.clone().bucket_of(partition(item_id, bucket)).boxed());
        stream::iter(buckets.collect::<Vec<_>>()).flatten_unordered(PARALLEL_BUCKETS)
    }

    /// The pages of one bucket.
    fn bucket_of(
        self,
        partition: String,
    ) -> impl Stream<Item = Result<Vec<LogRecord>, OrderLogError>> + use<> {
        stream::unfold(Some(None), move |from: Option<Option<Position>>| {
            let query = self.query(partition.clone()).key_condition_expression("#partition = :partition");
            async move {
                // An answer may have a position without records after it.
                match page(query.limit(MAX_PAGE), from?).await {
                    Ok((records, next)) => Some((Ok(records), next.map(Some))),
                    Err(error) => Some((Err(error), None)),
                }
            }
        })
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
async fn page(
    query: QueryFluentBuilder,
    from: Option<Position>,
) -> Result<(Vec<LogRecord>, Option<Position>), OrderLogError> {
    let query = query.set_exclusive_start_key(from);
    let attempt = || {
        let query = query.clone();
        async move { query.send().await.map_err(|error| OrderLogError::of(&error)) }
    };
    let answer = OF_READS.repeat(attempt).await?;
    let records = answer.items().iter().map(LogRecord::from_item).collect::<Result<_, _>>()?;
    Ok((records, answer.last_evaluated_key))
}
