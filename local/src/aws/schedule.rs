//! Stands for EventBridge Scheduler: invokes a function at an interval.

use crate::aws::lambda::Invoke;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// How much longer than the interval a run may take.
const GRACE: Duration = Duration::from_millis(500);

/// A schedule that invokes a function until it is dropped.
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
    /// Invokes `function` immediately and then every `interval`, or when the previous run
    /// has ended: one process takes one run at a time. The schedule stops waiting for a run that has not
    /// answered `GRACE` after the interval.
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
