//! The restore drill: is what would be restored in this region worth anything?
//!
//! It restores the newest snapshot of the ledger under a throw-away name, checks it and
//! deletes it. Without `{"run": true}` it only says what it would do. RDS takes its
//! time: an invocation that ends before the drill does is followed by another one, which goes
//! on where the first ended, since all that must be remembered stands in the instance's tags.

mod check;
mod instance;
mod step;

pub use check::Check;
pub use step::{Instance, Next, next};

use lambda_runtime::Diagnostic;
use rds::{Moment, RdsError, Snapshot};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::config::{self, ConfigError, Source};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How long an invocation takes at most, where it has no usable deadline.
pub const RUN_LIMIT: Duration = Duration::from_secs(880);
/// The tag that makes an instance the drill's, if its value is the prefix.
const DRILL_TAG: &str = "fairdrop:restore-drill";
/// The longest identifier of a DB instance.
const MAX_INSTANCE_ID: usize = 63;
/// What the ledger is reached by; the rest of the environment is none of its business.
const LEDGER_VARIABLES: [&str; 5] = [
    "FAIRDROP_LEDGER_URL",
    "FAIRDROP_LEDGER_AUTH",
    "FAIRDROP_LEDGER_PASSWORD",
    "FAIRDROP_LEDGER_CA_FILE",
    "FAIRDROP_LEDGER_CONNECTIONS",
];

/// What one process of the function keeps between invocations.
#[derive(Debug)]
pub struct App {
    client: aws_sdk_rds::Client,
    region: String,
    prefix: String,
    database: String,
    instance_id: String,
    class: String,
    subnet_group: Option<String>,
    security_groups: Vec<String>,
    poll: Duration,
    environment: BTreeMap<&'static str, String>,
}

