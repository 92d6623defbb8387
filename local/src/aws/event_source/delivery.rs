//! Delivering a batch until the function has processed all of it.

use super::MappingOptions;
use crate::aws::lambda::{Invoke, Invoked};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
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
            let event = json!({ "Records": batch }).to_string();
            let answer =
                self.invoke.call_within(self.options.function, event, self.options.invoke_limit).await;
            let answer = match answer {
                Ok(Invoked::Answer(answer)) => Some(answer),
                // An error, a timeout, or a throttled invocation.
                Ok(Invoked::FunctionError(_)) | Err(_) => None,
            };
            let size = batch.len() as u64;
            let again = next_batches(batch, answer.as_ref());
            self.count(answer.is_some(), size, &again);
            if again.is_empty() {
                pause = FIRST_PAUSE;
                continue;
            }
            again.into_iter().rev().for_each(|batch| batches.push_front(batch));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    fn count(&self, is_answered: bool, size: u64, again: &[Vec<Value>]) {
        let mut delivered = self.delivered.lock().unwrap_or_else(PoisonError::into_inner);
        delivered.invocations += 1;
        delivered.failed += u64::from(!is_answered);
        delivered.in_part += u64::from(is_answered && !again.is_empty());
        delivered.records += size - again.iter().map(|batch| batch.len() as u64).sum::<u64>();
    }
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
}
