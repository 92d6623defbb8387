//! What a run has found: the invocation's answer, and metrics.

use crate::App;
use crate::memory::Memory;
use crate::notice::{self, Notice};
use crate::sample::Sample;
use crate::verdict::{Assessment, Verdict};
use ledger::AtRisk;
use serde::Serialize;

/// The answer to an invocation: the newest look.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// The replica.
    pub replica: String,
    /// Its region.
    pub region: String,
    /// Whether this was an alarm's state that had been acted on before: nothing was done.
    pub repeated: bool,
    /// Whether the standby could take over, and why not. Absent where nothing was done.
    #[serde(flatten)]
    pub assessment: Option<Assessment>,
    /// Since when the verdict stands, in milliseconds since the Unix epoch.
    pub since_ms: Option<i64>,
    /// What a promotion would lose now.
    pub at_risk: Option<AtRisk>,
    /// What else was seen.
    pub findings: Vec<String>,
    /// Inputs that could not be read.
    pub unknown: Vec<&'static str>,
    /// How often it was looked.
    pub looks: u32,
    /// Notices that were sent.
    pub notices: Vec<Notice>,
    /// Notices that still have to be.
    pub notices_waiting: usize,
    /// All that was seen.
    pub seen: Sample,
}

impl Report {
    /// The report of one look, with what is remembered after it. The notices that were sent are
    /// the caller's to add.
    pub fn of(app: &App, sample: &Sample, assessment: &Assessment, memory: &Memory) -> Self {
        Self {
            assessment: Some(assessment.clone()),
            since_ms: memory.standing.map(|standing| standing.since_ms),
            at_risk: sample.at_risk,
            findings: notice::findings(sample),
            looks: 1,
            notices_waiting: memory.outbox.len(),
            ..Self::that_saw(app, sample)
        }
    }

    /// The report where an alarm's state had been acted on before.
    pub fn of_repeated_alarm(app: &App, sample: &Sample) -> Self {
        Self { repeated: true, ..Self::that_saw(app, sample) }
    }

    fn that_saw(app: &App, sample: &Sample) -> Self {
        Self {
            replica: app.settings.replica.clone(),
            region: app.settings.region.clone(),
            unknown: sample.unknown(),
            seen: sample.clone(),
            ..Self::default()
        }
    }

    /// Writes the look's metrics. What is not known is not written: the alarms take silence for
    /// the worst.
    pub fn measure(&self) {
        let Some(assessment) = &self.assessment else { return };
        metrics::counter!("replica_looks").increment(1);
        metrics::gauge!("replica_inputs_unknown").set(self.unknown.len() as f64);
        metrics::gauge!("replica_notices_waiting").set(self.notices_waiting as f64);
        for verdict in Verdict::ALL {
            let stands = if verdict == assessment.verdict { 1.0 } else { 0.0 };
            metrics::gauge!("replica_verdict", "Verdict" => verdict.name()).set(stands);
        }
        let gauge = |name: &'static str, value: Option<f64>| {
            if let Some(value) = value {
                metrics::gauge!(name).set(value);
            }
        };
        let figures = self.seen.figures.unwrap_or_default();
        gauge("replica_lag_seconds", self.seen.lag_seconds());
        gauge("replica_at_risk_seconds", self.at_risk.map(AtRisk::seconds));
        gauge("replica_at_risk_sales", self.at_risk.map(|at_risk| at_risk.sales_likely as f64));
        gauge("main_heart_age_seconds", self.seen.main.and_then(|main| main.heart_age_seconds));
        gauge("main_slot_bytes", self.seen.main.and_then(|main| main.slot_bytes).map(|bytes| bytes as f64));
        gauge("redis_replication_lag_seconds", figures.redis_lag);
    }
}
