//! What starts a run: the schedule, an alarm of this stack, or an operator.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::schedule::ScheduledEvent;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LagTrigger {
    /// EventBridge's schedule: the run samples for a minute.
    Schedule,
    /// An alarm has changed its state: the run collects one sample.
    Alarm(Alarm),
    /// An operator asks: the run collects one sample, saves nothing and sends nothing.
    Observe,
}

/// An alarm's new state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    pub arn: String,
    pub state: AlarmState,
    /// When the alarm entered the state, as CloudWatch writes it: later timestamps compare greater.
    pub since: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AlarmState {
    #[serde(rename = "OK")]
    Ok,
    #[serde(rename = "ALARM")]
    Alarm,
    #[serde(rename = "INSUFFICIENT_DATA")]
    InsufficientData,
}

/// The newest known state of an alarm, as it is saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastAlarmState {
    pub state: AlarmState,
    /// As CloudWatch writes it.
    pub since: String,
}

/// Why an event starts no run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TriggerError {
    #[error(
        "replica-lag expects an event of its EventBridge schedule, a CloudWatch alarm's event, or {{\"observe\": true}}"
    )]
    Unknown,
    /// It is an alarm's event, but of another stack, region or account.
    #[error(
        "this alarm is not of this stack: its ARN does not begin with the value of FAIRDROP_ALARM_ARN_PREFIX"
    )]
    Foreign,
}

/// The longest ARN and timestamp that are accepted, in bytes.
const MAX_TEXT: usize = 512;

/// The part of an alarm's event that is read. The rest differs between alarms (metric math, no dimensions, composite
/// alarms) and is ignored.
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
    state: AlarmStateChange,
}

#[derive(Deserialize)]
struct AlarmStateChange {
    value: AlarmState,
    timestamp: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OperatorEvent {
    observe: bool,
}

impl LagTrigger {
    /// Reads an event. An alarm's event is accepted if its ARN begins with `alarm_arn_prefix`.
    pub fn parse(event: Value, alarm_arn_prefix: &str) -> Result<Self, TriggerError> {
        if let Ok(OperatorEvent { observe: true }) = serde_json::from_value(event.clone()) {
            return Ok(Self::Observe);
        }
        if serde_json::from_value::<ScheduledEvent>(event.clone()).is_ok() {
            return Ok(Self::Schedule);
        }
        let alarm: AlarmEvent = serde_json::from_value(event).map_err(|_| TriggerError::Unknown)?;
        let since = alarm.data.state.timestamp;
        if alarm.source != "aws.cloudwatch" || alarm.arn.len().max(since.len()) > MAX_TEXT {
            return Err(TriggerError::Unknown);
        }
        // An empty prefix would accept every alarm of every account.
        if alarm_arn_prefix.is_empty() || !alarm.arn.starts_with(alarm_arn_prefix) {
            return Err(TriggerError::Foreign);
        }
        Ok(Self::Alarm(Alarm { arn: alarm.arn, state: alarm.data.state.value, since }))
    }
}

impl Alarm {
    /// The last part of its ARN.
    pub fn name(&self) -> &str {
        self.arn.rsplit(':').next().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PREFIX: &str = "arn:aws:cloudwatch:eu-west-1:111122223333:alarm:fairdrop-";

    fn alarm(arn: &str) -> Value {
        let state = json!({ "value": "ALARM", "timestamp": "2026-11-23T14:30:12.345+0000" });
        json!({ "source": "aws.cloudwatch", "alarmArn": arn, "alarmData": { "state": state } })
    }

    #[test]
    fn only_an_alarm_of_this_stack_is_accepted() {
        let own = format!("{PREFIX}replica-lag");
        let Ok(LagTrigger::Alarm(alarm_read)) = LagTrigger::parse(alarm(&own), PREFIX) else {
            panic!("it is ours")
        };
        assert_eq!((alarm_read.name(), alarm_read.state), ("fairdrop-replica-lag", AlarmState::Alarm));
        for foreign in [
            "arn:aws:cloudwatch:eu-west-1:111122223333:alarm:billing",
            "arn:aws:cloudwatch:eu-west-1:444455556666:alarm:fairdrop-replica-lag",
            "arn:aws:cloudwatch:us-east-1:111122223333:alarm:fairdrop-replica-lag",
            "",
        ] {
            assert_eq!(LagTrigger::parse(alarm(foreign), PREFIX), Err(TriggerError::Foreign), "{foreign}");
        }
        assert_eq!(LagTrigger::parse(alarm(&own), ""), Err(TriggerError::Foreign));
        let long = format!("{PREFIX}{}", "x".repeat(600));
        assert_eq!(LagTrigger::parse(alarm(&long), PREFIX), Err(TriggerError::Unknown));
        let mut other = alarm(&own);
        other["source"] = json!("aws.health");
        assert_eq!(LagTrigger::parse(other, PREFIX), Err(TriggerError::Unknown));
        let mut other = alarm(&own);
        other["alarmData"]["state"]["value"] = json!("PANIC");
        assert_eq!(LagTrigger::parse(other, PREFIX), Err(TriggerError::Unknown));
    }
}
