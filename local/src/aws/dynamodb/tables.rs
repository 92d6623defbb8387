//! The calls on tables and on their streams.

use super::failure::Failure;
use super::stream::{IteratorPosition, RETENTION, Stream};
use super::table::Table;
use super::throughput::{INITIAL_READS, INITIAL_WRITES, Throughput};
use super::{Account, lock};
use crate::system::clock::micros_now;
use rand::Rng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Instant;

const ACCOUNT_ID: &str = "123456789012";

/// The request for a table whose key is `id`.
pub(super) fn with_id(name: &str) -> Value {
    json!({
        "TableName": name,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [{ "AttributeName": "id", "AttributeType": "S" }],
        "KeySchema": [{ "AttributeName": "id", "KeyType": "HASH" }],
    })
}

/// The request for an order log.
pub(super) fn order_log(name: &str, warm_writes: u32) -> Value {
    json!({
        "TableName": name,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [
            { "AttributeName": "item_bucket", "AttributeType": "S" },
            { "AttributeName": "buyer_stamp", "AttributeType": "S" },
        ],
        "KeySchema": [
            { "AttributeName": "item_bucket", "KeyType": "HASH" },
            { "AttributeName": "buyer_stamp", "KeyType": "RANGE" },
        ],
        "StreamSpecification": { "StreamEnabled": true, "StreamViewType": "NEW_IMAGE" },
        "WarmThroughput": { "WriteUnitsPerSecond": warm_writes.max(INITIAL_WRITES) },
    })
}

/// A table's description.
pub(super) fn describe(table: &Table) -> Value {
    let created = &table.created;
    let warm = |name: &str, initial: u32| created["WarmThroughput"][name].as_u64().unwrap_or(initial.into());
    let items = table.all().count();
    let mut description = json!({
        "TableName": created["TableName"],
        "TableArn": table.arn,
        "TableStatus": "ACTIVE",
        "AttributeDefinitions": created["AttributeDefinitions"],
        "KeySchema": created["KeySchema"],
        "BillingModeSummary": { "BillingMode": "PAY_PER_REQUEST" },
        "CreationDateTime": table.created_seconds,
        "ItemCount": items,
        "TableSizeBytes": table.all().map(super::value::item_bytes).sum::<usize>(),
        "ProvisionedThroughput": { "NumberOfDecreasesToday": 0, "ReadCapacityUnits": 0, "WriteCapacityUnits": 0 },
        "WarmThroughput": {
            "ReadUnitsPerSecond": warm("ReadUnitsPerSecond", INITIAL_READS),
            "WriteUnitsPerSecond": warm("WriteUnitsPerSecond", INITIAL_WRITES),
            "Status": "ACTIVE",
        },
    });
    if let Some(stream) = &table.stream {
        description["StreamSpecification"] = created["StreamSpecification"].clone();
        description["LatestStreamArn"] = json!(stream.arn);
        description["LatestStreamLabel"] = json!(label(&stream.arn));
    }
    description
}

fn label(arn: &str) -> &str {
    arn.rsplit('/').next().unwrap_or_default()
}

impl Account {
    pub(super) fn create_table(&self, region: &str, request: &Value) -> Result<Value, Failure> {
        let name = request["TableName"].as_str().unwrap_or_default();
        if request["BillingMode"] != "PAY_PER_REQUEST" {
            return Err(Failure::unsupported("provisioned capacity"));
        }
        let keys = keys(request)?;
        let arn = format!("arn:aws:dynamodb:{region}:{ACCOUNT_ID}:table/{name}");
        let warm = request["WarmThroughput"]["WriteUnitsPerSecond"].as_u64().unwrap_or_default();
        let throughput = Throughput::new(
            u32::try_from(warm).unwrap_or(u32::MAX).min(40_000),
            lock(&self.chance).random(),
            Instant::now(),
        );
        let specification = &request["StreamSpecification"];
        let stream = specification["StreamEnabled"].as_bool().unwrap_or(false).then(|| {
            let view = specification["StreamViewType"].as_str().unwrap_or("KEYS_ONLY");
            let arn = format!("{arn}/stream/{}", micros_now());
            Stream::new((region, arn), view, throughput.partitions(), self.options.stream_latency.clone())
        });
        let table = Table::new(arn, keys, request.clone(), stream, throughput);
        let description = describe(&table);
        let mut tables = lock(&self.tables);
        let key = (region.to_owned(), name.to_owned());
        if tables.contains_key(&key) {
            return Err(Failure::new("ResourceInUseException", format!("Table already exists: {name}")));
        }
        tables.insert(key, Arc::new(Mutex::new(table)));
        Ok(json!({ "TableDescription": description }))
    }

