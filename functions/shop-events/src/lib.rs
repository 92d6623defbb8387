//! Publishes what the ledger decided to the shop's EventBridge bus.
//!
//! The ledger writes an event in the transaction that decides a change (the *outbox*). This function reads pending
//! events in the order of their item's sequence, sends them, and marks what EventBridge accepted. An event is published
//! at least once, with an id by which the shop recognises a repetition.
//!
//! One run lasts three minutes and a run starts every minute, so that a start that comes late, or never, costs nothing.
//! One of the runs has the turn ([`ledger::OutboxTurn`]); if it dies, another has it as soon as PostgreSQL notices. After
//! a failover the new main's ledger has the outbox, and its function goes on from there: a run in a region without the
//! lease ends at once.

pub mod event;
mod publisher;
mod rounds;
mod upkeep;

use lease::{Lease, LeaseError};
use ledger::Ledger;
use publisher::Publisher;
use serde::Serialize;
use shared::config::{ConfigError, Source};
use shared::schedule;
use shared::telemetry::Telemetry;
use std::time::{Duration, Instant};

/// State that one process of the function keeps between runs.
#[derive(Debug)]
pub struct App {
    ledger: Ledger,
    lease: Lease,
    publisher: Publisher,
    telemetry: Telemetry,
    longest_run: Duration,
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    pub published: u64,
    /// Events that EventBridge refused permanently.
    pub dead_lettered: u64,
    /// Turns that failed, or in which EventBridge did not accept an event.
    pub failures: u64,
}

impl App {
    /// Reads the configuration of a function in `region`. Opens no connection.
    pub async fn from_config(
        source: Source<'_>,
        region: &str,
        telemetry: Telemetry,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            ledger: Ledger::from_config(source)?,
            lease: Lease::from_config(source).await?,
            publisher: Publisher::from_config(source, region)?,
            telemetry,
            longest_run: schedule::loop_run(source, "FAIRDROP_EVENTS_RUN_SECONDS")?,
        })
    }

    /// The longest run, also used if the invocation has no usable deadline.
    pub fn longest_run(&self) -> Duration {
        self.longest_run
    }
}

/// Publishes events for `time`, if this region is main.
pub async fn run(app: &App, time: Duration) -> Summary {
    let until = Instant::now() + time;
    app.lease.begin().await;
    if let Err(error @ LeaseError::Elsewhere { .. }) = app.lease.permit() {
        tracing::debug!(%error, "this region is not main; the run ends and publishes nothing");
        return Summary::default();
    }
    let rounds = rounds::publish_until(app, until);
    let upkeep = upkeep::keep_until(app, until);
    let (summary, (), ()) = tokio::join!(rounds, upkeep, app.lease.keep_until(until));
    app.telemetry.invocation_done();
    tracing::info!(?summary, "the run has ended");
    summary
}
