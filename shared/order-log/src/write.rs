//! Writing records.

use crate::record::{LogRecord, REFUSED, Refusal, name};
use crate::{OrderLog, OrderLogError};
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::AttributeValue;
use std::time::Duration;
use tokio::time::timeout;

/// One attempt to write. The table is in the same region, and an order waits.
const ATTEMPT_LIMIT: Duration = Duration::from_millis(500);

impl OrderLog {
    /// Writes `record`, repeated within the budget. There is no condition: main decides which of a buyer's orders counts.
    ///
    /// The call sets attributes instead of replacing the record. So a repetition that arrives late leaves the record's
    /// outcome as it is, and creates no second record for `order-place`.
    ///
    /// An error is [`Unanswered`](OrderLogError::Unanswered) if one of the attempts was.
    pub async fn append(&self, record: &LogRecord) -> Result<(), OrderLogError> {
        self.limits.repeat(|| within_limit(self.try_append(record))).await
    }

    /// Writes the outcome of an order that main has refused. An order that has an outcome keeps it, and a record that
    /// has expired stays away.
    pub async fn refuse(&self, record: &LogRecord, refusal: Refusal) -> Result<(), OrderLogError> {
        self.limits.repeat(|| within_limit(self.try_refuse(record, refusal))).await
    }

    /// Removes the outcome of an order that main has after all.
    pub async fn accept_again(&self, record: &LogRecord) -> Result<(), OrderLogError> {
        self.limits.repeat(|| within_limit(self.try_accept_again(record))).await
    }

    async fn try_append(&self, record: &LogRecord) -> Result<(), OrderLogError> {
        let mut call = self.client.update_item().table_name(&self.table);
        for (name, value) in record.key() {
            call = call.key(name, value);
        }
        let call = call
            .update_expression("SET #kind = :kind, #expires_at = :expires_at")
            .expression_attribute_names("#kind", name::KIND)
            .expression_attribute_names("#expires_at", name::EXPIRES_AT)
            .expression_attribute_values(":kind", AttributeValue::S(record.kind.text().into()))
            .expression_attribute_values(":expires_at", record.expires_at());
        call.send().await.map(drop).map_err(|error| OrderLogError::of(&error))
    }

    async fn try_refuse(&self, record: &LogRecord, refusal: Refusal) -> Result<(), OrderLogError> {
        let mut call = self.client.update_item().table_name(&self.table);
        for (name, value) in record.key() {
            call = call.key(name, value);
        }
        let call = call
            .update_expression("SET #outcome = :refused, #reason = :reason, #decided_at = :decided_at")
            .condition_expression("attribute_exists(#kind) AND attribute_not_exists(#outcome)")
            .expression_attribute_names("#kind", name::KIND)
            .expression_attribute_names("#outcome", name::OUTCOME)
            .expression_attribute_names("#reason", name::REASON)
            .expression_attribute_names("#decided_at", name::DECIDED_AT)
            .expression_attribute_values(":refused", AttributeValue::S(REFUSED.into()))
            .expression_attribute_values(":reason", AttributeValue::S(refusal.reason.slug().into()))
            .expression_attribute_values(":decided_at", AttributeValue::N(refusal.decided_at.to_string()));
        unless_condition_fails(call).await
    }

    async fn try_accept_again(&self, record: &LogRecord) -> Result<(), OrderLogError> {
        let mut call = self.client.update_item().table_name(&self.table);
        for (name, value) in record.key() {
            call = call.key(name, value);
        }
        let call = call
            .update_expression("REMOVE #outcome, #reason, #decided_at")
            .condition_expression("#outcome = :refused")
            .expression_attribute_names("#outcome", name::OUTCOME)
            .expression_attribute_names("#reason", name::REASON)
            .expression_attribute_names("#decided_at", name::DECIDED_AT)
            .expression_attribute_values(":refused", AttributeValue::S(REFUSED.into()));
        unless_condition_fails(call).await
    }
}

/// A condition that does not hold means that nothing has to be done.
async fn unless_condition_fails(call: UpdateItemFluentBuilder) -> Result<(), OrderLogError> {
    match call.send().await {
        Ok(_) => Ok(()),
        Err(error) => match error.as_service_error() {
            Some(service) if service.is_conditional_check_failed_exception() => Ok(()),
            _ => Err(OrderLogError::of(&error)),
        },
    }
}

async fn within_limit(write: impl Future<Output = Result<(), OrderLogError>>) -> Result<(), OrderLogError> {
    timeout(ATTEMPT_LIMIT, write).await.unwrap_or_else(|_| {
        Err(OrderLogError::Unanswered(format!("no answer within {} ms", ATTEMPT_LIMIT.as_millis())))
    })
}
