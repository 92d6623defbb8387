//! The verdict about the standby, with its reasons. `judge` reaches it.

use serde::{Deserialize, Serialize};

/// Evidence is at most this old, in seconds: some questions may fail in a row.
pub const EVIDENCE_SECONDS: i64 = 45;

/// Whether the standby could take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplicaVerdict {
    /// It could take over: it has everything that main has, up to a few seconds.
    Healthy,
    /// It is behind, and the lag shrinks.
    CatchingUp,
    /// It is behind, and main writes more than usual.
    Overloaded,
    /// It is behind, and has fallen behind before.
    Undersized,
    /// Replication does not run.
    Broken,
    /// The inputs do not suffice for a verdict.
    Unknown,
}

impl ReplicaVerdict {
    pub const ALL: [Self; 6] =
        [Self::Healthy, Self::CatchingUp, Self::Overloaded, Self::Undersized, Self::Broken, Self::Unknown];

    /// The name in reports, metrics, notices and the runbook.
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::CatchingUp => "catching-up",
            Self::Overloaded => "overloaded",
            Self::Undersized => "undersized",
            Self::Broken => "broken",
            Self::Unknown => "unknown",
        }
    }

    pub(crate) fn is_behind(self) -> bool {
        matches!(self, Self::CatchingUp | Self::Overloaded | Self::Undersized)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurrentVerdict {
    pub verdict: ReplicaVerdict,
    /// The verdict's beginning, in milliseconds since the Unix epoch.
    pub since_ms: i64,
}

/// A verdict with its reasons.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Assessment {
    pub verdict: ReplicaVerdict,
    /// A stable name of the reason; the runbook lists them.
    pub cause: &'static str,
    /// The reason, for operators.
    pub why: String,
    /// The newest known lag behind main.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<f64>,
    /// When the replica will have caught up at the current rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caught_up_in_seconds: Option<u64>,
    /// The instance class that the replica should have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recommended_class: Option<String>,
}

impl Assessment {
    pub(crate) fn of(verdict: ReplicaVerdict, cause: &'static str, why: impl Into<String>) -> Self {
        Self {
            verdict,
            cause,
            why: why.into(),
            lag_seconds: None,
            caught_up_in_seconds: None,
            recommended_class: None,
        }
    }
}
