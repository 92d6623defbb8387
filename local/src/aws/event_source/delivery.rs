//! Delivering a batch until the function has processed all of it.

use super::MappingOptions;
use crate::aws::dynamodb::RETENTION;
use crate::aws::environments::Throttled;
use crate::aws::lambda::{Invoke, Invoked};
use crate::system::clock::seconds_now;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The pause after a failed invocation; it doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// What a mapping has delivered.
#[derive(Clone, Debug, Default)]
pub struct Delivered {
    /// Invocations, of which so many failed, and so many failed in part.
    pub invocations: u64,
    pub failed: u64,
    pub in_part: u64,
    /// Invocations that were refused: their batches are delivered again as they are.
    pub throttled: u64,
    /// Reads at a place whose records the stream had no more: they were not delivered.
    pub trimmed: u64,
    /// Records that a failing batch had when they left the stream: they are not delivered again.
    pub expired: u64,
    /// Records of batches that succeeded, repeated ones included.
    pub records: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Delivery {
    pub(super) invoke: Invoke,
    pub(super) options: MappingOptions,
    pub(super) delivered: Arc<Mutex<Delivered>>,
}

impl Delivery {
    /// Delivers `batches` in order, however long it takes.
    pub(super) async fn deliver(&self, mut batches: VecDeque<Vec<Value>>) {
        let mut pause = FIRST_PAUSE;
        while let Some(batch) = batches.pop_front() {
            let size = batch.len();
            let batch: Vec<Value> =
                batch.into_iter().filter(|record| !has_left_the_stream(record, seconds_now())).collect();
            self.lock().expired += (size - batch.len()) as u64;
            if batch.is_empty() {
                continue;
            }
            let event = json!({ "Records": batch }).to_string();
            let size = batch.len() as u64;
            let again = match self
                .invoke
                .call_within(self.options.function, event, self.options.invoke_limit)
                .await
            {
                Ok(Invoked::Answer(answer)) => {
                    let again = next_batches(batch, Some(&answer));
                    self.count(true, size, &again);
                    again
                }
                Err(error) if error.is::<Throttled>() => {
                    self.lock().throttled += 1;
                    vec![batch]
                }
                // An error of the function, or its time limit.
                Ok(Invoked::FunctionError(_)) | Err(_) => {
                    let again = next_batches(batch, None);
                    self.count(false, size, &again);
                    again
                }
            };
            if again.is_empty() {
                pause = FIRST_PAUSE;
                continue;
            }
            again.into_iter().rev().for_each(|batch| batches.push_front(batch));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Delivered> {
        self.delivered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, is_answered: bool, size: u64, again: &[Vec<Value>]) {
        let mut delivered = self.lock();
        delivered.invocations += 1;
        delivered.failed += u64::from(!is_answered);
        delivered.in_part += u64::from(is_answered && !again.is_empty());
        delivered.records += size - again.iter().map(|batch| batch.len() as u64).sum::<u64>();
    }
}

/// Whether a record is older than a day. Lambda delivers a record until it leaves the stream.
fn has_left_the_stream(record: &Value, now_seconds: u64) -> bool {
    let created = record["dynamodb"]["ApproximateCreationDateTime"].as_u64();
    created.is_some_and(|created| now_seconds.saturating_sub(created) >= RETENTION.as_secs())
}

/// The batches to deliver after `batch`, for which the function has answered `answer`; `None` if it failed. As with
/// `ReportBatchItemFailures` and `BisectBatchOnFunctionError`.
pub fn next_batches(batch: Vec<Value>, answer: Option<&Value>) -> Vec<Vec<Value>> {
    let Some(answer) = answer else {
        if batch.len() < 2 {
            return vec![batch];
        }
        let mut first = batch;
        let second = first.split_off(first.len() / 2);
        return vec![first, second];
    };
    let failures = match &answer["batchItemFailures"] {
        // An empty or absent list is a complete success.
        Value::Null => return Vec::new(),
        Value::Array(failures) if failures.is_empty() => return Vec::new(),
        Value::Array(failures) => failures,
        // A malformed answer is a complete failure.
        _ => return vec![batch],
    };
    let position = |failure: &Value| {
        let failed = failure["itemIdentifier"].as_str().filter(|number| !number.is_empty())?;
        batch.iter().position(|record| record["dynamodb"]["SequenceNumber"] == failed)
    };
    let positions: Option<Vec<usize>> = failures.iter().map(position).collect();
    // An identifier that is empty or unknown is a complete failure. Otherwise the lowest one is the checkpoint.
    let lowest = positions.and_then(|positions| positions.into_iter().min()).unwrap_or_default();
    let mut batch = batch;
    vec![batch.split_off(lowest)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(numbers: &[u32]) -> Vec<Value> {
        numbers.iter().map(|one| json!({ "dynamodb": { "SequenceNumber": one.to_string() } })).collect()
    }

    fn failed(numbers: &[&str]) -> Value {
        let failures: Vec<Value> = numbers.iter().map(|one| json!({ "itemIdentifier": one })).collect();
        json!({ "batchItemFailures": failures })
    }

    #[test]
    fn a_batch_is_delivered_again_as_the_documents_say() {
        let all = [1, 2, 3, 4, 5];
        let next = |answer: Option<Value>| next_batches(batch(&all), answer.as_ref());
        for done in [json!(null), json!({}), failed(&[]), json!({ "batchItemFailures": null })] {
            assert!(next(Some(done.clone())).is_empty(), "{done}");
        }
        assert_eq!(next(Some(failed(&["4", "2"]))), [batch(&[2, 3, 4, 5])]);
        for complete in
            [failed(&[""]), failed(&["9"]), failed(&["4", "9"]), json!({ "batchItemFailures": 7 })]
        {
            assert_eq!(next(Some(complete.clone())), [batch(&all)], "{complete}");
        }
        assert_eq!(next(None), [batch(&[1, 2]), batch(&[3, 4, 5])]);
        assert_eq!(next_batches(batch(&[1]), None), [batch(&[1])]);
    }

    #[test]
    fn a_record_that_is_a_day_old_is_delivered_no_more() {
        let record = json!({ "dynamodb": { "ApproximateCreationDateTime": 1_795_000_000_u64 } });
        let day = RETENTION.as_secs();
        assert!(!has_left_the_stream(&record, 1_795_000_000 + day - 1));
        assert!(has_left_the_stream(&record, 1_795_000_000 + day));
    }

    #[tokio::test]
    async fn a_batch_that_fails_until_its_records_leave_the_stream_is_given_up() {
        // There is no function: each invocation fails.
        let invoke = crate::aws::lambda::Emulator::start().await.unwrap().invoke_api();
        let delivery = Delivery { invoke, options: MappingOptions::order_place(), delivered: Arc::default() };
        let created = seconds_now() - RETENTION.as_secs() + 2;
        let record = json!({ "dynamodb": { "SequenceNumber": "1", "ApproximateCreationDateTime": created } });
        delivery.deliver(VecDeque::from([vec![record]])).await;
        let delivered = delivery.lock().clone();
        assert_eq!((delivered.expired, delivered.records), (1, 0));
    }
}
