//! A text in one item of a DynamoDB table, with optimistic locking: a run that writes it must have read its newest
//! version. If two runs write at the same time, one of them gets [`StoreError::Conflict`] and starts again from what
//! the other has written.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::types::AttributeValue;
use std::error::Error;
use std::time::Duration;
use tokio::time::timeout;

/// The longest that one call to the table may take, including its retries.
pub const CALL_LIMIT: Duration = Duration::from_secs(3);
/// DynamoDB's limit for an item is 400 KB.
pub const MAX_BYTES: usize = 380_000;

/// The item that holds the text. The table's key is `id`.
#[derive(Clone, Debug)]
pub struct TableItem {
    pub client: Client,
    pub table: String,
    pub id: String,
}

/// The text with its version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionedText {
    /// 0 if nothing has been written yet.
    pub version: u64,
    /// Absent if nothing has been written yet.
    pub text: Option<String>,
}

/// Why a text was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("another run wrote the item first")]
    Conflict,
    #[error("DynamoDB is unavailable: {reason}")]
    Unavailable {
        /// The code that DynamoDB returned, or what happened to the connection.
        reason: String,
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    #[error("the text has {0} bytes; an item of the table holds {MAX_BYTES} at most")]
    TooLong(usize),
    /// The text is not what its reader expects.
    #[error("the content of the item is malformed: {0}")]
    Malformed(#[from] serde_json::Error),
}

impl TableItem {
    /// Reads the newest version.
    pub async fn load(&self) -> Result<VersionedText, StoreError> {
        let call = self.client.get_item().table_name(&self.table).key("id", self.key()).consistent_read(true);
        let answer = within_limit(call.send()).await?.map_err(unavailable)?;
        let Some(item) = answer.item() else { return Ok(VersionedText::default()) };
        let version =
            item.get("version").and_then(|version| version.as_n().ok()).and_then(|n| n.parse().ok());
        let text = item.get("content").and_then(|text| text.as_s().ok()).cloned();
        Ok(VersionedText { version: version.unwrap_or(0), text })
    }

    /// Writes `text` if `known` is still the newest version, and returns the text's own version.
    pub async fn save(&self, known: u64, text: String) -> Result<u64, StoreError> {
        if text.len() > MAX_BYTES {
            return Err(StoreError::TooLong(text.len()));
        }
        let number = |n: u64| AttributeValue::N(n.to_string());
        let call = self
            .client
            .put_item()
            .table_name(&self.table)
            .item("id", self.key())
            .item("version", number(known + 1))
            .item("content", AttributeValue::S(text))
            .condition_expression("attribute_not_exists(id) OR version = :known")
            .expression_attribute_values(":known", number(known));
        match within_limit(call.send()).await? {
            Ok(_) => Ok(known + 1),
            Err(error) => match error.as_service_error() {
                Some(service) if service.is_conditional_check_failed_exception() => Err(StoreError::Conflict),
                _ => Err(unavailable(error)),
            },
        }
    }

    fn key(&self) -> AttributeValue {
        AttributeValue::S(self.id.clone())
    }
}

async fn within_limit<T>(call: impl Future<Output = T>) -> Result<T, StoreError> {
    timeout(CALL_LIMIT, call).await.map_err(|elapsed| StoreError::Unavailable {
        reason: format!("timed out after {} s", CALL_LIMIT.as_secs()),
        source: Some(elapsed.into()),
    })
}

fn unavailable<E>(error: E) -> StoreError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let reason = error.code().map_or_else(|| error.to_string(), str::to_owned);
    StoreError::Unavailable { reason, source: Some(error.into()) }
}
