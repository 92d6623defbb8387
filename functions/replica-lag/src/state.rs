//! What is saved from one sample to the next, and how a sample changes it: a pure function of the saved state and the
//! sample.

use crate::judge::judge;
use crate::notified::{Destination, Notified, Occasion};
use crate::sample::StandbySample;
use crate::verdict::{Assessment, CurrentVerdict, ReplicaVerdict};
use crate::window::Window;
use serde::{Deserialize, Serialize};

/// A run that has not recorded what it sent within this time has died, in milliseconds.
const SENDING_MS: i64 = 30_000;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LagState {
    /// When the first sample was collected, in milliseconds since the Unix epoch.
    pub first_sample_ms: Option<i64>,
    pub window: Window,
    pub verdict: Option<CurrentVerdict>,
    pub topic: Notified,
    pub bus: Notified,
    /// What an earlier version had sent to both destinations.
    #[serde(skip_serializing)]
    last_notified: Option<Notified>,
    /// Until then a run is sending notices, and no other run does, in milliseconds since the Unix epoch.
    sending_until_ms: i64,
}

/// The configuration of the verdict and its notices.
#[derive(Clone, Debug)]
pub struct LagSettings {
    /// RDS's identifier of the replica.
    pub replica: String,
    /// The replica's region.
    pub region: String,
    /// From this lag on the replica counts as behind.
    pub lag_limit_seconds: f64,
    /// A notice is repeated after this time.
    pub repeat_ms: i64,
    /// The address of the runbook's page.
    pub runbook: String,
    pub has_topic: bool,
}

impl LagState {
    /// Adds a sample and judges the window.
    pub fn observe(&mut self, sample: &StandbySample, settings: &LagSettings) -> Assessment {
        self.first_sample_ms.get_or_insert(sample.at_ms);
        if let Some(last) = self.last_notified.take() {
            (self.topic, self.bus) = (last, last);
        }
        self.window.push(sample.clone(), settings.lag_limit_seconds);
        let assessment = judge(self.verdict, &self.window, settings.lag_limit_seconds);
        if matches!(assessment.verdict, ReplicaVerdict::Overloaded | ReplicaVerdict::Undersized) {
            self.window.remember_lag(settings.lag_limit_seconds);
        }
        if self.verdict.is_none_or(|current| current.verdict != assessment.verdict) {
            self.verdict = Some(CurrentVerdict { verdict: assessment.verdict, since_ms: sample.at_ms });
        }
        assessment
    }

    /// The notices about `verdict` that the caller is to send now. Until [`Self::record_sends`], or for half a minute, no
    /// other run gets any.
    pub fn claim_notices(
        &mut self,
        verdict: ReplicaVerdict,
        now_ms: i64,
        settings: &LagSettings,
    ) -> Vec<(Destination, Occasion)> {
        // The sample of the run that sends may be a little newer; a clock that was far ahead blocks nothing.
        if (1..=2 * SENDING_MS).contains(&(self.sending_until_ms - now_ms)) {
            return Vec::new();
        }
        let due: Vec<_> = Destination::all(settings)
            .filter_map(|destination| Some((destination, self.due(destination, verdict, now_ms, settings)?)))
            .collect();
        if !due.is_empty() {
            self.sending_until_ms = now_ms + SENDING_MS;
        }
        due
    }

    fn due(
        &self,
        destination: Destination,
        verdict: ReplicaVerdict,
        now_ms: i64,
        settings: &LagSettings,
    ) -> Option<Occasion> {
        let first_sample_ms = self.first_sample_ms.unwrap_or(now_ms);
        self.notified(destination).due(verdict, first_sample_ms, now_ms, settings.repeat_ms)
    }

    /// Records where notices about `verdict` have arrived. The next sample tries the others again.
    pub fn record_sends(&mut self, sent: &[Destination], verdict: ReplicaVerdict, at_ms: i64) {
        self.sending_until_ms = 0;
        for destination in sent {
            match destination {
                Destination::Topic => self.topic.record(verdict, at_ms),
                Destination::Bus => self.bus.record(verdict, at_ms),
            }
        }
    }

    pub fn notified(&self, destination: Destination) -> Notified {
        match destination {
            Destination::Topic => self.topic,
            Destination::Bus => self.bus,
        }
    }

    /// The number of destinations that do not know of the current verdict yet, or have not accepted its repetition.
    pub fn notices_pending(&self, now_ms: i64, settings: &LagSettings) -> usize {
        let Some(CurrentVerdict { verdict, .. }) = self.verdict else { return 0 };
        let current = (verdict != ReplicaVerdict::Healthy).then_some(verdict);
        Destination::all(settings)
            .filter(|destination| {
                self.notified(*destination).verdict != current
                    || self.due(*destination, verdict, now_ms, settings).is_some()
            })
            .count()
    }
}

impl Destination {
    fn all(settings: &LagSettings) -> impl Iterator<Item = Self> + use<> {
        settings.has_topic.then_some(Self::Topic).into_iter().chain([Self::Bus])
    }
}
