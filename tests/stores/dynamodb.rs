//! The stand-in of DynamoDB against moto, call by call, and what moto does not have: throughput, shards, internal errors.

use local::aws::dynamodb::{DynamoDb, DynamoDbOptions};
use local::aws::emulators::{Moto, authorization};
use local::system::folder::WorkFolder;
use order_log::{LogRecord, OrderLogError, RecordKind};
use serde_json::{Map, Value, json};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::time::{Duration, Instant};
use tests::order_log;

const HERE: &str = "eu-west-1";

/// The status, the error code without its name space, and the members of an answer that are compared.
async fn answer(url: &str, operation: &str, input: &Value) -> (u16, String, Value) {
    let request = reqwest::Client::new().post(url).header("authorization", authorization(HERE, "dynamodb"));
    let request =
        request.header("x-amz-target", operation).header("content-type", "application/x-amz-json-1.0");
    let response = request.body(input.to_string()).send().await.unwrap();
    let status = response.status().as_u16();
    let mut body: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default();
    let code = body["__type"].as_str().unwrap_or_default().rsplit('#').next().unwrap_or_default().to_owned();
    if let Some(members) = body.as_object_mut() {
        // moto reports the consumed capacity to callers that did not ask for it.
        ["__type", "message", "Message", "ConsumedCapacity"]
            .iter()
            .for_each(|name| drop(members.remove(*name)));
    }
    (status, code, body)
}

fn key(partition: &str, sort: &str) -> Value {
    json!({ "item_bucket": { "S": partition }, "buyer_stamp": { "S": sort } })
}

/// A write as the order log makes it.
fn append(sort: &str, kind: &str) -> Value {
    json!({
        "Key": key("shoe#2b", sort),
        "UpdateExpression": "SET #kind = :kind, #expires_at = :expires_at",
        "ExpressionAttributeNames": { "#kind": "kind", "#expires_at": "expires_at" },
        "ExpressionAttributeValues": { ":kind": { "S": kind }, ":expires_at": { "N": "1795000000" } },
    })
}

fn refuse(sort: &str) -> Value {
    json!({
        "Key": key("shoe#2b", sort),
        "UpdateExpression": "SET #outcome = :refused",
        "ConditionExpression": "attribute_exists(#kind) AND attribute_not_exists(#outcome)",
        "ExpressionAttributeNames": { "#kind": "kind", "#outcome": "outcome" },
        "ExpressionAttributeValues": { ":refused": { "S": "refused" } },
        "ReturnValues": "ALL_NEW",
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    })
}

fn query(condition: &str, more: Value) -> Value {
    let all = format!("{condition} {}", more["FilterExpression"]);
    let values: Map<String, Value> = [(":p", "shoe#2b"), (":low", "b#"), (":high", "d#~")]
        .into_iter()
        .filter(|(name, _)| all.contains(name))
        .map(|(name, value)| (name.to_owned(), json!({ "S": value })))
        .collect();
    let mut query = json!({
        "ConsistentRead": true,
        "KeyConditionExpression": condition,
        "ExpressionAttributeValues": values,
    });
    query.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    query
}

