//! Moves main to the standby region, step by step. Each step is observed before and after, and every decision is
//! stored before it is acted on, so that another execution can go on after a kill.
//!
//! What decides is pure and calls no server: a [`Run`] takes an [`Observation`] and returns a [`Decision`]. It decides
//! the same the first time and after a kill. [`steps`] defines the steps: what each needs, observes, decides and may
//! take.
//!
//! [`mod@execute`] runs the loop: the `world` observes and acts, [`store`] stores the run. The world is that of a
//! failover, or a drill's copy of it. [`mod@plan`], [`mod@report`] and [`compare`] tell the operator what would be done,
//! what was done, and what was lost.

mod app;
pub mod command;
pub mod compare;
mod error;
pub mod execute;
pub mod fence;
pub mod loss;
pub mod observation;
pub mod plan;
pub mod readiness;
pub mod report;
pub mod run;
pub mod servers;
pub mod steps;
pub mod store;
mod watch;
mod world;

pub use app::App;
pub use error::FailoverError;
pub use observation::{
    Answer, FailoverAction, FunctionState, Loss, Observation, ObservationKind, Obstacle, Role,
};
pub use run::{Decision, Mode, Run, RunState};
pub use steps::{FailoverStep, StepVerdict};

use app::Track;
use command::{Command, RunKind, Start};
use execute::{Stopped, execute};
use report::FailoverReport;
use serde_json::{Value, json};
use std::time::Duration;
use store::{RunRecord, StoredRun};
use tokio::time::Instant;
use versioned::StoreError;

/// Attempts to save a comparison's result if other executions save the run at the same time.
const SAVE_TRIES: u32 = 5;

/// An invocation's time limit if Lambda gives no usable deadline. The schedule's next invocation goes on.
pub const RUN_LIMIT: Duration = Duration::from_secs(840);

/// Carries out `command` for the invocation `holder`, and ends within `time`.
pub async fn handle(
    app: &App,
    command: Command,
    holder: &str,
    time: Duration,
) -> Result<Value, FailoverError> {
    let until = Instant::now() + time;
    match command {
        Command::Plan { mode, redis_endpoint } => plan::plan(app, mode, redis_endpoint).await,
        Command::Run(start) => {
            let stored = begin(app, &start, holder).await?;
            advance(app, &app.failovers, stored, until).await
        }
        Command::Drill {} => {
            let (stored, run) = first(app, &app.drills, Mode::Drill).await?;
            tracing::info!(run = run.id, "drill begins");
            let stored = save(app, &app.drills, stored.version, run, None, holder).await?;
            advance(app, &app.drills, stored, until).await
        }
        Command::Status(kind) => Ok(report(app, &newest(&app.track(kind).store.load().await?)?)),
        Command::Resume(kind) => changed(app, app.track(kind), (holder, until), resumed).await,
        Command::Readiness {} => watch::readiness(app).await,
        Command::ResumePending {} => resume_pending(app, holder, until).await,
        Command::Abort(kind) => {
            changed(app, app.track(kind), (holder, until), |run| {
                if run.abort("by the operator") || run.state == RunState::Aborting {
                    Ok(())
                } else if run.is_active() {
                    Err(FailoverError::PastNoReturn(run.step))
                } else {
                    Err(FailoverError::NoActiveRun)
                }
            })
            .await
        }
        Command::Report { run, drill } => {
            let store = &app.track(RunKind { drill }).store;
            let record = match run {
                None => newest(&store.load().await?)?,
                Some(id) => store.archived(&id).await?.ok_or(FailoverError::NoSuchRun(id))?,
            };
            Ok(report(app, &record))
        }
        Command::Compare { skip } => compared(app, skip).await,
        Command::UseRedis { endpoint } => {
            let track = &app.failovers;
            let mut run = newest_of(app, &track.store.load().await?)?.run;
            run.use_redis(&endpoint).map_err(FailoverError::NotAtMoveRedis)?;
            app.servers.check_other_redis(&endpoint, &run.id).await?;
            tracing::warn!(run = run.id, endpoint, "the operator asks the run to go on with another Redis");
            changed(app, track, (holder, until), |run| {
                run.use_redis(&endpoint).map_err(FailoverError::NotAtMoveRedis)
            })
            .await
        }
        Command::WithoutLog { region } => {
            let region = app.servers.logged(region)?;
            tracing::warn!(
                region,
                "the operator allows the run to go on without the order log of this region"
            );
            changed(app, &app.failovers, (holder, until), |run| {
                run.without_log(&region).map_err(FailoverError::NotBeforeReplay)
            })
            .await
        }
        Command::Waive { step, why } => {
            tracing::warn!(?step, why, "the operator waives a step");
            changed(app, &app.failovers, (holder, until), |run| match run.waive(step, &why, app.now_ms()) {
                true => Ok(()),
                false => Err(FailoverError::NotOutstanding(step)),
            })
            .await
        }
    }
}

