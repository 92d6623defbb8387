//! What the suites have in common: a queue on a real Redis, a running system, and a
//! client of its gateways.

pub mod cloudwatch;
pub mod code;
pub mod expanded;
pub mod live;
pub mod parameters;
pub mod template;

use anyhow::{Context, Result};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use futures::future::join_all;
use ledger::Ledger;
use local::aws::wire::checked;
use local::crowd::{OrderAnswer, SentOrder};
use local::system::clock::micros_now;
use local::system::folder::WorkFolder;
use local::system::postgres::Postgres;
use local::system::process::scaled;
use local::system::redis_server::{self, Redis};
use local::system::regions::{self, WorldRegion};
use local::system::{Options, System};
use serde_json::{Value, json};
use shared::clock::Clock;
use shared::config::RedisConfig;
use shared::item::{ItemId, NewItem};
use shared::queue::{Link, Order, Queue};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::time::{Duration, Instant};

/// A real Redis of the test's own, and the queue on it.
#[derive(Debug)]
pub struct RedisQueue {
    /// The server.
    pub redis: Redis,
    /// The queue, over one connection.
    pub queue: Queue,
    /// The machine's clock.
    pub clock: Clock,
    _folder: WorkFolder,
}

impl RedisQueue {
    /// Starts a server.
    pub async fn start() -> Result<Self> {
        let folder = WorkFolder::new()?;
        let redis = Redis::start(folder.path(), "redis").await?;
        let queue = queue_at(redis.url())?;
        Ok(Self { redis, queue, clock: Clock::machine(), _folder: folder })
    }

    /// Puts an item on sale that has been open for an hour.
    pub async fn item(&self, name: &str, stock_total: u32, settle_window_ms: u32) -> Result<ItemId> {
        let item_id: ItemId = name.parse()?;
        let new = NewItem {
            item_id: item_id.clone(),
            name: name.to_owned(),
            stock_total,
            opens_at: Stamp::from_micros(micros_now() - 3_600_000_000)?,
            closes_at: None,
            hold_seconds: 0,
            max_hold_seconds: 0,
            settle_window_ms,
        };
        self.queue.create_item(&new, 1).await?;
        Ok(item_id)
    }
}

/// How long a busy machine's Redis may take to answer, in milliseconds.
const REDIS_LIMIT_MS: &str = "10000";

/// A queue over a connection of its own.
pub fn queue_at(url: String) -> Result<Queue> {
    let source = |name: &str| match name {
        "FAIRDROP_REDIS_CONNECT_TIMEOUT_MS" | "FAIRDROP_REDIS_RESPONSE_TIMEOUT_MS" => {
            Some(REDIS_LIMIT_MS.to_owned())
        }
        _ => redis_server::setting(name, &url),
    };
    Ok(Queue::new(Link::new(RedisConfig::main(&source)?)))
}

/// How often the server has executed `command` since its counts were reset.
pub async fn calls(redis: &Redis, command: &str) -> Result<u64> {
    let mut connection = redis.connect().await?;
    let stats: String = redis::cmd("INFO").arg("commandstats").query_async(&mut connection).await?;
    let Some(line) = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")))
    else {
        return Ok(0);
    };
    let count = line.split(',').next().context("the line has no count")?;
    Ok(count.parse()?)
}

/// An order of `buyer`, stamped `placed_at`.
pub fn order(item_id: &ItemId, buyer: &str, placed_at: u64) -> Result<Order> {
    Ok(Order {
        item_id: item_id.clone(),
        user_token: UserToken::parse(buyer)?,
        placed_at: Stamp::from_micros(placed_at)?,
    })
}

/// A system with main alone, whose drain starts about every second.
pub async fn one_region() -> Result<System> {
    System::start(&quick(regions::first(1))).await
}

/// Options for tests: `regions`, and a drain that starts about every second.
pub fn quick(regions: Vec<WorldRegion>) -> Options {
    Options {
        run_every: Duration::from_secs(1),
        answer_limit: Duration::from_secs(5),
        ..Options::for_regions(regions)
    }
}

