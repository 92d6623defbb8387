//! Sending notices: to an SNS topic, for people, and to EventBridge, for programs.

use crate::memory::Letter;
use crate::notice::Notice;
use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use futures::future::join_all;
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// The longest that sending all of a look's notices may take.
const SEND_LIMIT: Duration = Duration::from_secs(4);
/// SNS's limit for a subject.
const MAX_SUBJECT: usize = 100;
/// The source of the events.
pub(crate) const EVENT_SOURCE: &str = "fairdrop";
/// Their kind.
pub(crate) const EVENT_KIND: &str = "fairdrop replica notice";

/// The two ways out.
#[derive(Debug)]
pub(crate) struct Post {
    /// SNS.
    pub(crate) topics: aws_sdk_sns::Client,
    /// EventBridge.
    pub(crate) events: aws_sdk_eventbridge::Client,
    /// The topic, where there is one.
    pub(crate) topic_arn: Option<String>,
}

impl Post {
    /// Sends what each letter still has to be sent, and returns the letters with what is left.
    pub(crate) async fn send(&self, letters: Vec<Letter>) -> Vec<Letter> {
        let until = Instant::now() + SEND_LIMIT;
        join_all(letters.into_iter().map(|letter| self.send_one(letter, until))).await
    }

    async fn send_one(&self, letter: Letter, until: Instant) -> Letter {
        let notice = &letter.notice;
        let topic = async { if letter.to_topic { self.to_topic(notice).await } else { Ok(()) } };
        let bus = async { if letter.to_bus { self.to_bus(notice).await } else { Ok(()) } };
        let (topic, bus) = tokio::join!(timeout_at(until, topic), timeout_at(until, bus));
        let late = |_| Err("no answer in time".to_owned());
        let (topic, bus) = (topic.unwrap_or_else(late), bus.unwrap_or_else(late));
        for (way, sent) in [("topic", &topic), ("bus", &bus)] {
            if let Err(error) = sent {
                tracing::error!(way, notice = %notice.notice_id, error, "a notice was not sent; the next look tries again");
            }
        }
        Letter { to_topic: topic.is_err(), to_bus: bus.is_err(), ..letter }
    }

    async fn to_topic(&self, notice: &Notice) -> Result<(), String> {
        let Some(topic) = &self.topic_arn else { return Ok(()) };
        let subject: String = notice
            .subject()
            .chars()
            .filter(|one| one.is_ascii() && !one.is_ascii_control())
            .take(MAX_SUBJECT)
            .collect();
        let machine = serde_json::to_string(notice).map_err(|error| error.to_string())?;
        // People read the text; what a program gets, it can parse.
        let message = json!({
            "default": notice.text,
            "http": machine,
            "https": machine,
            "lambda": machine,
            "sqs": machine,
        });
        let call = self.topics.publish().topic_arn(topic).subject(subject).message_structure("json");
        let sent = call.message(message.to_string()).send().await;
        sent.map(drop).map_err(|error| {
            let code = error.as_service_error().and_then(|service| service.meta().code());
            reason(code, &error)
        })
    }

    async fn to_bus(&self, notice: &Notice) -> Result<(), String> {
        let detail = serde_json::to_string(notice).map_err(|error| error.to_string())?;
        let entry =
            PutEventsRequestEntry::builder().source(EVENT_SOURCE).detail_type(EVENT_KIND).detail(detail);
        let answer = self.events.put_events().entries(entry.build()).send().await.map_err(|error| {
            let code = error.as_service_error().and_then(|service| service.meta().code());
            reason(code, &error)
        })?;
        // The call succeeds also where an entry was refused.
        match answer.entries().iter().find_map(|entry| entry.error_code()) {
            Some(code) => Err(code.to_owned()),
            None => Ok(()),
        }
    }
}

/// Why a call failed: the service's code, or what became of the connection.
pub(crate) fn reason(code: Option<&str>, error: &impl std::fmt::Display) -> String {
    code.map_or_else(|| error.to_string(), str::to_owned)
}
