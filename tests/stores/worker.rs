//! What the checkout worker does with tasks that the ledger does not take.

use anyhow::Result;
use checkout_worker::{ItemWork, WorkerContext};
use local::system::clock::micros_now;
use redis::AsyncCommands;
use serde_json::json;
use shared::item::{ItemId, NewItem};
use shared::permit::Permit;
use shared::queue::{Hold, Keys, Leave, OrderState};
use shared::stamp::Stamp;
use sqlx::{Connection, Executor, PgConnection};
use std::time::{Duration, Instant};
use tests::{LedgerServer, RedisQueue, order, source};

struct Shop {
    redis: RedisQueue,
    ledger: LedgerServer,
    item_id: ItemId,
    work: ItemWork,
}

impl Shop {
    /// An item in both stores that sells at once, with a settled order of each buyer.
    async fn start(stock_total: u32, buyers: &[&str]) -> Result<Self> {
        Self::start_with(stock_total, buyers, 0).await
    }

    async fn start_with(stock_total: u32, buyers: &[&str], hold_seconds: u32) -> Result<Self> {
        let (redis, ledger) = (RedisQueue::start().await?, LedgerServer::start().await?);
        let item_id: ItemId = "a".parse()?;
        let new = NewItem {
            item_id: item_id.clone(),
            name: "A".into(),
            stock_total,
            opens_at: Stamp::from_micros(micros_now() - 3_600_000_000)?,
            closes_at: None,
            hold_seconds,
            settle_window_ms: 50,
        };
        ledger.ledger.create_item(&new).await?;
        redis.queue.create_item(&new, 1).await?;
        let orders: Vec<(u64, &str)> =
            buyers.iter().zip(micros_now() - 9_000_000..).map(|(b, at)| (at, *b)).collect();
        let _: () = redis.redis.connect().await?.zadd_multiple(Keys::of(&item_id).orders, &orders).await?;
        let work =
            ItemWork::new(WorkerContext::from_config(&source(&redis, &ledger)).await?, item_id.clone());
        Ok(Self { redis, ledger, item_id, work })
    }

