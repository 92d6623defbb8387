//! A text that is kept in one item of a DynamoDB table, and written only by who has read its newest
//! version: so that of two runs at once one begins again with what the other has written.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::types::AttributeValue;
use std::time::Duration;
use tokio::time::timeout;

/// The longest that one question to the table may take, its tries counted.
pub const CALL_LIMIT: Duration = Duration::from_secs(3);
/// DynamoDB's limit for an item is 400 KB.
pub const MAX_BYTES: usize = 380_000;

/// Where a text is kept.
#[derive(Clone, Debug)]
pub struct Place {
    /// DynamoDB.
    pub client: Client,
    /// The table; its key is `id`.
    pub table: String,
    /// The item's key.
    pub id: String,
}

/// A text and the version it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// 0 where nothing has been written yet.
    pub version: u64,
    /// Nothing where nothing has been written yet.
    pub text: Option<String>,
}

/// Why a text was not read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Somebody else has written meanwhile.
    #[error("another run has written meanwhile")]
    Conflict,
    /// The table does not answer.
    #[error("the table does not answer: {0}")]
    Unavailable(String),
    /// The text is longer than an item of a table may be.
    #[error("what is to be kept has {0} bytes")]
    TooLong(usize),
}

impl Place {
    /// Reads the newest version.
    pub async fn load(&self) -> Result<Kept, StoreError> {
        let call = self.client.get_item().table_name(&self.table).key("id", self.key()).consistent_read(true);
        let answer = within_limit(call.send()).await?.map_err(|error| unavailable(error.code(), &error))?;
        let Some(item) = answer.item() else { return Ok(Kept::default()) };
        let version =
            item.get("version").and_then(|version| version.as_n().ok()).and_then(|n| n.parse().ok());
        let text = item.get("content").and_then(|text| text.as_s().ok()).cloned();
        Ok(Kept { version: version.unwrap_or(0), text })
    }

    /// Writes `text`, which came of the version `known`, and returns its own version.
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
                _ => Err(unavailable(error.code(), &error)),
            },
        }
    }

    fn key(&self) -> AttributeValue {
        AttributeValue::S(self.id.clone())
    }
}

async fn within_limit<T>(call: impl Future<Output = T>) -> Result<T, StoreError> {
    timeout(CALL_LIMIT, call).await.map_err(|_| StoreError::Unavailable("no answer in time".into()))
}

/// The service's code, or what became of the connection.
fn unavailable(code: Option<&str>, error: &impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(code.map_or_else(|| error.to_string(), str::to_owned))
}
