//! Writes the issuer's public keys to main's Redis, from where they replicate to every region's replica.
//!
//! The function is in the VPC, where Redis is; `token-keys`, which calls the issuer, is not. A set that cannot be used
//! never replaces another one.

use lambda_runtime::Diagnostic;
use serde::Serialize;
use shared::config::{ConfigError, RedisConfig, Source};
use shared::queue::{Link, LinkError, Queue};
use shared::token::key_set::KeySet;
use shared::token_keys::FetchedKeys;
use std::time::Duration;

/// State that one process of the function keeps between invocations.
#[derive(Debug)]
pub struct App {
    queue: Queue,
}

impl App {
    /// Reads the configuration. Opens no connection.
    pub fn from_config(source: Source) -> Result<Self, ConfigError> {
        Ok(Self { queue: Queue::new(Link::new(RedisConfig::main(source)?)) })
    }

    /// Starts connecting in the background.
    pub fn open(&self) {
        self.queue.open();
    }
}

/// The stored set after an invocation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Stored {
    /// How long ago its fetch began; `None` if no set has been stored yet.
    pub age_seconds: Option<f64>,
}

/// Why nothing was stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the fetched keys cannot be used: {0}; the stored ones stay")]
    Unusable(String),
    #[error("could not write the keys to main's Redis: {0}; the next fetch tries again")]
    Link(#[from] LinkError),
}

impl From<StoreError> for Diagnostic {
    fn from(error: StoreError) -> Self {
        let error_type = match &error {
            StoreError::Unusable(_) => "UnusableKeys",
            StoreError::Link(_) => "MainUnreachable",
        };
        Self { error_type: error_type.into(), error_message: error.to_string() }
    }
}

/// Stores what was fetched, if anything was, and measures the age of the stored set.
pub async fn store(app: &App, fetched: &FetchedKeys) -> Result<Stored, StoreError> {
    let document = fetched.document.as_deref().map(KeySet::parse).transpose();
    let document = document.map_err(StoreError::Unusable)?.map(|set| set.to_json());
    let ago = Duration::from_millis(fetched.fetched_ms_ago);
    let age = app.queue.store_token_keys(document.as_deref(), ago).await?;
    if let Some(age) = age {
        metrics::gauge!("token_keys_age_seconds").set(age.as_secs_f64());
    }
    Ok(Stored { age_seconds: age.map(|age| age.as_secs_f64()) })
}
