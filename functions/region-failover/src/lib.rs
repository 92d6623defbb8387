//! The standby takes over: step by step, each step looked at before and after, and every decision
//! written down before it is acted on, so that whoever is killed can be followed by another.
//!
//! What decides is pure and asks nobody: a [`Run`] is told what a [`Look`] has [`Seen`], and says
//! what is [`Next`]. It is told the same whether it is the first time or after a kill, and decides
//! the same. Each step is one function in [`step`], and reads like the runbook.
//!
//! [`mod@execute`] carries it through: [`servers`] looks and acts, [`store`] keeps the run. [`mod@plan`],
//! [`mod@report`] and [`compare`] tell people what would be, what was, and what was lost.

pub mod command;
pub mod compare;
mod error;
pub mod execute;
pub mod loss;
pub mod plan;
pub mod report;
pub mod run;
pub mod seen;
pub mod servers;
pub mod step;
pub mod store;

pub use error::CommandError;
pub use run::{Mode, Next, Run, State};
pub use seen::{Act, Look, Loss, Role, Seen, Trouble};
pub use step::{Step, Verdict};

use command::{Command, Start};
use execute::{Stopped, execute, ms};
use report::Report;
use serde_json::{Value, json};
use servers::Servers;
use shared::config::{self, ConfigError, Source};
use std::time::Duration;
use store::{Kept, Store, Written};
use tokio::time::Instant;
use versioned::StoreError;

/// How often it is tried to keep what a comparison has found beside a run that is written meanwhile.
const SAVE_TRIES: u32 = 5;

/// How long an invocation goes on at most, where it has no usable deadline; the schedule's next one goes on.
pub const RUN_LIMIT: Duration = Duration::from_secs(840);

/// What one process of the function keeps.
#[derive(Debug)]
pub struct App {
    here: String,
    servers: Servers,
    failovers: Store,
    drills: Store,
    /// From one look to the next, where there is something to wait for.
    pause: Duration,
}

impl App {
    /// Reads the configuration of a function in `region`. Nothing is connected yet.
    pub async fn from_config(source: Source<'_>, region: &str) -> Result<Self, ConfigError> {
        let table = config::required(source, "FAIRDROP_LEASE_TABLE")?;
        let client = aws_sdk_dynamodb::Client::new(&rds::sdk_config(region).await);
        let pause_ms = config::number(source, "FAIRDROP_LOOK_PAUSE_MS", 2_000, 50, 10_000)?;
        Ok(Self {
            here: region.into(),
            servers: Servers::from_config(source, region).await?,
            failovers: Store::new(client.clone(), &table, store::FAILOVERS),
            drills: Store::new(client, &table, store::DRILLS),
            pause: Duration::from_millis(pause_ms),
        })
    }

    fn store(&self, is_drill: bool) -> &Store {
        if is_drill { &self.drills } else { &self.failovers }
    }

    fn now_ms(&self) -> u64 {
        ms(self.servers.clock.now())
    }
}

/// Carries out `command` for the invocation `holder`, and ends within `time`.
pub async fn handle(
    app: &App,
    command: Command,
    holder: &str,
    time: Duration,
) -> Result<Value, CommandError> {
    let until = Instant::now() + time;
    match command {
        Command::Plan { mode } => plan::plan(app, mode).await,
        Command::Run(start) => {
            let kept = begin(app, &start, holder).await?;
            go_on(app, kept, until).await
        }
        Command::Drill {} => {
            let kept = begin_drill(app, holder).await?;
            go_on(app, kept, until).await
        }
        Command::Status { drill } => Ok(report(app, &newest(&app.store(drill).load().await?)?)),
        Command::Resume { drill } => {
            let kept = take_up(app, drill, holder, Run::resume).await?;
            go_on(app, kept, until).await
        }
        Command::Tend {} => tend(app, holder, until).await,
        Command::Abort { drill } => {
            let written = newest_of(app, &app.store(drill).load().await?)?;
            if written.run.state == State::Running && !written.run.can_abort() {
                return Err(CommandError::NoWayBack(written.run.step));
            }
            let kept = take_up(app, drill, holder, |run| {
                run.abort("by a person");
            })
            .await?;
            go_on(app, kept, until).await
        }
        Command::Report { run, drill } => {
            let written = match run {
                None => newest(&app.store(drill).load().await?)?,
                Some(id) => app.store(drill).filed(&id).await?.ok_or(CommandError::NoSuchRun(id))?,
            };
            Ok(report(app, &written))
        }
        Command::Compare { skip } => compared(app, skip).await,
        Command::Waive { step, why } => waive(app, step, &why, holder, until).await,
    }
}

