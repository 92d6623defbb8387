//! What a destination was last notified of, and which notice is due: one when the verdict changes, repeated while it
//! lasts, and one when it is over. Verdicts may flap for days, so the number of notices has a limit.

use crate::verdict::ReplicaVerdict;
use serde::{Deserialize, Serialize};

/// A new function collects samples for this long before it notifies operators that the verdict is unknown.
const FIRST_SAMPLES_MS: i64 = 60_000;
/// Each notice uses up this much time, in milliseconds: in the long run, a destination gets one in this time.
pub const NOTICE_COST_MS: i64 = 15 * 60_000;
/// This number of notices may follow each other at once.
pub const BURST: i64 = 6;

/// A place that notices are sent to. Each is notified independently of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The SNS topic, for operators.
    Topic,
    /// The EventBridge bus, for programs.
    Bus,
}

/// Why a notice is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Occasion {
    /// The verdict has changed.
    Changed,
    /// The verdict is still the same.
    Repeated,
    /// The standby could take over again.
    Over,
}

/// What a destination was last notified of. Moments are in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Notified {
    /// Absent if it has been notified of nothing, or that the standby could take over.
    pub verdict: Option<ReplicaVerdict>,
    /// The first notice since the replica was last healthy.
    pub first_ms: i64,
    /// The last notice; 0 if there was none.
    pub last_ms: i64,
    /// The notices so far have used up the time until then.
    pub paid_until_ms: i64,
}

impl Notified {
    /// Whether a notice about `verdict` is due, and why. The change to *broken* is never delayed: the notice before it was
    /// about another verdict and had to wait for its turn, so that the limit holds, plus one.
    pub fn due(
        &self,
        verdict: ReplicaVerdict,
        first_sample_ms: i64,
        now_ms: i64,
        repeat_ms: i64,
    ) -> Option<Occasion> {
        use ReplicaVerdict::{Broken, Healthy, Unknown};
        match (self.verdict, verdict) {
            (None, Healthy) => None,
            (None, Unknown) if now_ms - first_sample_ms < FIRST_SAMPLES_MS => None,
            (last, Broken) if last != Some(Broken) => Some(Occasion::Changed),
            _ if !self.may_send(now_ms) => None,
            (_, Healthy) => Some(Occasion::Over),
            (last, verdict) if last != Some(verdict) => Some(Occasion::Changed),
            // A clock that was far ahead does not silence it.
            _ if (now_ms - self.last_ms).abs() >= repeat_ms => Some(Occasion::Repeated),
            _ => None,
        }
    }

    fn may_send(&self, now_ms: i64) -> bool {
        let used_ms = self.paid_until_ms - now_ms;
        // So much is never used up, unless a clock was far ahead.
        used_ms <= (BURST - 1) * NOTICE_COST_MS || used_ms > (BURST + 2) * NOTICE_COST_MS
    }

    /// A notice about `verdict` was sent.
    pub fn record(&mut self, verdict: ReplicaVerdict, at_ms: i64) {
        if self.verdict.is_none() {
            self.first_ms = at_ms;
        }
        self.verdict = (verdict != ReplicaVerdict::Healthy).then_some(verdict);
        self.last_ms = at_ms;
        let used_up = self.paid_until_ms.clamp(at_ms, at_ms + BURST * NOTICE_COST_MS);
        self.paid_until_ms = used_up + NOTICE_COST_MS;
    }
}

impl Occasion {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Repeated => "repeated",
            Self::Over => "over",
        }
    }
}
