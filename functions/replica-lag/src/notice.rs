//! What people are told: once when the verdict changes, again while it lasts, and when it is over.

use crate::sample::{HEART_STALE_SECONDS, Sample};
use crate::verdict::{Assessment, Verdict};
use ledger::{AtRisk, Basis};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;

/// `ReplicaLag` and the heartbeat may differ by so much: the metric is a minute old, and rounded.
const DISAGREE_SECONDS: f64 = 60.0;
/// At first, when nothing has been seen yet, nobody is told that nothing is known.
const FIRST_LOOKS_MS: i64 = 60_000;
/// Redis's copy in this region is behind from here on, in seconds.
const REDIS_BEHIND_SECONDS: f64 = 5.0;

/// What was told last.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// The verdict.
    pub verdict: Verdict,
    /// When anything but healthy was told first, in milliseconds since the Unix epoch.
    pub first_ms: i64,
    /// When it was told last.
    pub last_ms: i64,
}

/// Why a notice is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Occasion {
    /// The verdict is another.
    Changed,
    /// It is still the same.
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

/// One notice, for a person and as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// The same notice, sent twice, has the same id.
    pub notice_id: String,
    /// Why it is sent.
    pub occasion: Occasion,
    /// The replica.
    pub replica: String,
    /// Its region.
    pub region: String,
    /// Whether it could take over.
    pub verdict: Verdict,
    /// A stable name for why not.
    pub cause: String,
    /// Since when anything is not as it should be, in milliseconds since the Unix epoch.
    pub since_ms: i64,
    /// When the notice was written.
    pub at_ms: i64,
    /// How far the replica is behind main.
    pub lag_seconds: Option<f64>,
    /// What a promotion would lose now.
    pub at_risk: Option<AtRisk>,
    /// When it will have caught up.
    pub caught_up_in_seconds: Option<u64>,
    /// The class that it should have.
    pub recommended_class: Option<String>,
    /// What else was seen, and what could not be.
    pub findings: Vec<String>,
    /// Alarms of this stack that are on.
    pub alarms: Vec<String>,
    /// What to do.
    pub next_step: String,
    /// Where that is said at length.
    pub runbook: String,
    /// All of it, to be read.
    pub text: String,
}

/// Whether anything is due to be said, and on what occasion.
pub fn due(
    told: Option<Told>,
    verdict: Verdict,
    first_seen_ms: i64,
    now_ms: i64,
    repeat_ms: i64,
) -> Option<Occasion> {
    match (told, verdict) {
        (None, Verdict::Healthy) => None,
        (None, Verdict::Unknown) if now_ms - first_seen_ms < FIRST_LOOKS_MS => None,
        (None, _) => Some(Occasion::Changed),
        (Some(_), Verdict::Healthy) => Some(Occasion::Over),
        (Some(told), _) if told.verdict != verdict => Some(Occasion::Changed),
        (Some(told), _) if now_ms - told.last_ms >= repeat_ms => Some(Occasion::Repeated),
        _ => None,
    }
}

/// What is remembered after the notice.
pub fn told(told: Option<Told>, occasion: Occasion, verdict: Verdict, now_ms: i64) -> Option<Told> {
    if occasion == Occasion::Over {
        return None;
    }
    let first_ms = told.map_or(now_ms, |told| told.first_ms);
    Some(Told { verdict, first_ms, last_ms: now_ms })
}

/// What a notice is about, besides the verdict.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The replica.
    pub replica: &'a str,
    /// Its region.
    pub region: &'a str,
    /// Where the runbook is.
    pub runbook: &'a str,
    /// The newest sample.
    pub sample: &'a Sample,
    /// Alarms that are on.
    pub alarms: &'a BTreeMap<String, crate::memory::SeenAlarm>,
    /// Since when.
    pub since_ms: i64,
}

/// Writes a notice.
pub fn write(occasion: Occasion, assessment: &Assessment, about: About<'_>) -> Notice {
    let at_ms = about.sample.at_ms;
    let verdict = assessment.verdict;
    let recommendation = assessment.recommendation.as_ref();
    let is_on = |alarm: &crate::memory::SeenAlarm| alarm.state == crate::trigger::AlarmState::Alarm;
    let on = about.alarms.iter().filter(|(_, alarm)| is_on(alarm));
    let mut notice = Notice {
        notice_id: format!("{}-{}-{}-{at_ms}", about.replica, occasion.name(), verdict.name()),
        occasion,
        replica: about.replica.to_owned(),
        region: about.region.to_owned(),
        verdict,
        cause: assessment.cause.to_owned(),
        since_ms: about.since_ms,
        at_ms,
        lag_seconds: assessment.lag_seconds,
        at_risk: about.sample.at_risk,
        caught_up_in_seconds: assessment.caught_up_in_seconds,
        recommended_class: recommendation.map(|recommendation| recommendation.class.clone()),
        findings: findings(about.sample),
        alarms: on.map(|(arn, _)| arn.rsplit(':').next().unwrap_or_default().to_owned()).collect(),
        next_step: next_step(assessment),
        runbook: format!("{}#{}", about.runbook, verdict.name()),
        text: String::new(),
    };
    notice.text = notice.read(&assessment.why);
    notice
}