/// Calls to which both give the same answer.
fn calls() -> Vec<(&'static str, Value)> {
    let expires = |version: &str| {
        json!({
            "Key": key("lease", "main"),
            "UpdateExpression": "SET expires_at = :until ADD version :one",
            "ConditionExpression": "version = :version OR attribute_not_exists(version)",
            "ExpressionAttributeValues": { ":until": { "N": "1795000000123456" }, ":one": { "N": "1" }, ":version": { "N": version } },
            "ReturnValues": "ALL_NEW",
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        })
    };
    let with = |mut call: Value, name: &str, value: Value| {
        call[name] = value;
        call
    };
    let put = |sort: &str| json!({ "Item": { "item_bucket": { "S": "put" }, "buyer_stamp": { "S": sort }, "open": { "BOOL": true } } });
    let all = "item_bucket = :p";
    let between = "item_bucket = :p AND buyer_stamp BETWEEN :low AND :high";
    let mut calls = vec![
        ("DescribeTable", json!({ "TableName": "absent" })),
        ("UpdateItem", with(append("a#1", "order"), "TableName", json!("absent"))),
    ];
    for buyer in ["a", "b", "c", "d", "e"] {
        calls.push(("UpdateItem", append(&format!("{buyer}#1"), "order")));
    }
    calls.extend([
        ("UpdateItem", append("c#1", "order")),
        ("UpdateItem", append("c#2", "leave")),
        ("UpdateItem", refuse("c#1")),
        ("UpdateItem", refuse("c#1")),
        ("UpdateItem", refuse("z#1")),
        ("UpdateItem", append("c#1", "order")),
        ("GetItem", json!({ "Key": key("shoe#2b", "c#1"), "ConsistentRead": true })),
        ("GetItem", json!({ "Key": key("shoe#2b", "z#1"), "ConsistentRead": true })),
        ("GetItem", json!({ "Key": { "item_bucket": { "S": "shoe#2b" } }, "ConsistentRead": true })),
        ("UpdateItem", expires("0")),
        ("UpdateItem", expires("0")),
        ("UpdateItem", expires("1")),
        ("PutItem", put("1")),
        ("PutItem", with(put("1"), "ConditionExpression", json!("attribute_not_exists(item_bucket)"))),
        ("PutItem", with(put("1"), "ReturnValues", json!("ALL_OLD"))),
        ("PutItem", json!({ "Item": { "item_bucket": { "S": "put" } } })),
        ("PutItem", json!({ "Item": { "item_bucket": { "S": "" }, "buyer_stamp": { "S": "1" } } })),
        ("PutItem", json!({ "Item": { "item_bucket": { "S": "put" }, "buyer_stamp": { "S": "2" }, "big": { "S": "x".repeat(400 * 1024) } } })),
        ("DeleteItem", with(json!({ "Key": key("put", "1") }), "ReturnValues", json!("ALL_OLD"))),
        ("DeleteItem", json!({ "Key": key("put", "1") })),
        ("Query", query(all, json!({}))),
        ("Query", query(all, json!({ "ScanIndexForward": false }))),
        ("Query", query(all, json!({ "Limit": 2 }))),
        ("Query", query(all, json!({ "Limit": 2, "ExclusiveStartKey": key("shoe#2b", "b#1") }))),
        ("Query", query(all, json!({ "Limit": 2, "ScanIndexForward": false, "ExclusiveStartKey": key("shoe#2b", "d#1") }))),
        ("Query", query(between, json!({}))),
        ("Query", query(between, json!({ "ScanIndexForward": false, "Limit": 1 }))),
        ("Query", query("item_bucket = :p AND begins_with(buyer_stamp, :low)", json!({}))),
        ("Query", query("item_bucket = :p AND buyer_stamp > :low", json!({}))),
        ("Query", query("buyer_stamp > :low", json!({}))),
        ("Query", query("item_bucket = :p AND kind = :low", json!({}))),
        ("Query", query(all, json!({ "FilterExpression": "#k = :low", "ExpressionAttributeNames": { "#k": "kind" } }))),
        ("UpdateItem", with(append("a#1", "order"), "UpdateExpression", json!("SET #kind = :kind"))),
        ("UpdateItem", with(append("a#1", "order"), "UpdateExpression", json!("SET buyer_stamp = :kind, #kind = :kind, #expires_at = :expires_at"))),
        ("UpdateItem", with(append("a#1", "order"), "UpdateExpression", json!("SET #kind = :kind, #expires_at = :until"))),
    ]);
    calls
}

