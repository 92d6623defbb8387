//! What the watcher remembers from one look to the next, and how one look changes it: a pure
//! function of what was remembered and what is seen.

use crate::notice::{self, About, Notice, Occasion, Told};
use crate::sample::Sample;
use crate::trigger::{Alarm, AlarmState};
use crate::verdict::{Assessment, Standing, judge};
use crate::window::Window;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Alarms that are remembered; a stack has fewer.
const MAX_ALARMS: usize = 50;
/// Notices that wait to be sent; the oldest go first.
const MAX_OUTBOX: usize = 20;

/// A run that has not said within this time that a notice is sent has died, in milliseconds.
const CLAIM_MS: i64 = 30_000;

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// When the first look was, in milliseconds since the Unix epoch.
    pub first_seen_ms: Option<i64>,
    /// What has been seen.
    pub window: Window,
    /// The verdict.
    pub standing: Option<Standing>,
    /// What people have been told.
    pub told: Option<Told>,
    /// Each alarm's newest state, by its ARN.
    pub alarms: BTreeMap<String, SeenAlarm>,
    /// Notices that are written and not sent.
    pub outbox: Vec<Letter>,
}

/// The newest state of an alarm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenAlarm {
    /// The state.
    pub state: AlarmState,
    /// Since when, as CloudWatch writes it.
    pub since: String,
}

/// A notice, and who has not had it yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Letter {
    /// The notice.
    pub notice: Notice,
    /// The SNS topic.
    pub to_topic: bool,
    /// The EventBridge bus.
    pub to_bus: bool,
    /// Until when a run has taken it on itself to send it, in milliseconds since the Unix epoch.
    pub claimed_until_ms: i64,
}

/// What a look is judged by, besides what is seen.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The replica's identifier.
    pub replica: String,
    /// Its region.
    pub region: String,
    /// The lag from which on it counts as behind.
    pub behind_seconds: f64,
    /// A notice is repeated after this.
    pub repeat_ms: i64,
    /// Where the runbook is.
    pub runbook: String,
    /// Whether there is a topic, and a bus.
    pub has_topic: bool,
}

impl Memory {
    /// Whether an alarm's state has been acted on: it was delivered before, or a later one was.
    pub fn knows(&self, alarm: &Alarm) -> bool {
        self.alarms.get(&alarm.arn).is_some_and(|seen| seen.since >= alarm.since)
    }

    /// Takes in a look.
    pub fn look(&mut self, sample: &Sample, alarm: Option<&Alarm>, settings: &Settings) -> Assessment {
        let now_ms = sample.at_ms;
        self.first_seen_ms.get_or_insert(now_ms);
        if let Some(alarm) = alarm {
            self.see(alarm);
        }
        self.window.push(sample.clone(), settings.behind_seconds);
        let assessment = judge(self.standing, &self.window, settings.behind_seconds);
        let standing = match self.standing {
            Some(standing) if standing.verdict == assessment.verdict => standing,
            _ => Standing { verdict: assessment.verdict, since_ms: now_ms },
        };
        self.standing = Some(standing);
        let first_seen_ms = self.first_seen_ms.unwrap_or(now_ms);
        let due = notice::due(self.told, assessment.verdict, first_seen_ms, now_ms, settings.repeat_ms);
        if let Some(occasion) = due {
            self.write(occasion, &assessment, sample, settings);
            self.told = notice::told(self.told, occasion, assessment.verdict, now_ms);
        }
        assessment
    }

    /// Writes a notice, to be sent.
    pub fn write(
        &mut self,
        occasion: Occasion,
        assessment: &Assessment,
        sample: &Sample,
        settings: &Settings,
    ) {
        let since_ms =
            self.told.map(|told| told.first_ms).or(self.standing.map(|standing| standing.since_ms));
        let about = About {
            replica: &settings.replica,
            region: &settings.region,
            runbook: &settings.runbook,
            sample,
            alarms: &self.alarms,
            since_ms: since_ms.unwrap_or(sample.at_ms),
        };
        let notice = notice::write(occasion, assessment, about);
        self.outbox.push(Letter { notice, to_topic: settings.has_topic, to_bus: true, claimed_until_ms: 0 });
        let surplus = self.outbox.len().saturating_sub(MAX_OUTBOX);
        for lost in self.outbox.drain(..surplus) {
            tracing::error!(notice = %lost.notice.notice_id, "a notice could not be sent and is given up");
        }
    }

    fn see(&mut self, alarm: &Alarm) {
        let seen = SeenAlarm { state: alarm.state, since: alarm.since.clone() };
        self.alarms.insert(alarm.arn.clone(), seen);
        while self.alarms.len() > MAX_ALARMS {
            let oldest = self.alarms.iter().min_by(|(_, one), (_, other)| one.since.cmp(&other.since));
            let Some(arn) = oldest.map(|(arn, _)| arn.clone()) else { break };
            self.alarms.remove(&arn);
        }
    }

    /// The notices that are to be sent now, and by nobody else meanwhile.
    pub fn claim(&mut self, now_ms: i64) -> Vec<Letter> {
        let free = self.outbox.iter_mut().filter(|letter| letter.claimed_until_ms <= now_ms);
        let claimed = free.map(|letter| {
            letter.claimed_until_ms = now_ms + CLAIM_MS;
            letter.clone()
        });
        claimed.collect()
    }

    /// Takes out of the outbox what was sent; what was not may be sent by the next look.
    pub fn sent(&mut self, sent: &[Letter]) {
        for letter in sent {
            let own = self.outbox.iter_mut().find(|own| own.notice.notice_id == letter.notice.notice_id);
            if let Some(own) = own {
                own.to_topic &= letter.to_topic;
                own.to_bus &= letter.to_bus;
                own.claimed_until_ms = 0;
            }
        }
        self.outbox.retain(|letter| letter.to_topic || letter.to_bus);
    }
}
