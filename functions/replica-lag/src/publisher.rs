//! Sends notices: to an SNS topic for operators, and to EventBridge for programs.

use crate::notice::ReplicaNotice;
use crate::notified::Destination;
use aws_sdk_eventbridge::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use serde_json::json;
use std::time::Duration;
use tokio::time::timeout;

/// The longest that sending a notice may take.
const SEND_LIMIT: Duration = Duration::from_secs(4);
/// SNS's limit for a subject, in characters.
const MAX_SUBJECT: usize = 100;
const EVENT_SOURCE: &str = "fairdrop";
const EVENT_DETAIL_TYPE: &str = "fairdrop replica notice";

#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) sns: aws_sdk_sns::Client,
    pub(crate) eventbridge: aws_sdk_eventbridge::Client,
    /// Absent if the stack has no topic.
    pub(crate) topic_arn: Option<String>,
}

impl Publisher {
    /// Sends a notice to `destination`; returns whether it has arrived there.
    pub(crate) async fn send(&self, destination: Destination, notice: &ReplicaNotice) -> bool {
        let sending = async {
            match destination {
                Destination::Topic => self.to_topic(notice).await,
                Destination::Bus => self.to_bus(notice).await,
            }
        };
        let timed_out = |_| format!("timed out after {} s", SEND_LIMIT.as_secs());
        let sent = timeout(SEND_LIMIT, sending).await.map_err(timed_out).flatten();
        if let Err(error) = &sent {
            tracing::error!(
                ?destination, notice_id = %notice.notice_id, %error,
                "could not send a notice; the next sample tries again"
            );
        }
        sent.is_ok()
    }

    async fn to_topic(&self, notice: &ReplicaNotice) -> Result<(), String> {
        let Some(topic) = &self.topic_arn else { return Ok(()) };
        let subject: String = notice
            .subject()
            .chars()
            .filter(|one| one.is_ascii() && !one.is_ascii_control())
            .take(MAX_SUBJECT)
            .collect();
        let json = json_of(notice)?;
        // Operators read the text; programs parse the JSON.
        let message = json!({
            "default": notice.text,
            "http": json,
            "https": json,
            "lambda": json,
            "sqs": json,
        });
        let call = self.sns.publish().topic_arn(topic).subject(subject).message_structure("json");
        call.message(message.to_string()).send().await.map(drop).map_err(reason)
    }

    async fn to_bus(&self, notice: &ReplicaNotice) -> Result<(), String> {
        let detail = json_of(notice)?;
        let entry = PutEventsRequestEntry::builder()
            .source(EVENT_SOURCE)
            .detail_type(EVENT_DETAIL_TYPE)
            .detail(detail);
        let answer = self.eventbridge.put_events().entries(entry.build()).send().await.map_err(reason)?;
        // The call also succeeds if EventBridge rejects an entry.
        match answer.entries().iter().find_map(|entry| entry.error_code()) {
            Some(code) => Err(format!("EventBridge did not accept the event: {code}")),
            None => Ok(()),
        }
    }
}

fn json_of(notice: &ReplicaNotice) -> Result<String, String> {
    serde_json::to_string(notice).map_err(|error| format!("could not be written as JSON: {error}"))
}

/// Why a call failed: the code that the service returned, or what happened to the connection.
pub(crate) fn reason<E: ProvideErrorMetadata, R>(error: SdkError<E, R>) -> String {
    error.code().map_or_else(|| error.to_string(), str::to_owned)
}
