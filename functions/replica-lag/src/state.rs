//! What is saved from one sample to the next, and how a sample changes it: a pure function of the saved state and the
//! sample.

use crate::judge::judge;
use crate::notice::{self, LastNotified, NoticeContext, Occasion, ReplicaNotice};
use crate::sample::StandbySample;
use crate::trigger::{Alarm, LastAlarmState};
use crate::verdict::{Assessment, CurrentVerdict};
use crate::window::Window;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The most alarms whose state is saved; a stack has fewer.
const MAX_ALARMS: usize = 50;
/// The most notices in the outbox. The oldest are dropped first.
const MAX_OUTBOX: usize = 20;
/// A run that has not reported the result of a send within this time has died, in milliseconds.
const IN_FLIGHT_MS: i64 = 30_000;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LagState {
    /// When the first sample was collected, in milliseconds since the Unix epoch.
    pub first_sample_ms: Option<i64>,
    pub window: Window,
    pub verdict: Option<CurrentVerdict>,
    /// Absent while the last notice reported that the standby could take over.
    pub last_notified: Option<LastNotified>,
    /// Each alarm's newest state, by its ARN.
    pub alarms: BTreeMap<String, LastAlarmState>,
    /// Notices that are written and not sent to all their destinations.
    pub outbox: Vec<OutboxEntry>,
}

/// A notice, and the destinations that it has not reached yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutboxEntry {
    pub notice: ReplicaNotice,
    /// Still to be sent to the SNS topic.
    pub to_topic: bool,
    /// Still to be sent to the EventBridge bus.
    pub to_bus: bool,
    /// Until then a run is sending it, and no other run does, in milliseconds since the Unix epoch.
    pub in_flight_until_ms: i64,
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
    /// Whether this state of the alarm, or a later one, has been handled.
    pub fn has_handled(&self, alarm: &Alarm) -> bool {
        self.alarms.get(&alarm.arn).is_some_and(|last| last.since >= alarm.since)
    }

    /// Adds a sample, judges the window, and puts the notice that is due into the outbox.
    pub fn observe(
        &mut self,
        sample: &StandbySample,
        alarm: Option<&Alarm>,
        settings: &LagSettings,
    ) -> Assessment {
        let now_ms = sample.at_ms;
        let first_sample_ms = *self.first_sample_ms.get_or_insert(now_ms);
        if let Some(alarm) = alarm {
            self.save_alarm(alarm);
        }
        self.window.push(sample.clone(), settings.lag_limit_seconds);
        let assessment = judge(self.verdict, &self.window, settings.lag_limit_seconds);
        if self.verdict.is_none_or(|current| current.verdict != assessment.verdict) {
            self.verdict = Some(CurrentVerdict { verdict: assessment.verdict, since_ms: now_ms });
        }
        let due =
            notice::due(self.last_notified, assessment.verdict, first_sample_ms, now_ms, settings.repeat_ms);
        if let Some(occasion) = due {
            self.add_notice(occasion, &assessment, sample, settings);
            self.last_notified =
                notice::after_notice(self.last_notified, occasion, assessment.verdict, now_ms);
        }
        assessment
    }

    /// Writes a notice and puts it into the outbox.
    pub fn add_notice(
        &mut self,
        occasion: Occasion,
        assessment: &Assessment,
        sample: &StandbySample,
        settings: &LagSettings,
    ) {
        let notified_since_ms = self.last_notified.map(|last| last.first_ms);
        let since_ms = notified_since_ms.or(self.verdict.map(|current| current.since_ms));
        let context = NoticeContext {
            replica: &settings.replica,
            region: &settings.region,
            runbook: &settings.runbook,
            sample,
            alarms: &self.alarms,
            since_ms: since_ms.unwrap_or(sample.at_ms),
        };
        let notice = notice::write(occasion, assessment, context);
        self.outbox.push(OutboxEntry {
            notice,
            to_topic: settings.has_topic,
            to_bus: true,
            in_flight_until_ms: 0,
        });
        let surplus = self.outbox.len().saturating_sub(MAX_OUTBOX);
        for dropped in self.outbox.drain(..surplus) {
            tracing::error!(
                notice_id = %dropped.notice.notice_id, limit = MAX_OUTBOX,
                "dropped the oldest notice: the outbox is full because notices cannot be sent"
            );
        }
    }

    fn save_alarm(&mut self, alarm: &Alarm) {
        let last = LastAlarmState { state: alarm.state, since: alarm.since.clone() };
        self.alarms.insert(alarm.arn.clone(), last);
        while self.alarms.len() > MAX_ALARMS {
            let oldest = self.alarms.iter().min_by(|(_, one), (_, other)| one.since.cmp(&other.since));
            let Some(arn) = oldest.map(|(arn, _)| arn.clone()) else { break };
            self.alarms.remove(&arn);
        }
    }

    /// The notices that the caller is to send now. Until [`Self::record_sends`], or for half a minute, no other run
    /// gets them.
    pub fn take_unsent(&mut self, now_ms: i64) -> Vec<OutboxEntry> {
        let unsent = self.outbox.iter_mut().filter(|entry| entry.in_flight_until_ms <= now_ms);
        let taken = unsent.map(|entry| {
            entry.in_flight_until_ms = now_ms + IN_FLIGHT_MS;
            entry.clone()
        });
        taken.collect()
    }

    /// Removes from the outbox what has been sent to all its destinations. The next sample may send the rest.
    pub fn record_sends(&mut self, attempted: &[OutboxEntry]) {
        for attempt in attempted {
            let own = self.outbox.iter_mut().find(|own| own.notice.notice_id == attempt.notice.notice_id);
            if let Some(own) = own {
                own.to_topic &= attempt.to_topic;
                own.to_bus &= attempt.to_bus;
                own.in_flight_until_ms = 0;
            }
        }
        self.outbox.retain(|entry| entry.to_topic || entry.to_bus);
    }
}
