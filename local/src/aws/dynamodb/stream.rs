//! A table's stream.
//!
//! Each change is in it once, and the changes of an item are in their order. The records are in shards: one that is open
//! for each partition. A shard ends, and a new one follows it, at times that no document says; here they are drawn. Who
//! reads must read a shard to its end before its child. A record appears some time after its change, and is trimmed
//! after a day; a shard that has ended leaves the stream with its last record.

use super::failure::Failure;
use super::value::{Item, item_bytes};
use crate::system::clock::micros_now;
use rand::Rng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};
use std::ops::Range;
use std::time::{Duration, Instant};

/// One of so many records is the last one of its shard.
const SHARD_RECORDS: u32 = 5_000;
/// Records and bytes of one answer.
const MAX_RECORDS: usize = 1_000;
const MAX_BYTES: usize = 1024 * 1024;
/// How long a record stays in a stream.
pub(crate) const RETENTION: Duration = Duration::from_secs(24 * 3_600);
/// How long an iterator can be used.
const ITERATOR_LIMIT_MICROS: u64 = 15 * 60 * 1_000_000;
/// The least sequence number. They have at least 21 digits.
const FIRST_SEQUENCE_NUMBER: u128 = 100_000_000_000_000_000_000;

#[derive(Debug)]
struct StreamRecord {
    sequence_number: u128,
    visible_at: Instant,
    record: Value,
}

#[derive(Debug)]
struct Shard {
    parent: Option<usize>,
    first: u128,
    records: Vec<StreamRecord>,
    is_closed: bool,
    /// Records that were trimmed. The positions of the others count on.
    trimmed: usize,
    /// The newest record, also if it was trimmed.
    last: Option<u128>,
}

impl Shard {
    fn new(parent: Option<usize>, first: u128) -> Self {
        Self { parent, first, records: Vec::new(), is_closed: false, trimmed: 0, last: None }
    }

    /// The position behind its newest record.
    fn end(&self) -> usize {
        self.trimmed + self.records.len()
    }

    fn has_left_the_stream(&self) -> bool {
        self.is_closed && self.records.is_empty()
    }

    fn trim(&mut self, age: Duration) {
        let now = Instant::now();
        let is_old = |record: &StreamRecord| now.saturating_duration_since(record.visible_at) >= age;
        let count = self.records.iter().take_while(|record| is_old(record)).count();
        self.records.drain(..count);
        self.trimmed += count;
    }
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) arn: String,
    pub(super) view: String,
    region: String,
    latency: Range<Duration>,
    shards: Vec<Shard>,
    /// The open shard of each partition.
    open: Vec<usize>,
    next_sequence_number: u128,
}

impl Stream {
    pub(super) fn new(
        (region, arn): (&str, String),
        view: &str,
        partitions: usize,
        latency: Range<Duration>,
    ) -> Self {
        let shard = |_| Shard::new(None, FIRST_SEQUENCE_NUMBER);
        Self {
            arn,
            view: view.to_owned(),
            region: region.to_owned(),
            latency,
            shards: (0..partitions).map(shard).collect(),
            open: (0..partitions).collect(),
            next_sequence_number: FIRST_SEQUENCE_NUMBER + 1,
        }
    }

    /// Adds the change of an item to the partition's shard.
    pub(super) fn append(
        &mut self,
        partition: usize,
        keys: &Item,
        before: Option<&Item>,
        after: Option<&Item>,
        chance: &mut SmallRng,
    ) {
        let sequence_number = self.next_sequence_number;
        self.next_sequence_number += u128::from(chance.random_range(1..1_000_u32));
        let record = self.record(sequence_number, keys, before, after);
        let Some(number) = self.open.get(partition).copied() else { return };
        let drawn = match self.latency.is_empty() {
            true => self.latency.start,
            false => chance.random_range(self.latency.clone()),
        };
        let Some(shard) = self.shards.get_mut(number) else { return };
        let earlier = shard.records.last().map(|record| record.visible_at);
        let visible_at = earlier.into_iter().fold(Instant::now() + drawn, Instant::max);
        shard.records.push(StreamRecord { sequence_number, visible_at, record });
        shard.last = Some(sequence_number);
        if chance.random_ratio(1, SHARD_RECORDS) {
            shard.is_closed = true;
            let first = self.next_sequence_number;
            self.shards.push(Shard::new(Some(number), first));
            self.open[partition] = self.shards.len() - 1;
        }
    }

