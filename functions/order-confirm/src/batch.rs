//! A batch of SQS messages: the answer names those that SQS delivers again.

use crate::envelope::QueueMessage;
use crate::{AnswerReader, App, is_decided, receive};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// The most messages of a batch that are handled.
const MAX_MESSAGES: usize = 100;
/// What is not handled by then is delivered again. It is below Lambda's timeout of 20 s, after which SQS would deliver
/// the whole batch again.
const BATCH_LIMIT: Duration = Duration::from_secs(15);

/// Handles the messages one after the other, since a process has one connection to the ledger. After a message that
/// was not decided, the others of its group wait, so that they stay in order.
pub(crate) async fn answer_batch(app: &App, messages: Vec<QueueMessage>) -> Value {
    let ends_at = Instant::now() + BATCH_LIMIT;
    let count = messages.len();
    let (mut failures, mut blocked) = (Vec::new(), HashSet::new());
    for (number, QueueMessage { id, group, notice }) in messages.into_iter().enumerate() {
        let waits = number >= MAX_MESSAGES
            || Instant::now() >= ends_at
            || group.as_ref().is_some_and(|group| blocked.contains(group));
        if !waits
            && let Ok(answer) = timeout_at(ends_at, receive(app, notice, AnswerReader::NoCaller)).await
            && answer.as_ref().err().is_none_or(is_decided)
        {
            continue;
        }
        blocked.extend(group);
        failures.push(json!({ "itemIdentifier": id }));
    }
    if !failures.is_empty() {
        tracing::warn!(
            messages = count,
            undecided = failures.len(),
            "some payment notices of a queue are not decided yet; SQS delivers them again"
        );
    }
    json!({ "batchItemFailures": failures })
}
