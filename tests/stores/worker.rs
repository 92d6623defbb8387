//! What the checkout worker does with tasks that the ledger refuses.

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

struct WorkerFixture {
    redis: RedisQueue,
    ledger: LedgerServer,
    item_id: ItemId,
    work: ItemWork,
}

impl WorkerFixture {
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
            max_hold_seconds: 0,
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

    /// Rounds of the worker for `time`; failed rounds are repeated, as in a run.
    async fn work_for(&mut self, time: Duration) {
        let started = Instant::now();
        while started.elapsed() < time {
            let _ = self.work.round(true).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn execute(&self, sql: &'static str) -> Result<()> {
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
async fn a_refused_reservation_does_not_stop_the_others_and_goes_to_the_dead_letters() {
    let mut fixture = WorkerFixture::start(10, &["alice", "mallory", "bob"]).await.unwrap();
    fixture.execute("ALTER TABLE fairdrop.sales ADD CHECK (user_token <> 'mallory')").await.unwrap();
    fixture.redis.queue.drain(&fixture.item_id, 500, Permit::Unleased).await.unwrap();
    fixture.work_for(Duration::from_millis(500)).await;
    assert_eq!(fixture.state("alice").await.unwrap(), OrderState::Sold);
    assert_eq!(fixture.state("bob").await.unwrap(), OrderState::Sold);
    assert_eq!(fixture.dead_letters().await.unwrap(), 0, "the task must be retried first");
    fixture.work_for(Duration::from_secs(8)).await;
    assert_eq!(fixture.dead_letters().await.unwrap(), 1);
    assert_eq!(fixture.redis.queue.waiting_tasks(&fixture.item_id).await.unwrap(), 0);
    // Its unit stays taken until an operator decides.
    assert_eq!(fixture.state("mallory").await.unwrap(), OrderState::Reserved(Hold::Sale));
    assert_eq!(fixture.redis.queue.item(&fixture.item_id).await.unwrap().stock_left, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn under_another_epoch_nothing_is_sold_and_every_order_keeps_its_place() {
    let mut fixture = WorkerFixture::start(2, &["alice", "bob", "carol"]).await.unwrap();
    fixture.execute("UPDATE fairdrop.current_epoch SET epoch = 2").await.unwrap();
    fixture.redis.queue.drain(&fixture.item_id, 500, Permit::Unleased).await.unwrap();
    fixture.work_for(Duration::from_secs(3)).await;
    for buyer in ["alice", "bob"] {
        assert_eq!(fixture.state(buyer).await.unwrap(), OrderState::Reserved(Hold::Sale));
    }
    assert!(matches!(fixture.state("carol").await.unwrap(), OrderState::Queued { ahead: 0, .. }));
    assert_eq!(fixture.dead_letters().await.unwrap(), 0);
    assert_eq!(fixture.redis.queue.waiting_tasks(&fixture.item_id).await.unwrap(), 2);
    assert_eq!(fixture.ledger.ledger.item(&fixture.item_id).await.unwrap().units_taken, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn reservations_beyond_the_ledger_s_stock_are_released_without_a_unit() {
    // As after a failover to a replica that lacked two sales.
    let mut fixture = WorkerFixture::start(3, &["alice", "bob", "carol"]).await.unwrap();
    fixture.execute(
        "INSERT INTO fairdrop.sales (item_id, user_token, state, placed_at, reserved_at, hold_until, epoch)
         VALUES ('a', 'x', 'sold', 1, 1, 1, 1), ('a', 'y', 'sold', 2, 2, 2, 1)",
    )
    .await
    .unwrap();
    fixture.redis.queue.drain(&fixture.item_id, 500, Permit::Unleased).await.unwrap();
    fixture.work_for(Duration::from_secs(1)).await;
    assert_eq!(fixture.state("alice").await.unwrap(), OrderState::Sold);
    for buyer in ["bob", "carol"] {
        assert_eq!(fixture.state(buyer).await.unwrap(), OrderState::Released);
    }
    // No unit returned to the stock: otherwise the drain would pop an order only to have it refused.
    assert_eq!(fixture.redis.queue.item(&fixture.item_id).await.unwrap().stock_left, 0);
    assert_eq!(fixture.ledger.ledger.item(&fixture.item_id).await.unwrap().units_taken, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_that_did_not_reach_redis_is_written_when_the_hold_ends() {
    let mut fixture = WorkerFixture::start_with(3, &["alice", "bob", "carol"], 1).await.unwrap();
    fixture.redis.queue.drain(&fixture.item_id, 500, Permit::Unleased).await.unwrap();
    fixture.work_for(Duration::from_millis(300)).await;
    // Committed, but the process died before it updated Redis.
    let ledger = &fixture.ledger.ledger;
    let token = |buyer: &str| order(&fixture.item_id, buyer, 0).unwrap().user_token;
    let later = Stamp::from_micros(micros_now() + 60_000_000).unwrap();
    ledger.pay(&fixture.item_id, &token("alice"), "pay-1", Permit::Unleased.fence(1)).await.unwrap();
    ledger
        .extend(
            &fixture.item_id,
            &token("bob"),
            "pay-2",
            ledger::WantedHold::once(later),
            shared::queue::OrderState::None,
            Permit::Unleased.fence(1),
        )
        .await
        .unwrap();
    assert!(matches!(fixture.state("alice").await.unwrap(), OrderState::Reserved(Hold::Until(_))));
    fixture.work_for(Duration::from_millis(1_500)).await;
    assert_eq!(fixture.state("alice").await.unwrap(), OrderState::Sold);
    assert_eq!(fixture.state("bob").await.unwrap(), OrderState::Reserved(Hold::Until(later)));
    assert_eq!(fixture.state("carol").await.unwrap(), OrderState::Released);
    assert_eq!(fixture.redis.queue.item(&fixture.item_id).await.unwrap().stock_left, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_release_does_not_affect_a_reservation_that_is_not_recorded_yet() {
    let mut fixture = WorkerFixture::start_with(2, &["alice"], 60).await.unwrap();
    let alice = order(&fixture.item_id, "alice", 0).unwrap().user_token;
    fixture.redis.queue.drain(&fixture.item_id, 500, Permit::Unleased).await.unwrap();
    fixture.work_for(Duration::from_millis(300)).await;
    fixture.redis.queue.leave(&fixture.item_id, &alice).await.unwrap();
    fixture.work_for(Duration::from_millis(300)).await;
    assert_eq!(fixture.state("alice").await.unwrap(), OrderState::Released);

    // Alice orders again, and the worker that takes the new task dies.
    let keys = Keys::of(&fixture.item_id);
    let placed_at = micros_now() - 1_000_000;
    let _: () =
        fixture.redis.redis.connect().await.unwrap().zadd(&keys.orders, "alice", placed_at).await.unwrap();
    fixture.redis.queue.drain(&fixture.item_id, 500, Permit::Unleased).await.unwrap();
    assert_eq!(fixture.redis.queue.take_tasks(&fixture.item_id, 500).await.unwrap().len(), 1);
    let confirm = order_confirm::App::from_config(&source(&fixture.redis, &fixture.ledger)).await.unwrap();
    for outcome in ["paid", "pending", "failed"] {
        let notice = json!({
            "item_id": fixture.item_id, "user_token": "alice", "payment_reference": "pay-1", "outcome": outcome,
        });
        let problem = order_confirm::answer(&confirm, notice).await.unwrap_err().to_string();
        assert!(problem.contains("not-recorded-yet"), "{outcome}: {problem}");
    }
    assert_eq!(fixture.redis.queue.leave(&fixture.item_id, &alice).await.unwrap(), Leave::Cancelling);
    assert_eq!(fixture.redis.queue.leave(&fixture.item_id, &alice).await.unwrap(), Leave::Cancelling);
    fixture.work.round(true).await.unwrap();
    assert_eq!(fixture.state("alice").await.unwrap(), OrderState::Reserved(Hold::Release));

    fixture.work_for(Duration::from_secs(2)).await;
    assert_eq!(fixture.state("alice").await.unwrap(), OrderState::Released);
    assert_eq!(fixture.redis.queue.item(&fixture.item_id).await.unwrap().stock_left, 2);
    assert_eq!(fixture.ledger.ledger.item(&fixture.item_id).await.unwrap().units_taken, 0);
}

/// An update deploys the functions before it migrates the ledger.
#[tokio::test(flavor = "multi_thread")]
async fn before_the_migration_reservations_are_recorded_and_after_it_their_holds_get_a_grace() {
    let mut fixture = WorkerFixture::start_with(2, &["alice"], 1).await.unwrap();
    fixture
        .execute(
            "DROP FUNCTION fairdrop.keep_ends CASCADE;
             DROP FUNCTION fairdrop.serve;
             DROP FUNCTION fairdrop.noted_until;
             DROP TABLE fairdrop.service, fairdrop.outages, fairdrop.attempts;
             ALTER TABLE fairdrop.sales DROP COLUMN extensions, DROP COLUMN graces, DROP COLUMN earlier_ends;
             ALTER TABLE fairdrop.items DROP COLUMN max_hold_seconds;
             DELETE FROM fairdrop.migrations WHERE version = 10",
        )
        .await
        .unwrap();
    fixture.redis.queue.drain(&fixture.item_id, 500, Permit::Unleased).await.unwrap();
    let error = fixture.work.round(true).await.unwrap_err().to_string();
    assert!(error.contains("invoke drop-admin's migrate"), "{error}");
    assert_eq!(fixture.redis.queue.waiting_tasks(&fixture.item_id).await.unwrap(), 0);
    fixture.work_for(Duration::from_millis(1_500)).await;
    assert!(matches!(fixture.state("alice").await.unwrap(), OrderState::Reserved(Hold::Until(_))));

    assert_eq!(fixture.ledger.ledger.migrate().await.unwrap().applied, 1);
    fixture.work_for(Duration::from_millis(500)).await;
    let OrderState::Reserved(Hold::Until(until)) = fixture.state("alice").await.unwrap() else {
        panic!("the hold has ended");
    };
    assert!(until.as_micros() > micros_now() + 60_000_000, "no grace");
}
