//! Reading a stream's shards.

use super::MappingOptions;
use super::delivery::{Delivered, Delivery};
use crate::aws::emulators::json;
use crate::aws::lambda::Invoke;
use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::collections::{BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinSet;

/// Lambda reads each shard four times a second.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// How often the list of shards is read.
const SHARDS_INTERVAL: Duration = Duration::from_secs(1);
/// Records of one answer of `GetRecords`.
const MAX_RECORDS: usize = 1_000;
/// Answers that wait for a lane.
const PAGES: usize = 2;

/// The errors after which reading does not go on where it was.
const NOT_FOUND: &str = "ResourceNotFoundException";
const TRIMMED: &str = "TrimmedDataAccessException";
/// The errors that the table returns at random, as AWS may: they are not printed.
const DRAWN: [&str; 3] = ["LimitExceededException", "ExpiredIteratorException", "InternalServerError"];

/// Whether a call was refused with `code`.
fn is(error: &anyhow::Error, code: &str) -> bool {
    format!("{error:#}").contains(code)
}

fn tell(what: &str, error: &anyhow::Error) {
    if !DRAWN.iter().any(|code| is(error, code)) {
        eprintln!("{what} cannot be read: {error:#}; trying again");
    }
}

/// What reads a table's stream.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    at: (String, &'static str, &'static str),
    client: reqwest::Client,
    delivery: Delivery,
    paused: Arc<AtomicBool>,
}

impl Reader {
    pub(super) fn new(
        at: (String, &'static str, &'static str),
        invoke: Invoke,
        options: MappingOptions,
        delivered: Arc<Mutex<Delivered>>,
        paused: Arc<AtomicBool>,
    ) -> Self {
        let delivery = Delivery { invoke, options, delivered };
        Self { at, client: reqwest::Client::new(), delivery, paused }
    }

    async fn call(&self, operation: &str, input: &Value) -> Result<Value> {
        let (url, region, _) = &self.at;
        let operation = format!("DynamoDBStreams_20120810.{operation}");
        json(&self.client, url, (region, "dynamodb"), &operation, input).await
    }

    /// Reads all shards from their start, each one after its parent, until the stream cannot be described.
    pub(super) async fn read(&self) -> Result<()> {
        let streams = self.call("ListStreams", &json!({ "TableName": self.at.2 })).await?;
        let arn = streams["Streams"][0]["StreamArn"].as_str().context("the table has no stream")?.to_owned();
        let (mut begun, mut done) = (BTreeSet::new(), BTreeSet::new());
        let mut reading: JoinSet<String> = JoinSet::new();
        loop {
            let shards = match self.shards(&arn).await {
                Ok(shards) => shards,
                Err(error) if is(&error, NOT_FOUND) => return Err(error),
                Err(error) => {
                    tell(&arn, &error);
                    Vec::new()
                }
            };
            for shard in shards {
                let id = shard["ShardId"].as_str().unwrap_or_default();
                // A parent that has left the stream was read to its end.
                let waits = shard["ParentShardId"]
                    .as_str()
                    .is_some_and(|parent| begun.contains(parent) && !done.contains(parent));
                if !waits && begun.insert(id.to_owned()) {
                    reading.spawn(self.clone().read_shard(arn.clone(), id.to_owned(), begun.len() as u64));
                }
            }
            tokio::select! {
                Some(ended) = reading.join_next() => { done.insert(ended.context("a shard's reader has ended")?); }
                () = tokio::time::sleep(SHARDS_INTERVAL) => {}
            }
        }
    }

    async fn shards(&self, arn: &str) -> Result<Vec<Value>> {
        let mut shards = Vec::new();
        let mut request = json!({ "StreamArn": arn });
        loop {
            let mut answer = self.call("DescribeStream", &request).await?;
            let description = &mut answer["StreamDescription"];
            shards.extend(description["Shards"].as_array_mut().map(std::mem::take).unwrap_or_default());
            match description["LastEvaluatedShardId"].as_str() {
                Some(last) => request["ExclusiveStartShardId"] = json!(last),
                None => return Ok(shards),
            }
        }
    }