/// Calls that DynamoDB refuses by its API reference, *Query*, *GetItem* and *Common errors*, and that moto 5 accepts or does
/// not answer: a key of another type, bounds in the wrong order, half an expression, a number that is none, and an
/// operation that does not exist.
fn lax_in_moto() -> Vec<(&'static str, Value, &'static str)> {
    let mut soon = append("a#1", "order");
    soon["ExpressionAttributeValues"] = json!({ ":kind": { "S": "order" }, ":expires_at": { "N": "soon" } });
    let mut typed = json!({ "Key": key("shoe#2b", "c#1") });
    typed["Key"]["buyer_stamp"] = json!({ "N": "1" });
    let reversed = query("item_bucket = :p AND buyer_stamp BETWEEN :high AND :low", json!({}));
    let invalid = "ValidationException";
    vec![
        ("GetItem", typed, invalid),
        ("Query", reversed, invalid),
        ("Query", query("item_bucket = :p AND", json!({})), invalid),
        ("UpdateItem", soon, invalid),
        ("FlyAway", json!({}), "UnknownOperationException"),
    ]
}

#[tokio::test]
async fn the_stand_in_answers_as_moto_does() {
    let folder = WorkFolder::new().unwrap();
    let moto = Moto::start(folder.path(), &[]).await.unwrap();
    moto.make_order_log(HERE, "order-log").await.unwrap();
    let stand_in = DynamoDb::start(DynamoDbOptions::instant()).await.unwrap();
    stand_in.make_order_log(HERE, "order-log", 0).unwrap();
    let mut different = Vec::new();
    for (number, (operation, mut input)) in calls().into_iter().enumerate() {
        if input["TableName"].is_null() {
            input["TableName"] = json!("order-log");
        }
        let target = format!("DynamoDB_20120810.{operation}");
        let one = answer(&moto.url(), &target, &input).await;
        let other = answer(&stand_in.url(), &target, &input).await;
        if one != other {
            let mut short = input.to_string();
            short.truncate(300);
            different.push(format!("{number} {operation} {short}\n  moto     {one:?}\n  stand-in {other:?}"));
        }
    }
    for (operation, mut input, code) in lax_in_moto() {
        input["TableName"] = json!("order-log");
        let target = format!("DynamoDB_20120810.{operation}");
        assert_ne!(answer(&moto.url(), &target, &input).await.0, 400, "moto has learnt it: {input}");
        let refused = answer(&stand_in.url(), &target, &input).await;
        assert_eq!((refused.0, refused.1.as_str()), (400, code), "{input}");
    }
    assert!(different.is_empty(), "{} of the calls:\n{}", different.len(), different.join("\n"));
}

fn record(buyer: &str) -> LogRecord {
    let stamp = Stamp::from_micros(1_795_000_000_000_000).unwrap();
    LogRecord::new(RecordKind::Order, "shoe".parse().unwrap(), UserToken::parse(buyer).unwrap(), stamp)
}

#[tokio::test]
async fn a_throttled_log_has_written_nothing_and_an_internal_error_perhaps() {
    let options = DynamoDbOptions { failing: 0.4, ..DynamoDbOptions::default() };
    let tables = DynamoDb::start(options).await.unwrap();
    tables.make_order_log(HERE, "order-log", 0).unwrap();
    let log = order_log(&tables.url(), HERE).unwrap();
    tables.throttle(HERE, "order-log", 1.0).unwrap();
    let refused = log.append(&record("alice")).await;
    assert!(
        matches!(refused, Err(OrderLogError::Throttled(_) | OrderLogError::Unanswered(_))),
        "{refused:?}"
    );
    assert_eq!(tables.items(HERE, "order-log").unwrap(), Vec::<Value>::new());

    tables.throttle(HERE, "order-log", 0.3).unwrap();
    let (mut written, mut unknown) = (0, 0);
    for number in 0..60 {
        match log.append(&record(&format!("buyer-{number}"))).await {
            Ok(()) => written += 1,
            Err(error) => unknown += usize::from(error.may_be_executed()),
        }
    }
    let found = tables.items(HERE, "order-log").unwrap().len();
    assert!(written > 50 && (written..=written + unknown).contains(&found), "{written}, {unknown}, {found}");
}