/// Begins a failover, unless one is active.
async fn begin(app: &App, start: &Start, holder: &str) -> Result<StoredRun, FailoverError> {
    let (stored, mut run) = first(app, &app.failovers, start.mode()?).await?;
    run.withhold = start.withhold;
    run.skip_cooldown = start.skip_cooldown;
    run.redis_wait_ms = start.redis_wait_seconds.map_or(run::REDIS_WAIT_MS, |seconds| seconds * 1_000);
    run.set_previous(stored.record.as_ref().map(|last| &last.run), app.now_ms());
    run.main_class = app.main_class.load().await?;
    run.order_logs = app.servers.log_regions();
    for region in &start.without_logs {
        run.without_logs.insert(app.servers.logged(region.clone())?);
    }
    if let Some(endpoint) = &start.redis_endpoint {
        app.servers.check_other_redis(endpoint, &run.id).await?;
        run.redis_endpoint = Some(endpoint.clone());
    }
    tracing::warn!(run = run.id, mode = ?run.mode, from = run.from, to = run.to, "failover begins");
    save(app, &app.failovers, stored.version, run, None, holder).await
}

/// Loads the newest run, which must be over, and makes a new one.
async fn first(app: &App, track: &Track, mode: Mode) -> Result<(StoredRun, Run), FailoverError> {
    let stored = track.store.load().await?;
    if let Some(record) = &stored.record
        && record.run.is_active()
    {
        return Err(FailoverError::AlreadyActive(record.run.id.clone()));
    }
    let lease = app.servers.lease.load().await?;
    if lease.region == app.here && lease.is_open {
        return Err(FailoverError::IsMain(app.here.clone()));
    }
    let kind = if mode == Mode::Drill { "-drill" } else { "" };
    let id = format!("{}-{}{kind}-{}", app.here, lease.epoch + 1, app.now_ms());
    Ok((stored, Run::new(&id, mode, (&lease.region, &app.here), lease.epoch, 0)))
}

fn resumed(run: &mut Run) -> Result<(), FailoverError> {
    run.resume();
    if run.is_active() { Ok(()) } else { Err(FailoverError::NoActiveRun) }
}

/// Takes over the newest run, changed by `change`, even if another execution works on it: that one then stops. Executes
/// the run, unless it is over by then. A change that the run refuses is not saved.
async fn changed(
    app: &App,
    track: &Track,
    (holder, until): (&str, Instant),
    change: impl FnOnce(&mut Run) -> Result<(), FailoverError>,
) -> Result<Value, FailoverError> {
    let stored = track.store.load().await?;
    let RunRecord { mut run, compared, .. } = newest_of(app, &stored)?;
    change(&mut run)?;
    let stored = save(app, track, stored.version, run, compared, holder).await?;
    advance(app, track, stored, until).await
}

async fn save(
    app: &App,
    track: &Track,
    version: u64,
    run: Run,
    compared: Option<compare::Comparison>,
    holder: &str,
) -> Result<StoredRun, FailoverError> {
    let held_until_ms = app.now_ms() + execute::HELD_MS;
    let record = RunRecord { run, holder: holder.into(), held_until_ms, compared };
    Ok(track.store.save(version, record).await?)
}

/// What the schedule does: resumes runs whose execution has stopped, and retries outstanding steps. Failovers come before
/// drills.
async fn resume_pending(app: &App, holder: &str, until: Instant) -> Result<Value, FailoverError> {
    let newest = newest_here(app, &app.failovers).await?;
    remember_main_class(app).await;
    if let Some(RunRecord { run, .. }) = &newest {
        let waits = run.is_active() && !run.is_done(FailoverStep::OpenSales);
        metrics::gauge!("failover_running").set(f64::from(u8::from(waits)));
        metrics::gauge!("failover_outstanding").set(run.outstanding.len() as f64);
    }
    let mut resumed = Vec::new();
    resumed.extend(resume_abandoned(app, &app.failovers, newest, holder, until).await?);
    let drill = newest_here(app, &app.drills).await?;
    let is_aborted = drill.as_ref().is_some_and(|drill| drill.run.state == RunState::Aborted);
    resumed.extend(resume_abandoned(app, &app.drills, drill, holder, until).await?);
    if is_aborted {
        app.drills.world.clean_up().await?;
    }
    Ok(json!({ "resumed": resumed }))
}

