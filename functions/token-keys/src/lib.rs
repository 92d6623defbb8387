//! Fetches the keys with which the issuer signs buyers' tokens, and hands them over to `token-keys-store`.
//!
//! The function is in no VPC: it calls the issuer on the internet, which a VPC reaches only through a NAT gateway. So it
//! cannot reach Redis, and the only thing that it may do in AWS is to invoke `token-keys-store`, which writes the keys
//! and nothing else. An answer of the issuer that cannot be used changes nothing: the keys of the last good fetch stay.
//!
//! A run fetches every 15 s and lasts longer than the schedule's interval, so that a run that starts late leaves a gap
//! of at most 44 s. [`FETCH_INTERVAL`] and [`RUN_SECONDS`] say what this promises.

mod address;
mod client;
mod issuer;
mod store;

use client::HttpsClient;
use issuer::Issuer;
use serde::Serialize;
use shared::config::{self, ConfigError, Source};
use shared::item_runs::pause;
use shared::telemetry::Telemetry;
use shared::token_keys::{FetchedKeys, KeySource, is_local};
use std::time::{Duration, Instant};
use store::KeyStore;

/// How often the keys are fetched.
pub const FETCH_INTERVAL: Duration = Duration::from_secs(15);
/// The length of a run. The schedule starts one every minute, up to 59 s late. From the last fetch of a run to the first
/// of the next are then at most 119 - 75 = 44 s, and 60 s more if a start is lost.
pub const RUN_SECONDS: u64 = 75;
/// The time limit of one fetch, discovery included.
pub const FETCH_LIMIT: Duration = Duration::from_secs(5);

/// State that one process of the function keeps between runs.
#[derive(Debug)]
pub struct App {
    issuer: Issuer,
    store: KeyStore,
    telemetry: Telemetry,
    run_seconds: u64,
    interval: Duration,
}

impl App {
    /// Reads the configuration. Nothing is connected yet.
    pub fn from_config(source: Source, region: &str, telemetry: Telemetry) -> Result<Self, ConfigError> {
        let (issuer_name, from_name) = ("FAIRDROP_TOKEN_ISSUER", "FAIRDROP_TOKEN_KEYS_FROM");
        let issuer = config::required(source, issuer_name)?;
        let from = KeySource::from_config(source)?.ok_or(ConfigError::Missing(from_name))?;
        let first_url = match &from {
            KeySource::Discovery => &issuer,
            KeySource::Url(url) => url,
        };
        let client = HttpsClient::new(is_local(first_url)).map_err(|why| ConfigError::bad(from_name, why))?;
        let interval_ms = config::number(source, "FAIRDROP_TOKEN_KEYS_INTERVAL_MS", 15_000, 50, 60_000)?;
        Ok(Self {
            issuer: Issuer { issuer, from, client },
            store: KeyStore::from_config(source, region)?,
            telemetry,
            run_seconds: config::number(source, "FAIRDROP_TOKEN_KEYS_RUN_SECONDS", RUN_SECONDS, 1, 890)?,
            interval: Duration::from_millis(interval_ms),
        })
    }

    /// The longest run, also used if the invocation has no usable deadline.
    pub fn longest_run(&self) -> Duration {
        Duration::from_secs(self.run_seconds)
    }
}

/// What a run has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Key sets that were fetched and stored.
    pub stored: u64,
    /// Fetches and hand-overs that failed.
    pub failures: u64,
}

/// Fetches the keys at once, and then every 15 s until `time` has passed.
pub async fn run(app: &App, time: Duration) -> Summary {
    let mut due = Instant::now();
    let until = due + time;
    let mut summary = Summary::default();
    loop {
        if fetch_and_store(app).await {
            summary.stored += 1;
        } else {
            summary.failures += 1;
            metrics::counter!("token_keys_failures").increment(1);
        }
        app.telemetry.invocation_done();
        due += app.interval;
        if due > until {
            break;
        }
        pause(due.saturating_duration_since(Instant::now()), until).await;
    }
    tracing::info!(?summary, "the run has ended");
    summary
}

/// Whether a set was fetched and stored. After a failed fetch the store is called all the same: it measures the age of
/// the set that it has.
async fn fetch_and_store(app: &App) -> bool {
    let began = Instant::now();
    let document = match tokio::time::timeout(FETCH_LIMIT, app.issuer.keys()).await {
        Ok(Ok(document)) => Some(document),
        Ok(Err(error)) => {
            tracing::warn!(%error, "could not fetch the issuer's keys; the stored keys stay");
            None
        }
        Err(_) => {
            tracing::warn!(
                limit_seconds = FETCH_LIMIT.as_secs(),
                "could not fetch the issuer's keys in time; the stored keys stay"
            );
            None
        }
    };
    let is_fetched = document.is_some();
    let fetched_ms_ago = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    match app.store.hand_over(&FetchedKeys { document, fetched_ms_ago }).await {
        Ok(()) => is_fetched,
        Err(error) => {
            tracing::error!(%error, "could not hand the issuer's keys over to token-keys-store");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How late EventBridge Scheduler may start a run, in seconds.
    const LATEST: u64 = 59;

    /// The longest time between two fetches of runs, whose starts are late by `late` seconds each; `None`
    /// if the start is lost.
    fn longest_gap(late: &[Option<u64>]) -> u64 {
        let starts = late.iter().zip(0..).filter_map(|(late, minute)| Some(minute * 60 + (*late)?));
        let fetches = |start| (0..=RUN_SECONDS / FETCH_INTERVAL.as_secs()).map(move |n| start + n * 15);
        let mut all: Vec<u64> = starts.flat_map(fetches).collect();
        all.sort_unstable();
        all.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// docs/IDENTITY.md says so.
    #[test]
    fn fetches_are_at_most_44_seconds_apart_and_60_more_if_a_start_is_lost() {
        let (mut all, mut with_loss) = (0, 0);
        for late in 0..=LATEST {
            for next in 0..=LATEST {
                all = all.max(longest_gap(&[Some(late), Some(next)]));
                with_loss = with_loss.max(longest_gap(&[Some(late), None, Some(next)]));
            }
        }
        assert_eq!((all, with_loss), (44, 104));
        let refresh = shared::token_keys::REFRESH_INTERVAL.as_secs();
        assert!(
            all + FETCH_LIMIT.as_secs() + refresh < 60 && with_loss + FETCH_LIMIT.as_secs() + refresh < 120
        );
    }
}
