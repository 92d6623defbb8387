//! The order log's client: on a real table's protocol, and on a table that throttles, fails or does not answer.

use anyhow::Result;
use axum::Router;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use futures::StreamExt;
use local::aws::dynamodb::{DynamoDb, DynamoDbOptions};
use local::aws::emulators::json;
use local::system::process::free_port;
use order_log::{Bucket, CallLimits, LogRecord, OrderLog, OrderLogError, RecordKind, Refusal, RefusalReason};
use serde_json::json;
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tests::order_log;

const HERE: &str = "eu-west-1";
const AT: u64 = 1_795_000_000_000_000;

fn record(kind: RecordKind, buyer: &str, micros: u64) -> LogRecord {
    let stamp = Stamp::from_micros(AT + micros).unwrap();
    LogRecord::new(kind, "shoe".parse().unwrap(), UserToken::parse(buyer).unwrap(), stamp)
}

fn too_late(at: u64) -> Refusal {
    Refusal { reason: RefusalReason::TooLate, decided_at: Stamp::from_micros(AT + at).unwrap() }
}

struct LogFixture {
    tables: DynamoDb,
    log: OrderLog,
}

impl LogFixture {
    async fn start() -> Self {
        let tables = DynamoDb::start(DynamoDbOptions::default()).await.unwrap();
        tables.make_order_log(HERE, "order-log", 0).unwrap();
        let log = order_log(&tables.url(), HERE).unwrap();
        Self { tables, log }
    }

    async fn latest(&self, buyer: &str) -> Option<LogRecord> {
        self.log.latest_of(&"shoe".parse().unwrap(), &UserToken::parse(buyer).unwrap()).await.unwrap()
    }
}

#[tokio::test]
async fn a_record_is_written_once_and_keeps_its_outcome() {
    let fixture = LogFixture::start().await;
    let order = record(RecordKind::Order, "alice", 1);
    assert_eq!(fixture.latest("alice").await, None);
    fixture.log.append(&order).await.unwrap();
    fixture.log.append(&order).await.unwrap();
    assert_eq!(fixture.latest("alice").await, Some(order.clone()));

    fixture.log.refuse(&order, too_late(5)).await.unwrap();
    // The first outcome counts, and a repetition of the order that arrives late does not remove it.
    fixture.log.refuse(&order, Refusal { reason: RefusalReason::ClockAhead, ..too_late(9) }).await.unwrap();
    fixture.log.append(&order).await.unwrap();
    let refused = LogRecord { refusal: Some(too_late(5)), ..order.clone() };
    assert_eq!(fixture.latest("alice").await, Some(refused));

    // A record that has expired is not created again by its outcome.
    fixture.log.refuse(&record(RecordKind::Order, "bob", 1), too_late(5)).await.unwrap();
    assert_eq!(fixture.latest("bob").await, None);

    // The table expires records by this attribute: seven days after the stamp, in seconds.
    let all = fixture.tables.items(HERE, "order-log").unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(all[0]["expires_at"], json!({ "N": (AT / 1_000_000 + 604_800).to_string() }));
    assert_eq!(all[0]["item_bucket"], json!({ "S": "shoe#2b" }));
}

#[tokio::test]
async fn a_buyer_s_records_are_deleted_and_those_of_similar_buyers_stay() {
    let fixture = LogFixture::start().await;
    // The keys of this buyer lie between those of alice.
    let similar = "alice#1795000000000";
    for (kind, buyer, at) in [
        (RecordKind::Order, "alice", 1),
        (RecordKind::Leave, "alice", 2),
        (RecordKind::Order, similar, 1),
        (RecordKind::Order, "bob", 1),
    ] {
        fixture.log.append(&record(kind, buyer, at)).await.unwrap();
    }
    let erase = async || {
        fixture.log.erase(&"shoe".parse().unwrap(), &UserToken::parse("alice").unwrap()).await.unwrap()
    };
    assert_eq!((erase().await, erase().await), (2, 0));
    assert_eq!(fixture.latest("alice").await, None);
    assert!(fixture.latest(similar).await.is_some() && fixture.latest("bob").await.is_some());
}

#[tokio::test]
async fn the_newest_record_of_a_buyer_is_found_among_similar_buyers() {
    let fixture = LogFixture::start().await;
    let leave = record(RecordKind::Leave, "alice", 3);
    let others =
        [record(RecordKind::Order, "alice", 1), record(RecordKind::Order, "alice", 2), leave.clone()];
    for one in others {
        fixture.log.append(&one).await.unwrap();
    }
    // Buyers whose keys lie between those of alice. Some of them share her bucket.
    for number in 0..600_u32 {
        let similar = record(RecordKind::Order, &format!("alice#{number}"), 9);
        fixture.log.append(&similar).await.unwrap();
    }
    assert_eq!(fixture.latest("alice").await, Some(leave));
    assert_eq!(fixture.latest("alic").await, None);
    assert_eq!(fixture.latest("alice#7").await, Some(record(RecordKind::Order, "alice#7", 9)));
}

