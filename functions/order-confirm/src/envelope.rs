//! The events that carry a payment notice, and what is in them.
//!
//! A notice comes over HTTP, alone in an invocation, as the `detail` of an EventBridge event, in an SNS notification, or
//! in a batch of SQS messages. A message may be wrapped more than once: EventBridge to SNS to SQS.

use crate::notice::{self, PaymentNotice};
use serde_json::Value;
use shared::problem::Problem;

/// The most envelopes around a notice.
const MAX_ENVELOPES: usize = 3;
/// The longest message, in bytes, with the envelopes within it.
const MAX_MESSAGE_BYTES: usize = 16_384;

/// An event, by who gets the answer.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// The payments route of the HTTP API, payload format 2.0.
    Http(Value),
    /// A read of the HTTP API.
    Read(Value),
    /// Another kind of gateway, whose events name no item.
    OtherGateway,
    /// A direct invocation. Its caller may read the answer, or may have invoked asynchronously: Lambda does not tell.
    Direct(Result<PaymentNotice, Problem>),
    /// An event that a service pushed. No caller reads the answer.
    Pushed(Result<PaymentNotice, Problem>),
    /// Messages of SQS. The answer names those that SQS delivers again.
    Queue(Vec<QueueMessage>),
}

/// One message of SQS.
#[derive(Debug)]
pub(crate) struct QueueMessage {
    pub(crate) id: String,
    /// Messages of one group are handled in order.
    pub(crate) group: Option<String>,
    pub(crate) notice: Result<PaymentNotice, Problem>,
}

/// Recognises an event. What is no notice becomes [`Incoming::Direct`] with a problem.
pub(crate) fn open(mut event: Value) -> Incoming {
    // A record of the dead-letter queue has the event that Lambda gave up.
    if event.get("requestContext").is_some_and(|context| context.get("condition").is_some())
        && let Some(payload) = event.get_mut("requestPayload")
    {
        event = payload.take();
    }
    if event.get("requestContext").is_some_and(|context| context.get("http").is_some()) {
        let is_read = event["requestContext"]["http"]["method"] == "GET";
        return if is_read { Incoming::Read(event) } else { Incoming::Http(event) };
    }
    if event.get("requestContext").is_some() || event.get("httpMethod").is_some() {
        return Incoming::OtherGateway;
    }
    if event.get("detail-type").is_some() {
        return Incoming::Pushed(in_message(event));
    }
    match event.get_mut("Records") {
        None => Incoming::Direct(notice::from_invocation(event)),
        Some(records) => in_records(records.take()),
    }
}

fn in_records(records: Value) -> Incoming {
    let no_notice = Incoming::Direct(Err(Problem::BadPayment));
    let Value::Array(mut records) = records else { return no_notice };
    let is_of = |record: &Value, name: &str, source: &str| record[name] == source;
    if let [record] = records.as_mut_slice()
        && is_of(record, "EventSource", "aws:sns")
    {
        return Incoming::Pushed(in_text(&record["Sns"]["Message"]));
    }
    if records.is_empty() || !records.iter().all(|record| is_of(record, "eventSource", "aws:sqs")) {
        return no_notice;
    }
    match records.iter().map(queue_message).collect() {
        Some(messages) => Incoming::Queue(messages),
        None => no_notice,
    }
}

/// A message without an id cannot be named in the answer.
fn queue_message(record: &Value) -> Option<QueueMessage> {
    Some(QueueMessage {
        id: record["messageId"].as_str()?.to_owned(),
        group: record["attributes"]["MessageGroupId"].as_str().map(str::to_owned),
        notice: in_text(&record["body"]),
    })
}

fn in_text(text: &Value) -> Result<PaymentNotice, Problem> {
    in_message(parse(text)?)
}