impl Notice {
    /// The one line that a phone shows.
    pub fn subject(&self) -> String {
        let verdict = self.verdict.name();
        match self.occasion {
            Occasion::Over => format!("fairdrop: {} could take over again", self.replica),
            Occasion::Changed => format!("fairdrop: {} is {verdict} ({})", self.replica, self.cause),
            Occasion::Repeated => format!("fairdrop: {} is still {verdict} ({})", self.replica, self.cause),
        }
    }

    fn read(&self, why: &str) -> String {
        let mut text = format!("{}\n\n{why}.\n", self.subject());
        let mut line = |what: &str, value: String| {
            let _ = writeln!(text, "{what}: {value}");
        };
        line("In", self.region.clone());
        line("For", minutes(self.at_ms - self.since_ms));
        if let Some(lag) = self.lag_seconds {
            line("Behind main by", format!("{lag:.1} s"));
        }
        line("A promotion now would lose", self.loss());
        if let Some(seconds) = self.caught_up_in_seconds {
            line("Caught up in about", format!("{seconds} s"));
        }
        if let Some(class) = &self.recommended_class {
            line("Class it should have", class.clone());
        }
        if !self.alarms.is_empty() {
            line("Alarms that are on", self.alarms.join(", "));
        }
        for finding in &self.findings {
            line("Also", finding.clone());
        }
        line("Next", self.next_step.clone());
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
            Basis::Main => format!("{seconds:.1} s and {sales_at_most} sales, counted by main"),
            Basis::Replica => format!(
                "at most {seconds:.1} s and {sales_at_most} sales, probably about {sales_likely} sales. The replica \
                 estimates this: main does not answer, or its heartbeats do not reach back far enough"
            ),
        }
    }
}

fn minutes(ms: i64) -> String {
    let seconds = (ms / 1_000).max(0);
    format!("{} min {} s", seconds / 60, seconds % 60)
}

/// What else was seen that a person should know.
pub fn findings(sample: &Sample) -> Vec<String> {
    let mut findings = Vec::new();
    let figures = sample.figures.unwrap_or_default();
    match (figures.replica_lag, sample.lag_seconds()) {
        (Some(metric), Some(lag)) if metric < 0.0 => findings.push(format!(
            "CloudWatch's ReplicaLag is {metric} (replication not running), but heartbeats arrive and are {lag:.1} s old: the heartbeat is believed"
        )),
        (Some(metric), Some(lag)) if (metric - lag).abs() > DISAGREE_SECONDS => findings.push(format!(
            "CloudWatch's ReplicaLag is {metric:.0} s and the heartbeat says {lag:.1} s: the heartbeat is believed"
        )),
        _ => {}
    }
    let heart = sample.main.map(|main| main.heart_age_seconds);
    match heart {
        Some(None) => findings.push("main's heart has never beaten: is checkout-worker running?".into()),
        Some(Some(age)) if age > HEART_STALE_SECONDS => {
            findings.push(format!("main's heart is silent for {age:.0} s: is checkout-worker running?"));
        }
        _ => {}
    }
    if let Some(lag) = figures.redis_lag.filter(|lag| *lag > REDIS_BEHIND_SECONDS) {
        findings.push(format!("this region's Redis is {lag:.1} s behind main's"));
    }
    let unknown = sample.unknown();
    if !unknown.is_empty() {
        findings.push(format!("could not be read: {}", unknown.join(", ")));
    }
    findings
}

fn next_step(assessment: &Assessment) -> String {
    let class = assessment.recommendation.as_ref().map(|recommendation| recommendation.class.as_str());
    match (assessment.verdict, assessment.cause) {
        (Verdict::Healthy, _) => "nothing".into(),
        (Verdict::CatchingUp, _) => "wait; do not restart the replica, which would only begin again".into(),
        (Verdict::Overloaded, _) => {
            "find out what main writes so much of, and let it end; a restart of the replica cures nothing".into()
        }
        (Verdict::Undersized, _) => format!(
            "give the replica the class {}; a restart would hide the lag for a while and cure nothing",
            class.unwrap_or("of main")
        ),
        (Verdict::Broken, "paused") => "resume replaying: SELECT pg_wal_replay_resume() on the replica".into(),
        (Verdict::Broken, "main-silent") => {
            "find out whether main is alive before anything else; if it is not, decide on a failover".into()
        }
        (Verdict::Broken, "promoted" | "gone") => {
            "make a new replica of main, and point this stack at it; until then there is no standby".into()
        }
        (Verdict::Broken, "replication-status") => {
            "read the replica's log in RDS; what is terminated must be made anew".into()
        }
        (Verdict::Broken, "instance-status") => "bring the instance back to `available`".into(),
        (Verdict::Broken, _) => {
            "look at the line between the regions, and at the replica's log; main's disk fills while its slot waits".into()
        }
        (Verdict::Unknown, _) => {
            "find out why nothing answers: the watcher's rights, its network, the replica itself".into()
        }
    }
}