/// Puts an item on sale through `drop-admin`, open since a minute ago, with what
/// `with` says otherwise.
pub async fn announce(system: &System, item_id: &str, with: Value) -> Result<Value> {
    let mut item = json!({
        "item_id": item_id,
        "name": item_id,
        "stock_total": 10,
        "opens_at": micros_now() - 60_000_000,
        "settle_window_ms": 500,
    });
    for (name, value) in with.as_object().into_iter().flatten() {
        item[name] = value.clone();
    }
    let created = system.admin(&json!({ "command": "create", "item": item })).await?;
    for index in 0..system.regions.len() {
        let client = Client::of(system, index)?;
        // The edges read it from the replica, which is a moment behind.
        eventually("the edge knows the item", Duration::from_secs(10), async || {
            Ok((client.item(item_id).await?.status == 200).then_some(()))
        })
        .await?;
    }
    Ok(created)
}

/// A client of one region's gateway.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    url: String,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: http::HeaderMap,
    /// The body, where it is JSON; otherwise null.
    pub body: Value,
}

impl Answer {
    /// The last part of the problem's type, if it is a problem.
    pub fn problem(&self) -> Option<&str> {
        self.body.get("type")?.as_str()?.rsplit(':').next()
    }

    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Client {
    /// A client of region `index`.
    pub fn of(system: &System, index: usize) -> Result<Self> {
        let region = system.regions.get(index).context("there is no such region")?;
        Ok(Self { http: reqwest::Client::new(), url: region.gateway.url() })
    }

    /// Sends a request; `change` adds what is special about it.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        change: impl FnOnce(reqwest::RequestBuilder) -> reqwest::RequestBuilder,
    ) -> Result<Answer> {
        let request = self.http.request(method.parse()?, format!("{}{path}", self.url));
        let response = change(request).timeout(Duration::from_secs(40)).send().await?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let body = serde_json::from_slice(&response.bytes().await?).unwrap_or(Value::Null);
        Ok(Answer { status, headers, body })
    }

    /// Places an order.
    pub async fn order(&self, item_id: &str, token: &str) -> Result<Answer> {
        self.send("POST", &format!("/items/{item_id}/orders"), |request| request.bearer_auth(token)).await
    }

    /// Asks for the buyer's order.
    pub async fn mine(&self, item_id: &str, token: &str) -> Result<Answer> {
        self.send("GET", &format!("/items/{item_id}/orders/me"), |request| request.bearer_auth(token)).await
    }

    /// Leaves the queue.
    pub async fn leave(&self, item_id: &str, token: &str) -> Result<Answer> {
        self.send("DELETE", &format!("/items/{item_id}/orders/me"), |request| request.bearer_auth(token))
            .await
    }

    /// Asks for the item.
    pub async fn item(&self, item_id: &str) -> Result<Answer> {
        self.send("GET", &format!("/items/{item_id}"), |request| request).await
    }
}