    fn record(
        &self,
        sequence_number: u128,
        keys: &Item,
        before: Option<&Item>,
        after: Option<&Item>,
    ) -> Value {
        let name = match (before, after) {
            (None, _) => "INSERT",
            (_, Some(_)) => "MODIFY",
            (_, None) => "REMOVE",
        };
        let (has_new, has_old) = match self.view.as_str() {
            "NEW_IMAGE" => (true, false),
            "OLD_IMAGE" => (false, true),
            "NEW_AND_OLD_IMAGES" => (true, true),
            _ => (false, false),
        };
        let mut change = json!({
            "ApproximateCreationDateTime": micros_now() / 1_000_000,
            "Keys": keys,
            "SequenceNumber": sequence_number.to_string(),
            "StreamViewType": self.view,
        });
        let mut bytes = item_bytes(keys);
        for (member, image, is_wanted) in [("NewImage", after, has_new), ("OldImage", before, has_old)] {
            if let Some(image) = image.filter(|_| is_wanted) {
                bytes += item_bytes(image);
                change[member] = json!(image);
            }
        }
        change["SizeBytes"] = json!(bytes);
        json!({
            "eventID": format!("{sequence_number:032x}"),
            "eventName": name,
            "eventVersion": "1.1",
            "eventSource": "aws:dynamodb",
            "awsRegion": self.region,
            "dynamodb": change,
        })
    }

    /// Removes the records that have been in the stream for `age`.
    pub(super) fn trim(&mut self, age: Duration) {
        self.shards.iter_mut().for_each(|shard| shard.trim(age));
    }

    /// The shards, in pages.
    pub(super) fn describe(&self, request: &Value) -> (Vec<Value>, Option<String>) {
        let limit = request["Limit"].as_u64().unwrap_or(100).min(100) as usize;
        let after =
            request["ExclusiveStartShardId"].as_str().and_then(number_of).map_or(0, |number| number + 1);
        let shard = |(number, shard): (usize, &Shard)| {
            let mut range = json!({ "StartingSequenceNumber": shard.first.to_string() });
            if let Some(last) = shard.last.filter(|_| shard.is_closed) {
                range["EndingSequenceNumber"] = json!(last.to_string());
            }
            let mut described = json!({ "ShardId": shard_id(number), "SequenceNumberRange": range });
            if let Some(parent) = shard.parent {
                described["ParentShardId"] = json!(shard_id(parent));
            }
            described
        };
        let page = self.shards.iter().enumerate().skip(after).take(limit);
        let page = page.filter(|(_, shard)| !shard.has_left_the_stream()).map(shard).collect();
        let last = (after + limit < self.shards.len()).then(|| shard_id(after + limit - 1));
        (page, last)
    }

