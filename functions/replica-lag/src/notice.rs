//! Notices to operators and programs: one when the verdict changes, repeated while it lasts, and one when it is over.

use crate::sample::{HEARTBEAT_STALE_SECONDS, StandbySample};
use crate::trigger::{AlarmState, LastAlarmState};
use crate::verdict::{Assessment, ReplicaVerdict};
use ledger::{AtRisk, Basis};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;

/// `ReplicaLag` and the heartbeat may differ by this much: the metric is a minute old, and rounded.
const DISAGREE_SECONDS: f64 = 60.0;
/// A new function collects samples for this long before it notifies operators that the verdict is unknown.
const FIRST_SAMPLES_MS: i64 = 60_000;
/// From this lag on this region's Redis counts as behind, in seconds.
const REDIS_BEHIND_SECONDS: f64 = 5.0;

/// The last notice. Moments are in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastNotified {
    pub verdict: ReplicaVerdict,
    /// The first notice since the replica was last healthy.
    pub first_ms: i64,
    pub last_ms: i64,
}

/// Why a notice is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Occasion {
    /// The verdict has changed.
    Changed,
    /// The verdict is still the same.
    Repeated,
    /// The standby could take over again.
    Over,
}

impl Occasion {
    fn name(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Repeated => "repeated",
            Self::Over => "over",
        }
    }
}

/// One notice, as text for operators and as JSON for programs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplicaNotice {
    /// If the same notice is sent twice, both have the same id.
    pub notice_id: String,
    pub occasion: Occasion,
    pub replica: String,
    pub region: String,
    pub verdict: ReplicaVerdict,
    /// A stable name of the reason.
    pub cause: String,
    /// When the replica stopped being healthy, in milliseconds since the Unix epoch.
    pub since_ms: i64,
    /// When the notice was written.
    pub at_ms: i64,
    /// How far the replica is behind main.
    pub lag_seconds: Option<f64>,
    /// What a promotion would lose now.
    pub at_risk: Option<AtRisk>,
    pub caught_up_in_seconds: Option<u64>,
    pub recommended_class: Option<String>,
    pub findings: Vec<String>,
    /// Alarms of this stack that are in the state `ALARM`.
    pub alarms: Vec<String>,
    pub next_step: String,
    /// The runbook's section about the verdict.
    pub runbook: String,
    /// Everything above as a text to read.
    pub text: String,
}

/// Whether a notice is due, and why.
pub fn due(
    last: Option<LastNotified>,
    verdict: ReplicaVerdict,
    first_sample_ms: i64,
    now_ms: i64,
    repeat_ms: i64,
) -> Option<Occasion> {
    match (last, verdict) {
        (None, ReplicaVerdict::Healthy) => None,
        (None, ReplicaVerdict::Unknown) if now_ms - first_sample_ms < FIRST_SAMPLES_MS => None,
        (None, _) => Some(Occasion::Changed),
        (Some(_), ReplicaVerdict::Healthy) => Some(Occasion::Over),
        (Some(last), _) if last.verdict != verdict => Some(Occasion::Changed),
        (Some(last), _) if now_ms - last.last_ms >= repeat_ms => Some(Occasion::Repeated),
        _ => None,
    }
}

/// The last notice, after the notice of `occasion`.
pub fn after_notice(
    last: Option<LastNotified>,
    occasion: Occasion,
    verdict: ReplicaVerdict,
    now_ms: i64,
) -> Option<LastNotified> {
    if occasion == Occasion::Over {
        return None;
    }
    let first_ms = last.map_or(now_ms, |last| last.first_ms);
    Some(LastNotified { verdict, first_ms, last_ms: now_ms })
}

/// What a notice is written from, in addition to the assessment.
#[derive(Clone, Copy, Debug)]
pub struct NoticeContext<'a> {
    pub replica: &'a str,
    pub region: &'a str,
    /// The address of the runbook's page.
    pub runbook: &'a str,
    /// The newest sample.
    pub sample: &'a StandbySample,
    /// By their ARNs.
    pub alarms: &'a BTreeMap<String, LastAlarmState>,
    pub since_ms: i64,
}

pub fn write(occasion: Occasion, assessment: &Assessment, context: NoticeContext<'_>) -> ReplicaNotice {
    let at_ms = context.sample.at_ms;
    let verdict = assessment.verdict;
    let recommendation = assessment.recommendation.as_ref();
    let in_alarm = context.alarms.iter().filter(|(_, alarm)| alarm.state == AlarmState::Alarm);
    let mut notice = ReplicaNotice {
        notice_id: format!("{}-{}-{}-{at_ms}", context.replica, occasion.name(), verdict.name()),
        occasion,
        replica: context.replica.to_owned(),
        region: context.region.to_owned(),
        verdict,
        cause: assessment.cause.to_owned(),
        since_ms: context.since_ms,
        at_ms,
        lag_seconds: assessment.lag_seconds,
        at_risk: context.sample.at_risk,
        caught_up_in_seconds: assessment.caught_up_in_seconds,
        recommended_class: recommendation.map(|recommendation| recommendation.class.clone()),
        findings: findings(context.sample),
        alarms: in_alarm.map(|(arn, _)| arn.rsplit(':').next().unwrap_or_default().to_owned()).collect(),
        next_step: next_step(assessment),
        runbook: format!("{}#{}", context.runbook, verdict.name()),
        text: String::new(),
    };
    notice.text = notice.write_text(&assessment.why);
    notice
}

