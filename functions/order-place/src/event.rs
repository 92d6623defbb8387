//! A batch of the stream, as an event source mapping delivers it, and the answer to it.

use order_log::{LogRecord, Malformed};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shared::stamp::Stamp;

/// A batch: records in the order of their sequence numbers.
#[derive(Clone, Debug, Deserialize)]
pub struct StreamEvent {
    #[serde(rename = "Records")]
    records: Vec<StreamRecord>,
}

#[derive(Clone, Debug, Deserialize)]
struct StreamRecord {
    #[serde(rename = "eventName", default)]
    event_name: String,
    #[serde(default)]
    dynamodb: StreamChange,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct StreamChange {
    sequence_number: String,
    new_image: Map<String, Value>,
    /// When DynamoDB wrote the record, in seconds, rounded down.
    approximate_creation_date_time: Value,
}

/// A record of the log that the stream brings, with its sequence number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) sequence_number: String,
    /// DynamoDB's clock when the record was written; it may be up to a second later.
    pub(crate) written_at: Option<Stamp>,
    pub(crate) record: LogRecord,
}

impl StreamChange {
    fn written_at(&self) -> Option<Stamp> {
        let seconds = self.approximate_creation_date_time.as_f64()?;
        // The cast saturates.
        Stamp::from_micros((seconds * 1e6) as u64).ok()
    }
}

impl StreamEvent {
    /// New records of the log, in order. A change of a record is an outcome that this function has written, or a
    /// repeated write of `order-intake`; a removal is the end of its time to live. Malformed records are returned apart:
    /// no repetition makes them readable, so they must not stop the stream.
    pub(crate) fn entries(&self) -> (Vec<Entry>, Vec<(&str, Malformed)>) {
        let (mut entries, mut malformed) = (Vec::new(), Vec::new());
        for StreamRecord { dynamodb: change, .. } in
            self.records.iter().filter(|record| record.event_name == "INSERT")
        {
            match LogRecord::from_image(&change.new_image) {
                Ok(record) => entries.push(Entry {
                    sequence_number: change.sequence_number.clone(),
                    written_at: change.written_at(),
                    record,
                }),
                Err(error) => malformed.push((change.sequence_number.as_str(), error)),
            }
        }
        (entries, malformed)
    }
}

/// The answer: empty if the whole batch is done. Lambda delivers the batch again from the lowest of these sequence
/// numbers on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BatchResponse {
    #[serde(rename = "batchItemFailures")]
    failures: Vec<Failure>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Failure {
    #[serde(rename = "itemIdentifier")]
    sequence_number: String,
}

impl BatchResponse {
    /// `undecided`: the sequence number of the first record to deliver again.
    pub(crate) fn again_from(undecided: Option<&str>) -> Self {
        let failure = |number: &str| Failure { sequence_number: number.to_owned() };
        Self { failures: undecided.map(failure).into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use order_log::RecordKind;
    use serde_json::json;

    /// A sequence number, and what the record is.
    type Plain = (String, RecordKind, u64);

    fn parse(event: Value) -> (Vec<Plain>, Vec<(String, &'static str)>) {
        let event: StreamEvent = serde_json::from_value(event).unwrap();
        let (entries, malformed) = event.entries();
        let plain =
            |entry: Entry| (entry.sequence_number, entry.record.kind, entry.record.placed_at.as_micros());
        (
            entries.into_iter().map(plain).collect(),
            malformed.into_iter().map(|(number, error)| (number.to_owned(), error.0)).collect(),
        )
    }

    #[test]
    fn the_sample_event_has_an_order_and_a_withdrawal() {
        let text = include_str!("../../../events/order-place.stream.json");
        let (entries, malformed) = parse(serde_json::from_str(text).unwrap());
        let [order, leave] = entries.as_slice() else { panic!("{entries:?}") };
        assert_eq!(order, &("700000000000000000001".into(), RecordKind::Order, 1_795_500_000_123_456));
        assert_eq!(leave, &("700000000000000000003".into(), RecordKind::Leave, 1_795_500_002_000_000));
        let event: StreamEvent = serde_json::from_str(text).unwrap();
        let written_at = event.entries().0.first().unwrap().written_at;
        assert_eq!(written_at.map(Stamp::as_micros), Some(1_795_500_000_000_000));
        // The record between the two is an outcome of an order.
        assert_eq!(malformed, []);
    }

    #[test]
    fn malformed_records_do_not_hide_the_others() {
        let text = include_str!("../../../events/order-place.stream.json");
        let sample: Value = serde_json::from_str(text).unwrap();
        let order = &sample["Records"][0];
        let mut unreadable = order.clone();
        unreadable["dynamodb"]["NewImage"]["kind"] = json!({ "S": "gift" });
        unreadable["dynamodb"]["SequenceNumber"] = json!("5");
        let bare = json!({ "eventName": "INSERT" });
        let removal = json!({ "eventName": "REMOVE", "dynamodb": { "SequenceNumber": "6" } });
        let (entries, malformed) = parse(json!({ "Records": [unreadable, bare, removal, order] }));
        assert_eq!(entries.len(), 1);
        assert_eq!(malformed, [("5".into(), "kind"), (String::new(), "buyer_stamp")]);
    }

    #[test]
    fn an_event_of_another_kind_is_an_error() {
        for other in
            [json!({}), json!(null), json!({ "Records": 7 }), json!({ "detail-type": "Scheduled Event" })]
        {
            assert!(serde_json::from_value::<StreamEvent>(other.clone()).is_err(), "{other}");
        }
    }

    #[test]
    fn the_answer_names_the_first_record_to_deliver_again() {
        let answer = |undecided| serde_json::to_value(BatchResponse::again_from(undecided)).unwrap();
        assert_eq!(answer(None), json!({ "batchItemFailures": [] }));
        assert_eq!(answer(Some("7")), json!({ "batchItemFailures": [{ "itemIdentifier": "7" }] }));
    }
}
