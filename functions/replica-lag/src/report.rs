//! The answer to an invocation, and the metrics of a sample.

use crate::App;
use crate::notice::{self, ReplicaNotice};
use crate::sample::StandbySample;
use crate::state::LagState;
use crate::verdict::{Assessment, ReplicaVerdict};
use ledger::AtRisk;
use serde::Serialize;

/// The answer to an invocation: its newest sample, judged.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LagReport {
    pub replica: String,
    pub region: String,
    /// Whether the event was an alarm's state that had been handled before: then nothing was done.
    pub repeated: bool,
    /// Absent if nothing was done.
    #[serde(flatten)]
    pub assessment: Option<Assessment>,
    /// The beginning of the current verdict, in milliseconds since the Unix epoch.
    pub since_ms: Option<i64>,
    /// What a promotion would lose now.
    pub at_risk: Option<AtRisk>,
    pub findings: Vec<String>,
    /// Inputs that could not be read.
    pub unknown: Vec<&'static str>,
    /// The number of samples that the run collected.
    pub samples: u32,
    /// Notices that the run sent.
    pub notices: Vec<ReplicaNotice>,
    /// Notices in the outbox.
    pub notices_pending: usize,
    pub sample: StandbySample,
}

impl LagReport {
    /// The report of one sample, with the state after it. The caller adds the notices that were sent.
    pub fn of(app: &App, sample: &StandbySample, assessment: &Assessment, state: &LagState) -> Self {
        Self {
            assessment: Some(assessment.clone()),
            since_ms: state.verdict.map(|verdict| verdict.since_ms),
            at_risk: sample.at_risk,
            findings: notice::findings(sample),
            samples: 1,
            notices_pending: state.outbox.len(),
            ..Self::with_sample(app, sample)
        }
    }

    /// The report for an alarm's state that had been handled before.
    pub fn of_repeated_alarm(app: &App, sample: &StandbySample) -> Self {
        Self { repeated: true, ..Self::with_sample(app, sample) }
    }

    fn with_sample(app: &App, sample: &StandbySample) -> Self {
        Self {
            replica: app.settings.replica.clone(),
            region: app.settings.region.clone(),
            unknown: sample.unknown(),
            sample: sample.clone(),
            ..Self::default()
        }
    }

    /// Writes the sample's metrics. An unknown value is not written: the alarms treat missing data as breaching.
    pub fn write_metrics(&self) {
        let Some(assessment) = &self.assessment else { return };
        metrics::counter!("replica_samples").increment(1);
        metrics::gauge!("replica_inputs_unknown").set(self.unknown.len() as f64);
        metrics::gauge!("replica_notices_pending").set(self.notices_pending as f64);
        for verdict in ReplicaVerdict::ALL {
            let is_current = if verdict == assessment.verdict { 1.0 } else { 0.0 };
            metrics::gauge!("replica_verdict", "Verdict" => verdict.name()).set(is_current);
        }
        let gauge = |name: &'static str, value: Option<f64>| {
            if let Some(value) = value {
                metrics::gauge!(name).set(value);
            }
        };
        let figures = self.sample.figures.unwrap_or_default();
        let main = self.sample.main;
        gauge("replica_lag_seconds", self.sample.lag_seconds());
        gauge("replica_at_risk_seconds", self.at_risk.map(AtRisk::seconds));
        gauge("replica_at_risk_sales", self.at_risk.map(|at_risk| at_risk.sales_likely as f64));
        gauge("main_heartbeat_age_seconds", main.and_then(|main| main.heartbeat_age_seconds));
        gauge("main_slot_bytes", main.and_then(|main| main.slot_bytes).map(|bytes| bytes as f64));
        gauge("redis_replication_lag_seconds", figures.redis_lag);
    }
}
