//! The restore drill: could the newest snapshot in this region be restored and used?
//!
//! The drill restores the newest snapshot of the ledger as a temporary DB instance, checks the ledger and deletes the
//! instance. Without `{"run": true}` it reports only what it would do. A restore may take longer than an invocation:
//! the operator then invokes the function again, and the drill continues from the state in the instance's tags. The
//! result of the check is saved with the snapshot before the instance is deleted.

mod check;
mod instance;
mod platform;
mod saved;
mod step;

pub use check::LedgerCheck;
pub use saved::SavedCheck;
pub use step::{DrillInstance, DrillStep, next_step};

use lambda_runtime::Diagnostic;
use platform::Platform;
use rds::{RdsError, Snapshot, SnapshotState, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::config::{self, ConfigError, Source};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Limits an invocation that has no usable deadline.
pub const RUN_LIMIT: Duration = Duration::from_secs(880);
/// The tag of the drill's instance. Its value is the prefix.
const DRILL_TAG: &str = "fairdrop:restore-drill";
/// In characters: the longest identifier of a DB instance.
const MAX_INSTANCE_ID: usize = 63;
/// The variables that configure the connection to the ledger.
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
    settings: DrillSettings,
    prefix: String,
    /// When the process began.
    began: Instant,
    subnet_group: Option<String>,
    security_groups: Vec<String>,
    environment: BTreeMap<&'static str, String>,
}

/// What a drill restores, and as what.
#[derive(Clone, Debug)]
struct DrillSettings {
    region: String,
    database: String,
    /// Identifier of the temporary instance.
    instance_id: String,
    class: String,
    /// Time between two observations of RDS.
    poll: Duration,
}

