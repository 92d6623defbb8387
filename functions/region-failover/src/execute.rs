//! An execution: look, decide, write down, act, and look again, until it is over or the time is.
//!
//! Whoever executes has written the newest version of the run. One that finds that another has written
//! since stops at once: it was overtaken, and has done nothing that was not written down.

use crate::App;
use crate::run::Next;
use crate::seen::Trouble;
use crate::store::{Kept, Written};
use shared::stamp::Stamp;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use versioned::StoreError;

/// The longest that one look may take: main may be gone, and each of its servers is waited for.
const LOOK_LIMIT: Duration = Duration::from_secs(20);
/// The longest that one act may take; a reconciliation goes on in the next one.
const ACT_LIMIT: Duration = Duration::from_secs(60);
/// An execution that has not written for so long is taken for dead, in milliseconds ...
pub(crate) const HELD_MS: u64 = 90_000;
/// ... and one that lives writes at least this often.
const WRITE_EVERY: Duration = Duration::from_secs(20);

/// Why an execution ended before the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// Its time was over; the schedule goes on with it.
    TimeOver,
    /// Another execution has taken it up.
    Overtaken,
}

/// Goes on with the run in `kept` until it has ended, or until `until`. Returns the run as it was written last.
pub async fn execute(app: &App, mut kept: Kept, until: Instant) -> (Kept, Option<Stopped>) {
    let Some(mut written) = kept.written.clone() else { return (kept, None) };
    if !written.run.is_under_way() {
        return (kept, None);
    }
    if !written.run.is_drill {
        app.servers.mark(Some(&written.run.id)).await;
    }
    let mut wrote_at = Instant::now();
    let stopped = loop {
        let Some(look) = written.run.look() else { break None };
        if Instant::now() + LOOK_LIMIT > until {
            break Some(Stopped::TimeOver);
        }
        let looked_at = app.servers.clock.now();
        let seen = timeout(LOOK_LIMIT, Box::pin(app.servers.look(look, &written.run)));
        let seen = seen.await.unwrap_or_else(|_| Err(Trouble("no answer in time".into())));
        if let Err(Trouble(why)) = &seen {
            tracing::warn!(step = ?written.run.step, why, "nothing was seen");
        }
        let mut run = written.run.clone();
        let next = run.saw(&seen, looked_at, app.servers.timing);
        let is_due = run != written.run || wrote_at.elapsed() > WRITE_EVERY;
        written.run = run;
        if is_due {
            if written.run.step != kept.written.as_ref().map_or(written.run.step, |before| before.run.step) {
                tracing::info!(run = written.run.id, step = ?written.run.step, state = ?written.run.state, "next step");
            }
            written.held_until_ms = ms(looked_at) + HELD_MS;
            match write(app, &kept, &written, until).await {
                Ok(saved) => (kept, wrote_at) = (saved, Instant::now()),
                Err(stopped) => break Some(stopped),
            }
        }
        match next {
            Next::Act(act) => {
                let done = timeout(ACT_LIMIT, Box::pin(app.servers.act(&act, &written.run))).await;
                let done = done.unwrap_or_else(|_| Err(Trouble("no answer in time".into())));
                let (Ok(what) | Err(Trouble(what))) = &done;
                if done.is_err() {
                    tracing::warn!(step = ?written.run.step, what, "an act was refused, or not answered");
                    sleep(app.pause).await;
                }
                if !what.is_empty() {
                    written.run.acted(what);
                }
            }
            Next::Again => {}
            Next::Pause => sleep(app.pause).await,
            Next::End => break None,
        }
    };
    let is_over = kept.written.as_ref().is_some_and(|written| !written.run.is_under_way());
    if is_over {
        if !written.run.is_drill {
            app.servers.mark(None).await;
        }
        file(app, &written).await;
    }
    (kept, stopped)
}

/// Writes down what the run has become; a table that does not answer is asked again.
async fn write(app: &App, kept: &Kept, written: &Written, until: Instant) -> Result<Kept, Stopped> {
    loop {
        match app.store(written.run.is_drill).save(kept.version, written.clone()).await {
            Ok(saved) => return Ok(saved),
            // It may be this very write, whose answer was lost.
            Err(StoreError::Conflict) => match app.store(written.run.is_drill).load().await {
                Ok(newest) if newest.written.as_ref() == Some(written) => return Ok(newest),
                Ok(_) => return Err(Stopped::Overtaken),
                Err(error) => tracing::warn!(%error, "the run cannot be read"),
            },
            Err(error) => tracing::warn!(%error, "the run is not written down; nothing is done before it is"),
        }
        if Instant::now() + app.pause > until {
            return Err(Stopped::TimeOver);
        }
        sleep(app.pause).await;
    }
}

/// Keeps the report of a run that has ended.
async fn file(app: &App, written: &Written) {
    if let Err(error) = app.store(written.run.is_drill).file(written).await {
        tracing::warn!(%error, run = written.run.id, "the ended run is kept as the newest one alone");
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn ms(stamp: Stamp) -> u64 {
    stamp.as_micros() / 1_000
}