    pub(super) fn delete(&self, region: &str, name: &str) -> Result<Value, Failure> {
        let removed = lock(&self.tables).remove(&(region.to_owned(), name.to_owned()));
        let table = removed.ok_or_else(|| Failure::not_found(&format!("Table: {name}")))?;
        let mut description = describe(&lock(&table));
        description["TableStatus"] = json!("DELETING");
        Ok(json!({ "TableDescription": description }))
    }

    pub(super) fn stream_call(
        &self,
        region: &str,
        operation: &str,
        request: &Value,
        chance: &mut SmallRng,
    ) -> Result<Value, Failure> {
        if chance.random_bool(self.options.failing_reads) {
            return Err(Failure::of_stream(operation, chance));
        }
        match operation {
            "ListStreams" => return Ok(json!({ "Streams": self.streams(region, request) })),
            "DescribeStream" | "GetShardIterator" | "GetRecords" => {}
            _ => return Err(Failure::new("UnknownOperationException", operation)),
        }
        let iterator = match request["ShardIterator"].as_str() {
            Some(token) => Some(IteratorPosition::parse(token)?),
            None => None,
        };
        let arn =
            iterator.as_ref().map(|iterator| iterator.stream.as_str()).or(request["StreamArn"].as_str());
        let arn = arn.ok_or_else(|| Failure::validation("StreamArn must not be null"))?;
        let name = arn.split('/').nth(1).unwrap_or_default();
        let table = self.table(region, name)?;
        let mut table = lock(&table);
        if let Some(stream) = &mut table.stream {
            stream.trim(RETENTION);
        }
        let stream = table.stream.as_ref().filter(|stream| stream.arn == arn);
        let stream = stream.ok_or_else(|| Failure::not_found(&format!("Stream: {arn}")))?;
        if let Some(position) = iterator.as_ref().filter(|_| operation == "GetRecords") {
            let (records, next) = stream.read(position, request["Limit"].as_u64(), chance)?;
            let mut answer = json!({ "Records": records });
            if let Some(next) = next {
                answer["NextShardIterator"] = json!(next);
            }
            return Ok(answer);
        }
        if operation == "GetShardIterator" {
            return Ok(json!({ "ShardIterator": stream.iterator(request)? }));
        }
        let (shards, last) = stream.describe(request);
        let mut description = json!({
            "StreamArn": stream.arn,
            "StreamLabel": label(&stream.arn),
            "StreamStatus": "ENABLED",
            "StreamViewType": stream.view,
            "TableName": name,
            "KeySchema": table.created["KeySchema"],
            "CreationRequestDateTime": table.created_seconds,
            "Shards": shards,
        });
        if let Some(last) = last {
            description["LastEvaluatedShardId"] = json!(last);
        }
        Ok(json!({ "StreamDescription": description }))
    }

    fn streams(&self, region: &str, request: &Value) -> Vec<Value> {
        let wanted = request["TableName"].as_str();
        let tables = lock(&self.tables);
        let here = tables
            .iter()
            .filter(|((of, name), _)| of == region && wanted.is_none_or(|wanted| wanted == name));
        let stream = |((_, name), table): (&(String, String), &Arc<Mutex<Table>>)| {
            let arn = lock(table).stream.as_ref()?.arn.clone();
            Some(json!({ "StreamArn": arn, "TableName": name, "StreamLabel": label(&arn) }))
        };
        here.filter_map(stream).collect()
    }
}

/// The names of a table's keys.
fn keys(request: &Value) -> Result<(String, Option<String>), Failure> {
    let schema = request["KeySchema"].as_array().map(Vec::as_slice).unwrap_or_default();
    let definitions = request["AttributeDefinitions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let name = |kind: &str| {
        let key = schema.iter().find(|key| key["KeyType"] == kind)?;
        key["AttributeName"].as_str().map(str::to_owned)
    };
    let partition = name("HASH").ok_or_else(|| Failure::validation("No Hash Key specified in schema"))?;
    if definitions.len() != schema.len() {
        return Err(Failure::validation(
            "Number of attributes in KeySchema does not exactly match AttributeDefinitions",
        ));
    }
    if definitions.iter().any(|definition| definition["AttributeType"] != "S") {
        return Err(Failure::unsupported("keys of other types than text"));
    }
    Ok((partition, name("RANGE")))
}