    /// An iterator: the shard, the position in it, and when it was made.
    pub(super) fn iterator(&self, request: &Value) -> Result<String, Failure> {
        let id = request["ShardId"].as_str().unwrap_or_default();
        let number = number_of(id).filter(|number| *number < self.shards.len());
        let (number, shard) = number
            .and_then(|number| Some((number, self.shards.get(number)?)))
            .filter(|(_, shard)| !shard.has_left_the_stream())
            .ok_or_else(|| Failure::not_found(&format!("Shard: {id}")))?;
        let given = request["SequenceNumber"].as_str().and_then(|digits| digits.parse::<u128>().ok());
        let given = given.ok_or_else(|| Failure::validation("The SequenceNumber is missing or no number"));
        // Whether `number` is older than all that the shard has, and others were trimmed.
        let is_trimmed = |number: u128| {
            let oldest = shard
                .records
                .first()
                .map_or(shard.last.map(|last| last + 1), |first| Some(first.sequence_number));
            shard.trimmed > 0 && oldest.is_some_and(|oldest| number < oldest)
        };
        let place = |number: u128, limit: u128| match is_trimmed(number) {
            true => Err(trimmed()),
            false => {
                let before = shard.records.partition_point(|record| record.sequence_number < limit);
                Ok(shard.trimmed + before)
            }
        };
        let position = match request["ShardIteratorType"].as_str() {
            Some("TRIM_HORIZON") => shard.trimmed,
            Some("LATEST") => shard.end(),
            Some("AT_SEQUENCE_NUMBER") => given.and_then(|number| place(number, number))?,
            Some("AFTER_SEQUENCE_NUMBER") => given.and_then(|number| place(number, number + 1))?,
            _ => return Err(Failure::validation("ShardIteratorType is not valid")),
        };
        Ok(self.token(number, position))
    }

    fn token(&self, number: usize, position: usize) -> String {
        format!("{}|{number}|{position}|{}", self.arn, micros_now())
    }

    /// Records from an iterator on, and the next iterator. There is none at the end of a shard that is closed. No document
    /// says when an answer is empty although there are records.
    pub(super) fn read(
        &self,
        position: &IteratorPosition,
        limit: Option<u64>,
        chance: &mut SmallRng,
    ) -> Result<(Vec<&Value>, Option<String>), Failure> {
        if micros_now().saturating_sub(position.made_at) > ITERATOR_LIMIT_MICROS {
            return Err(Failure::expired_iterator());
        }
        let shard = self.shards.get(position.shard).ok_or_else(|| Failure::not_found("Shard"))?;
        let Some(from) = position.record.checked_sub(shard.trimmed) else { return Err(trimmed()) };
        let limit = limit.map_or(MAX_RECORDS, |limit| (limit as usize).min(MAX_RECORDS));
        let limit = if chance.random_ratio(1, 10) { 0 } else { limit };
        let now = Instant::now();
        let mut bytes = 0;
        let records = shard.records.get(from..).unwrap_or_default();
        let page = records.iter().take(limit).take_while(|record| record.visible_at <= now);
        let page: Vec<&Value> = page
            .map(|record| &record.record)
            .take_while(|record| {
                bytes += record["dynamodb"]["SizeBytes"].as_u64().unwrap_or_default() as usize;
                bytes <= MAX_BYTES
            })
            .collect();
        let next = position.record + page.len();
        let is_over = shard.is_closed && next >= shard.end();
        Ok((page, (!is_over).then(|| self.token(position.shard, next))))
    }
}

fn trimmed() -> Failure {
    let why = "The operation attempted to read past the oldest stream record in a shard";
    Failure::new("TrimmedDataAccessException", why)
}

/// Where an iterator stands.
#[derive(Debug)]
pub(super) struct IteratorPosition {
    pub(super) stream: String,
    shard: usize,
    record: usize,
    made_at: u64,
}

impl IteratorPosition {
    pub(super) fn parse(token: &str) -> Result<Self, Failure> {
        let parts: Vec<&str> = token.split('|').collect();
        let wrong = || Failure::validation("Invalid ShardIterator");
        let [stream, shard, record, made_at] = parts.as_slice() else { return Err(wrong()) };
        let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
        let (shard, record) = (number(shard)? as usize, number(record)? as usize);
        Ok(Self { stream: (*stream).to_owned(), shard, record, made_at: number(made_at)? })
    }
}

fn shard_id(number: usize) -> String {
    format!("shardId-{number:020}-00000000")
}

fn number_of(id: &str) -> Option<usize> {
    id.strip_prefix("shardId-")?.split('-').next()?.parse().ok()
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
