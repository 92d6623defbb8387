//! An item whose reservations wait for payment, in real stores, with order-confirm and workers on it.

use anyhow::Result;
use checkout_worker::{ItemWork, WorkerContext};
use local::system::clock::micros_now;
use local::system::redis_server;
use order_confirm::App;
use reconcile::Stores;
use redis::AsyncCommands;
use serde_json::{Value, json};
use shared::config::RedisConfig;
use shared::item::{ItemId, NewItem};
use shared::permit::Permit;
use shared::queue::{Hold, Keys, Link, OrderState};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use sqlx::{Connection, PgConnection};
use std::time::{Duration, Instant};
use tests::{LedgerServer, RedisQueue, source};

pub(crate) struct HeldItem {
    pub(crate) redis: RedisQueue,
    pub(crate) ledger: LedgerServer,
    pub(crate) item_id: ItemId,
    pub(crate) confirm: App,
}

/// Holds of `hold_seconds`, which payments may extend to `max_hold_seconds`.
pub(crate) struct Holds {
    pub(crate) hold_seconds: u32,
    pub(crate) max_hold_seconds: u32,
}

impl HeldItem {
    /// The drain has reserved a unit for each of `buyers`; no worker has recorded it.
    pub(crate) async fn start(holds: Holds, buyers: &[&str]) -> Result<Self> {
        let (redis, ledger) = tokio::try_join!(RedisQueue::start(), LedgerServer::start())?;
        let item_id: ItemId = "a".parse()?;
        let new = NewItem {
            item_id: item_id.clone(),
            name: "A".into(),
            stock_total: 2_000,
            opens_at: Stamp::from_micros(micros_now() - 3_600_000_000)?,
            closes_at: None,
            hold_seconds: holds.hold_seconds,
            max_hold_seconds: holds.max_hold_seconds,
            settle_window_ms: 50,
        };
        ledger.ledger.create_item(&new).await?;
        redis.queue.create_item(&new, 1).await?;
        let confirm = App::from_config(&source(&redis, &ledger)).await?;
        let item = Self { redis, ledger, item_id, confirm };
        item.reserve(buyers).await?;
        Ok(item)
    }

    /// Reserves a unit for each of `buyers`.
    pub(crate) async fn reserve(&self, buyers: &[&str]) -> Result<()> {
        let orders: Vec<(u64, &str)> = (micros_now() - 9_000_000..).zip(buyers.iter().copied()).collect();
        let mut connection = self.redis.redis.connect().await?;
        for part in orders.chunks(500) {
            let _: () = connection.zadd_multiple(Keys::of(&self.item_id).orders, part).await?;
            self.redis.queue.drain(&self.item_id, 500, Permit::Unleased).await?;
        }
        Ok(())
    }

    pub(crate) async fn state(&self, buyer: &str) -> Result<OrderState> {
        Ok(self.redis.queue.order_state(&self.item_id, &UserToken::parse(buyer)?).await?)
    }

    /// The end of the hold in Redis.
    pub(crate) async fn held_until(&self, buyer: &str) -> Stamp {
        match self.state(buyer).await.unwrap() {
            OrderState::Reserved(Hold::Until(until)) => until,
            other => panic!("{buyer} has no hold: {other:?}"),
        }
    }

    pub(crate) fn notice(&self, buyer: &str, reference: &str, outcome: &str) -> Value {
        json!({ "item_id": self.item_id, "user_token": buyer, "payment_reference": reference,
                "outcome": outcome })
    }

    /// Sends a notice until its answer is no temporary refusal. Returns the state, or the name of the problem.
    pub(crate) async fn send(&self, notice: &Value) -> String {
        status_of(&self.answer(notice).await)
    }

    /// The same with the whole answer.
    pub(crate) async fn answer(&self, notice: &Value) -> Value {
        loop {
            match order_confirm::answer(&self.confirm, notice.clone()).await {
                Ok(answer) => return answer,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    pub(crate) async fn worker(&self) -> Result<ItemWork> {
        self.worker_with(None).await
    }

    /// A worker that gives a grace of at most so many seconds.
    pub(crate) async fn worker_with(&self, hold_grace_seconds: Option<&'static str>) -> Result<ItemWork> {
        let stores = source(&self.redis, &self.ledger);
        let source = |name: &str| match (name, hold_grace_seconds) {
            ("FAIRDROP_HOLD_GRACE_SECONDS", Some(seconds)) => Some(seconds.to_owned()),
            _ => stores(name),
        };
        Ok(ItemWork::new(WorkerContext::from_config(&source).await?, self.item_id.clone()))
    }

    /// The stores, for comparisons and rebuilds.
    pub(crate) fn stores(&self) -> Stores {
        let url = self.redis.redis.url();
        let link = Link::new(RedisConfig::main(&|name: &str| redis_server::setting(name, &url)).unwrap());
        Stores { link, queue: self.redis.queue.clone(), ledger: self.ledger.ledger.clone() }
    }

    pub(crate) async fn query(&self, sql: &'static str) -> i64 {
        let mut connection = PgConnection::connect(&self.ledger.postgres.url()).await.unwrap();
        sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
    }
}

/// Rounds of a worker for `time`; failed rounds are repeated, as in a run.
pub(crate) async fn work_for(work: &mut ItemWork, time: Duration) {
    let started = Instant::now();
    while started.elapsed() < time {
        let _ = work.round(true).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The state in an answer, or the name of its problem.
pub(crate) fn status_of(answer: &Value) -> String {
    let word = answer["status"].as_str().or_else(|| answer["type"].as_str()).unwrap_or_default();
    word.trim_start_matches("urn:fairdrop:problem:").to_owned()
}