/// Both streams, from the first record on.
async fn stream_of(url: &str) -> Vec<(String, Value, Value)> {
    let call = async |operation: &str, input: Value| {
        answer(url, &format!("DynamoDBStreams_20120810.{operation}"), &input).await.2
    };
    let arn =
        call("ListStreams", json!({ "TableName": "order-log" })).await["Streams"][0]["StreamArn"].clone();
    let described = call("DescribeStream", json!({ "StreamArn": arn })).await;
    let mut records = Vec::new();
    for shard in described["StreamDescription"]["Shards"].as_array().unwrap() {
        let begin =
            json!({ "StreamArn": arn, "ShardId": shard["ShardId"], "ShardIteratorType": "TRIM_HORIZON" });
        let mut iterator = call("GetShardIterator", begin).await["ShardIterator"].clone();
        for _ in 0..20 {
            let page = call("GetRecords", json!({ "ShardIterator": iterator })).await;
            iterator = page["NextShardIterator"].clone();
            for record in page["Records"].as_array().unwrap() {
                let change = &record["dynamodb"];
                let name = record["eventName"].as_str().unwrap().to_owned();
                records.push((name, change["Keys"].clone(), change["NewImage"].clone()));
            }
            if iterator.is_null() {
                break;
            }
        }
    }
    records
}

#[tokio::test]
async fn the_stream_has_each_change_once_where_moto_has_more() {
    let folder = WorkFolder::new().unwrap();
    let moto = Moto::start(folder.path(), &[]).await.unwrap();
    moto.make_order_log(HERE, "order-log").await.unwrap();
    let tables = DynamoDb::start(DynamoDbOptions::instant()).await.unwrap();
    tables.make_order_log(HERE, "order-log", 0).unwrap();
    let calls = [
        ("UpdateItem", append("a#1", "order")),
        ("UpdateItem", append("a#1", "order")),
        ("UpdateItem", refuse("a#1")),
    ];
    for (operation, mut input) in calls {
        input["TableName"] = json!("order-log");
        for url in [moto.url(), tables.url()] {
            assert_eq!(answer(&url, &format!("DynamoDB_20120810.{operation}"), &input).await.0, 200);
        }
    }
    let expected = stream_of(&tables.url()).await;
    let names: Vec<&str> = expected.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["INSERT", "MODIFY"]);
    // moto writes a record of the keys alone before the item, and one for the write that changes nothing.
    let moto = stream_of(&moto.url()).await;
    let moto: Vec<_> = moto.into_iter().filter(|(_, keys, image)| keys != image).collect();
    let names: Vec<&str> = moto.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["INSERT", "MODIFY", "MODIFY"]);
    assert_eq!(moto.last().unwrap().2, expected.last().unwrap().2);
}

#[tokio::test]
async fn a_hot_key_is_throttled_and_takes_nothing_from_others() {
    let tables = DynamoDb::start(DynamoDbOptions::instant()).await.unwrap();
    tables.make_order_log(HERE, "order-log", 0).unwrap();
    let url = tables.url();
    let large = |number: usize| {
        json!({ "TableName": "order-log", "Item": {
        "item_bucket": { "S": "hot" }, "buyer_stamp": { "S": number.to_string() }, "text": { "S": "x".repeat(99 * 1024) },
    } })
    };
    let began = Instant::now();
    let (mut written, mut codes) = (0, std::collections::BTreeSet::new());
    // Each takes 100 units, of 1,000 a second.
    for number in 0..60 {
        match answer(&url, "DynamoDB_20120810.PutItem", &large(number)).await {
            (200, ..) => written += 1,
            (_, code, body) => {
                let reasons = if body["ThrottlingReasons"].is_null() {
                    &body["throttlingReasons"]
                } else {
                    &body["ThrottlingReasons"]
                };
                assert_eq!(reasons[0]["reason"], "TableWriteKeyRangeThroughputExceeded", "{body}");
                codes.insert(code);
            }
        }
    }
    let most = 11.0 + began.elapsed().as_secs_f64() * 10.0;
    assert!(f64::from(written) <= most, "{written} of at most {most}");
    if began.elapsed() < Duration::from_secs(2) {
        let both = ["ProvisionedThroughputExceededException", "ThrottlingException"];
        assert!(codes.iter().eq(both), "{codes:?}");
    }
}
