//! Reads of the stored key set: when one is due, and which server's answer counts.
//!
//! A lagging or cut-off replica would refuse buyers whose key is new, and accept a key that the provider has withdrawn.
//! So its set counts only if the replica is near main and the set is not older than the copy. An unknown key is
//! about to refuse a buyer, so that main is asked in any case.

use super::{REFRESH_INTERVAL, State, UNKNOWN_INTERVAL, UNKNOWN_WAIT};
use crate::item_cache::REPLICA_LIMIT;
use crate::main_use::{MainUse, NEARBY_LIMIT};
use crate::queue::{LinkError, Queue, ReadFrom, StoredTokenKeys, random_part_of};
use futures::future::join;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Mutex as AsyncMutex;

/// Why the set is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// [`REFRESH_INTERVAL`] has passed.
    Due,
    /// A token names a key that the copy lacks.
    UnknownKey,
}

/// Where main is asked only before refusals, the first read in the background that may ask main comes after a random part
/// of this. So the processes of an opening do not connect to main at once if the replica lags or there is none.
const MAIN_SPREAD: Duration = Duration::from_secs(60);

/// When the newest reads began.
#[derive(Clone, Copy, Debug, Default)]
struct ReadTimes {
    of_any: Option<Instant>,
    /// Of those that asked main.
    of_main: Option<Instant>,
}

/// Where the fetched set is stored.
#[derive(Debug)]
pub(super) struct StoredKeys {
    replica: Option<Queue>,
    main: Queue,
    main_use: MainUse,
    /// No read in the background asks main before.
    spares_main_until: Instant,
    /// The lock is held during a read.
    times: Arc<AsyncMutex<ReadTimes>>,
    pub(super) is_scheduled: AtomicBool,
    /// When the next read in the background is due.
    pub(super) next_read: Mutex<Option<Instant>>,
}

impl StoredKeys {
    pub(super) fn new(replica: Option<Queue>, main: Queue, main_use: MainUse) -> Self {
        let spread = if main_use == MainUse::Always { Duration::ZERO } else { random_part_of(MAIN_SPREAD) };
        Self {
            replica,
            main,
            main_use,
            spares_main_until: Instant::now() + spread,
            times: Arc::default(),
            is_scheduled: AtomicBool::default(),
            next_read: Mutex::default(),
        }
    }

    /// The reads for a token with an unknown key, one after the other until its key is known, and how long the token waits
    /// for each.
    pub(super) fn reads_for_unknown_key(&self) -> &'static [(Cause, Duration)] {
        match self.main_use {
            MainUse::Always => &[(Cause::UnknownKey, UNKNOWN_WAIT)],
            MainUse::BeforeRefusals => &[(Cause::Due, NEARBY_LIMIT), (Cause::UnknownKey, UNKNOWN_WAIT)],
        }
    }

    async fn of_main(&self) -> Result<Option<StoredTokenKeys>, LinkError> {
        self.main.token_keys(ReadFrom::Main, self.main.call_limit()).await
    }
}

impl State {
    /// Reads the stored set, unless another read has begun since `asked_at` or shortly before. Callers at the same time
    /// wait for one read. Returns when the newest read began.
    ///
    /// The read is a task of its own: a caller that stops waiting does not stop it.
    pub(super) async fn read_after(self: &Arc<Self>, asked_at: Instant, cause: Cause) -> Option<Instant> {
        let stored = self.stored.as_ref()?;
        let mut times = stored.times.clone().lock_owned().await;
        let (newest, interval) = match cause {
            Cause::Due => (times.of_any, REFRESH_INTERVAL),
            Cause::UnknownKey => (times.of_main, UNKNOWN_INTERVAL),
        };
        if newest.is_some_and(|at| at >= asked_at || at.elapsed() < interval) {
            return newest;
        }
        let (state, began) = (self.clone(), Instant::now());
        let read = tokio::spawn(async move {
            times.of_any = Some(began);
            if state.read(cause).await {
                times.of_main = Some(began);
            }
        });
        if let Err(error) = read.await {
            tracing::error!(%error, "the read of the token keys ended early; the keys in use stay");
        }
        Some(began)
    }

    /// Returns whether main was asked.
    async fn read(&self, cause: Cause) -> bool {
        let Some(stored) = &self.stored else { return false };
        let (doubtful, answer) = match cause {
            Cause::Due => match self.use_replica(stored).await {
                Replicated::Used => return false,
                Replicated::Doubtful(set) if Instant::now() < stored.spares_main_until => {
                    self.use_unless_older(set);
                    return false;
                }
                Replicated::Doubtful(set) => (set, stored.of_main().await),
            },
            // Main may be far or hang, and the token waits: the replica may have the key.
            Cause::UnknownKey => {
                let (replicated, answer) = join(self.use_replica(stored), stored.of_main()).await;
                (replicated.doubtful(), answer)
            }
        };
        match answer {
            Ok(Some(set)) => self.use_set(set),
            // No set has been fetched yet: the configured keys stay.
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "could not read the token keys from main's Redis; the newer of the keys in use and the replica's stay");
                self.use_unless_older(doubtful);
            }
        }
        true
    }

    /// Uses a set that the replica cannot vouch for, where main is not asked or does not answer.
    fn use_unless_older(&self, doubtful: Option<StoredTokenKeys>) {
        if let Some(set) = doubtful.filter(|set| !self.is_newer_than(set)) {
            self.use_set(set);
        }
    }

    /// Uses the replica's set if it can be trusted.
    async fn use_replica(&self, stored: &StoredKeys) -> Replicated {
        let Some(replica) = &stored.replica else { return Replicated::Doubtful(None) };
        match replica.token_keys(ReadFrom::Replica, REPLICA_LIMIT).await {
            Ok(Some(set)) if !set.is_stale && !self.is_newer_than(&set) => {
                self.use_set(set);
                Replicated::Used
            }
            Ok(set) => Replicated::Doubtful(set),
            Err(error) => {
                tracing::debug!(%error, "could not read the token keys from the replica; reading main's");
                Replicated::Doubtful(None)
            }
        }
    }
}

/// What became of the replica's answer.
enum Replicated {
    Used,
    /// It counts only if main does not answer.
    Doubtful(Option<StoredTokenKeys>),
}

impl Replicated {
    fn doubtful(self) -> Option<StoredTokenKeys> {
        match self {
            Self::Used => None,
            Self::Doubtful(set) => set,
        }
    }
}