impl App {
    /// Reads the configuration. Opens no connection.
    pub async fn from_config(source: Source<'_>, region: &str) -> Result<Self, ConfigError> {
        let prefix = config::required(source, "FAIRDROP_SNAPSHOT_PREFIX")?;
        let database = config::required(source, "FAIRDROP_DRILL_DATABASE")?;
        let instance_id = format!("{prefix}-drill-{database}");
        if instance_id.len() > MAX_INSTANCE_ID {
            let why = format!(
                "{instance_id} has more than {MAX_INSTANCE_ID} characters; use a shorter FAIRDROP_SNAPSHOT_PREFIX"
            );
            return Err(ConfigError::bad("FAIRDROP_DRILL_DATABASE", why));
        }
        let known = LEDGER_VARIABLES.into_iter();
        let environment: BTreeMap<_, _> =
            known.filter_map(|name| Some((name, config::optional(source, name)?))).collect();
        // An invalid configuration fails now, not after half an hour of restoring.
        check::ledger_at(&environment, "restored.example", 5432)?;
        let groups = config::optional(source, "FAIRDROP_DRILL_SECURITY_GROUPS").unwrap_or_default();
        let settings = DrillSettings {
            region: region.to_owned(),
            database,
            instance_id,
            class: config::optional(source, "FAIRDROP_DRILL_INSTANCE_CLASS")
                .unwrap_or_else(|| "db.t4g.medium".into()),
            poll: Duration::from_secs(config::number(source, "FAIRDROP_DRILL_POLL_SECONDS", 10, 1, 60)?),
        };
        Ok(Self {
            client: rds::client(&sdk::config(region), region),
            settings,
            prefix,
            began: Instant::now(),
            subnet_group: config::optional(source, "FAIRDROP_DRILL_SUBNET_GROUP"),
            security_groups: groups.split(',').filter(|group| !group.is_empty()).map(str::to_owned).collect(),
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
pub struct RestoreReport {
    /// `planned`, `restoring`, `deleting` or `done`.
    pub state: &'static str,
    /// What the operator does next.
    pub next: String,
    pub database: String,
    pub region: String,
    /// Identifier of the temporary instance.
    pub instance: String,
    /// Identifier of the restored snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_point: Option<Timestamp>,
    /// The age of the recovery point when the restore began; in a dry run, now. A real restore would have lost
    /// the changes of this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_point_age_seconds: Option<i64>,
    /// From the start of the restore to the first answer of the ledger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usable_after_seconds: Option<i64>,
    /// From the start of the restore to the end of the invocation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<LedgerCheck>,
    /// The newest check that was finished before this invocation, of any snapshot in this region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_check: Option<SavedCheck>,
}

/// Why a drill failed. The name is the invocation's `errorType`.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    #[error("the payload is no command: {0}; send {{}} for a dry run, or {{\"run\": true}}")]
    BadCommand(#[from] serde_json::Error),
    #[error("this region has no usable snapshot of {0}; see docs/runbook/snapshots.md")]
    NoSnapshot(String),
    /// An instance without the drill's tag has the name.
    #[error("the DB instance {0} lacks the tag of the drill; the drill changes nothing")]
    Foreign(String),
    #[error("a call to RDS failed: {0}; invoke again to continue the drill")]
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

/// Executes the command in `payload`, for at most `time`.
pub async fn handle(app: &App, payload: Value, time: Duration) -> Result<RestoreReport, DrillError> {
    let Command { run } = serde_json::from_value(payload)?;
    if run { drill(app, &app.settings, time).await } else { dry_run(app, &app.settings).await }
}

async fn drill<P: Platform>(
    platform: &P,
    settings: &DrillSettings,
    time: Duration,
) -> Result<RestoreReport, DrillError> {
    let until = platform.uptime() + time;
    let snapshots = platform.own_snapshots().await?;
    let newest = newest(&snapshots);
    let mut report = RestoreReport::begin(settings, &snapshots, platform.now());
    let mut started_at = None;
    loop {
        let instance = platform.instance().await?;
        if let Some(instance) = &instance {
            started_at = instance.started_at.or(started_at);
            report.resume(instance);
        }
        let check = match next_step(newest, instance.as_ref(), report.check.is_some()) {
            DrillStep::Restore(snapshot) => {
                let now = platform.now();
                platform.restore(&snapshot, now).await?;
                started_at = Some(now);
                report.set_age(started_at);
                None
            }
            DrillStep::Check(host, port) => {
                let limit = until.saturating_sub(platform.uptime());
                let check = platform.check(&host, port, report.recovery_point, limit).await;
                report.usable_after_seconds = started_at.map(|at| platform.now().seconds_since(at));
                Some(check)
            }
            DrillStep::RestoreFailed(status) => {
                let problems =
                    vec![format!("RDS could not restore the snapshot: the DB instance is {status}")];
                Some(LedgerCheck { problems, ..LedgerCheck::default() })
            }
            DrillStep::Delete => {
                platform.delete().await?;
                None
            }
            DrillStep::Done => return Ok(report.end("done", started_at, platform.now())),
            DrillStep::NoSnapshot => return Err(DrillError::NoSnapshot(settings.database.clone())),
            DrillStep::Foreign => return Err(DrillError::Foreign(settings.instance_id.clone())),
            DrillStep::Wait => None,
        };
        if let Some(check) = check {
            report.check = Some(check);
            report.write_metrics();
            save(platform, &snapshots, &report, started_at).await?;
            continue;
        }
        if platform.uptime() + settings.poll >= until {
            let state = if report.check.is_some() { "deleting" } else { "restoring" };
            return Ok(report.end(state, started_at, platform.now()));
        }
        platform.pause(settings.poll).await;
    }
}

/// The newest snapshot that can be restored.
fn newest(snapshots: &[Snapshot]) -> Option<&Snapshot> {
    let usable = snapshots.iter().filter(|one| one.state == SnapshotState::Available);
    usable.max_by_key(|one| one.recovery_point())
}

/// Saves the finished check with its snapshot. If RDS gives no answer, the drill ends before it deletes the instance:
/// the next invocation checks again. If RDS refuses, the result is in the log and in the answer only.
async fn save(
    platform: &impl Platform,
    snapshots: &[Snapshot],
    report: &RestoreReport,
    started_at: Option<Timestamp>,
) -> Result<(), DrillError> {
    let snapshot = snapshots.iter().find(|one| Some(&one.id) == report.snapshot.as_ref());
    let (Some(snapshot), Some(started_at), Some(check)) = (snapshot, started_at, report.check.clone()) else {
        let reason = if snapshot.is_none() {
            "the snapshot does not exist any more"
        } else {
            "the tag with the start of the restore is missing on the instance"
        };
        tracing::warn!(
            snapshot = report.snapshot,
            reason,
            "could not save the result of the drill with its snapshot; the log and the answer have it"
        );
        return Ok(());
    };
    let saved = SavedCheck {
        snapshot: snapshot.id.clone(),
        started_at,
        checked_at: platform.now(),
        usable_after_seconds: report.usable_after_seconds,
        check,
    };
    match platform.save(snapshot, &saved).await {
        Err(error @ (RdsError::Throttled | RdsError::Unreachable(_))) => Err(error.into()),
        Err(error) => {
            tracing::error!(
                snapshot = %snapshot.id, %error,
                "RDS refused to save the result of the drill with its snapshot; the log and the answer have it"
            );
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

async fn dry_run(platform: &impl Platform, settings: &DrillSettings) -> Result<RestoreReport, DrillError> {
    let snapshots = platform.own_snapshots().await?;
    let mut report = RestoreReport::begin(settings, &snapshots, platform.now());
    let instance = platform.instance().await?;
    report.next = match next_step(newest(&snapshots), instance.as_ref(), false) {
        DrillStep::Restore(snapshot) => format!(
            "would restore {} as {} ({}), check the ledger and delete the instance; send {{\"run\": true}}",
            snapshot.id, settings.instance_id, settings.class
        ),
        DrillStep::NoSnapshot => return Err(DrillError::NoSnapshot(settings.database.clone())),
        DrillStep::Foreign => return Err(DrillError::Foreign(settings.instance_id.clone())),
        _ => format!(
            "{} exists from an earlier drill ({}); {{\"run\": true}} continues with it",
            settings.instance_id,
            instance.map(|instance| instance.status).unwrap_or_default()
        ),
    };
    Ok(report)
}

impl RestoreReport {
    fn begin(settings: &DrillSettings, snapshots: &[Snapshot], now: Timestamp) -> Self {
        let newest = newest(snapshots);
        let at = newest.and_then(Snapshot::recovery_point);
        Self {
            state: "planned",
            next: String::new(),
            database: settings.database.clone(),
            region: settings.region.clone(),
            instance: settings.instance_id.clone(),
            snapshot: newest.map(|newest| newest.id.clone()),
            recovery_point: at,
            recovery_point_age_seconds: at.map(|at| now.seconds_since(at)),
            usable_after_seconds: None,
            total_seconds: None,
            check: None,
            last_check: SavedCheck::newest(snapshots),
        }
    }

    /// Takes over the state of an earlier invocation.
    fn resume(&mut self, instance: &DrillInstance) {
        if instance.is_own && !instance.snapshot.is_empty() {
            self.snapshot = Some(instance.snapshot.clone());
            self.recovery_point = instance.recovery_point;
            self.set_age(instance.started_at);
            self.adopt_check(instance);
        }
    }

    /// Takes over the check that an earlier invocation has finished and saved for this restore.
    fn adopt_check(&mut self, instance: &DrillInstance) {
        let Some(saved) = self.last_check.as_ref().filter(|_| self.check.is_none()) else { return };
        if saved.snapshot == instance.snapshot && Some(saved.started_at) == instance.started_at {
            self.usable_after_seconds = saved.usable_after_seconds;
            self.check = Some(saved.check.clone());
            self.write_metrics();
        }
    }

    fn set_age(&mut self, started_at: Option<Timestamp>) {
        self.recovery_point_age_seconds =
            started_at.zip(self.recovery_point).map(|(started, point)| started.seconds_since(point));
    }

    fn write_metrics(&self) {
        let passed = self.check.as_ref().is_some_and(|check| check.passed);
        metrics::gauge!("restore_drill_passed").set(if passed { 1.0 } else { 0.0 });
        if let Some(seconds) = self.usable_after_seconds {
            metrics::gauge!("restore_drill_usable_after_seconds").set(seconds as f64);
        }
        if let Some(check) = &self.check {
            tracing::info!(passed, problems = ?check.problems, "checked the restored ledger");
        }
    }

    fn end(mut self, state: &'static str, started_at: Option<Timestamp>, now: Timestamp) -> Self {
        self.state = state;
        self.total_seconds = started_at.map(|at| now.seconds_since(at));
        let result = match &self.check {
            Some(check) if check.passed => "the drill passed",
            Some(_) => "the drill did not pass: see check.problems",
            None => "the ledger is not checked yet",
        };
        self.next = match state {
            "done" => format!("nothing; {result}"),
            "deleting" => format!("nothing; {result}, and RDS is deleting {}", self.instance),
            _ => format!("invoke again with {{\"run\": true}}; {result}"),
        };
        self
    }
}

#[cfg(test)]
mod simulation;