    /// Rounds of the worker for a while; failures are tried again as they are in a run.
    async fn work_for(&mut self, time: Duration) {
        let started = Instant::now();
        while started.elapsed() < time {
            let _ = self.work.round(true).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn by_hand(&self, sql: &'static str) -> Result<()> {
        let mut connection = PgConnection::connect(&self.ledger.postgres.url()).await?;
        connection.execute(sql).await?;
        Ok(())
    }

    async fn state(&self, buyer: &str) -> Result<OrderState> {
        let token = order(&self.item_id, buyer, 0)?.user_token;
        Ok(self.redis.queue.order_state(&self.item_id, &token).await?)
    }

    async fn dead_letters(&self) -> Result<u64> {
        Ok(self.redis.redis.connect().await?.xlen(Keys::of(&self.item_id).dead_letters).await?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_the_ledger_refuses_does_not_stop_the_others_and_is_put_aside() {
    let mut shop = Shop::start(10, &["alice", "mallory", "bob"]).await.unwrap();
    shop.by_hand("ALTER TABLE fairdrop.sales ADD CHECK (user_token <> 'mallory')").await.unwrap();
    shop.redis.queue.drain(&shop.item_id, 500, Permit::Unleased).await.unwrap();
    shop.work_for(Duration::from_millis(500)).await;
    assert_eq!(shop.state("alice").await.unwrap(), OrderState::Sold);
    assert_eq!(shop.state("bob").await.unwrap(), OrderState::Sold);
    assert_eq!(shop.dead_letters().await.unwrap(), 0, "it was not tried again");
    shop.work_for(Duration::from_secs(8)).await;
    assert_eq!(shop.dead_letters().await.unwrap(), 1);
    assert_eq!(shop.redis.queue.waiting_tasks(&shop.item_id).await.unwrap(), 0);
    // Its unit stays taken until a person has looked.
    assert_eq!(shop.state("mallory").await.unwrap(), OrderState::Reserved(Hold::Sale));
    assert_eq!(shop.redis.queue.item(&shop.item_id).await.unwrap().stock_left, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn under_another_epoch_nothing_is_sold_and_nobody_loses_their_place() {
    let mut shop = Shop::start(2, &["alice", "bob", "carol"]).await.unwrap();
    shop.by_hand("UPDATE fairdrop.reign SET epoch = 2").await.unwrap();
    shop.redis.queue.drain(&shop.item_id, 500, Permit::Unleased).await.unwrap();
    shop.work_for(Duration::from_secs(3)).await;
    for buyer in ["alice", "bob"] {
        assert_eq!(shop.state(buyer).await.unwrap(), OrderState::Reserved(Hold::Sale));
    }
    assert!(matches!(shop.state("carol").await.unwrap(), OrderState::Queued { ahead: 0, .. }));
    assert_eq!(shop.dead_letters().await.unwrap(), 0);
    assert_eq!(shop.redis.queue.waiting_tasks(&shop.item_id).await.unwrap(), 2);
    assert_eq!(shop.ledger.ledger.item(&shop.item_id).await.unwrap().units_taken, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_redis_promises_beyond_the_stock_is_released_without_a_unit() {
    // As after a failover to a replica that had not heard of two sales.
    let mut shop = Shop::start(3, &["alice", "bob", "carol"]).await.unwrap();
    shop.by_hand(
        "INSERT INTO fairdrop.sales (item_id, user_token, state, placed_at, reserved_at, hold_until, epoch)
         VALUES ('a', 'x', 'sold', 1, 1, 1, 1), ('a', 'y', 'sold', 2, 2, 2, 1)",
    )
    .await
    .unwrap();
    shop.redis.queue.drain(&shop.item_id, 500, Permit::Unleased).await.unwrap();
    shop.work_for(Duration::from_secs(1)).await;
    assert_eq!(shop.state("alice").await.unwrap(), OrderState::Sold);
    for buyer in ["bob", "carol"] {
        assert_eq!(shop.state(buyer).await.unwrap(), OrderState::Released);
    }
    // No unit went back: nobody is popped only to be refused.
    assert_eq!(shop.redis.queue.item(&shop.item_id).await.unwrap().stock_left, 0);
    assert_eq!(shop.ledger.ledger.item(&shop.item_id).await.unwrap().units_taken, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_redis_was_not_told_it_is_told_when_the_hold_ends() {
    let mut shop = Shop::start_with(3, &["alice", "bob", "carol"], 1).await.unwrap();
    shop.redis.queue.drain(&shop.item_id, 500, Permit::Unleased).await.unwrap();
    shop.work_for(Duration::from_millis(300)).await;
    // Committed, and the process died before its word to Redis.
    let ledger = &shop.ledger.ledger;
    let token = |buyer: &str| order(&shop.item_id, buyer, 0).unwrap().user_token;
    let later = Stamp::from_micros(micros_now() + 60_000_000).unwrap();
    ledger.pay(&shop.item_id, &token("alice"), "pay-1", Permit::Unleased.reign(1)).await.unwrap();
    ledger
        .extend(
            &shop.item_id,
            &token("bob"),
            "pay-2",
            later,
            shared::queue::OrderState::None,
            Permit::Unleased.reign(1),
        )
        .await
        .unwrap();
    assert!(matches!(shop.state("alice").await.unwrap(), OrderState::Reserved(Hold::Until(_))));
    shop.work_for(Duration::from_millis(1_500)).await;
    assert_eq!(shop.state("alice").await.unwrap(), OrderState::Sold);
    assert_eq!(shop.state("bob").await.unwrap(), OrderState::Reserved(Hold::Until(later)));
    assert_eq!(shop.state("carol").await.unwrap(), OrderState::Released);
    assert_eq!(shop.redis.queue.item(&shop.item_id).await.unwrap().stock_left, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_release_says_nothing_of_a_reservation_on_its_way() {
    let mut shop = Shop::start_with(2, &["alice"], 60).await.unwrap();
    let alice = order(&shop.item_id, "alice", 0).unwrap().user_token;
    shop.redis.queue.drain(&shop.item_id, 500, Permit::Unleased).await.unwrap();
    shop.work_for(Duration::from_millis(300)).await;
    shop.redis.queue.leave(&shop.item_id, &alice).await.unwrap();
    shop.work_for(Duration::from_millis(300)).await;
    assert_eq!(shop.state("alice").await.unwrap(), OrderState::Released);

    // She comes back, and the worker that takes her new task dies with it.
    let keys = Keys::of(&shop.item_id);
    let placed_at = micros_now() - 1_000_000;
    let _: () =
        shop.redis.redis.connect().await.unwrap().zadd(&keys.orders, "alice", placed_at).await.unwrap();
    shop.redis.queue.drain(&shop.item_id, 500, Permit::Unleased).await.unwrap();
    assert_eq!(shop.redis.queue.take_tasks(&shop.item_id, 500).await.unwrap().len(), 1);
    let confirm = order_confirm::App::from_config(&source(&shop.redis, &shop.ledger)).await.unwrap();
    for outcome in ["paid", "pending", "failed"] {
        let notice = json!({
            "item_id": shop.item_id, "user_token": "alice", "payment_reference": "pay-1", "outcome": outcome,
        });
        let told = order_confirm::answer(&confirm, notice).await.unwrap_err().to_string();
        assert!(told.contains("not-recorded-yet"), "{outcome}: {told}");
    }
    assert_eq!(shop.redis.queue.leave(&shop.item_id, &alice).await.unwrap(), Leave::GivingBack);
    assert_eq!(shop.redis.queue.leave(&shop.item_id, &alice).await.unwrap(), Leave::GivingBack);
    shop.work.round(true).await.unwrap();
    assert_eq!(shop.state("alice").await.unwrap(), OrderState::Reserved(Hold::Release));

    shop.work_for(Duration::from_secs(2)).await;
    assert_eq!(shop.state("alice").await.unwrap(), OrderState::Released);
    assert_eq!(shop.redis.queue.item(&shop.item_id).await.unwrap().stock_left, 2);
    assert_eq!(shop.ledger.ledger.item(&shop.item_id).await.unwrap().units_taken, 0);
}
