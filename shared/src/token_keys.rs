//! The keys that an edge trusts: the configured ones or, once Redis has them, those that the function `token-keys` has
//! fetched from the issuer.
//!
//! Each process keeps a copy. It reads the set again in the background, from the region's own replica if there is one;
//! a token that the copy verifies never waits. A token that names an unknown key waits for one such read, because it
//! would be refused otherwise. Nothing here calls the issuer, whatever tokens arrive. If a read fails or the set
//! cannot be used, the copy stays.

mod source;

pub use source::{KeySource, is_accepted, is_local};

use crate::config::{ConfigError, Source};
use crate::item_cache::REPLICA_LIMIT;
use crate::queue::{LinkError, Queue};
use crate::token::key_set::KeySet;
use crate::token::{Proof, TokenError, TokenVerifier};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;

/// How often a process reads the set again while requests arrive.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(5);
/// The minimum time between two reads that unknown keys cause.
pub const UNKNOWN_INTERVAL: Duration = Duration::from_secs(1);
/// How long a token that names an unknown key waits for a read.
pub const UNKNOWN_WAIT: Duration = Duration::from_secs(1);

/// What `token-keys` hands over to `token-keys-store`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FetchedKeys {
    /// The key set; `None` if it could not be fetched.
    pub document: Option<String>,
    /// How long ago the fetch began, in milliseconds.
    pub fetched_ms_ago: u64,
}

/// Why a token does not name a buyer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    #[error(transparent)]
    Refused(#[from] TokenError),
    /// No key is configured, and none could be read yet. It is not the token's fault.
    #[error("this process has no keys to verify tokens with yet")]
    NoKeys,
}

/// A process's keys.
#[derive(Clone, Debug)]
pub struct TokenKeys(Arc<State>);

#[derive(Debug)]
struct State {
    copy: Mutex<Copy>,
    stored: Option<StoredKeys>,
}

/// The keys in use, and the document that they come from.
#[derive(Debug)]
struct Copy {
    verifier: Arc<TokenVerifier>,
    document: Option<String>,
}

/// Where the fetched set is stored.
#[derive(Debug)]
struct StoredKeys {
    replica: Option<Queue>,
    main: Queue,
    /// When the newest read began. The lock is held during a read.
    read_at: AsyncMutex<Option<Instant>>,
    is_scheduled: AtomicBool,
    /// When the next read in the background is due.
    next_read: Mutex<Option<Instant>>,
}

impl TokenKeys {
    /// Reads the configured keys. If `FAIRDROP_TOKEN_KEYS_FROM` is set, the fetched ones are read from `replica`, or
    /// from `main` if there is no replica or it fails.
    pub fn from_config(source: Source, replica: Option<Queue>, main: Queue) -> Result<Self, ConfigError> {
        let stored = KeySource::from_config(source)?.map(|_| StoredKeys {
            replica,
            main,
            read_at: AsyncMutex::default(),
            is_scheduled: AtomicBool::default(),
            next_read: Mutex::default(),
        });
        let verifier = Arc::new(TokenVerifier::from_config(source, stored.is_some())?);
        Ok(Self(Arc::new(State { copy: Mutex::new(Copy { verifier, document: None }), stored })))
    }

    /// Reads the fetched set in the background if it is due. A request never waits for it.
    pub fn refresh(&self) {
        let Some(stored) = &self.0.stored else { return };
        let is_due = lock(&stored.next_read).is_none_or(|at| at <= Instant::now());
        if !is_due || stored.is_scheduled.swap(true, Ordering::Relaxed) {
            return;
        }
        let state = self.0.clone();
        tokio::spawn(async move {
            let read_at = state.read_after(Instant::now(), REFRESH_INTERVAL).await;
            if let Some(stored) = &state.stored {
                *lock(&stored.next_read) = read_at.map(|at| at + REFRESH_INTERVAL);
                stored.is_scheduled.store(false, Ordering::Relaxed);
            }
        });
    }

    /// The buyer in `token` and the end of its lifetime, if the token is valid.
    pub async fn prove(&self, token: &str) -> Result<Proof, Unproven> {
        self.refresh();
        let verifier = self.0.verifier();
        let mut outcome = verifier.prove(token);
        let may_be_new = |verifier: &TokenVerifier| verifier.is_empty() || verifier.lacks_key_of(token);
        if outcome != Err(TokenError::UnknownKey) || !may_be_new(&verifier) {
            return Ok(outcome?);
        }
        if self.0.stored.is_some() {
            // If this takes too long, the token is refused, as it is without a read.
            let _ = timeout(UNKNOWN_WAIT, self.0.read_after(Instant::now(), UNKNOWN_INTERVAL)).await;
        }
        let verifier = self.0.verifier();
        outcome = verifier.prove(token);
        if outcome == Err(TokenError::UnknownKey) && may_be_new(&verifier) {
            metrics::counter!("token_keys_unknown").increment(1);
            if verifier.is_empty() {
                return Err(Unproven::NoKeys);
            }
        }
        Ok(outcome?)
    }
}

impl State {
    fn verifier(&self) -> Arc<TokenVerifier> {
        lock(&self.copy).verifier.clone()
    }

    /// Reads the stored set, unless another read has begun since `asked_at` or within the last `interval`. Callers at
    /// the same time wait for one read. Returns when the newest read began.
    async fn read_after(&self, asked_at: Instant, interval: Duration) -> Option<Instant> {
        let stored = self.stored.as_ref()?;
        let mut read_at = stored.read_at.lock().await;
        if read_at.is_some_and(|at| at >= asked_at || at.elapsed() < interval) {
            return *read_at;
        }
        *read_at = Some(Instant::now());
        match stored.read().await {
            Ok(Some(document)) => self.use_document(document),
            // No set has been fetched yet: the configured keys stay.
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "could not read the token keys from Redis; the keys in use stay");
            }
        }
        *read_at
    }

    fn use_document(&self, document: String) {
        let mut copy = lock(&self.copy);
        if copy.document.as_ref() == Some(&document) {
            return;
        }
        match KeySet::parse(&document) {
            Ok(set) => {
                let verifier = Arc::new(copy.verifier.with_keys(set));
                *copy = Copy { verifier, document: Some(document) };
            }
            Err(why) => {
                tracing::error!(why, "the token keys in Redis cannot be used; the keys in use stay");
            }
        }
    }
}

impl StoredKeys {
    async fn read(&self) -> Result<Option<String>, LinkError> {
        if let Some(replica) = &self.replica {
            match replica.token_keys_within(REPLICA_LIMIT).await {
                Err(error) => {
                    tracing::debug!(%error, "could not read the token keys from the replica; reading main's");
                }
                found => return found,
            }
        }
        self.main.token_keys_within(self.main.call_limit()).await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
