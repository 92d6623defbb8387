//! The standby takes over: step by step, each step looked at before and after, and every decision
//! written down before it is acted on, so that whoever is killed can be followed by another.
//!
//! What decides is pure and asks nobody: a [`Run`] is told what a [`Look`] has [`Seen`], and says
//! what is [`Next`]. It is told the same whether it is the first time or after a kill, and decides
//! the same. Each step is one function in [`step`], and reads like the runbook.
//!
//! [`execute`] carries it through: [`servers`] looks and acts, [`store`] keeps the run. [`plan`],
//! [`report`] and [`compare`] tell people what would be, what was, and what was lost.

pub mod command;
pub mod compare;
pub mod execute;
pub mod loss;
pub mod plan;
pub mod report;
pub mod run;
pub mod seen;
pub mod servers;
pub mod step;
pub mod store;

pub use run::{Mode, Next, Run, State};
pub use seen::{Act, Look, Loss, Role, Seen, Trouble};
pub use step::{Step, Verdict};

use command::{Command, Format, Start};
use execute::{Stopped, execute, ms};
use lambda_runtime::Diagnostic;
use report::Report;
use serde_json::{Value, json};
use servers::Servers;
use shared::config::{self, ConfigError, Source};
use std::time::Duration;
use store::{Kept, Store, Written};
use tokio::time::Instant;
use versioned::StoreError;

/// How long an invocation goes on at most, where it has no usable deadline; the schedule's next one goes on.
pub const RUN_LIMIT: Duration = Duration::from_secs(840);

/// What one process of the function keeps.
#[derive(Debug)]
pub struct App {
    here: String,
    servers: Servers,
    store: Store,
    /// From one look to the next, where there is something to wait for.
    pause: Duration,
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// One at a time.
    #[error(
        "the failover {0} is under way: `status` says where it stands, `resume` goes on with it, `abort` gives it up"
    )]
    UnderWay(String),
    /// There is nothing to go on with.
    #[error("no failover is under way; `plan` says what one would do")]
    NothingUnderWay,
    /// There is none.
    #[error("there is no failover {0}")]
    NoSuchRun(String),
    /// Something has been moved.
    #[error("it is at {0:?}, past the point of no return: only `resume` leads out")]
    NoWayBack(Step),
    /// The step is not done yet; Region switch asks again.
    #[error("not yet: it is at {at:?}, {last}")]
    NotYet {
        /// Where it stands.
        at: Step,
        /// What it waits for.
        last: String,
    },
    /// The failover was given up.
    #[error("the failover was given up: {0}")]
    Aborted(String),
    /// This region is main already.
    #[error("{0} is main already")]
    IsMain(String),
    /// Runs cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something that was asked did not answer.
    #[error("{}", .0.0)]
    Trouble(Trouble),
    /// A ledger did not answer.
    #[error("a ledger does not answer: {0}; is the old main still fenced?")]
    Ledger(#[from] ledger::LedgerError),
}

impl From<CommandError> for Diagnostic {
    fn from(error: CommandError) -> Self {
        let error_type = match &error {
            CommandError::UnderWay(_) => "UnderWay",
            CommandError::NothingUnderWay => "NothingUnderWay",
            CommandError::NoSuchRun(_) => "NoSuchRun",
            CommandError::NoWayBack(_) => "NoWayBack",
            CommandError::NotYet { .. } => "NotYet",
            CommandError::Aborted(_) => "Aborted",
            CommandError::IsMain(_) => "IsMain",
            CommandError::Store(_) => "StoreAway",
            CommandError::Trouble(_) => "NoAnswer",
            CommandError::Ledger(_) => "LedgerAway",
        };
        Diagnostic { error_type: error_type.into(), error_message: error.to_string() }
    }
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
            store: Store::new(client, &table),
            pause: Duration::from_millis(pause_ms),
        })
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
    let never = |_: &Run| false;
    match command {
        Command::Plan { mode } => plan::plan(app, mode).await,
        Command::Run(start) => {
            let kept = begin(app, &start, holder).await?;
            go_on(app, kept, until, never).await
        }
        Command::Status {} => Ok(report(app, &newest(&app.store.load().await?)?)),
        Command::Resume {} => {
            let kept = take_up(app, holder, |run| run.resume()).await?;
            go_on(app, kept, until, never).await
        }
        Command::Tend {} => tend(app, holder, until).await,
        Command::Abort {} => {
            let kept = app.store.load().await?;
            let written = newest(&kept)?;
            if written.run.state == State::Running && !written.run.can_abort() {
                return Err(CommandError::NoWayBack(written.run.step));
            }
            let kept = take_up(app, holder, |run| {
                run.abort("by a person");
            })
            .await?;
            go_on(app, kept, until, never).await
        }
        Command::Report { run, format } => {
            let written = match run {
                None => newest(&app.store.load().await?)?,
                Some(id) => app.store.filed(&id).await?.ok_or(CommandError::NoSuchRun(id))?,
            };
            let report = Report::of(&written, app.now_ms());
            Ok(match format {
                Format::Json => json!(report),
                Format::Page => json!({ "page": report.page() }),
            })
        }
        Command::Compare {} => compared(app).await,
        Command::Step { step, start } => advance(app, step, start, holder, until).await,
    }
}

