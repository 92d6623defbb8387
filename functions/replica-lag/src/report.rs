//! The answer to an invocation, and the metrics of a sample.

use crate::notice::{self, ReplicaNotice};
use crate::sample::StandbySample;
use crate::state::{LagSettings, LagState};
use crate::verdict::{Assessment, ReplicaVerdict};
use ledger::AtRisk;
use serde::Serialize;

/// The answer to an invocation: its newest sample, judged.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LagReport {
    pub replica: String,
    pub region: String,
    #[serde(flatten)]
    pub assessment: Assessment,
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
    /// The number of destinations that do not know of the verdict yet, or have not accepted its repetition.
    pub notices_pending: usize,
    pub sample: StandbySample,
}

impl LagReport {
    /// The report of one sample, with the state after it. The caller adds the notices that were sent.
    pub fn of(
        settings: &LagSettings,
        sample: &StandbySample,
        assessment: &Assessment,
        state: &LagState,
    ) -> Self {
        Self {
            replica: settings.replica.clone(),
            region: settings.region.clone(),
            assessment: assessment.clone(),
            since_ms: state.verdict.map(|verdict| verdict.since_ms),
            at_risk: sample.at_risk,
            findings: notice::findings(sample, state),
            unknown: sample.unknown(),
            samples: 1,
            notices: Vec::new(),
            notices_pending: state.notices_pending(sample.at_ms, settings),
            sample: sample.clone(),
        }
    }
}

/// Writes the metrics of a sample. An unknown value is not written: the alarms treat missing data as breaching.
pub fn write_metrics(sample: &StandbySample, verdict: ReplicaVerdict, notices_pending: usize) {
    metrics::counter!("replica_samples").increment(1);
    metrics::gauge!("replica_inputs_unknown").set(sample.unknown().len() as f64);
    metrics::gauge!("replica_notices_pending").set(notices_pending as f64);
    for each in ReplicaVerdict::ALL {
        metrics::gauge!("replica_verdict", "Verdict" => each.name()).set(if each == verdict {
            1.0
        } else {
            0.0
        });
    }
    let gauge = |name: &'static str, value: Option<f64>| {
        if let Some(value) = value {
            metrics::gauge!(name).set(value);
        }
    };
    gauge("replica_lag_seconds", sample.lag_seconds());
    gauge("replica_at_risk_seconds", sample.at_risk.map(AtRisk::seconds));
    gauge("replica_at_risk_sales", sample.at_risk.map(|at_risk| at_risk.sales_likely as f64));
    gauge("main_heartbeat_age_seconds", sample.main.and_then(|main| main.heartbeat_age_seconds));
    gauge("main_slot_bytes", sample.main.and_then(|main| main.slot_bytes).map(|bytes| bytes as f64));
    gauge("redis_replication_lag_seconds", sample.figures.and_then(|figures| figures.redis_lag));
}
