//! The reconciliation of a failover with real servers: items that Redis has lost, and items whose keys are malformed.

use local::system::clock::micros_now;
use local::system::redis_server;
use reconcile::Stores;
use redis::AsyncCommands;
use region_failover::servers::{reconcile_items, unreconciled};
use region_failover::{Answer, Loss, Mode, Run};
use shared::config::RedisConfig;
use shared::item::{ItemId, NewItem};
use shared::queue::{Keys, Link};
use shared::stamp::Stamp;
use std::time::Duration;
use tests::{LedgerServer, RedisQueue};
use tokio::time::timeout;

const STOCK: u32 = 10;
const WITHHOLD: u32 = 3;

pub(crate) struct NewMain {
    pub(crate) redis: RedisQueue,
    ledger: LedgerServer,
    pub(crate) stores: Stores,
}

impl NewMain {
    /// The new main, whose ledger has these items and whose epoch has begun. Redis has no item.
    pub(crate) async fn start(items: &[&str]) -> Self {
        let (redis, ledger) = tokio::join!(RedisQueue::start(), LedgerServer::start());
        let (redis, ledger) = (redis.unwrap(), ledger.unwrap());
        for item_id in items {
            let new = new_item(item_id);
            assert!(ledger.ledger.create_item(&new).await.unwrap());
        }
        ledger.ledger.raise_epoch(1).await.unwrap();
        let url = redis.redis.url();
        let source = |name: &str| redis_server::setting(name, &url);
        let link = Link::new(RedisConfig::main(&source).unwrap());
        let stores = Stores { link, queue: redis.queue.clone(), ledger: ledger.ledger.clone() };
        Self { redis, ledger, stores }
    }

    /// The epoch in Redis, and the withheld units there.
    pub(crate) async fn in_redis(&self, item: &str) -> (u64, u32) {
        let item = self.stores.queue.item(&id(item)).await.unwrap();
        (item.epoch, item.withheld)
    }

    /// Locks the ledger's row of an item, so that it can be read and not be written.
    async fn lock(&self, item: &str) -> sqlx::PgConnection {
        use sqlx::Connection;
        let mut connection = sqlx::PgConnection::connect(&self.ledger.postgres.url()).await.unwrap();
        sqlx::query("BEGIN").execute(&mut connection).await.unwrap();
        sqlx::query("SELECT 1 FROM fairdrop.items WHERE item_id = $1 FOR UPDATE")
            .bind(item)
            .execute(&mut connection)
            .await
            .unwrap();
        connection
    }

    async fn left(&self, run: &Run) -> Vec<String> {
        unreconciled(&self.stores, run).await.unwrap().iter().map(ToString::to_string).collect()
    }
}

pub(crate) fn id(item: &str) -> ItemId {
    item.parse().unwrap()
}

fn new_item(item: &str) -> NewItem {
    NewItem {
        item_id: id(item),
        name: item.into(),
        stock_total: STOCK,
        opens_at: Stamp::from_micros(micros_now() - 60_000_000).unwrap(),
        closes_at: None,
        hold_seconds: 30,
        max_hold_seconds: 0,
        settle_window_ms: 500,
    }
}

pub(crate) fn run() -> Run {
    let mode = Mode::Forced { accepted: Loss::default() };
    Run::new("run", mode, ("us-east-1", "eu-west-1"), 1, WITHHOLD)
}

#[tokio::test]
async fn an_item_that_redis_has_lost_is_not_sold_before_its_units_are_withheld() {
    let (main, run) = (NewMain::start(&["drop"]).await, run());
    let lock = main.lock("drop").await;
    // Killed after the item was restored, while the ledger writes the withheld units.
    let killed = timeout(Duration::from_secs(2), reconcile_items(&main.stores, &run)).await;
    assert!(killed.is_err(), "{killed:?}");
    assert_eq!(main.in_redis("drop").await.0, 1, "the drain of the new epoch must not serve the item yet");
    assert_eq!(main.left(&run).await, ["drop"]);
    drop(lock);
    reconcile_items(&main.stores, &run).await.unwrap();
    assert_eq!(main.in_redis("drop").await, (2, WITHHOLD));
    assert!(main.stores.ledger.item(&id("drop")).await.unwrap().keeps_old_holds);
    assert!(main.left(&run).await.is_empty());
}

