//! A run: collect a sample, judge it, save the state and send the notices that are due. A scheduled run repeats this
//! for a minute.

use crate::App;
use crate::notice::ReplicaNotice;
use crate::notified::{Destination, Occasion};
use crate::report::{self, LagReport};
use crate::sample::StandbySample;
use crate::state::LagState;
use crate::trigger::LagTrigger;
use crate::verdict::Assessment;
use futures::future::join_all;
use std::sync::PoisonError;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use versioned::StoreError;

/// How often a run tries to write the state while other runs write it, too.
const TRIES: u32 = 5;

/// Does what `trigger` asks for, and ends within `time`.
pub async fn run(app: &App, trigger: &LagTrigger, time: Duration) -> LagReport {
    match trigger {
        LagTrigger::Schedule => {
            let (began, interval) = (Instant::now(), app.timing.interval);
            let until = began + app.timing.run.min(time);
            let mut report = observe(app).await;
            for samples in 1_u32.. {
                let next = began + interval * samples;
                if next >= until {
                    break;
                }
                sleep_until(next).await;
                let earlier = report;
                report = observe(app).await;
                report.samples += earlier.samples;
                report.notices.splice(0..0, earlier.notices);
            }
            report
        }
        LagTrigger::Alarm(alarm) => {
            tracing::info!(alarm, "an alarm changed its state; collecting a sample");
            observe(app).await
        }
        LagTrigger::Observe => {
            let sample = app.collector.collect().await;
            let mut state = load(app).await.1;
            let assessment = state.observe(&sample, &app.settings);
            LagReport::of(&app.settings, &sample, &assessment, &state)
        }
    }
}

/// Collects and judges one sample, saves the state, and sends the notices that are due.
async fn observe(app: &App) -> LagReport {
    let sample = app.collector.collect().await;
    let (mut state, (assessment, due)) = update(app, |state| {
        let assessment = state.observe(&sample, &app.settings);
        let due = state.claim_notices(assessment.verdict, sample.at_ms, &app.settings);
        (assessment, due)
    })
    .await;
    let mut notices = Vec::new();
    if !due.is_empty() {
        let sent = send(app, due, &assessment, &sample, &state).await;
        let (destinations, sent): (Vec<_>, Vec<_>) = sent.into_iter().unzip();
        let record =
            |state: &mut LagState| state.record_sends(&destinations, assessment.verdict, sample.at_ms);
        state = update(app, record).await.0;
        notices = sent;
        // Usually both destinations got the same one.
        notices.dedup();
    }
    let report = LagReport { notices, ..LagReport::of(&app.settings, &sample, &assessment, &state) };
    report::write_metrics(&sample, assessment.verdict, report.notices_pending);
    report
}

/// Sends what is due; returns what has arrived, and where.
async fn send(
    app: &App,
    due: Vec<(Destination, Occasion)>,
    assessment: &Assessment,
    sample: &StandbySample,
    state: &LagState,
) -> Vec<(Destination, ReplicaNotice)> {
    let sends = due.into_iter().map(async |(destination, occasion)| {
        let last = state.notified(destination);
        let notice = ReplicaNotice::write(occasion, assessment, sample, last, state, &app.settings);
        app.publisher.send(destination, &notice).await.then_some((destination, notice))
    });
    join_all(sends).await.into_iter().flatten().collect()
}

/// Changes the newest saved state, and returns it. If other runs write at the same time, the change is made again on what
/// they wrote. While the table is unavailable, the state in this process's memory stands in: a notice may then be sent
/// twice, which is better than not at all.
async fn update<T>(app: &App, change: impl Fn(&mut LagState) -> T) -> (LagState, T) {
    let mut tries = 0;
    let (state, result) = loop {
        tries += 1;
        let (version, mut state) = load(app).await;
        let result = change(&mut state);
        let Some(version) = version else { break (state, result) };
        match app.store.save(version, &state).await {
            Ok(()) => break (state, result),
            Err(StoreError::Conflict) if tries < TRIES => {}
            Err(error) => {
                tracing::error!(
                    %error,
                    "could not save the state; this process keeps it in memory, and another run may send the same notices"
                );
                break (state, result);
            }
        }
    };
    *app.last_state.lock().unwrap_or_else(PoisonError::into_inner) = state.clone();
    (state, result)
}

/// The newest state with its version, or the one in this process's memory without.
async fn load(app: &App) -> (Option<u64>, LagState) {
    match app.store.load().await {
        Ok((version, state)) => (Some(version), state),
        Err(error) => {
            tracing::error!(%error, "could not read the saved state; using the state in this process's memory");
            (None, app.last_state.lock().unwrap_or_else(PoisonError::into_inner).clone())
        }
    }
}