/// Saves main's instance class as long as main's region answers.
async fn remember_main_class(app: &App) {
    let Some(class) = app.servers.main_class().await else { return };
    if let Err(error) = app.main_class.save(&class).await {
        tracing::warn!(%error, class, "could not save main's instance class; the next minute's invocation tries again");
    }
}

/// The newest run to this region. Another region's run is executed there: this region's configuration would repoint
/// functions wrongly.
async fn newest_here(app: &App, track: &Track) -> Result<Option<RunRecord>, FailoverError> {
    Ok(track.store.load().await?.record.filter(|record| record.run.to == app.here))
}

async fn resume_abandoned(
    app: &App,
    track: &Track,
    newest: Option<RunRecord>,
    holder: &str,
    until: Instant,
) -> Result<Option<Value>, FailoverError> {
    let is_due = newest.is_some_and(|RunRecord { run, held_until_ms, .. }| {
        run.is_active() && held_until_ms < app.now_ms() || run.state == RunState::Degraded
    });
    if !is_due {
        return Ok(None);
    }
    changed(app, track, (holder, until), resumed).await.map(Some)
}

/// Executes the run, and returns its report.
async fn advance(
    app: &App,
    track: &Track,
    stored: StoredRun,
    until: Instant,
) -> Result<Value, FailoverError> {
    let (stored, stopped) = execute(app, track, stored, until).await;
    let mut answer = report(app, &newest(&stored)?);
    let next = match stopped {
        Some(Stopped::TimeOver) => Some(
            "this invocation reached its time limit; the schedule resumes the run within four minutes, `resume` at once",
        ),
        Some(Stopped::Overtaken) => Some("another invocation has taken over the run; see `status`"),
        None => None,
    };
    if let (Some(next), Some(fields)) = (next, answer.as_object_mut()) {
        fields.insert("next".into(), next.into());
    }
    Ok(answer)
}

/// Compares with the old main, and saves the counts with the run.
async fn compared(app: &App, skip: u64) -> Result<Value, FailoverError> {
    let record = newest_of(app, &app.failovers.store.load().await?)?;
    if !record.run.is_done(FailoverStep::OpenSales) {
        return Err(FailoverError::NotSellingYet(record.run.step));
    }
    let (compared, listed) =
        compare::compare(&app.servers.main, &app.servers.for_run(&record.run)?.standby, skip).await?;
    let record = save_comparison(app, &compared).await?;
    let mut answer = json!(listed);
    if let Some(fields) = answer.as_object_mut() {
        let more = compared.next_skip(skip).map(|next| json!({ "command": "compare", "skip": next }));
        let others = [("compared", json!(compared)), ("more", json!(more)), ("report", report(app, &record))];
        fields.extend(others.map(|(name, value)| (name.to_owned(), value)));
    }
    Ok(answer)
}

/// Saves the counts with the run. The schedule may save the run at the same time, so that a conflict is retried.
async fn save_comparison(app: &App, compared: &compare::Comparison) -> Result<RunRecord, FailoverError> {
    let mut tries = 0;
    loop {
        let stored = app.failovers.store.load().await?;
        let record = RunRecord { compared: Some(compared.clone()), ..newest_of(app, &stored)? };
        match app.failovers.store.save(stored.version, record.clone()).await {
            Err(StoreError::Conflict) if tries < SAVE_TRIES => tries += 1,
            saved => {
                saved?;
                app.failovers.store.archive(&record).await?;
                return Ok(record);
            }
        }
    }
}

/// The newest run, which must be a failover to this region.
fn newest_of(app: &App, stored: &StoredRun) -> Result<RunRecord, FailoverError> {
    let record = newest(stored)?;
    if record.run.to == app.here { Ok(record) } else { Err(FailoverError::Elsewhere(record.run.to)) }
}

fn newest(stored: &StoredRun) -> Result<RunRecord, FailoverError> {
    stored.record.clone().ok_or(FailoverError::NoActiveRun)
}

fn report(app: &App, record: &RunRecord) -> Value {
    json!(FailoverReport::of(record, app.now_ms()))
}
