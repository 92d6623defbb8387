//! The watch: look, judge, remember, tell; for a minute, or once.

use crate::App;
use crate::eyes::ASK_LIMIT;
use crate::instances;
use crate::memory::{Letter, Looked};
use crate::notice::Occasion;
use crate::raise::Raised;
use crate::report::Report;
use crate::sample::Sample;
use crate::store::Kept;
use crate::trigger::{Alarm, Trigger};
use rds::RdsError;
use std::sync::PoisonError;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};
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
            let looked = kept.memory.look(&sample, None, &app.settings);
            Report::of(app, &sample, &looked, &kept.memory)
        }
        Trigger::AllowRaise => {
            let mut report = look(app, None).await;
            report.raise_allowed = change(app, |kept| kept.memory.raised = None).await.is_some();
            report
        }
    }
}

/// One look, remembered and told.
async fn look(app: &App, alarm: Option<&Alarm>) -> Report {
    let sample = app.eyes.look().await;
    let mut tries = 0;
    let (mut kept, looked, mut letters, is_saved) = loop {
        tries += 1;
        let (mut kept, is_stored) = load(app).await;
        if alarm.is_some_and(|alarm| kept.memory.knows(alarm)) {
            return Report::of_repeated_alarm(app, &sample);
        }
        let looked = kept.memory.look(&sample, alarm, &app.settings);
        let letters = kept.memory.claim(sample.at_ms);
        if !is_stored {
            break (kept, looked, letters, false);
        }
        match app.store.save(kept.clone()).await {
            Ok(saved) => break (saved, looked, letters, true),
            Err(StoreError::Conflict) if tries < TRIES => {}
            Err(error) => {
                tracing::error!(%error, "what was seen could not be written down");
                break (kept, looked, letters, false);
            }
        }
    };
    remember(app, &kept);
    // Only what is written down is done once.
    if is_saved && let Some(raised) = &looked.raise {
        letters.extend(raise(app, raised, &looked, &sample, &mut kept).await);
    }
    let tried = app.post.send(letters).await;
    if !tried.is_empty() {
        settle(app, &tried, &mut kept).await;
    }
    let mut report = Report::of(app, &sample, &looked, &kept.memory);
    let sent = tried.into_iter().filter(|letter| !letter.to_topic && !letter.to_bus);
    report.notices = sent.map(|letter| letter.notice).collect();
    report.measure();
    report
}

/// Raises the class, and returns what is to be sent about it.
async fn raise(app: &App, raised: &Raised, looked: &Looked, sample: &Sample, kept: &mut Kept) -> Vec<Letter> {
    tracing::warn!(from = raised.from, to = raised.to, "the replica is given a bigger class");
    let mut assessment = looked.assessment.clone();
    let (from, to) = (&raised.from, &raised.to);
    let asked = timeout(ASK_LIMIT, instances::raise(&app.eyes.rds, &app.settings.replica, raised)).await;
    let no_answer = |_| Err(RdsError::Unreachable("no answer in time; look whether it was done".into()));
    let occasion = match asked.unwrap_or_else(no_answer) {
        Ok(()) => {
            assessment.why = format!("the class is raised from {from} to {to}");
            Occasion::Raised
        }
        Err(error) => {
            tracing::error!(%error, "RDS did not confirm the bigger class; it is not asked again");
            assessment.why = format!("the class was to be raised from {from} to {to}, once: {error}");
            Occasion::NotRaised
        }
    };
    let write = |kept: &mut Kept| {
        kept.memory.write(occasion, &assessment, sample, &app.settings);
        kept.memory.claim(sample.at_ms)
    };
    match change(app, write).await {
        Some(letters) => letters,
        None => write(kept),
    }
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
