//! What EventBridge does: fires a function again and again.

use crate::aws::lambda::Invoke;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// What a run may take beyond its interval.
const GRACE: Duration = Duration::from_millis(500);

/// A schedule that fires until it is dropped.
#[derive(Debug)]
pub struct Schedule(JoinHandle<()>);

/// The event that a schedule sends.
pub fn event(region: &str) -> Value {
    json!({
        "version": "0",
        "id": "00000000-0000-0000-0000-000000000000",
        "detail-type": "Scheduled Event",
        "source": "aws.scheduler",
        "account": "123456789012",
        "time": "2026-01-01T00:00:00Z",
        "region": region,
        "resources": [],
        "detail": "{}",
    })
}

impl Schedule {
    /// Invokes `function` now and then every `interval`, or as soon as the run before
    /// has ended: here one process takes one run at a time. A run that says nothing
    /// for `GRACE` longer than the interval is dead.
    pub fn start(invoke: Invoke, function: &'static str, region: &str, interval: Duration) -> Self {
        let event = event(region).to_string();
        Self(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let _ = invoke.call_within(function, event.clone(), interval + GRACE).await;
            }
        }))
    }
}

impl Drop for Schedule {
    fn drop(&mut self) {
        self.0.abort();
    }
}