/// The notice within a message's envelopes.
fn in_message(mut message: Value) -> Result<PaymentNotice, Problem> {
    for _ in 0..MAX_ENVELOPES {
        if message.get("detail-type").is_some() {
            message = message["detail"].take();
        } else if message["Type"] == "Notification" {
            message = parse(&message["Message"])?;
        } else {
            break;
        }
    }
    notice::from_invocation(message)
}

fn parse(text: &Value) -> Result<Value, Problem> {
    let text = text.as_str().ok_or(Problem::BadPayment)?;
    if text.len() > MAX_MESSAGE_BYTES {
        return Err(Problem::BodyTooLarge { limit_bytes: MAX_MESSAGE_BYTES });
    }
    serde_json::from_str(text).map_err(|_| Problem::BadPayment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn notice() -> Value {
        json!({ "item_id": "a", "user_token": "alice", "payment_reference": "pi_1", "outcome": "paid" })
    }

    fn event_bridge(detail: Value) -> Value {
        json!({ "source": "shop", "detail-type": "Payment", "detail": detail })
    }

    fn sns(message: &Value) -> Value {
        json!({ "Type": "Notification", "MessageId": "m", "Message": message.to_string() })
    }

    fn sqs(bodies: &[String]) -> Value {
        let record = |body| json!({ "eventSource": "aws:sqs", "messageId": "m", "body": body });
        json!({ "Records": bodies.iter().map(record).collect::<Vec<_>>() })
    }

    #[test]
    fn a_notice_is_found_in_up_to_three_envelopes() {
        let nested = sns(&event_bridge(notice()));
        for body in [notice(), event_bridge(notice()), sns(&notice()), nested.clone(), sns(&nested)] {
            let Incoming::Queue(messages) = open(sqs(&[body.to_string()])) else { panic!("{body}") };
            assert!(messages[0].notice.is_ok(), "{body}");
        }
        let Incoming::Queue(messages) = open(sqs(&[sns(&sns(&nested)).to_string()])) else { panic!() };
        assert_eq!(messages[0].notice.as_ref().unwrap_err(), &Problem::BadPayment);
        let long = sns(&json!({ "x": "y".repeat(MAX_MESSAGE_BYTES) }));
        let Incoming::Queue(messages) = open(sqs(&[long.to_string(), "x".into()])) else { panic!() };
        assert!(matches!(messages[0].notice, Err(Problem::BodyTooLarge { .. })));
        assert!(matches!(messages[1].notice, Err(Problem::BadPayment)));
    }

    #[test]
    fn a_dead_letter_is_handled_as_the_event_that_it_has() {
        let letter = |payload: Value| json!({ "version": "1.0", "requestContext": { "condition": "RetriesExhausted" }, "requestPayload": payload });
        assert!(matches!(open(letter(notice())), Incoming::Direct(Ok(_))));
        assert!(matches!(open(letter(event_bridge(notice()))), Incoming::Pushed(Ok(_))));
    }

    #[test]
    fn events_of_other_services_are_no_notice() {
        let other_records = [
            json!([]),
            json!([{}]),
            json!({}),
            json!([{ "eventSource": "aws:s3", "messageId": "m", "body": notice().to_string() }]),
            json!([{ "eventSource": "aws:sqs", "body": notice().to_string() }]),
            json!([{ "EventSource": "aws:sns", "Sns": {} }, { "EventSource": "aws:sns", "Sns": {} }]),
        ];
        for records in other_records {
            let event = json!({ "Records": records });
            assert!(matches!(open(event.clone()), Incoming::Direct(Err(Problem::BadPayment))), "{event}");
        }
        let mut foreign = event_bridge(json!({ "state": "running" }));
        assert!(matches!(open(foreign.clone()), Incoming::Pushed(Err(Problem::BadPayment))));
        foreign["detail"].take();
        assert!(matches!(open(foreign), Incoming::Pushed(Err(Problem::BadPayment))));
        for gateway in [json!({ "httpMethod": "POST" }), json!({ "requestContext": { "stage": "prod" } })] {
            assert!(matches!(open(gateway), Incoming::OtherGateway));
        }
    }
}
