//! A run: collect a sample, judge it, save the state and send the notices that are due. A scheduled run repeats this
//! for a minute.

use crate::App;
use crate::report::LagReport;
use crate::state::OutboxEntry;
use crate::store::LoadedState;
use crate::trigger::{Alarm, LagTrigger};
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
            let mut report = observe(app, None).await;
            for samples in 1_u32.. {
                let next = began + interval * samples;
                if next >= until {
                    break;
                }
                sleep_until(next).await;
                let earlier = report;
                report = observe(app, None).await;
                report.samples += earlier.samples;
                report.notices.splice(0..0, earlier.notices);
            }
            report
        }
        LagTrigger::Alarm(alarm) => observe(app, Some(alarm)).await,
        LagTrigger::Observe => {
            let sample = app.collector.collect().await;
            let mut loaded = load(app).await.0;
            let assessment = loaded.state.observe(&sample, None, &app.settings);
            LagReport::of(app, &sample, &assessment, &loaded.state)
        }
    }
}

/// Collects and judges one sample, saves the state, and sends the notices that are due.
async fn observe(app: &App, alarm: Option<&Alarm>) -> LagReport {
    let sample = app.collector.collect().await;
    let mut tries = 0;
    let (mut loaded, assessment, entries) = loop {
        tries += 1;
        let (mut loaded, is_from_table) = load(app).await;
        if alarm.is_some_and(|alarm| loaded.state.has_handled(alarm)) {
            return LagReport::of_repeated_alarm(app, &sample);
        }
        let assessment = loaded.state.observe(&sample, alarm, &app.settings);
        let entries = loaded.state.take_unsent(sample.at_ms);
        if !is_from_table {
            break (loaded, assessment, entries);
        }
        match app.store.save(loaded.clone()).await {
            Ok(saved) => break (saved, assessment, entries),
            Err(StoreError::Conflict) if tries < TRIES => {}
            Err(error) => {
                tracing::error!(
                    %error,
                    "could not save the state after a sample; this process keeps it in memory, and another run may send the same notices"
                );
                break (loaded, assessment, entries);
            }
        }
    };
    keep_in_memory(app, &loaded);
    let attempted = app.publisher.send(entries).await;
    if !attempted.is_empty() {
        save_sends(app, &attempted, &mut loaded).await;
    }
    let mut report = LagReport::of(app, &sample, &assessment, &loaded.state);
    let sent = attempted.into_iter().filter(|entry| !entry.to_topic && !entry.to_bus);
    report.notices = sent.map(|entry| entry.notice).collect();
    report.write_metrics();
    report
}

/// Records in the saved state what was sent. If that fails, this process keeps it in memory.
async fn save_sends(app: &App, attempted: &[OutboxEntry], loaded: &mut LoadedState) {
    loaded.state.record_sends(attempted);
    for _ in 0..TRIES {
        let newest = match app.store.load().await {
            Ok(mut newest) => {
                newest.state.record_sends(attempted);
                app.store.save(newest).await
            }
            Err(error) => Err(error),
        };
        match newest {
            Ok(saved) => return keep_in_memory(app, &saved),
            Err(StoreError::Conflict) => {}
            Err(error) => {
                tracing::error!(%error, "could not save which notices were sent; the next run may send them again");
                return keep_in_memory(app, loaded);
            }
        }
    }
    tracing::error!(
        tries = TRIES,
        "could not save which notices were sent: other runs wrote the state first; the next run may send them again"
    );
    keep_in_memory(app, loaded);
}

/// The newest state, and whether the table returned it. While the table is unavailable, the state in this process's
/// memory stands in: a notice may then be sent twice, which is better than not at all.
async fn load(app: &App) -> (LoadedState, bool) {
    match app.store.load().await {
        Ok(loaded) => (loaded, true),
        Err(error) => {
            tracing::error!(%error, "could not read the saved state; using the state in this process's memory");
            (app.last_state.lock().unwrap_or_else(PoisonError::into_inner).clone(), false)
        }
    }
}

fn keep_in_memory(app: &App, loaded: &LoadedState) {
    *app.last_state.lock().unwrap_or_else(PoisonError::into_inner) = loaded.clone();
}
