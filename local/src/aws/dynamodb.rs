//! DynamoDB, as this code uses it: tables on demand with their streams, from AWS's documents (`docs/AWS_FACTS.md`) and
//! service models. What the documents leave open is drawn from a seed. `tests/stores/dynamodb.rs` compares the answers with
//! moto's, call by call.
//!
//! Not here: indexes, transactions, provisioned capacity, paths below the first level of attributes, keys of other types
//! than text, the removal of expired items, and the verification of signatures. A call that needs them is refused.

mod calls;
mod expression;
mod failure;
mod stream;
mod table;
mod tables;
mod throughput;
mod value;

use crate::aws::emulators::Moto;
use anyhow::{Context, Result, ensure};
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response};
use axum::serve::ListenerExt;
use failure::{Failure, respond};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use table::Table;
use tokio::task::JoinHandle;

pub(crate) use stream::RETENTION;

/// The largest request: a page of 16 MB is the largest of all calls.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// What the documents leave open, and what a test wants to happen.
#[derive(Clone, Debug)]
pub struct DynamoDbOptions {
    /// How long a call takes: *single-digit milliseconds*.
    pub latency: Range<Duration>,
    /// From a change to its record in the stream: *near real time*.
    pub stream_latency: Range<Duration>,
    /// Of the writes, the share that fails with an internal error. Half of these are executed.
    pub failing: f64,
    /// Of the calls on streams, the share that fails. No document says how many do.
    pub failing_reads: f64,
    pub seed: u64,
}

impl Default for DynamoDbOptions {
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(1)..Duration::from_millis(10),
            stream_latency: Duration::from_millis(20)..Duration::from_millis(500),
            failing: 0.0,
            failing_reads: 0.02,
            seed: rand::random(),
        }
    }
}

impl DynamoDbOptions {
    /// Everything happens at once.
    pub fn instant() -> Self {
        let none = Duration::ZERO..Duration::ZERO;
        Self { latency: none.clone(), stream_latency: none, failing_reads: 0.0, ..Self::default() }
    }
}

/// A running DynamoDB: an empty account with all regions.
#[derive(Debug)]
pub struct DynamoDb {
    port: u16,
    account: Arc<Account>,
    serving: JoinHandle<()>,
}

type Tables = BTreeMap<(String, String), Arc<Mutex<Table>>>;

#[derive(Debug)]
struct Account {
    options: DynamoDbOptions,
    /// By region and name.
    tables: Mutex<Tables>,
    chance: Mutex<SmallRng>,
}

impl DynamoDb {
    /// Starts it on a free port.
    pub async fn start(options: DynamoDbOptions) -> Result<Self> {
        eprintln!("seed of DynamoDB: {}", options.seed);
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let listener = listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        let chance = Mutex::new(SmallRng::seed_from_u64(options.seed));
        let account = Arc::new(Account { options, tables: Mutex::default(), chance });
        let router = axum::Router::new().fallback(answer).with_state(account.clone());
        let serving = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { port, account, serving })
    }

    /// The address, for `AWS_ENDPOINT_URL`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The variables by which a function's SDK finds it.
    pub fn environment(&self) -> Vec<(String, String)> {
        Moto::environment_at(&self.url())
    }

    /// Creates a table in `region` whose key is `id`.
    pub fn make_table(&self, region: &str, name: &str) -> Result<()> {
        self.create(region, &tables::with_id(name))
    }

    /// Creates an order log in `region`: the table as template.yaml has it, with its stream. It is warm for so many writes
    /// a second; 0 for a new table.
    pub fn make_order_log(&self, region: &str, name: &str, warm_writes: u32) -> Result<()> {
        self.create(region, &tables::order_log(name, warm_writes))
    }

    fn create(&self, region: &str, request: &Value) -> Result<()> {
        let created = self.account.create_table(region, request);
        created.map(drop).map_err(|failure| anyhow::anyhow!("could not create a table: {failure:?}"))
    }

    /// Throttles the share `throttled` of the calls on a table, beyond those above its throughput.
    pub fn throttle(&self, region: &str, name: &str, throttled: f64) -> Result<()> {
        ensure!((0.0..=1.0).contains(&throttled), "a share is between 0 and 1");
        let table = self.account.table(region, name).ok().context("there is no such table")?;
        lock(&table).throttled = throttled;
        Ok(())
    }

    /// Removes all records from a table's stream, as 24 hours do. The items stay.
    pub fn trim_stream(&self, region: &str, name: &str) -> Result<()> {
        let table = self.account.table(region, name).ok().context("there is no such table")?;
        let mut table = lock(&table);
        table.stream.as_mut().context("the table has no stream")?.trim(Duration::ZERO);
        Ok(())
    }

    /// Deletes a table with its items and its stream.
    pub fn delete_table(&self, region: &str, name: &str) {
        lock(&self.account.tables).remove(&(region.to_owned(), name.to_owned()));
    }

    /// All items of a table.
    pub fn items(&self, region: &str, name: &str) -> Result<Vec<Value>> {
        let table = self.account.table(region, name).ok().context("there is no such table")?;
        Ok(lock(&table).all().cloned().map(Value::Object).collect())
    }
}