    /// Reads a shard to its end, and returns its id when all of its records are delivered.
    async fn read_shard(self, arn: String, shard: String, number: u64) -> String {
        let options = &self.delivery.options;
        let mut lanes = Vec::new();
        let mut delivering = JoinSet::new();
        for lane in 0..options.parallel.max(1) {
            let (sender, pages) = channel(PAGES);
            let chance = SmallRng::seed_from_u64(options.seed.wrapping_add(number << 8 | lane));
            delivering.spawn(deliver_lane(self.delivery.clone(), pages, chance));
            lanes.push(sender);
        }
        let mut chance = SmallRng::seed_from_u64(options.seed ^ number);
        let mut last = None;
        // An iterator expires, and calls fail: reading goes on after the last record. If that was trimmed, so were records
        // behind it: reading goes on with the oldest that is left. A shard that is gone was trimmed as a whole.
        while let Err(error) = self.read_pages((&arn, &shard), &lanes, &mut last, &mut chance).await {
            tell(&format!("{shard} of {}", self.at.2), &error);
            if is(&error, NOT_FOUND) {
                break;
            }
            if is(&error, TRIMMED) {
                self.delivery.lock().trimmed += 1;
                last = None;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        drop(lanes);
        delivering.join_all().await;
        shard
    }

    async fn read_pages(
        &self,
        (arn, shard): (&str, &str),
        lanes: &[Sender<Vec<Value>>],
        last: &mut Option<String>,
        chance: &mut SmallRng,
    ) -> Result<()> {
        let begin = match last {
            None => json!({ "StreamArn": arn, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON" }),
            Some(last) => json!({
                "StreamArn": arn, "ShardId": shard,
                "ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": last,
            }),
        };
        let mut iterator = self.call("GetShardIterator", &begin).await?["ShardIterator"].take();
        while !iterator.is_null() {
            while self.paused.load(Ordering::Relaxed) {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            let request = json!({ "ShardIterator": iterator, "Limit": MAX_RECORDS });
            let mut answer = self.call("GetRecords", &request).await?;
            let records = answer["Records"].as_array_mut().map(std::mem::take).unwrap_or_default();
            let is_full = records.len() == MAX_RECORDS;
            if let Some(newest) =
                records.last().and_then(|record| record["dynamodb"]["SequenceNumber"].as_str())
            {
                *last = Some(newest.to_owned());
            }
            self.pass_on(arn, records, lanes).await?;
            iterator = answer["NextShardIterator"].take();
            if chance.random_bool(self.delivery.options.stalled) {
                tokio::time::sleep(chance.random_range(self.delivery.options.stall.clone())).await;
            }
            if !is_full && !iterator.is_null() {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
        Ok(())
    }

    /// Gives each record to the lane of its keys.
    async fn pass_on(&self, arn: &str, records: Vec<Value>, lanes: &[Sender<Vec<Value>>]) -> Result<()> {
        let mut pages = vec![Vec::new(); lanes.len()];
        for mut record in records {
            if self.delivery.options.inserts_only && record["eventName"] != "INSERT" {
                continue;
            }
            record["eventSourceARN"] = json!(arn);
            let lane = lane_of(&record["dynamodb"]["Keys"], lanes.len());
            pages.get_mut(lane).context("there is a lane")?.push(record);
        }
        for (lane, page) in lanes.iter().zip(pages).filter(|(_, page)| !page.is_empty()) {
            lane.send(page).await?;
        }
        Ok(())
    }
}

/// The lane of an item among those of its shard.
fn lane_of(keys: &Value, lanes: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    keys.to_string().hash(&mut hasher);
    hasher.finish() as usize % lanes.max(1)
}

/// Delivers a lane's records, one batch after another.
async fn deliver_lane(delivery: Delivery, mut pages: Receiver<Vec<Value>>, mut chance: SmallRng) {
    let options = delivery.options.clone();
    let mut waiting: VecDeque<Value> = VecDeque::new();
    loop {
        if waiting.is_empty() {
            let Some(page) = pages.recv().await else { return };
            waiting.extend(page);
        }
        let gathered = tokio::time::Instant::now() + options.window;
        while waiting.len() < options.batch_size {
            let Ok(Some(page)) = tokio::time::timeout_at(gathered, pages.recv()).await else { break };
            waiting.extend(page);
        }
        let batch: Vec<Value> = waiting.drain(..options.batch_size.min(waiting.len())).collect();
        let repeated = chance.random_bool(options.repeated).then(|| batch.clone());
        delivery.deliver(VecDeque::from([batch])).await;
        if let Some(batch) = repeated {
            delivery.deliver(VecDeque::from([batch])).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_single_lane_of_a_shard_keeps_an_order_before_its_withdrawal() {
        let keys = |stamp: u64| json!({ "item_bucket": { "S": "shoe#07" }, "buyer_stamp": { "S": format!("alice#{stamp}") } });
        let lanes = |count| (0..50).map(|stamp| lane_of(&keys(stamp), count)).collect::<BTreeSet<usize>>();
        assert_eq!(lanes(1).len(), 1);
        assert_eq!(lanes(10).len(), 10);
    }
}
