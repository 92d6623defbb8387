//! Sends notices: to an SNS topic for operators, and to EventBridge for programs.

use crate::notice::ReplicaNotice;
use crate::state::OutboxEntry;
use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use futures::future::join_all;
use serde_json::json;
use std::error::Error;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// The longest that sending all notices of one sample may take.
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

/// Why a notice was not sent.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error("{reason}")]
    Call {
        reason: String,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    #[error("EventBridge did not accept the event: {0}")]
    Rejected(String),
    #[error("could not be written as JSON")]
    Json(#[from] serde_json::Error),
    #[error("timed out after {} s", SEND_LIMIT.as_secs())]
    TimedOut(#[from] tokio::time::error::Elapsed),
}

impl Publisher {
    /// Sends each entry to the destinations that it has not reached yet. The returned entries name what is still to
    /// be sent.
    pub(crate) async fn send(&self, entries: Vec<OutboxEntry>) -> Vec<OutboxEntry> {
        let until = Instant::now() + SEND_LIMIT;
        join_all(entries.into_iter().map(|entry| self.send_entry(entry, until))).await
    }

    async fn send_entry(&self, entry: OutboxEntry, until: Instant) -> OutboxEntry {
        let notice = &entry.notice;
        let topic = async { if entry.to_topic { self.to_topic(notice).await } else { Ok(()) } };
        let bus = async { if entry.to_bus { self.to_bus(notice).await } else { Ok(()) } };
        let (topic, bus) = tokio::join!(timeout_at(until, topic), timeout_at(until, bus));
        let topic = topic.map_err(PublishError::from).flatten();
        let bus = bus.map_err(PublishError::from).flatten();
        for (destination, sent) in [("SNS topic", &topic), ("EventBridge bus", &bus)] {
            if let Err(error) = sent {
                tracing::error!(
                    destination, notice_id = %notice.notice_id, %error,
                    "could not send a notice; it stays in the outbox, and the next sample tries again"
                );
            }
        }
        OutboxEntry { to_topic: topic.is_err(), to_bus: bus.is_err(), ..entry }
    }

    async fn to_topic(&self, notice: &ReplicaNotice) -> Result<(), PublishError> {
        let Some(topic) = &self.topic_arn else { return Ok(()) };
        let subject: String = notice
            .subject()
            .chars()
            .filter(|one| one.is_ascii() && !one.is_ascii_control())
            .take(MAX_SUBJECT)
            .collect();
        let json = serde_json::to_string(notice)?;
        // Operators read the text; programs parse the JSON.
        let message = json!({
            "default": notice.text,
            "http": json,
            "https": json,
            "lambda": json,
            "sqs": json,
        });
        let call = self.sns.publish().topic_arn(topic).subject(subject).message_structure("json");
        call.message(message.to_string()).send().await.map(drop).map_err(|error| {
            let code = error.as_service_error().and_then(|service| service.meta().code());
            PublishError::Call { reason: reason(code, &error), source: error.into() }
        })
    }

    async fn to_bus(&self, notice: &ReplicaNotice) -> Result<(), PublishError> {
        let detail = serde_json::to_string(notice)?;
        let entry = PutEventsRequestEntry::builder()
            .source(EVENT_SOURCE)
            .detail_type(EVENT_DETAIL_TYPE)
            .detail(detail);
        let answer = self.eventbridge.put_events().entries(entry.build()).send().await.map_err(|error| {
            let code = error.as_service_error().and_then(|service| service.meta().code());
            PublishError::Call { reason: reason(code, &error), source: error.into() }
        })?;
        // The call also succeeds if EventBridge rejects an entry.
        match answer.entries().iter().find_map(|entry| entry.error_code()) {
            Some(code) => Err(PublishError::Rejected(code.to_owned())),
            None => Ok(()),
        }
    }
}

/// Why a call failed: the code that the service returned, or what happened to the connection.
pub(crate) fn reason(code: Option<&str>, error: &impl std::fmt::Display) -> String {
    code.map_or_else(|| error.to_string(), str::to_owned)
}