/// Tries `attempt` every 50 ms until it yields something, for at most `limit` on an idle machine (see [`scaled`]).
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut attempt: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let (started, limit) = (Instant::now(), scaled(limit));
    loop {
        match attempt().await {
            Ok(Some(value)) => return Ok(value),
            Ok(None) if started.elapsed() < limit => {}
            Err(_) if started.elapsed() < limit => {}
            Ok(None) => anyhow::bail!("not within {limit:?}: {what}"),
            Err(error) => return Err(error.context(format!("not within {limit:?}: {what}"))),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A buyer who asks again until the checkout gives a definite answer.
pub async fn insist(client: &Client, item_id: &str, token: &str, limit: Duration) -> OrderAnswer {
    let (started, limit) = (Instant::now(), scaled(limit));
    let mut told = OrderAnswer::None("no-answer".into());
    while started.elapsed() < limit {
        if let Ok(answer) = client.order(item_id, token).await {
            told = match (answer.status, answer.problem()) {
                (200 | 202, _) | (409, Some("already-sold" | "already-reserved")) => {
                    return OrderAnswer::Queued;
                }
                (409 | 410, Some(problem)) => return OrderAnswer::Refused(problem.to_owned()),
                (_, Some(problem)) => OrderAnswer::Refused(problem.to_owned()),
                (status, None) => OrderAnswer::None(format!("http-{status}")),
            };
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    told
}

/// Orders of `buyers` buyers, `per_second` of them, in turns from all regions.
pub async fn drop_of(system: &System, buyers: u32, per_second: u32, first: &str) -> Result<Vec<SentOrder>> {
    let clients =
        (0..system.regions.len()).map(|index| Client::of(system, index)).collect::<Result<Vec<_>>>()?;
    let orders = (0..buyers).map(|number| {
        let region = number as usize % clients.len();
        let client = clients[region].clone();
        let subject = format!("{first}-{number}");
        let token = system.identity.token(&subject);
        async move {
            tokio::time::sleep(Duration::from_secs(1) * number / per_second).await;
            let answer = insist(&client, "drop", &token?, Duration::from_secs(40)).await;
            Ok(SentOrder { subject, region, arrived_at: None, answer, answer_ms: 0.0 })
        }
    });
    join_all(orders).await.into_iter().collect()
}

/// A real PostgreSQL of the test's own, and the ledger on it.
#[derive(Debug)]
pub struct LedgerServer {
    /// The server.
    pub postgres: Postgres,
    /// The ledger, migrated.
    pub ledger: Ledger,
    _folder: WorkFolder,
}

impl LedgerServer {
    /// Starts a server.
    pub async fn start() -> Result<Self> {
        let folder = WorkFolder::new()?;
        let postgres = Postgres::start(folder.path(), "postgres").await?;
        let url = postgres.url();
        let ledger = Ledger::from_config(&|name: &str| (name == "FAIRDROP_LEDGER_URL").then(|| url.clone()))?;
        ledger.migrate().await?;
        Ok(Self { postgres, ledger, _folder: folder })
    }
}

/// The configuration of functions that work on these two, and find each other's tasks soon.
pub fn source(redis: &RedisQueue, ledger: &LedgerServer) -> impl Fn(&str) -> Option<String> + use<> {
    let (redis, ledger) = (redis.redis.url(), ledger.postgres.url());
    move |name| match name {
        "FAIRDROP_LEDGER_URL" => Some(ledger.clone()),
        "FAIRDROP_REDIS_CONNECT_TIMEOUT_MS" | "FAIRDROP_REDIS_RESPONSE_TIMEOUT_MS" => {
            Some(REDIS_LIMIT_MS.to_owned())
        }
        "FAIRDROP_TASK_IDLE_AFTER_MS" => Some("100".to_owned()),
        _ => redis_server::setting(name, &redis),
    }
}

/// The table called `lease` of the emulator at `url`, as it is seen from `region`.
pub async fn lease_table(url: &str, region: &str) -> lease::LeaseTable {
    let credentials = Credentials::new("test", "test", None, None, "test");
    let aws = sdk::defaults()
        .endpoint_url(checked(None, url).unwrap())
        .credentials_provider(SharedCredentialsProvider::new(credentials));
    lease::LeaseTable::new(aws, region, "lease")
}

/// The order log called `order-log` of the emulator at `url`, as `region` reaches it.
pub fn order_log(url: &str, region: &str) -> Result<order_log::OrderLog> {
    let credentials = Credentials::new("test", "test", None, None, "test");
    let aws = sdk::defaults()
        .endpoint_url(checked(None, url)?)
        .credentials_provider(SharedCredentialsProvider::new(credentials));
    Ok(order_log::OrderLog::new(aws, region, "order-log"))
}

/// A sample event of `events/`.
pub fn sample(file: &str) -> Value {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../events").join(file);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}
