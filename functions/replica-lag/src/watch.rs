//! The watch: look, judge, remember, tell; for a minute, or once.

use crate::App;
use crate::memory::Letter;
use crate::report::Report;
use crate::store::Kept;
use crate::trigger::{Alarm, Trigger};
use std::sync::PoisonError;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use versioned::StoreError;

/// Tries to write the memory while other runs write, too.
const TRIES: u32 = 5;

/// Runs for what `trigger` asks, and ends within `time`.
pub async fn run(app: &App, trigger: &Trigger, time: Duration) -> Report {
    match trigger {
        Trigger::Schedule => {
            let (began, every) = (Instant::now(), app.timing.sample_every);
            let until = began + app.timing.watch.min(time);
            let mut report = look(app, None).await;
            for looks in 1_u32.. {
                let next = began + every * looks;
                if next >= until {
                    break;
                }
                sleep_until(next).await;
                let earlier = report;
                report = look(app, None).await;
                report.looks += earlier.looks;
                report.notices.splice(0..0, earlier.notices);
            }
            report
        }
        Trigger::Alarm(alarm) => look(app, Some(alarm)).await,
        Trigger::Look => {
            let sample = app.eyes.look().await;
            let mut kept = load(app).await.0;
            let assessment = kept.memory.look(&sample, None, &app.settings);
            Report::of(app, &sample, &assessment, &kept.memory)
        }
    }
}

/// One look, remembered and told.
async fn look(app: &App, alarm: Option<&Alarm>) -> Report {
    let sample = app.eyes.look().await;
    let mut tries = 0;
    let (mut kept, assessment, letters) = loop {
        tries += 1;
        let (mut kept, is_stored) = load(app).await;
        if alarm.is_some_and(|alarm| kept.memory.knows(alarm)) {
            return Report::of_repeated_alarm(app, &sample);
        }
        let assessment = kept.memory.look(&sample, alarm, &app.settings);
        let letters = kept.memory.claim(sample.at_ms);
        if !is_stored {
            break (kept, assessment, letters);
        }
        match app.store.save(kept.clone()).await {
            Ok(saved) => break (saved, assessment, letters),
            Err(StoreError::Conflict) if tries < TRIES => {}
            Err(error) => {
                tracing::error!(%error, "what was seen could not be written down");
                break (kept, assessment, letters);
            }
        }
    };
    remember(app, &kept);
    let tried = app.post.send(letters).await;
    if !tried.is_empty() {
        settle(app, &tried, &mut kept).await;
    }
    let mut report = Report::of(app, &sample, &assessment, &kept.memory);
    let sent = tried.into_iter().filter(|letter| !letter.to_topic && !letter.to_bus);
    report.notices = sent.map(|letter| letter.notice).collect();
    report.measure();
    report
}

/// Writes down what was sent.
async fn settle(app: &App, tried: &[Letter], kept: &mut Kept) {
    kept.memory.sent(tried);
    if change(app, |kept| kept.memory.sent(tried)).await.is_none() {
        remember(app, kept);
    }
}

/// Changes the newest memory; nothing where that could not be written down.
async fn change<T>(app: &App, change: impl Fn(&mut Kept) -> T) -> Option<T> {
    for _ in 0..TRIES {
        let mut kept = app.store.load().await.ok()?;
        let changed = change(&mut kept);
        match app.store.save(kept).await {
            Ok(kept) => {
                remember(app, &kept);
                return Some(changed);
            }
            Err(StoreError::Conflict) => {}
            Err(error) => {
                tracing::error!(%error, "a change could not be written down");
                return None;
            }
        }
    }
    None
}

/// The newest memory, and whether it is the table's. Where that does not answer, what this process
/// remembers has to do: a notice may then be sent twice, which is better than not at all.
async fn load(app: &App) -> (Kept, bool) {
    match app.store.load().await {
        Ok(kept) => (kept, true),
        Err(error) => {
            tracing::error!(%error, "what was seen before could not be read");
            (app.last.lock().unwrap_or_else(PoisonError::into_inner).clone(), false)
        }
    }
}

fn remember(app: &App, kept: &Kept) {
    *app.last.lock().unwrap_or_else(PoisonError::into_inner) = kept.clone();
}
