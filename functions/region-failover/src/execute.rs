//! An execution: observe, decide, save, act, and observe again, until the run ends or the time is up.
//!
//! An execution has saved the newest version of the run. If it finds that another execution has saved since, it stops
//! at once: it was overtaken, and has done nothing that was not saved.

use crate::app::App;
use crate::observation::{FailoverAction, Obstacle};
use crate::store::{RunRecord, StoredRun};
use crate::transition::Decision;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use versioned::StoreError;

/// Limit of one observation: main may be lost, and each of its servers is waited for.
const OBSERVE_LIMIT: Duration = Duration::from_secs(20);
/// Limit of one action. The next action goes on with an unfinished reconciliation.
const ACTION_LIMIT: Duration = Duration::from_secs(60);
/// An execution that has not saved for this long counts as dead, in milliseconds.
pub(crate) const HELD_MS: u64 = 90_000;
/// A live execution saves at least this often.
const SAVE_INTERVAL: Duration = Duration::from_secs(20);

/// Why an execution ended before the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The invocation's time limit. The schedule resumes the run.
    TimeOver,
    /// Another execution has taken over the run.
    Overtaken,
}

/// Executes the run in `stored` until it ends, or until `until`. Returns the run as it was saved last.
pub async fn execute(app: &App, mut stored: StoredRun, until: Instant) -> (StoredRun, Option<Stopped>) {
    let Some(mut record) = stored.record.clone() else { return (stored, None) };
    if !record.run.is_active() {
        return (stored, None);
    }
    let mut saved_at = Instant::now();
    let stopped = loop {
        let Some(kind) = record.run.observation_kind() else { break None };
        if Instant::now() + OBSERVE_LIMIT > until {
            break Some(Stopped::TimeOver);
        }
        let observed_at = app.servers.clock.now();
        let observation = timeout(OBSERVE_LIMIT, Box::pin(app.servers.observe(kind, &record.run)));
        let observation = observation.await.unwrap_or_else(|_| Err(timed_out("observation", OBSERVE_LIMIT)));
        if let Err(Obstacle(why)) = &observation {
            tracing::warn!(
                run = record.run.id,
                step = ?record.run.step,
                why,
                "observation failed; the next one follows after the observe interval"
            );
        }
        let mut run = record.run.clone();
        let next = run.observed(&observation, observed_at, app.servers.timing);
        let is_due = run != record.run || saved_at.elapsed() > SAVE_INTERVAL;
        record.run = run;
        if is_due {
            if record.run.step != stored.record.as_ref().map_or(record.run.step, |before| before.run.step) {
                tracing::info!(run = record.run.id, step = ?record.run.step, state = ?record.run.state, "step begins");
            }
            record.held_until_ms = observed_at.as_millis() + HELD_MS;
            match save(app, &stored, &record, until).await {
                Ok(saved) => (stored, saved_at) = (saved, Instant::now()),
                Err(stopped) => break Some(stopped),
            }
        }
        match next {
            Decision::Do(action) => {
                let done = timeout(ACTION_LIMIT, Box::pin(app.servers.perform(&action, &record.run))).await;
                let done = done.unwrap_or_else(|_| Err(timed_out("action", ACTION_LIMIT)));
                let (Ok(what) | Err(Obstacle(what))) = &done;
                if done.is_err() {
                    tracing::warn!(
                        run = record.run.id,
                        step = ?record.run.step,
                        why = what,
                        "action failed; the next observation decides whether to repeat it"
                    );
                    sleep(app.observe_interval).await;
                }
                if !what.is_empty() {
                    record.run.set_last(what);
                }
                record.run.is_detaching |= done.is_ok() && action == FailoverAction::DetachRedis;
                // AWS has begun what takes minutes, and refuses to begin it again.
                if done.is_ok() && action.begins_a_change() {
                    sleep(app.observe_interval).await;
                }
            }
            Decision::Again => {}
            Decision::Pause => sleep(app.observe_interval).await,
            Decision::End => break None,
        }
    };
    let is_over = stored.record.as_ref().is_some_and(|record| !record.run.is_active());
    if is_over {
        archive(app, &record).await;
    }
    (stored, stopped)
}

/// Saves the run; tries again while the table does not answer.
async fn save(
    app: &App,
    stored: &StoredRun,
    record: &RunRecord,
    until: Instant,
) -> Result<StoredRun, Stopped> {
    loop {
        match app.store(record.run.is_drill).save(stored.version, record.clone()).await {
            Ok(saved) => return Ok(saved),
            // The conflict may be this very save, whose answer was lost.
            Err(StoreError::Conflict) => match app.store(record.run.is_drill).load().await {
                Ok(newest) if newest.record.as_ref() == Some(record) => return Ok(newest),
                Ok(_) => return Err(Stopped::Overtaken),
                Err(error) => {
                    tracing::warn!(%error, run = record.run.id, "could not load the run; trying again")
                }
            },
            Err(error) => {
                tracing::warn!(%error, run = record.run.id, "could not save the run; no action is taken before it is saved")
            }
        }
        if Instant::now() + app.observe_interval > until {
            return Err(Stopped::TimeOver);
        }
        sleep(app.observe_interval).await;
    }
}

/// Archives a run that has ended.
async fn archive(app: &App, record: &RunRecord) {
    if let Err(error) = app.store(record.run.is_drill).archive(record).await {
        tracing::warn!(%error, run = record.run.id, "could not archive the ended run; its report is lost when the next run begins");
    }
}

fn timed_out(what: &str, limit: Duration) -> Obstacle {
    Obstacle(format!("the {what} timed out after {} s", limit.as_secs()))
}
