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
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

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
            let mut state = app.store.newest().await;
            let assessment = state.observe(&sample, &app.settings);
            LagReport::of(&app.settings, &sample, &assessment, &state)
        }
    }
}

/// Collects and judges one sample, saves the state, and sends the notices that are due.
async fn observe(app: &App) -> LagReport {
    let sample = app.collector.collect().await;
    let (mut state, (assessment, due)) = app
        .store
        .update(|state| {
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
        state = app.store.update(record).await.0;
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
