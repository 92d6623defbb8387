//! `token-keys-store`, which has Redis: invoked with each fetch.

use aws_sdk_lambda::Client;
use aws_sdk_lambda::error::DisplayErrorContext;
use aws_sdk_lambda::primitives::Blob;
use sdk::{RetryConfig, TimeLimits};
use shared::config::{self, ConfigError, Source};
use shared::token_keys::FetchedKeys;
use std::time::Duration;

/// A cold start in a VPC takes about a second. What fails is sent again with the next fetch.
const LIMITS: TimeLimits = TimeLimits {
    connect: Duration::from_secs(2),
    attempt: Duration::from_secs(6),
    call: Duration::from_secs(6),
};

/// Why a set was not stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("the fetched keys could not be written as JSON")]
    Payload(#[from] serde_json::Error),
    #[error("the invocation failed: {0}")]
    Invocation(String),
    #[error("the function failed; its own log has the reason")]
    Function,
}

#[derive(Debug)]
pub(crate) struct KeyStore {
    client: Client,
    function: String,
}

impl KeyStore {
    /// Reads `FAIRDROP_TOKEN_KEYS_STORE`, the name of the function in this region.
    pub(crate) fn from_config(source: Source, region: &str) -> Result<Self, ConfigError> {
        let config = sdk::config(region)
            .into_builder()
            .timeout_config(LIMITS.timeouts())
            .retry_config(RetryConfig::disabled())
            .build();
        let function = config::required(source, "FAIRDROP_TOKEN_KEYS_STORE")?;
        Ok(Self { client: Client::new(&config), function })
    }

    /// Hands a fetch over, and waits until it is stored.
    pub(crate) async fn hand_over(&self, fetched: &FetchedKeys) -> Result<(), StoreError> {
        let payload = Blob::new(serde_json::to_vec(fetched)?);
        let answer = self.client.invoke().function_name(&self.function).payload(payload).send().await;
        let answer =
            answer.map_err(|error| StoreError::Invocation(DisplayErrorContext(error).to_string()))?;
        if answer.function_error().is_some() { Err(StoreError::Function) } else { Ok(()) }
    }
}
