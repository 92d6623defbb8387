//! What starts a run: the schedule, an alarm of this stack, or an operator.

use serde::Deserialize;
use serde_json::Value;
use shared::schedule::ScheduledEvent;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LagTrigger {
    /// EventBridge's schedule: the run samples for a minute.
    Schedule,
    /// This alarm of the stack has changed its state: the run collects one sample. An event that is delivered twice adds a
    /// second one, and no second notice.
    Alarm(String),
    /// An operator asks: the run collects one sample, saves nothing and sends nothing.
    Observe,
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

/// The part of an alarm's event that is read. The rest differs between alarms (metric math, no dimensions, composite
/// alarms) and is ignored.
#[derive(Deserialize)]
struct AlarmEvent {
    source: String,
    #[serde(rename = "alarmArn")]
    arn: String,
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
        if alarm.source != "aws.cloudwatch" {
            return Err(TriggerError::Unknown);
        }
        // An empty prefix would accept every alarm of every account.
        if alarm_arn_prefix.is_empty() || !alarm.arn.starts_with(alarm_arn_prefix) {
            return Err(TriggerError::Foreign);
        }
        Ok(Self::Alarm(alarm.arn.rsplit(':').next().unwrap_or_default().to_owned()))
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
        let read = LagTrigger::parse(alarm(&own), PREFIX);
        assert_eq!(read, Ok(LagTrigger::Alarm("fairdrop-replica-lag".into())));
        for foreign in [
            "arn:aws:cloudwatch:eu-west-1:111122223333:alarm:billing",
            "arn:aws:cloudwatch:eu-west-1:444455556666:alarm:fairdrop-replica-lag",
            "arn:aws:cloudwatch:us-east-1:111122223333:alarm:fairdrop-replica-lag",
            "",
        ] {
            assert_eq!(LagTrigger::parse(alarm(foreign), PREFIX), Err(TriggerError::Foreign), "{foreign}");
        }
        assert_eq!(LagTrigger::parse(alarm(&own), ""), Err(TriggerError::Foreign));
        let mut other = alarm(&own);
        other["source"] = json!("aws.health");
        assert_eq!(LagTrigger::parse(other, PREFIX), Err(TriggerError::Unknown));
    }
}