impl ReplicaNotice {
    /// One line, for a phone.
    pub fn subject(&self) -> String {
        let verdict = self.verdict.name();
        match self.occasion {
            Occasion::Over => format!("fairdrop: {} could take over again", self.replica),
            Occasion::Changed => format!("fairdrop: {} is {verdict} ({})", self.replica, self.cause),
            Occasion::Repeated => format!("fairdrop: {} is still {verdict} ({})", self.replica, self.cause),
        }
    }

    fn write_text(&self, why: &str) -> String {
        let mut text = format!("{}\n\nReason: {why}.\n", self.subject());
        let mut line = |label: &str, value: String| {
            let _ = writeln!(text, "{label}: {value}");
        };
        line("Region", self.region.clone());
        line("Duration", minutes(self.at_ms - self.since_ms));
        if let Some(lag) = self.lag_seconds {
            line("Lag behind main", format!("{lag:.1} s"));
        }
        line("A promotion now would lose", self.loss());
        if let Some(seconds) = self.caught_up_in_seconds {
            line("Caught up in about", format!("{seconds} s"));
        }
        if let Some(class) = &self.recommended_class {
            line("Recommended instance class", class.clone());
        }
        if !self.alarms.is_empty() {
            line("Alarms in state ALARM", self.alarms.join(", "));
        }
        for finding in &self.findings {
            line("Also", finding.clone());
        }
        line("Next step", self.next_step.clone());
        line("Runbook", self.runbook.clone());
        text
    }

    fn loss(&self) -> String {
        let Some(at_risk) = self.at_risk else {
            return "unknown".into();
        };
        let AtRisk { sales_at_most, sales_likely, basis, .. } = at_risk;
        let seconds = at_risk.seconds();
        match basis {
            Basis::Main => format!("{seconds:.1} s and {sales_at_most} sales, as main's ledger counts"),
            Basis::Replica => format!(
                "at most {seconds:.1} s and {sales_at_most} sales, probably about {sales_likely} sales. The replica's \
                 ledger estimates this, because main does not answer or its heartbeats do not reach back far enough"
            ),
        }
    }
}

fn minutes(ms: i64) -> String {
    let seconds = (ms / 1_000).max(0);
    format!("{} min {} s", seconds / 60, seconds % 60)
}

/// What an operator should know in addition to the verdict.
pub fn findings(sample: &StandbySample) -> Vec<String> {
    let mut findings = Vec::new();
    let figures = sample.figures.unwrap_or_default();
    match (figures.replica_lag, sample.lag_seconds()) {
        (Some(metric), Some(lag)) if metric < 0.0 => findings.push(format!(
            "CloudWatch's ReplicaLag is {metric} (replication not running), but heartbeats arrive and are {lag:.1} s \
             old; the verdict follows the heartbeat"
        )),
        (Some(metric), Some(lag)) if (metric - lag).abs() > DISAGREE_SECONDS => findings.push(format!(
            "CloudWatch's ReplicaLag is {metric:.0} s, but by the heartbeat the lag is {lag:.1} s; the verdict \
             follows the heartbeat"
        )),
        _ => {}
    }
    match sample.main.map(|main| main.heartbeat_age_seconds) {
        Some(None) => {
            findings.push("main's ledger has never had a heartbeat: is checkout-worker running?".into());
        }
        Some(Some(age)) if age > HEARTBEAT_STALE_SECONDS => findings.push(format!(
            "main's newest heartbeat is {age:.0} s old, and one is due every second: is checkout-worker running?"
        )),
        _ => {}
    }
    if let Some(lag) = figures.redis_lag.filter(|lag| *lag > REDIS_BEHIND_SECONDS) {
        findings.push(format!("this region's Redis is {lag:.1} s behind main's Redis"));
    }
    let unknown = sample.unknown();
    if !unknown.is_empty() {
        findings.push(format!("these inputs could not be read: {}", unknown.join(", ")));
    }
    findings
}

fn next_step(assessment: &Assessment) -> String {
    let class = assessment.recommendation.as_ref().map(|recommendation| recommendation.class.as_str());
    match (assessment.verdict, assessment.cause) {
        (ReplicaVerdict::Healthy, _) => "none".into(),
        (ReplicaVerdict::CatchingUp, _) => {
            "wait. Do not restart the replica: replay would start again from its last restart point".into()
        }
        (ReplicaVerdict::Overloaded, _) => {
            "find out what writes so much on main, and let it finish or stop it. Restarting the replica does not help"
                .into()
        }
        (ReplicaVerdict::Undersized, _) => format!(
            "change the replica's instance class to {}. Restarting the replica hides the lag for a while and does not \
             help",
            class.unwrap_or("main's class")
        ),
        (ReplicaVerdict::Broken, "paused") => {
            "resume WAL replay: run SELECT pg_wal_replay_resume() on the replica".into()
        }
        (ReplicaVerdict::Broken, "main-silent") => {
            "first check whether main is running. If it is not, decide whether to fail over".into()
        }
        (ReplicaVerdict::Broken, "promoted" | "gone") => {
            "create a new replica of main and deploy this stack with its identifiers. Until then there is no standby"
                .into()
        }
        (ReplicaVerdict::Broken, "replication-status") => {
            "read the replica's log in RDS. If its replication is terminated, create a new replica".into()
        }
        (ReplicaVerdict::Broken, "instance-status") => "bring the instance back to `available`".into(),
        (ReplicaVerdict::Broken, _) => {
            "check the network between the regions and the replica's log. Main's disk fills while its slot waits"
                .into()
        }
        (ReplicaVerdict::Unknown, _) => {
            "find out why the inputs do not answer: replica-lag's rights, its network, the replica itself".into()
        }
    }
}