impl Drop for DynamoDb {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(State(account): State<Arc<Account>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let region = region_of(&parts.headers).unwrap_or_default();
    let target = parts.headers.get("x-amz-target").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let body = to_bytes(body, MAX_BODY_BYTES).await.unwrap_or_default();
    let target = target.to_owned();
    // A call is executed although its caller has gone.
    let executing = tokio::spawn(async move {
        let (first, second) = account.latencies();
        tokio::time::sleep(first).await;
        let answered = match serde_json::from_slice::<Value>(&body) {
            Ok(request) => account.execute(&region, &target, &request),
            Err(_) => Err(Failure::new("SerializationException", "The request is no JSON")),
        };
        tokio::time::sleep(second).await;
        answered
    });
    match executing.await.unwrap_or_else(|_| Err(Failure::internal())) {
        Ok(answer) => respond(200, &answer),
        Err(failure) => failure.into_response(),
    }
}

/// The region of a request, by the scope of its signature.
fn region_of(headers: &HeaderMap) -> Option<String> {
    let authorization = headers.get("authorization")?.to_str().ok()?;
    let scope = authorization.split_once("Credential=")?.1;
    scope.split('/').nth(2).map(str::to_owned)
}

impl Account {
    /// How long a call takes before and after it is executed.
    fn latencies(&self) -> (Duration, Duration) {
        let Range { start, end } = self.options.latency;
        if start >= end {
            return (start, Duration::ZERO);
        }
        let mut chance = lock(&self.chance);
        let all = chance.random_range(start..end);
        let first = all.mul_f64(chance.random());
        (first, all - first)
    }

    fn table(&self, region: &str, name: &str) -> Result<Arc<Mutex<Table>>, Failure> {
        let found = lock(&self.tables).get(&(region.to_owned(), name.to_owned())).cloned();
        found.ok_or_else(|| Failure::not_found(&format!("Table: {name}")))
    }

    fn execute(&self, region: &str, target: &str, request: &Value) -> Result<Value, Failure> {
        // A generator for each call: calls on other tables do not wait.
        let mut chance = SmallRng::seed_from_u64(lock(&self.chance).random());
        let chance = &mut chance;
        let Some((service, operation)) = target.split_once('.') else {
            return Err(Failure::new("UnknownOperationException", "There is no X-Amz-Target"));
        };
        if service == "DynamoDBStreams_20120810" {
            return self.stream_call(region, operation, request, chance);
        }
        match operation {
            "CreateTable" => return self.create_table(region, request),
            "PutItem" | "UpdateItem" | "DeleteItem" | "GetItem" | "Query" | "Scan" | "DescribeTable"
            | "DeleteTable" => {}
            _ => {
                return Err(Failure::new(
                    "UnknownOperationException",
                    format!("the stand-in of DynamoDB does not have {operation}"),
                ));
            }
        }
        calls::must_be_supported(request)?;
        // Either the name or the resource's name.
        let name = request["TableName"].as_str().unwrap_or_default();
        let name = name.rsplit_once(":table/").map_or(name, |(_, name)| name);
        if operation == "DeleteTable" {
            return self.delete(region, name);
        }
        let table = self.table(region, name)?;
        let table = &mut *lock(&table);
        let is_write = ["PutItem", "UpdateItem", "DeleteItem"].contains(&operation);
        let is_failing = is_write && chance.random_bool(self.options.failing);
        if is_failing && chance.random() {
            return Err(Failure::internal());
        }
        let answer = match operation {
            "PutItem" => calls::put_item(table, request, chance),
            "UpdateItem" => calls::update_item(table, request, chance),
            "DeleteItem" => calls::delete_item(table, request, chance),
            "GetItem" => calls::get_item(table, request, chance),
            "Query" => calls::query(table, request, chance),
            "Scan" => calls::scan(table),
            _ => Ok(json!({ "Table": tables::describe(table) })),
        };
        if is_failing { Err(Failure::internal()) } else { answer }
    }
}
