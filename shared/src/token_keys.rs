//! The keys that an edge trusts: the configured ones or, once Redis has them, those that the function `token-keys` has
//! fetched from the issuer.
//!
//! Each process keeps a copy. It reads the set again in the background, from the region's own replica if there is one;
//! a token that the copy verifies never waits. A token that names an unknown key waits for a read that also asks main,
//! because it would be refused otherwise. Nothing here calls the issuer, whatever tokens arrive. If a read fails or the
//! set cannot be used, the copy stays.
//!
//! Main's set always counts. A replica that lags, has no set or has an older one than the copy is not believed: main is
//! asked (`stored`).

mod source;
mod stored;

pub use source::{KeySource, is_accepted, is_local};

use crate::config::{ConfigError, Source};
use crate::main_use::MainUse;
use crate::queue::{Queue, StoredTokenKeys};
use crate::stamp::Stamp;
use crate::token::key_set::KeySet;
use crate::token::{Proof, TokenError, TokenVerifier};
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use stored::{Cause, StoredKeys};
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

/// The keys in use, the document that they come from, and when its fetch began.
#[derive(Debug)]
struct Copy {
    verifier: Arc<TokenVerifier>,
    document: Option<String>,
    fetched_at: Option<Stamp>,
}

impl TokenKeys {
    /// Reads the configured keys. If `FAIRDROP_TOKEN_KEYS_FROM` is set, the fetched ones are read from `replica`, or
    /// from `main` if there is no replica or its answer cannot be trusted.
    pub fn from_config(
        source: Source,
        replica: Option<Queue>,
        main: Queue,
        main_use: MainUse,
    ) -> Result<Self, ConfigError> {
        let stored = KeySource::from_config(source)?.map(|_| StoredKeys::new(replica, main, main_use));
        let verifier = Arc::new(TokenVerifier::from_config(source, stored.is_some())?);
        let copy = Mutex::new(Copy { verifier, document: None, fetched_at: None });
        Ok(Self(Arc::new(State { copy, stored })))
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
            let read_at = state.read_after(Instant::now(), Cause::Due).await;
            if let Some(stored) = &state.stored {
                *lock(&stored.next_read) = read_at.map(|at| at + REFRESH_INTERVAL);
                stored.is_scheduled.store(false, Ordering::Relaxed);
            }
        });
    }

    /// The buyer in `token` and the end of its lifetime, if the token is valid.
    pub async fn prove(&self, token: &str) -> Result<Proof, Unproven> {
        self.refresh();
        let mut verifier = self.0.verifier();
        let mut outcome = verifier.prove(token);
        let may_be_new = |verifier: &TokenVerifier| verifier.is_empty() || verifier.lacks_key_of(token);
        for (cause, wait) in self.0.stored.iter().flat_map(StoredKeys::reads_for_unknown_key) {
            if outcome != Err(TokenError::UnknownKey) || !may_be_new(&verifier) {
                return Ok(outcome?);
            }
            // If this takes too long, the token is refused, as it is without a read. The read goes on.
            let _ = timeout(*wait, self.0.read_after(Instant::now(), *cause)).await;
            verifier = self.0.verifier();
            outcome = verifier.prove(token);
        }
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

    /// Whether the copy is from a later fetch than `set`.
    fn is_newer_than(&self, set: &StoredTokenKeys) -> bool {
        set.fetched_at < lock(&self.copy).fetched_at
    }

    fn use_set(&self, set: StoredTokenKeys) {
        let mut copy = lock(&self.copy);
        if copy.document.as_ref() == Some(&set.document) {
            copy.fetched_at = set.fetched_at;
            return;
        }
        match KeySet::parse(&set.document) {
            Ok(keys) => {
                let verifier = Arc::new(copy.verifier.with_keys(keys));
                *copy = Copy { verifier, document: Some(set.document), fetched_at: set.fetched_at };
            }
            Err(why) => {
                tracing::error!(why, "the token keys in Redis cannot be used; the keys in use stay");
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