/// Begins a failover, unless one is under way.
async fn begin(app: &App, start: &Start, holder: &str) -> Result<Kept, CommandError> {
    let mode = start.mode()?;
    let (kept, mut run) = first(app, false, mode).await?;
    run.withhold = start.withhold;
    run.may_hurry = start.hurry;
    run.redis_wait_ms = start.redis_wait_seconds.map_or(step::REDIS_WAIT_MS, |seconds| seconds * 1_000);
    run.follow_on(kept.written.as_ref().map(|last| &last.run), app.now_ms());
    tracing::warn!(run = run.id, mode = ?run.mode, from = run.from, to = run.to, "a failover begins");
    save(app, kept.version, run, None, holder).await
}

/// Begins a drill, unless one is under way, or what an earlier one has made is still there.
async fn begin_drill(app: &App, holder: &str) -> Result<Kept, CommandError> {
    let (kept, mut run) = first(app, true, Mode::Planned).await?;
    run.is_drill = true;
    tracing::info!(run = run.id, "a drill begins");
    save(app, kept.version, run, None, holder).await
}

/// The newest run, which must be over, and a new one as it stands before its first step.
async fn first(app: &App, is_drill: bool, mode: Mode) -> Result<(Kept, Run), CommandError> {
    let kept = app.store(is_drill).load().await?;
    if let Some(written) = &kept.written
        && written.run.is_under_way()
    {
        return Err(CommandError::UnderWay(written.run.id.clone()));
    }
    let lease = app.servers.lease.load().await?;
    if lease.region == app.here && lease.is_open {
        return Err(CommandError::IsMain(app.here.clone()));
    }
    let kind = if is_drill { "-drill" } else { "" };
    let id = format!("{}-{}{kind}-{}", app.here, lease.epoch + 1, app.now_ms());
    Ok((kept, Run::new(&id, mode, (&lease.region, &app.here), lease.epoch, 0)))
}

/// Takes up the newest run, changed by `change`, whoever else is at it.
async fn take_up(
    app: &App,
    is_drill: bool,
    holder: &str,
    change: impl FnOnce(&mut Run),
) -> Result<Kept, CommandError> {
    let kept = app.store(is_drill).load().await?;
    let Written { mut run, compared, .. } = newest_of(app, &kept)?;
    let was_over = !run.is_under_way();
    change(&mut run);
    if was_over && !run.is_under_way() {
        return Err(CommandError::NothingUnderWay);
    }
    save(app, kept.version, run, compared, holder).await
}

async fn save(
    app: &App,
    version: u64,
    run: Run,
    compared: Option<compare::Compared>,
    holder: &str,
) -> Result<Kept, CommandError> {
    let held_until_ms = app.now_ms() + execute::HELD_MS;
    let is_drill = run.is_drill;
    let written = Written { run, holder: holder.into(), held_until_ms, compared };
    Ok(app.store(is_drill).save(version, written).await?)
}

/// What the schedule does: a run that nobody carries on is carried on, and what was left out is tried again.
/// A failover goes first.
async fn tend(app: &App, holder: &str, until: Instant) -> Result<Value, CommandError> {
    let mut tended = Vec::new();
    for is_drill in [false, true] {
        let newest = app.store(is_drill).load().await?.written;
        // What another region has begun, it carries out by its own configuration.
        let Some(written) = newest.filter(|written| written.run.to == app.here) else { continue };
        let run = &written.run;
        if !is_drill {
            let waits = run.is_under_way() && !run.is_done(Step::OpenSales);
            metrics::gauge!("failover_under_way").set(f64::from(u8::from(waits)));
            metrics::gauge!("failover_outstanding").set(run.outstanding.len() as f64);
        }
        let is_left = run.is_under_way() && written.held_until_ms < app.now_ms();
        if is_left || run.state == State::Degraded {
            let kept = take_up(app, is_drill, holder, Run::resume).await?;
            tended.push(go_on(app, kept, until).await?);
        } else if is_drill && run.state == State::Aborted {
            app.servers.throw_away().await?;
        }
    }
    Ok(json!({ "tended": tended }))
}