#[tokio::test]
async fn an_item_whose_key_has_another_type_is_set_aside_although_another_item_failed() {
    let (main, mut run) = (NewMain::start(&["bad", "good", "locked"]).await, run());
    let mut connection = main.redis.redis.connect().await.unwrap();
    let bad = Keys::of(&id("bad")).item;
    let _: () = connection.set(&bad, "no hash").await.unwrap();
    assert_eq!(main.left(&run).await, ["bad", "good", "locked"]);
    let lock = main.lock("locked").await;
    let answer = reconcile_items(&main.stores, &run).await.unwrap();
    let Answer::Items { set_aside, failed, .. } = answer else { panic!("{answer:?}") };
    assert_eq!(set_aside.keys().collect::<Vec<_>>(), [&id("bad")]);
    assert!(set_aside[&id("bad")].contains("WRONGTYPE"), "{set_aside:?}");
    assert!(failed.as_ref().is_some_and(|why| why.contains("locked")), "{failed:?}");
    assert_eq!(main.left(&run).await, ["bad", "locked"]);
    drop(lock);

    run.set_aside = set_aside;
    let answer = reconcile_items(&main.stores, &run).await.unwrap();
    assert!(matches!(answer, Answer::Items { failed: None, .. }), "{answer:?}");
    assert_eq!(main.left(&run).await, ["bad"]);
    // The operator has deleted the key.
    run.set_aside.clear();
    let _: () = connection.del(&bad).await.unwrap();
    reconcile_items(&main.stores, &run).await.unwrap();
    assert_eq!(main.in_redis("bad").await, (2, WITHHOLD));
}

#[tokio::test]
async fn an_item_that_a_failover_has_set_aside_is_not_sold_after_a_rebuild_before_its_units_are_withheld() {
    let (main, run) = (NewMain::start(&["drop"]).await, run());
    reconcile::rebuild(&main.stores, &id("drop")).await.unwrap();
    assert_eq!(main.in_redis("drop").await, (1, 0));
    reconcile_items(&main.stores, &run).await.unwrap();
    assert_eq!(main.in_redis("drop").await, (2, WITHHOLD));
    // Once it is reconciled, and for a new item of the new main, a rebuild is as always.
    main.stores.ledger.create_item(&new_item("new")).await.unwrap();
    for item in ["drop", "new"] {
        main.stores.queue.pause_item(&id(item), true).await.ok();
        reconcile::rebuild(&main.stores, &id(item)).await.unwrap();
        assert_eq!(main.in_redis(item).await.0, 2, "{item}");
    }
}

#[tokio::test]
async fn the_run_waits_if_no_item_that_is_not_closed_can_be_reconciled() {
    let (main, mut run) = (NewMain::start(&["bad", "closed", "malformed"]).await, run());
    let closed_at = Stamp::from_micros(micros_now() - 1_000_000).unwrap();
    main.stores.ledger.close_item(&id("closed"), closed_at).await.unwrap();
    let mut connection = main.redis.redis.connect().await.unwrap();
    let _: () = connection.set(Keys::of(&id("bad")).item, "no hash").await.unwrap();
    // It is not paused, so that it is not replaced.
    let malformed = Keys::of(&id("malformed")).item;
    let _: () = connection.hset(&malformed, "paused", "0").await.unwrap();
    let why = reconcile_items(&main.stores, &run).await.unwrap_err().0;
    assert!(why.contains("none of the items"), "{why}");
    assert_eq!(main.left(&run).await, ["bad", "malformed"], "the closed one is reconciled");

    let _: () = connection.hset(&malformed, "paused", "1").await.unwrap();
    let answer = reconcile_items(&main.stores, &run).await.unwrap();
    let Answer::Items { set_aside, text, .. } = answer else { panic!("{answer:?}") };
    assert_eq!(set_aside.keys().collect::<Vec<_>>(), [&id("bad")]);
    assert!(text.contains("1 items that Redis had lost"), "{text}");
    run.set_aside = set_aside;
    assert_eq!(main.left(&run).await, ["bad"]);
}

#[tokio::test]
async fn units_that_only_the_lost_redis_had_promised_are_withheld_with_another_redis() {
    let (main, mut run) = (NewMain::start(&["drop"]).await, run());
    run.withhold = 5;
    let item_id = id("drop");
    reconcile::restore(&main.stores, &item_id, 1).await.unwrap();
    let mut connection = main.redis.redis.connect().await.unwrap();
    let later = micros_now() + 600_000_000;
    for buyer in 0..8 {
        let key = Keys::of(&item_id).reservations;
        let _: () = connection.zadd(key, format!("buyer-{buyer}"), later).await.unwrap();
    }
    reconcile_items(&main.stores, &run).await.unwrap();
    assert_eq!(main.in_redis("drop").await, (2, 2), "eight of ten units are promised");
    // The other Redis is empty: the old main may have sold the promised units.
    for withheld in [5, 5] {
        let _: () = redis::cmd("FLUSHALL").query_async(&mut connection).await.unwrap();
        reconcile_items(&main.stores, &run).await.unwrap();
        assert_eq!(main.in_redis("drop").await, (2, withheld));
    }
}