impl App {
    /// Reads the configuration. Nothing is connected yet.
    pub async fn from_config(source: Source<'_>, region: &str) -> Result<Self, ConfigError> {
        let prefix = config::required(source, "FAIRDROP_SNAPSHOT_PREFIX")?;
        let database = config::required(source, "FAIRDROP_DRILL_DATABASE")?;
        let instance_id = format!("{prefix}-drill-{database}");
        if instance_id.len() > MAX_INSTANCE_ID {
            let why = format!("{instance_id} has more than {MAX_INSTANCE_ID} characters; shorten the prefix");
            return Err(ConfigError::bad("FAIRDROP_DRILL_DATABASE", why));
        }
        let known = LEDGER_VARIABLES.into_iter();
        let environment: BTreeMap<_, _> =
            known.filter_map(|name| Some((name, config::optional(source, name)?))).collect();
        // Checked now, and not after half an hour of restoring.
        check::ledger_at(&environment, "restored.example", 5432)?;
        let groups = config::optional(source, "FAIRDROP_DRILL_SECURITY_GROUPS").unwrap_or_default();
        Ok(Self {
            client: rds::client(&rds::sdk_config(region).await, region),
            region: region.to_owned(),
            prefix,
            database,
            instance_id,
            class: config::optional(source, "FAIRDROP_DRILL_INSTANCE_CLASS")
                .unwrap_or_else(|| "db.t4g.medium".into()),
            subnet_group: config::optional(source, "FAIRDROP_DRILL_SUBNET_GROUP"),
            security_groups: groups.split(',').filter(|group| !group.is_empty()).map(str::to_owned).collect(),
            poll: Duration::from_secs(config::number(source, "FAIRDROP_DRILL_POLL_SECONDS", 10, 1, 60)?),
            environment,
        })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Command {
    #[serde(default)]
    run: bool,
}

/// The answer to an invocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// `planned`, `restoring`, `deleting` or `done`.
    pub state: &'static str,
    /// What to do now.
    pub next: String,
    /// Whose snapshot.
    pub database: String,
    /// Where.
    pub region: String,
    /// The throw-away instance.
    pub instance: String,
    /// What is restored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// The moment whose data it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_point: Option<Moment>,
    /// How old they were when the restore began, or are now in a dry run: what would have
    /// been lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_point_age_seconds: Option<i64>,
    /// From the call that restores to the ledger's first answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usable_after_seconds: Option<i64>,
    /// From that call to the end of the invocation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_seconds: Option<i64>,
    /// What the ledger said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
}

/// Why a drill ended early; the name is the invocation's `errorType`.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// The payload is no command.
    #[error("not a command: {0}; send {{}} for a dry run, or {{\"run\": true}}")]
    BadCommand(#[from] serde_json::Error),
    /// There is nothing to restore.
    #[error("there is no usable snapshot of {0} here; see the runbook on snapshots")]
    NoSnapshot(String),
    /// Somebody else's instance has the name.
    #[error("the instance {0} is not the drill's; nothing is done to it")]
    Foreign(String),
    /// RDS did not do it.
    #[error("RDS: {0}")]
    Rds(#[from] RdsError),
}

impl From<DrillError> for Diagnostic {
    fn from(error: DrillError) -> Self {
        let error_type = match &error {
            DrillError::BadCommand(_) => "BadCommand",
            DrillError::NoSnapshot(_) => "NoSnapshot",
            DrillError::Foreign(_) => "ForeignInstance",
            DrillError::Rds(_) => "RdsRefused",
        };
        Diagnostic { error_type: error_type.into(), error_message: error.to_string() }
    }
}

/// Carries out the command that `payload` holds, for at most `time`.
pub async fn handle(app: &App, payload: Value, time: Duration) -> Result<Report, DrillError> {
    let Command { run } = serde_json::from_value(payload)?;
    let deadline = Instant::now() + time;
    let newest = app.newest_snapshot().await?;
    let mut report = app.report(newest.as_ref());
    if !run {
        return plan(app, newest.as_ref(), report).await;
    }
    let mut started_at = None;
    loop {
        let instance = app.instance().await?;
        if let Some(instance) = &instance {
            started_at = instance.started_at.or(started_at);
            report.resume(instance);
        }
        match next(newest.as_ref(), instance.as_ref(), report.check.is_some()) {
            Next::Restore(snapshot) => {
                let now = Moment::now();
                app.restore(&snapshot, now).await?;
                started_at = Some(now);
                report.age(started_at);
            }
            Next::Check(host, port) => {
                let check = check::check(app, &host, port, report.recovery_point, deadline).await;
                report.usable_after_seconds = started_at.map(|at| Moment::now().seconds_since(at));
                report.check = Some(check);
                report.measure();
                continue;
            }
            Next::Broken(status) => {
                let problems = vec![format!("RDS could not restore it: the instance is {status}")];
                report.check = Some(Check { problems, ..Check::default() });
                report.measure();
                continue;
            }
            Next::Delete => app.delete().await?,
            Next::Over => return Ok(report.end("done", started_at)),
            Next::NoSnapshot => return Err(DrillError::NoSnapshot(app.database.clone())),
            Next::Foreign => return Err(DrillError::Foreign(app.instance_id.clone())),
            Next::Wait => {}
        }
        if Instant::now() + app.poll >= deadline {
            let state = if report.check.is_some() { "deleting" } else { "restoring" };
            return Ok(report.end(state, started_at));
        }
        tokio::time::sleep(app.poll).await;
    }
}

async fn plan(app: &App, newest: Option<&Snapshot>, mut report: Report) -> Result<Report, DrillError> {
    let instance = app.instance().await?;
    report.next = match next(newest, instance.as_ref(), false) {
        Next::Restore(snapshot) => format!(
            "would restore {} as {} ({}), check it and delete it; send {{\"run\": true}}",
            snapshot.id, app.instance_id, app.class
        ),
        Next::NoSnapshot => return Err(DrillError::NoSnapshot(app.database.clone())),
        Next::Foreign => return Err(DrillError::Foreign(app.instance_id.clone())),
        _ => format!(
            "{} is there from an earlier drill ({}); {{\"run\": true}} goes on with it",
            app.instance_id,
            instance.map(|instance| instance.status).unwrap_or_default()
        ),
    };
    Ok(report)
}

impl App {
    fn report(&self, newest: Option<&Snapshot>) -> Report {
        let at = newest.and_then(Snapshot::usable);
        Report {
            state: "planned",
            next: String::new(),
            database: self.database.clone(),
            region: self.region.clone(),
            instance: self.instance_id.clone(),
            snapshot: newest.map(|newest| newest.id.clone()),
            recovery_point: at,
            recovery_point_age_seconds: at.map(|at| Moment::now().seconds_since(at)),
            usable_after_seconds: None,
            total_seconds: None,
            check: None,
        }
    }
}

impl Report {
    /// Takes over what an earlier invocation has begun.
    fn resume(&mut self, instance: &Instance) {
        if instance.is_ours && !instance.snapshot.is_empty() {
            self.snapshot = Some(instance.snapshot.clone());
            self.recovery_point = instance.recovery_point;
            self.age(instance.started_at);
        }
    }

    fn age(&mut self, started_at: Option<Moment>) {
        self.recovery_point_age_seconds =
            started_at.zip(self.recovery_point).map(|(started, point)| started.seconds_since(point));
    }

    fn measure(&self) {
        let passed = self.check.as_ref().is_some_and(|check| check.passed);
        metrics::gauge!("restore_drill_passed").set(if passed { 1.0 } else { 0.0 });
        if let Some(seconds) = self.usable_after_seconds {
            metrics::gauge!("restore_drill_usable_after_seconds").set(seconds as f64);
        }
        if let Some(check) = &self.check {
            tracing::info!(passed, problems = ?check.problems, "the restored ledger was checked");
        }
    }

    fn end(mut self, state: &'static str, started_at: Option<Moment>) -> Self {
        self.state = state;
        self.total_seconds = started_at.map(|at| Moment::now().seconds_since(at));
        let verdict = match &self.check {
            Some(check) if check.passed => "it passed",
            Some(_) => "it did not pass: see check.problems",
            None => "it is not checked yet",
        };
        self.next = match state {
            "done" => format!("nothing; {verdict}"),
            "deleting" => format!("nothing; {verdict}, and RDS is deleting {}", self.instance),
            _ => format!("invoke again with {{\"run\": true}}; {verdict}"),
        };
        self
    }
}
