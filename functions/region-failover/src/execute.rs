//! An execution: observe, decide, save, act, and observe again, until the run ends or the time is up.
//!
//! An execution has saved the newest version of the run. If it finds that another execution has saved since, it stops
//! at once: it was overtaken, and has done nothing that was not saved.

use crate::app::{App, Track};
use crate::observation::{Answer, FailoverAction, Observation, ObservationKind, Obstacle};
use crate::run::Decision;
use crate::store::{RunRecord, StoredRun};
use shared::stamp::Stamp;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use versioned::StoreError;

/// Limit of one observation: main may be lost, and each of its servers is waited for.
pub(crate) const OBSERVE_LIMIT: Duration = Duration::from_secs(20);
/// Limit of one action.
const ACTION_LIMIT: Duration = Duration::from_secs(60);
/// Limit of a reconciliation, and of a replay. The next one begins with the item that this limit has interrupted, so that an item ends if
/// it takes no longer than this.
const ITEMS_LIMIT: Duration = Duration::from_secs(600);
/// How long a replay may take to give its items up.
const GIVE_UP_LIMIT: Duration = Duration::from_secs(10);
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

/// Executes the run in `stored` until it ends, or until `until`, and archives it once it is over. Returns the run as it was
/// saved last.
pub(crate) async fn execute(
    app: &App,
    track: &Track,
    stored: StoredRun,
    until: Instant,
) -> (StoredRun, Option<Stopped>) {
    let Some(record) = stored.record.clone() else { return (stored, None) };
    let saved_at = Instant::now();
    let mut execution = Execution { app, track, stored, record, saved_at, until };
    let stopped = execution.go_on().await.err();
    let stored = execution.stored;
    if let Some(over) = stored.record.as_ref().filter(|record| !record.run.is_active()) {
        archive(track, over).await;
    }
    (stored, stopped)
}

struct Execution<'a> {
    app: &'a App,
    track: &'a Track,
    /// As it was saved last.
    stored: StoredRun,
    record: RunRecord,
    saved_at: Instant,
    until: Instant,
}

impl Execution<'_> {
    async fn go_on(&mut self) -> Result<(), Stopped> {
        while let Some(kind) = self.record.run.observation_kind() {
            if Instant::now() + OBSERVE_LIMIT > self.until {
                return Err(Stopped::TimeOver);
            }
            let observed_at = self.app.servers.clock.now();
            let observation = self.observe(kind).await;
            let next = self.record.run.observed(&observation, observed_at, self.app.servers.timing);
            self.save_if_due(observed_at).await?;
            match next {
                Decision::Do(action) => self.perform(&action).await?,
                Decision::Pause => sleep(self.app.observe_interval).await,
                Decision::Again | Decision::End => {}
            }
        }
        Ok(())
    }

    async fn observe(&self, kind: ObservationKind) -> Result<Observation, Obstacle> {
        let run = &self.record.run;
        let observation = timeout(OBSERVE_LIMIT, Box::pin(self.track.world.observe(kind, run))).await;
        let observation = observation.unwrap_or_else(|_| Err(timed_out("observation", OBSERVE_LIMIT)));
        if let Err(Obstacle(why)) = &observation {
            tracing::warn!(
                run = run.id,
                step = ?run.step,
                why,
                "observation failed; the next one follows after the observe interval"
            );
        }
        observation
    }

    async fn perform(&mut self, action: &FailoverAction) -> Result<(), Stopped> {
        let answer = self.answer(action).await?;
        let run = &mut self.record.run;
        let mut pauses = action.begins_a_change();
        if let Err(Obstacle(why)) | Ok(Answer::Refused(why) | Answer::Items { failed: Some(why), .. }) =
            &answer
        {
            pauses |= !matches!(answer, Ok(Answer::Refused(_)));
            tracing::warn!(
                run = run.id,
                step = ?run.step,
                why,
                "action failed; the next observation decides whether to repeat it"
            );
        }
        run.performed(action, &answer);
        if pauses {
            sleep(self.app.observe_interval).await;
        }
        Ok(())
    }

    /// Performs `action` within its limit, and saves the run meanwhile, so that it does not count as abandoned.
    async fn answer(&mut self, action: &FailoverAction) -> Result<Result<Answer, Obstacle>, Stopped> {
        let (track, run) = (self.track, self.record.run.clone());
        let step_left = run.left_ms(self.app.servers.clock.now().as_millis()).map(Duration::from_millis);
        let limit = limit(action, self.until.saturating_duration_since(Instant::now()), step_left);
        let mut answer = pin!(timeout(limit, Box::pin(track.world.perform(action, &run))));
        loop {
            tokio::select! {
                answer = &mut answer => return Ok(answer.unwrap_or_else(|_| Err(timed_out("action", limit)))),
                () = sleep(SAVE_INTERVAL) => self.save_if_due(self.app.servers.clock.now()).await?,
            }
        }
    }

    /// Saves the run if it has changed, or if it was not saved for long.
    async fn save_if_due(&mut self, now: Stamp) -> Result<(), Stopped> {
        let (saved, run) = (self.stored.record.as_ref().map(|record| &record.run), &self.record.run);
        if saved == Some(run) && self.saved_at.elapsed() <= SAVE_INTERVAL {
            return Ok(());
        }
        if saved.is_some_and(|saved| saved.step != run.step) {
            tracing::info!(run = run.id, step = ?run.step, state = ?run.state, "step begins");
        }
        self.record.held_until_ms = now.as_millis() + HELD_MS;
        self.stored = save(self.app, self.track, &self.stored, &self.record, self.until).await?;
        self.saved_at = Instant::now();
        Ok(())
    }
}