#[tokio::test]
async fn all_records_of_an_item_are_read_bucket_by_bucket() {
    let fixture = LogFixture::start().await;
    let buyers: BTreeSet<String> = (0..300).map(|number| format!("buyer-{number}")).collect();
    for buyer in &buyers {
        fixture.log.append(&record(RecordKind::Order, buyer, 1)).await.unwrap();
    }
    // One bucket with a record of several seconds.
    for seconds in 1..20 {
        fixture.log.append(&record(RecordKind::Order, "alice", seconds * 1_000_000)).await.unwrap();
    }
    let other = LogRecord { item_id: "shoe2".parse().unwrap(), ..record(RecordKind::Order, "alice", 1) };
    fixture.log.append(&other).await.unwrap();
    let malformed = json!({ "TableName": "order-log", "Item": {
        "item_bucket": { "S": "shoe#00" }, "buyer_stamp": { "S": "alice#soon" }, "kind": { "S": "order" },
    } });
    let (client, url) = (reqwest::Client::new(), fixture.tables.url());
    json(&client, &url, (HERE, "dynamodb"), "DynamoDB_20120810.PutItem", &malformed).await.unwrap();

    let shoe = "shoe".parse().unwrap();
    let read = |since: u64| {
        let (log, shoe) = (&fixture.log, &shoe);
        let since = Stamp::from_micros(since).unwrap();
        async move {
            let reads = (0..=u8::MAX).map(|bucket| log.bucket_of(shoe, bucket, since));
            let buckets: Vec<Bucket> =
                futures::stream::iter(reads).buffered(16).map(|bucket| bucket.unwrap()).collect().await;
            let malformed: u64 = buckets.iter().map(|bucket| bucket.malformed).sum();
            (buckets.into_iter().flat_map(|bucket| bucket.records).collect::<Vec<_>>(), malformed)
        }
    };
    let (found, malformed) = read(0).await;
    assert_eq!((found.len(), malformed), (319, 1));
    let keys: BTreeSet<(String, u64)> =
        found.iter().map(|one| (one.user_token.as_str().to_owned(), one.placed_at.as_micros())).collect();
    assert_eq!(keys.len(), found.len(), "a record was read twice");
    assert!(found.iter().all(|one| one.item_id.as_str() == "shoe"));
    let (newest, _) = read(AT + 15_500_000).await;
    assert_eq!(newest.len(), 5, "the stamps of 15 to 19 s, as the filter has whole seconds");
}

/// A table that gives `answers` in order, the last one again and again. Returns the log and the number of calls.
async fn failing(answers: Vec<(u16, &'static str)>) -> Result<(OrderLog, Arc<AtomicUsize>)> {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let answer = move || {
        let (status, code) = answers[count.fetch_add(1, Ordering::Relaxed).min(answers.len() - 1)];
        async move {
            if status == 0 {
                // Executed, perhaps, and never answered.
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
            let body = json!({ "__type": format!("com.amazonaws.dynamodb.v20120810#{code}") });
            let body = if status == 200 { json!({}) } else { body };
            let kind = [("content-type", "application/x-amz-json-1.0")];
            (StatusCode::from_u16(status).unwrap(), kind, body.to_string()).into_response()
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    let limits = CallLimits { budget: Duration::from_secs(20), max_attempts: 3 };
    Ok((order_log(&url, HERE)?.with_limits(limits), calls))
}

#[tokio::test]
async fn an_error_says_whether_the_record_may_be_written() {
    let throttled = (400, "ProvisionedThroughputExceededException");
    let internal = (500, "InternalServerError");
    let denied = (400, "ResourceNotFoundException");
    for (answers, expected, attempts) in [
        (vec![throttled, (200, "")], "written", 2),
        (vec![internal, (200, "")], "written", 2),
        (vec![throttled], "throttled", 3),
        (vec![(400, "ThrottlingException"), (400, "RequestLimitExceeded")], "throttled", 3),
        (vec![internal, throttled], "unanswered", 3),
        (vec![throttled, internal, throttled], "unanswered", 3),
        (vec![denied], "refused", 1),
        (vec![internal, denied], "unanswered", 2),
    ] {
        let (log, calls) = failing(answers.clone()).await.unwrap();
        let outcome = log.append(&record(RecordKind::Order, "alice", 1)).await;
        let name = match &outcome {
            Ok(()) => "written",
            Err(OrderLogError::Throttled(_)) => "throttled",
            Err(OrderLogError::Unanswered(_)) => "unanswered",
            Err(OrderLogError::Refused(_)) => "refused",
            Err(_) => "other",
        };
        assert_eq!((name, calls.load(Ordering::Relaxed)), (expected, attempts), "{answers:?}: {outcome:?}");
        assert!(!format!("{outcome:?}").contains("alice"));
    }
}

#[tokio::test]
async fn a_table_that_hangs_is_unanswered_and_one_that_is_away_was_sent_nothing() {
    let order = record(RecordKind::Order, "alice", 1);
    let (log, calls) = failing(vec![(0, "")]).await.unwrap();
    let began = Instant::now();
    let limits = CallLimits { budget: Duration::from_millis(1_200), max_attempts: 6 };
    let outcome = log.with_limits(limits).append(&order).await;
    assert!(matches!(outcome, Err(OrderLogError::Unanswered(_))), "{outcome:?}");
    assert!(calls.load(Ordering::Relaxed) >= 2, "the write was not repeated");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());

    // No proxy of the wire check in between: it would accept the connection.
    let credentials = aws_credential_types::Credentials::new("test", "test", None, None, "test");
    let provider = aws_credential_types::provider::SharedCredentialsProvider::new(credentials);
    let url = format!("http://127.0.0.1:{}", free_port().unwrap());
    let aws = sdk::defaults().endpoint_url(url).credentials_provider(provider);
    let outcome = OrderLog::new(aws, HERE, "order-log").append(&order).await;
    assert!(matches!(outcome, Err(OrderLogError::NotSent(_))), "{outcome:?}");
}