/// Begins a failover, unless one is under way.
async fn begin(app: &App, start: &Start, holder: &str) -> Result<Kept, CommandError> {
    let kept = app.store.load().await?;
    if let Some(written) = &kept.written
        && written.run.is_under_way()
    {
        return Err(CommandError::UnderWay(written.run.id.clone()));
    }
    let lease =
        app.servers.lease.load().await.map_err(|error| CommandError::Trouble(Trouble(error.to_string())))?;
    if lease.region == app.here && lease.is_open {
        return Err(CommandError::IsMain(app.here.clone()));
    }
    let now_ms = app.now_ms();
    let id = format!("{}-{}-{now_ms}", app.here, lease.epoch + 1);
    let mode = start.mode().map_err(|error| CommandError::Trouble(Trouble(error.to_string())))?;
    let mut run = Run::new(&id, mode, (&lease.region, &app.here), lease.epoch, start.holdback);
    run.may_hurry = start.hurry;
    let last = kept.written.as_ref().filter(|last| last.run.state != State::Aborted);
    let ended_ms = last.and_then(|last| last.run.last_ms());
    run.since_last_seconds = ended_ms.map(|ended| now_ms.saturating_sub(ended) / 1_000);
    tracing::warn!(run = id, mode = ?run.mode, from = run.from, to = run.to, "a failover begins");
    save(app, kept.version, run, None, holder).await
}

/// Takes up the newest run, changed by `change`, whoever else is at it.
async fn take_up(app: &App, holder: &str, change: impl FnOnce(&mut Run)) -> Result<Kept, CommandError> {
    let kept = app.store.load().await?;
    let Written { mut run, compared, .. } = newest(&kept)?;
    change(&mut run);
    if !run.is_under_way() {
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
    let written = Written { run, holder: holder.into(), held_until_ms, compared };
    Ok(app.store.save(version, written).await?)
}

/// What the schedule does: a run that nobody carries on is carried on, and what was left out is tried again.
async fn tend(app: &App, holder: &str, until: Instant) -> Result<Value, CommandError> {
    let kept = app.store.load().await?;
    let Some(written) = &kept.written else { return Ok(json!({ "tended": false })) };
    let is_left = written.run.is_under_way() && written.held_until_ms < app.now_ms();
    metrics::gauge!("failover_under_way").set(f64::from(u8::from(written.run.is_under_way())));
    metrics::gauge!("failover_outstanding").set(written.run.outstanding.len() as f64);
    if !is_left && written.run.state != State::Degraded {
        return Ok(json!({ "tended": false, "state": written.run.state }));
    }
    let kept = take_up(app, holder, Run::resume).await?;
    go_on(app, kept, until, |_: &Run| false).await
}

/// Executes, and says what has become of it.
async fn go_on(
    app: &App,
    kept: Kept,
    until: Instant,
    far_enough: impl Fn(&Run) -> bool,
) -> Result<Value, CommandError> {
    let (kept, stopped) = execute(app, kept, until, far_enough).await;
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

/// For Region switch: goes on until `step` is done.
async fn advance(
    app: &App,
    step: Step,
    start: Option<Start>,
    holder: &str,
    until: Instant,
) -> Result<Value, CommandError> {
    let kept = app.store.load().await?;
    let is_under_way = kept.written.as_ref().is_some_and(|written| written.run.is_under_way());
    let kept = match start {
        Some(start) if step == Step::Precheck && !is_under_way => begin(app, &start, holder).await?,
        _ if is_under_way => take_up(app, holder, |_| ()).await?,
        _ => kept,
    };
    let is_past = move |run: &Run| run.is_done(step);
    let (kept, _) = execute(app, kept, until, is_past).await;
    let written = newest(&kept)?;
    let run = &written.run;
    if run.is_done(step) {
        return Ok(report(app, &written));
    }
    match run.state {
        State::Aborted | State::Aborting => Err(CommandError::Aborted(run.why.clone())),
        _ => {
            let last = run.log.last().map(|log| log.last.clone()).unwrap_or_default();
            Err(CommandError::NotYet { at: run.step, last })
        }
    }
}

/// Compares with the old main, and keeps the numbers with the run.
async fn compared(app: &App) -> Result<Value, CommandError> {
    let kept = app.store.load().await?;
    let written = newest(&kept)?;
    if written.run.is_under_way() {
        return Err(CommandError::UnderWay(written.run.id.clone()));
    }
    let (compared, lost) = compare::compare(app).await?;
    let written = Written { compared: Some(compared.clone()), ..written };
    let kept = app.store.save(kept.version, written.clone()).await?;
    app.store.file(&written).await?;
    let report = report(app, &newest(&kept)?);
    Ok(json!({ "compared": compared, "lost": lost, "listed_at_most": compare::MAX_LISTED, "report": report }))
}

fn newest(kept: &Kept) -> Result<Written, CommandError> {
    kept.written.clone().ok_or(CommandError::NothingUnderWay)
}

fn report(app: &App, written: &Written) -> Value {
    json!(Report::of(written, app.now_ms()))
}