/// How long `action` may take if `left` is left of the invocation's time, which has a reserve for one usual action. `step_left`
/// is what is left of the step's limit if other steps follow. A replay gives its items up by then, which takes a moment.
fn limit(action: &FailoverAction, left: Duration, step_left: Option<Duration>) -> Duration {
    let of_items = left.clamp(ACTION_LIMIT, ITEMS_LIMIT);
    match (action, step_left) {
        (FailoverAction::Reconcile, _) | (FailoverAction::Replay, None) => of_items,
        (FailoverAction::Replay, Some(step_left)) => of_items.min(step_left + GIVE_UP_LIMIT),
        _ => ACTION_LIMIT,
    }
}

/// Saves the run; tries again while the table does not answer.
async fn save(
    app: &App,
    track: &Track,
    stored: &StoredRun,
    record: &RunRecord,
    until: Instant,
) -> Result<StoredRun, Stopped> {
    loop {
        match track.store.save(stored.version, record.clone()).await {
            Ok(saved) => return Ok(saved),
            // The conflict may be this very save, whose answer was lost.
            Err(StoreError::Conflict) => match track.store.load().await {
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
async fn archive(track: &Track, record: &RunRecord) {
    if let Err(error) = track.store.archive(record).await {
        tracing::warn!(%error, run = record.run.id, "could not archive the ended run; its report is lost when the next run begins");
    }
}

pub(crate) fn timed_out(what: &str, limit: Duration) -> Obstacle {
    Obstacle(format!("the {what} timed out after {} s", limit.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reconciliation_is_not_cut_before_ten_minutes_unless_the_invocation_ends() {
        for (action, left, step_left, expected) in [
            (FailoverAction::Reconcile, 840, Some(5), 600),
            (FailoverAction::Reconcile, 300, None, 300),
            (FailoverAction::Reconcile, 0, None, 60),
            (FailoverAction::Promote, 840, None, 60),
            (FailoverAction::Replay, 840, None, 600),
            // Smoke test and fence follow.
            (FailoverAction::Replay, 840, Some(60), 70),
            (FailoverAction::Replay, 840, Some(0), 10),
        ] {
            let step_left = step_left.map(Duration::from_secs);
            let found = limit(&action, Duration::from_secs(left), step_left).as_secs();
            assert_eq!(found, expected, "{action:?}, {left} s, {step_left:?}");
        }
    }
}
