//! Where the memory is kept: one item of a DynamoDB table, written only by who has read the
//! newest version of it.

use crate::memory::Memory;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use std::time::Duration;
use tokio::time::timeout;

/// The longest that one question to the table may take, its tries counted: without it a run goes on by
/// what the process itself remembers, and still has to tell within its time.
const STORE_LIMIT: Duration = Duration::from_secs(3);
/// DynamoDB's limit for an item is 400 KB.
const MAX_BYTES: usize = 380_000;

/// The memory's place.
#[derive(Debug)]
pub(crate) struct Store {
    /// DynamoDB.
    pub(crate) client: Client,
    /// The table.
    pub(crate) table: String,
    /// The item's key.
    pub(crate) id: String,
}

/// A memory and the version it has.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Kept {
    /// 0 where nothing has been written yet.
    pub(crate) version: u64,
    /// The memory.
    pub(crate) memory: Memory,
}

/// Why a memory was not read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreError {
    /// Somebody else has written meanwhile.
    #[error("another run has written meanwhile")]
    Conflict,
    /// The table does not answer.
    #[error("the table does not answer: {0}")]
    Away(String),
}

impl Store {
    /// Reads the newest memory. One that cannot be understood is begun anew: it is worth less
    /// than a watcher that runs.
    pub(crate) async fn load(&self) -> Result<Kept, StoreError> {
        let call = self.client.get_item().table_name(&self.table).key("id", self.key()).consistent_read(true);
        let answer = within_limit(call.send()).await?.map_err(|error| {
            let code = error.as_service_error().and_then(|service| service.meta().code());
            StoreError::Away(crate::post::reason(code, &error))
        })?;
        let Some(item) = answer.item() else { return Ok(Kept::default()) };
        let version =
            item.get("version").and_then(|version| version.as_n().ok()).and_then(|n| n.parse().ok());
        let text = item.get("memory").and_then(|memory| memory.as_s().ok()).map_or("", String::as_str);
        let memory = serde_json::from_str(text).unwrap_or_else(|error| {
            tracing::error!(%error, "what was remembered cannot be read; the watcher begins anew");
            Memory::default()
        });
        Ok(Kept { version: version.unwrap_or(0), memory })
    }

    /// Writes a memory that came from the version in `kept`, and returns the new one.
    pub(crate) async fn save(&self, kept: Kept) -> Result<Kept, StoreError> {
        let text =
            serde_json::to_string(&kept.memory).map_err(|error| StoreError::Away(error.to_string()))?;
        if text.len() > MAX_BYTES {
            return Err(StoreError::Away(format!("the memory has {} bytes", text.len())));
        }
        let version = kept.version + 1;
        let number = |n: u64| AttributeValue::N(n.to_string());
        let call = self
            .client
            .put_item()
            .table_name(&self.table)
            .item("id", self.key())
            .item("version", number(version))
            .item("memory", AttributeValue::S(text))
            .condition_expression("attribute_not_exists(id) OR version = :known")
            .expression_attribute_values(":known", number(kept.version));
        match within_limit(call.send()).await? {
            Ok(_) => Ok(Kept { version, memory: kept.memory }),
            Err(error) => match error.as_service_error() {
                Some(service) if service.is_conditional_check_failed_exception() => Err(StoreError::Conflict),
                service => {
                    let code = service.and_then(|service| service.meta().code());
                    Err(StoreError::Away(crate::post::reason(code, &error)))
                }
            },
        }
    }

    fn key(&self) -> AttributeValue {
        AttributeValue::S(self.id.clone())
    }
}

async fn within_limit<T>(call: impl Future<Output = T>) -> Result<T, StoreError> {
    timeout(STORE_LIMIT, call).await.map_err(|_| StoreError::Away("no answer in time".into()))
}