/// Executes, and says what has become of it.
async fn go_on(app: &App, kept: Kept, until: Instant) -> Result<Value, CommandError> {
    let (kept, stopped) = execute(app, kept, until).await;
    let mut said = report(app, &newest(&kept)?);
    let next = match stopped {
        Some(Stopped::TimeOver) => {
            Some("this invocation's time is over; the schedule goes on within two minutes, `resume` at once")
        }
        Some(Stopped::Overtaken) => Some("another invocation goes on with it; see `status`"),
        None => None,
    };
    if let (Some(next), Some(fields)) = (next, said.as_object_mut()) {
        fields.insert("next".into(), next.into());
    }
    Ok(said)
}

/// Compares with the old main, and keeps the numbers with the run.
async fn compared(app: &App, skip: u64) -> Result<Value, CommandError> {
    let written = newest_of(app, &app.failovers.load().await?)?;
    if !written.run.is_done(Step::OpenSales) {
        return Err(CommandError::NotOver(written.run.step));
    }
    let (compared, listed) = compare::compare(&app.servers.main, &app.servers.standby, skip).await?;
    let kept = keep_compared(app, &compared).await?;
    let mut said = json!(listed);
    if let Some(fields) = said.as_object_mut() {
        let more = compared.listed_up_to(skip).map(|next| json!({ "command": "compare", "skip": next }));
        let others = [("compared", json!(compared)), ("more", json!(more)), ("report", report(app, &kept))];
        fields.extend(others.map(|(name, value)| (name.to_owned(), value)));
    }
    Ok(said)
}

/// Keeps the numbers with the run, whatever has become of that meanwhile: what is outstanding is tried every minute.
async fn keep_compared(app: &App, compared: &compare::Compared) -> Result<Written, CommandError> {
    let mut tries = 0;
    loop {
        let kept = app.failovers.load().await?;
        let written = Written { compared: Some(compared.clone()), ..newest_of(app, &kept)? };
        match app.failovers.save(kept.version, written.clone()).await {
            Err(StoreError::Conflict) if tries < SAVE_TRIES => tries += 1,
            saved => {
                saved?;
                app.failovers.file(&written).await?;
                return Ok(written);
            }
        }
    }
}

/// Gives up what is outstanding of a step.
async fn waive(
    app: &App,
    step: Step,
    why: &str,
    holder: &str,
    until: Instant,
) -> Result<Value, CommandError> {
    let kept = app.failovers.load().await?;
    let Written { mut run, compared, .. } = newest_of(app, &kept)?;
    if !run.waive(step, why, app.now_ms()) {
        return Err(CommandError::NotOutstanding(step));
    }
    tracing::warn!(run = run.id, ?step, why, "what was outstanding is given up");
    let kept = save(app, kept.version, run, compared, holder).await?;
    let written = newest(&kept)?;
    if written.run.is_under_way() {
        // Whoever was at it was overtaken by this word.
        return go_on(app, kept, until).await;
    }
    app.failovers.file(&written).await?;
    Ok(report(app, &written))
}

/// The newest run, which must be one that made, or is to make, this region main.
fn newest_of(app: &App, kept: &Kept) -> Result<Written, CommandError> {
    let written = newest(kept)?;
    if written.run.to == app.here { Ok(written) } else { Err(CommandError::Elsewhere(written.run.to)) }
}

fn newest(kept: &Kept) -> Result<Written, CommandError> {
    kept.written.clone().ok_or(CommandError::NothingUnderWay)
}

fn report(app: &App, written: &Written) -> Value {
    json!(Report::of(written, app.now_ms()))
}
