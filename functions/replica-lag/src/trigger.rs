//! What starts a run: the schedule, an alarm of this stack's, or a person.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::schedule::ScheduledEvent;

/// What starts a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// EventBridge's schedule: the replica is watched for a minute.
    Schedule,
    /// An alarm has changed its state: it is looked at once, now.
    Alarm(Alarm),
    /// A person wants to know: nothing is remembered, told or changed.
    Look,
}

/// An alarm's new state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// The alarm's ARN.
    pub arn: String,
    /// The state.
    pub state: AlarmState,
    /// When it was entered, as CloudWatch writes it: later ones compare greater.
    pub since: String,
}

/// The state of an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AlarmState {
    /// All is well.
    #[serde(rename = "OK")]
    Ok,
    /// It is not.
    #[serde(rename = "ALARM")]
    Alarm,
    /// There are no data.
    #[serde(rename = "INSUFFICIENT_DATA")]
    InsufficientData,
}

/// An event that starts nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEvent {
    /// It is of no known kind.
    #[error(
        "this function expects an EventBridge schedule's event, a CloudWatch alarm's, or {{\"look\": true}}"
    )]
    Unknown,
    /// It is an alarm's, but of another stack, region or account.
    #[error("this alarm is not of this stack: its ARN does not begin as FAIRDROP_ALARM_ARN_PREFIX says")]
    Foreign,
}

/// The longest ARN and timestamp that are taken.
const MAX_TEXT: usize = 512;

/// An alarm's event, as far as it matters. What an alarm is made of differs from one to the next
/// (metric math, no dimensions, composite alarms), and nothing of that is read.
#[derive(Deserialize)]
struct AlarmEvent {
    source: String,
    #[serde(rename = "alarmArn")]
    arn: String,
    #[serde(rename = "alarmData")]
    data: AlarmData,
}

#[derive(Deserialize)]
struct AlarmData {
    state: StateOfAlarm,
}

#[derive(Deserialize)]
struct StateOfAlarm {
    value: AlarmState,
    timestamp: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum ByHand {
    Look(bool),
}

impl Trigger {
    /// Reads an event. Alarms are taken if their ARN begins with `own_alarms`.
    pub fn parse(event: Value, own_alarms: &str) -> Result<Self, BadEvent> {
        if let Ok(ByHand::Look(true)) = serde_json::from_value(event.clone()) {
            return Ok(Self::Look);
        }
        if serde_json::from_value::<ScheduledEvent>(event.clone()).is_ok() {
            return Ok(Self::Schedule);
        }
        let alarm: AlarmEvent = serde_json::from_value(event).map_err(|_| BadEvent::Unknown)?;
        let since = alarm.data.state.timestamp;
        if alarm.source != "aws.cloudwatch" || alarm.arn.len().max(since.len()) > MAX_TEXT {
            return Err(BadEvent::Unknown);
        }
        // An empty beginning would take every alarm of every account.
        if own_alarms.is_empty() || !alarm.arn.starts_with(own_alarms) {
            return Err(BadEvent::Foreign);
        }
        Ok(Self::Alarm(Alarm { arn: alarm.arn, state: alarm.data.state.value, since }))
    }
}

impl Alarm {
    /// The alarm's own name.
    pub fn name(&self) -> &str {
        self.arn.rsplit(':').next().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const OWN: &str = "arn:aws:cloudwatch:eu-west-1:111122223333:alarm:fairdrop-";

    fn alarm(arn: &str) -> Value {
        let state = json!({ "value": "ALARM", "timestamp": "2026-11-23T14:30:12.345+0000" });
        json!({ "source": "aws.cloudwatch", "alarmArn": arn, "alarmData": { "state": state } })
    }

    #[test]
    fn only_an_alarm_of_this_stack_is_taken() {
        let own = format!("{OWN}replica-lag");
        let Ok(Trigger::Alarm(taken)) = Trigger::parse(alarm(&own), OWN) else { panic!("it is ours") };
        assert_eq!((taken.name(), taken.state), ("fairdrop-replica-lag", AlarmState::Alarm));
        for foreign in [
            "arn:aws:cloudwatch:eu-west-1:111122223333:alarm:billing",
            "arn:aws:cloudwatch:eu-west-1:444455556666:alarm:fairdrop-replica-lag",
            "arn:aws:cloudwatch:us-east-1:111122223333:alarm:fairdrop-replica-lag",
            "",
        ] {
            assert_eq!(Trigger::parse(alarm(foreign), OWN), Err(BadEvent::Foreign), "{foreign}");
        }
        assert_eq!(Trigger::parse(alarm(&own), ""), Err(BadEvent::Foreign));
        let long = format!("{OWN}{}", "x".repeat(600));
        assert_eq!(Trigger::parse(alarm(&long), OWN), Err(BadEvent::Unknown));
        let mut other = alarm(&own);
        other["source"] = json!("aws.health");
        assert_eq!(Trigger::parse(other, OWN), Err(BadEvent::Unknown));
        let mut other = alarm(&own);
        other["alarmData"]["state"]["value"] = json!("PANIC");
        assert_eq!(Trigger::parse(other, OWN), Err(BadEvent::Unknown));
    }
}
