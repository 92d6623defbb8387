//! An event source mapping: it reads the stream of a table in moto, and invokes a function with batches of records.
//!
//! From the documents of AWS (`docs/AWS_FACTS.md`, *event source mapping*): records of a shard stay in order; with a
//! `ParallelizationFactor` above 1, only those with the same partition key and sort key. A batch that fails is delivered
//! again, in halves; a batch that fails in part, from the lowest failed sequence number on. Every record is delivered at least once, and sometimes again.

mod delivery;

pub use delivery::{Delivered, next_batches};

use crate::aws::emulators::json;
use crate::aws::lambda::Invoke;
use anyhow::{Context, Result};
use delivery::Delivery;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;

/// Lambda reads each shard four times a second.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Records of one answer of `GetRecords`.
const MAX_RECORDS: usize = 1_000;

/// A mapping's settings, and what the documents leave open.
#[derive(Clone, Copy, Debug)]
pub struct MappingOptions {
    pub function: &'static str,
    /// The most records of a batch.
    pub batch_size: usize,
    /// How long the mapping gathers records for a batch that is not full.
    pub window: Duration,
    /// DynamoDB spreads partition keys over shards; moto has one.
    pub shards: u64,
    /// `ParallelizationFactor`: batches of one shard at the same time. Records with the same partition key and sort key
    /// are never in two of them.
    pub parallel: u64,
    /// The function's timeout.
    pub invoke_limit: Duration,
    /// The share of batches that are delivered again after they succeeded.
    pub repeated: f64,
    pub seed: u64,
}

/// A running mapping. Dropping it stops it.
#[derive(Debug)]
pub struct EventSourceMapping {
    delivered: Arc<Mutex<Delivered>>,
    paused: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl EventSourceMapping {
    /// Maps the stream of `table` in `region` of the moto at `url`, from its first record on.
    pub fn start(
        url: String,
        region: &'static str,
        table: &'static str,
        invoke: Invoke,
        options: MappingOptions,
    ) -> Self {
        let delivered: Arc<Mutex<Delivered>> = Arc::default();
        let paused = Arc::new(AtomicBool::new(false));
        let mut lanes = Vec::new();
        let mut tasks = Vec::new();
        for number in 0..options.shards * options.parallel {
            let (sender, records) = channel(MAX_RECORDS);
            let seed = options.seed.wrapping_add(number);
            let delivery = Delivery { invoke: invoke.clone(), options, delivered: delivered.clone() };
            tasks.push(tokio::spawn(deliver_lane(delivery, records, SmallRng::seed_from_u64(seed))));
            lanes.push(sender);
        }
        let stopped = paused.clone();
        tasks.push(tokio::spawn(async move {
            loop {
                if let Err(error) =
                    read_stream(&url, (region, table), (&lanes, options.parallel), &stopped).await
                {
                    eprintln!(
                        "the stream of {table} cannot be read: {error:#}; reading it again from the start"
                    );
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }));
        Self { delivered, paused, tasks }
    }

    /// Stops reading the stream, or goes on.
    pub fn pause(&self, is_paused: bool) {
        self.paused.store(is_paused, Ordering::Relaxed);
    }

    /// What was delivered so far.
    pub fn delivered(&self) -> Delivered {
        self.delivered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for EventSourceMapping {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Reads the stream's records into the lanes, for as long as that works.
async fn read_stream(
    url: &str,
    (region, table): (&str, &str),
    (lanes, parallel): (&[Sender<Value>], u64),
    paused: &AtomicBool,
) -> Result<()> {
    let client = reqwest::Client::new();
    let call = async |operation: &str, input: Value| {
        let operation = format!("DynamoDBStreams_20120810.{operation}");
        json(&client, url, (region, "dynamodb"), &operation, &input).await
    };
    let streams = call("ListStreams", json!({ "TableName": table })).await?;
    let arn = streams["Streams"][0]["StreamArn"].as_str().context("the table has no stream")?.to_owned();
    let stream = call("DescribeStream", json!({ "StreamArn": arn })).await?;
    // moto has one shard.
    let shard = &stream["StreamDescription"]["Shards"][0]["ShardId"];
    let begin = json!({ "StreamArn": arn, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON" });
    let mut iterator = call("GetShardIterator", begin).await?["ShardIterator"].clone();
    loop {
        if !paused.load(Ordering::Relaxed) {
            let answer =
                call("GetRecords", json!({ "ShardIterator": iterator, "Limit": MAX_RECORDS })).await?;
            for record in answer["Records"].as_array().into_iter().flatten() {
                if is_keys_only(record) {
                    continue;
                }
                let mut record = record.clone();
                record["eventSourceARN"] = json!(arn);
                let lane = usize::try_from(lane_of(&record, lanes.len() as u64 / parallel.max(1), parallel))?;
                lanes.get(lane).context("there is a lane")?.send(record).await?;
            }
            iterator = answer["NextShardIterator"].clone();
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Where `UpdateItem` creates an item, moto writes a record of the item's keys alone before the record of the item. DynamoDB
/// writes one record.
fn is_keys_only(record: &Value) -> bool {
    record["dynamodb"]["NewImage"] == record["dynamodb"]["Keys"]
}

/// The lane of a record: its partition key decides the shard, and both keys which of the shard's `parallel` lanes it is.
fn lane_of(record: &Value, shards: u64, parallel: u64) -> u64 {
    let hash = |value: &Value| {
        let mut hasher = DefaultHasher::new();
        value.to_string().hash(&mut hasher);
        hasher.finish()
    };
    let keys = &record["dynamodb"]["Keys"];
    hash(&keys["item_bucket"]) % shards.max(1) * parallel.max(1) + hash(keys) % parallel.max(1)
}

/// Delivers a lane's records, one batch after another.
async fn deliver_lane(delivery: Delivery, mut records: Receiver<Value>, mut chance: SmallRng) {
    while let Some(first) = records.recv().await {
        let mut batch = vec![first];
        let gathered = tokio::time::Instant::now() + delivery.options.window;
        while batch.len() < delivery.options.batch_size {
            let Ok(Some(record)) = tokio::time::timeout_at(gathered, records.recv()).await else { break };
            batch.push(record);
        }
        delivery.deliver(VecDeque::from([batch.clone()])).await;
        if chance.random_bool(delivery.options.repeated) {
            delivery.deliver(VecDeque::from([batch])).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn only_a_single_lane_of_a_shard_keeps_an_order_before_its_withdrawal() {
        let record = |stamp: u64| json!({ "dynamodb": { "Keys": { "item_bucket": { "S": "shoe#07" }, "buyer_stamp": { "S": format!("alice#{stamp}") } } } });
        let lanes =
            |parallel| (0..50).map(|stamp| lane_of(&record(stamp), 4, parallel)).collect::<BTreeSet<u64>>();
        assert_eq!(lanes(1).len(), 1);
        assert!(lanes(1).iter().all(|lane| *lane < 4));
        assert_eq!(lanes(10).len(), 10);
        assert!(lanes(10).iter().all(|lane| *lane < 40));
    }
}
