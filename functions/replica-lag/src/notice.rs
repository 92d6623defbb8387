//! The text of notices, and what they say in addition to the verdict.

use crate::notified::{Notified, Occasion};
use crate::sample::{HEARTBEAT_STALE_SECONDS, StandbySample};
use crate::state::{LagSettings, LagState};
use crate::verdict::{Assessment, ReplicaVerdict};
use ledger::{AtRisk, Basis};
use serde::Serialize;
use std::fmt::Write;

/// `ReplicaLag` and the heartbeat may differ by this much: the metric is a minute old, and rounded.
const DISAGREE_SECONDS: f64 = 60.0;
/// From this lag on this region's Redis counts as behind, in seconds.
const REDIS_BEHIND_SECONDS: f64 = 5.0;

/// One notice, as text for operators and as JSON for programs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReplicaNotice {
    /// If the same notice is sent twice, both have the same id.
    pub notice_id: String,
    pub occasion: Occasion,
    pub replica: String,
    pub region: String,
    pub verdict: ReplicaVerdict,
    /// A stable name of the reason.
    pub cause: &'static str,
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
    pub next_step: String,
    /// The runbook's section about the verdict.
    pub runbook: String,
    /// Everything above as a text to read.
    pub text: String,
}

impl ReplicaNotice {
    /// Writes the notice about `assessment`, for a destination that was last notified as `last`. `state` has its sample.
    pub fn write(
        occasion: Occasion,
        assessment: &Assessment,
        sample: &StandbySample,
        last: Notified,
        state: &LagState,
        settings: &LagSettings,
    ) -> Self {
        let (replica, verdict) = (&settings.replica, assessment.verdict);
        let current_since_ms = state.verdict.map_or(sample.at_ms, |current| current.since_ms);
        // The notice before it distinguishes it from others of this kind. A destination's first one has none.
        let after_ms = if last.last_ms == 0 { current_since_ms } else { last.last_ms };
        let mut notice = Self {
            notice_id: format!("{replica}-{}-{}-{after_ms}", occasion.name(), verdict.name()),
            occasion,
            replica: replica.clone(),
            region: settings.region.clone(),
            verdict,
            cause: assessment.cause,
            since_ms: if last.verdict.is_some() { last.first_ms } else { current_since_ms },
            at_ms: sample.at_ms,
            lag_seconds: assessment.lag_seconds,
            at_risk: sample.at_risk,
            caught_up_in_seconds: assessment.caught_up_in_seconds,
            recommended_class: assessment.recommended_class.clone(),
            findings: findings(sample, state),
            next_step: next_step(assessment),
            runbook: format!("{}#{}", settings.runbook, verdict.name()),
            text: String::new(),
        };
        // The notice may come long after the replica became healthy.
        let until_ms = if occasion == Occasion::Over { current_since_ms } else { sample.at_ms };
        notice.text = notice.write_text(&assessment.why, until_ms);
        notice
    }

    /// One line, for a phone.
    pub fn subject(&self) -> String {
        let verdict = self.verdict.name();
        match self.occasion {
            Occasion::Over => format!("fairdrop: {} could take over again", self.replica),
            Occasion::Changed => format!("fairdrop: {} is {verdict} ({})", self.replica, self.cause),
            Occasion::Repeated => format!("fairdrop: {} is still {verdict} ({})", self.replica, self.cause),
        }
    }

    fn write_text(&self, why: &str, until_ms: i64) -> String {
        let mut text = format!("{}\n\nReason: {why}.\n", self.subject());
        let mut line = |label: &str, value: String| {
            let _ = writeln!(text, "{label}: {value}");
        };
        line("Region", self.region.clone());
        line("Duration", minutes(until_ms - self.since_ms));
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
pub fn findings(sample: &StandbySample, state: &LagState) -> Vec<String> {
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
    let earlier = state.window.earlier_lags();
    let is_undersized = state.verdict.is_some_and(|current| current.verdict == ReplicaVerdict::Undersized);
    if earlier > 0 && !is_undersized {
        findings.push(format!(
            "earlier lags of the replica ({}; main: {}) in two weeks: {earlier}",
            state.window.replica_class().unwrap_or("class unknown"),
            state.window.main_class().unwrap_or("class unknown")
        ));
    }
    let unknown = sample.unknown();
    if !unknown.is_empty() {
        findings.push(format!("these inputs could not be read: {}", unknown.join(", ")));
    }
    findings
}

fn next_step(assessment: &Assessment) -> String {
    let class = assessment.recommended_class.as_deref();
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
