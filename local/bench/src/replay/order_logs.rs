//! The order logs of five regions in a process of their own: DynamoDB's answers to the queries of a replay. What they cost
//! is no part of the figures.

use super::{ORDERS, PAGE, REGIONS};
use anyhow::{Context, Result};
use aws_lc_rs::digest::{SHA256, digest};
use local::system::clock::micros_now;
use local::system::regions;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

/// The orders are this old, and came within a minute.
const AGE_MICROS: u64 = 120_000_000;
const APART_MICROS: u64 = 60;

/// The process.
pub(super) struct OrderLogs {
    _child: Child,
    pub(super) url: String,
}

impl OrderLogs {
    pub(super) async fn start() -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--order-logs")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().context("the process of the order logs has no standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let port = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await;
        let port = port.context("the order logs were not ready within 60 s")??;
        let port = port.context("the process of the order logs has ended")?;
        Ok(Self { _child: child, url: format!("http://127.0.0.1:{port}") })
    }
}

/// The sort keys of each region's buckets, in order.
type Logs = BTreeMap<(&'static str, u8), Vec<String>>;

/// The process itself: prints its port, and answers until it is killed.
pub(crate) async fn serve_order_logs() -> Result<()> {
    let logs = Arc::new(generate());
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("{}", listener.local_addr()?.port());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let logs = logs.clone();
        // A client that closes its connection ends this.
        tokio::spawn(async move { answer_all(stream, &logs).await });
    }
}

fn generate() -> Logs {
    let (began, mut logs) = (micros_now() - AGE_MICROS, Logs::new());
    for (number, region) in (0..ORDERS).zip(regions::first(REGIONS).iter().cycle()) {
        // As long as an identity provider's subject.
        let buyer = format!("auth0|{:024x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let bucket = digest(&SHA256, buyer.as_bytes()).as_ref().first().copied().unwrap_or_default();
        let key = format!("{buyer}#{:016}", began + number * APART_MICROS);
        logs.entry((region.name, bucket)).or_default().push(key);
    }
    logs.values_mut().for_each(|keys| keys.sort_unstable());
    logs
}

async fn answer_all(stream: TcpStream, logs: &Logs) -> Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut length, mut region) = (0, String::new());
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let Some((name, value)) = line.trim_end().split_once(": ") else {
                if line.trim_end().is_empty() { break } else { continue }
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse()?,
                // By the scope of the signature.
                "authorization" => region = value.split('/').nth(2).context("no scope")?.to_owned(),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let request: Value = serde_json::from_slice(&body)?;
        let answer = page(logs, &region, &request)?;
        tokio::time::sleep(distance(&region)? + PAGE).await;
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        stream.write_all(&[head.as_bytes(), answer.as_bytes()].concat()).await?;
    }
}

fn distance(region: &str) -> Result<Duration> {
    let known = regions::first(REGIONS).into_iter().find(|one| one.name == region);
    Ok(Duration::from_secs_f64(known.context("an unknown region")?.round_trip_ms / 1_000.0))
}

/// A page of a bucket, with the attributes that the query asks for. No record is newer than the beginning of the replay.
fn page(logs: &Logs, region: &str, request: &Value) -> Result<String> {
    let values = &request["ExpressionAttributeValues"];
    let partition = values[":partition"]["S"].as_str().context("a query without a partition")?;
    let bucket = partition.rsplit_once('#').context("a partition without a bucket")?.1;
    let bucket = u8::from_str_radix(bucket, 16)?;
    let found = logs.iter().find(|((name, of), _)| *name == region && *of == bucket).map(|(_, keys)| keys);
    let keys = found.filter(|_| values[":expires_at"].is_null()).map(Vec::as_slice).unwrap_or_default();
    let is_whole = request["ProjectionExpression"].is_null();
    let item = |key: &String| {
        let mut item = json!({ "buyer_stamp": { "S": key }, "kind": { "S": "order" } });
        if is_whole {
            item["item_bucket"] = json!({ "S": partition });
            item["expires_at"] = json!({ "N": "1796475095" });
        }
        item
    };
    let items: Vec<Value> = keys.iter().map(item).collect();
    Ok(json!({ "Count": items.len(), "ScannedCount": items.len(), "Items": items }).to_string())
}
