//! The end of an item, on a real Redis and a real PostgreSQL: what waits gets nothing, and what was promised is kept.

use crate::held_item::{HeldItem, Holds, work_for};
use drop_admin::{AdminError, App, handle};
use lambda_runtime::Diagnostic;
use local::system::clock::micros_now;
use reconcile::{Stores, end_item};
use redis::{AsyncCommands, Script};
use serde_json::{Value, json};
use shared::clock::Clock;
use shared::permit::Permit;
use shared::queue::{BatchOrder, DRAIN_SCRIPT, ItemError, Keys, OrderState, Placement};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::time::Duration;
use tests::{order, source};

const WINDOW: Duration = Duration::from_secs(2);

/// An item with units left and reservations, and the operator's commands.
pub(crate) struct EndingItem {
    pub(crate) item: HeldItem,
    pub(crate) admin: App,
    pub(crate) stores: Stores,
}

impl EndingItem {
    pub(crate) async fn start(holds: Holds, buyers: &[&str]) -> Self {
        let item = HeldItem::start(holds, buyers).await.unwrap();
        let admin = App::from_config(&source(&item.redis, &item.ledger)).await.unwrap();
        let stores = item.stores();
        let started = Self { item, admin, stores };
        let mut work = started.item.worker().await.unwrap();
        work.round(true).await.unwrap();
        started
    }

    pub(crate) async fn command(&self, payload: Value) -> Result<Value, AdminError> {
        handle(&self.admin, payload).await
    }

    pub(crate) async fn finish(&self) -> Result<Value, AdminError> {
        self.command(json!({ "command": "finish", "item_id": self.item.item_id })).await
    }

    /// The type and the text of the error of a command that must fail.
    pub(crate) async fn refused(&self, payload: Value) -> (String, String) {
        let error = Diagnostic::from(self.command(payload.clone()).await.expect_err(&payload.to_string()));
        (error.error_type, error.error_message)
    }

    /// The item has been closed for `seconds`, in both stores.
    pub(crate) async fn closed_for(&self, seconds: u64) {
        let at = Stamp::from_micros(micros_now() - seconds * 1_000_000).unwrap();
        self.stores.ledger.close_item(&self.item.item_id, at).await.unwrap();
        self.stores.queue.close_item(&self.item.item_id, at).await.unwrap();
    }

    /// `count` orders from before the closing wait.
    pub(crate) async fn queue_orders(&self, count: u64) {
        let first = micros_now() - 60_000_000;
        let orders: Vec<(u64, String)> = (0..count).map(|n| (first + n, format!("waiting-{n}"))).collect();
        let mut connection = self.item.redis.redis.connect().await.unwrap();
        for part in orders.chunks(500) {
            let _: () = connection.zadd_multiple(self.keys().orders, part).await.unwrap();
        }
    }

    pub(crate) fn keys(&self) -> Keys {
        Keys::of(&self.item.item_id)
    }

    pub(crate) async fn waiting(&self) -> u64 {
        self.stores.queue.counts(&self.item.item_id).await.unwrap().0
    }

    pub(crate) async fn drained(&self) -> u64 {
        self.stores.queue.drain(&self.item.item_id, 500, Permit::Unleased).await.unwrap().reserved
    }

    pub(crate) async fn place(&self, buyer: &str) -> Placement {
        let order = order(&self.item.item_id, buyer, micros_now()).unwrap();
        self.stores.queue.place(&order, WINDOW, &Clock::machine()).await.unwrap().placement
    }

    /// What a worker does for ends that are pending.
    async fn worker_ends(&self) {
        for _ in 0..100 {
            let ends = self.stores.ledger.pending_ends().await.unwrap();
            if ends.is_empty() {
                return;
            }
            for end in ends {
                end_item(&self.stores, &end, Duration::ZERO).await.unwrap();
            }
        }
        panic!("the end stays pending");
    }

    /// The end is complete in both stores.
    pub(crate) async fn assert_ended(&self, what: &str) {
        let known = self.stores.ledger.item(&self.item.item_id).await.unwrap();
        assert!(known.finished_at.is_some() && known.paused && !known.is_end_pending, "{what}: {known:?}");
        let item = self.stores.queue.item(&self.item.item_id).await.unwrap();
        assert_eq!((item.finished_at, item.paused), (known.finished_at, true), "{what}");
        assert_eq!((self.waiting().await, self.drained().await), (0, 0), "{what}");
        assert_eq!(self.place("late").await, Placement::Closed, "{what}");
    }
}

const NO_HOLD: Holds = Holds { hold_seconds: 0, max_hold_seconds: 0 };

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_finished_item_is_served_and_holds_go_on_to_their_end() {
    let ending = EndingItem::start(Holds { hold_seconds: 2, max_hold_seconds: 0 }, &["alice", "bob"]).await;
    let item_id = ending.item.item_id.clone();
    let finish = json!({ "command": "finish", "item_id": item_id });
    let (kind, text) = ending.refused(finish.clone()).await;
    assert!(kind == "NotClosed" && text.contains("close it first"), "{text}");
    ending.closed_for(5).await;
    let (kind, text) = ending.refused(finish.clone()).await;
    assert!(kind == "NotClosed" && text.contains("can be finished from"), "{text}");
    ending.closed_for(11).await;
    ending.queue_orders(1_234).await;

    let answer = ending.finish().await.unwrap();
    assert_eq!((&answer["removed"], &answer["left"]), (&json!(1_234), &json!(0)), "{answer}");
    assert!(answer["finished_at"].is_u64() && answer["stock_left"] == 1_998, "{answer}");
    ending.assert_ended("finished").await;
    let batch = ["alice", "zoe"].map(|buyer| BatchOrder {
        user_token: UserToken::parse(buyer).unwrap(),
        placed_at: Stamp::from_micros(micros_now()).unwrap(),
    });
    let placed = ending.stores.queue.place_batch(&item_id, &batch, WINDOW, &Clock::machine()).await;
    let placed: Vec<Placement> = placed.into_iter().map(|one| one.unwrap().placement).collect();
    assert_eq!(placed, [Placement::AlreadyTaken { sold: false }, Placement::Closed]);

    // A function of an earlier version has let orders in. Drains take nothing, those of an earlier version neither.
    ending.queue_orders(3).await;
    let keys = ending.keys();
    let mut connection = ending.item.redis.redis.connect().await.unwrap();
    let earlier = Script::new(&DRAIN_SCRIPT.replace("'finished'", "'unknown'"));
    let mut call = earlier.key(&keys.item);
    call.key(&keys.orders).key(&keys.reservations).key(&keys.tasks);
    call.arg(500).arg("").arg("").arg(micros_now()).arg("0");
    let taken: Vec<i64> = call.invoke_async(&mut connection).await.unwrap();
    assert_eq!((taken[0], ending.drained().await), (0, 0));

    // A clock that was set back: a mark is not before the stamps that were served.
    let served = micros_now() + 60_000_000;
    let last_closed: u64 = connection.hget(&keys.item, "last_closed").await.unwrap();
    let _: () = connection.hset(&keys.item, "last_closed", served).await.unwrap();
    ending.stores.queue.exclude(&item_id, &[UserToken::parse("bot").unwrap()]).await.unwrap();
    let mark: f64 = connection.zscore(&keys.reservations, "bot").await.unwrap();
    assert!(mark <= -(served as f64), "{mark}");
    let _: () = connection.hset(&keys.item, "last_closed", last_closed).await.unwrap();

    let _: () = connection.hset(&keys.item, "paused", "0").await.unwrap();
    assert_eq!(ending.drained().await, 0, "whatever its other fields are");
    let _: () = connection.hset(&keys.item, "paused", "1").await.unwrap();

    // Alice pays in time. Bob does not, and his unit goes to no other buyer.
    assert_eq!(ending.item.send(&ending.item.notice("alice", "pay-1", "paid")).await, "sold");
    let mut work = ending.item.worker().await.unwrap();
    work_for(&mut work, Duration::from_secs(4)).await;
    assert_eq!(ending.item.state("bob").await.unwrap(), OrderState::Released);
    assert_eq!(ending.stores.queue.item(&item_id).await.unwrap().stock_left, 1_999);
    assert_eq!((ending.drained().await, ending.waiting().await), (0, 3));

    for command in ["resume", "replay"] {
        let (kind, _) = ending.refused(json!({ "command": command, "item_id": item_id })).await;
        // This stack has no order logs.
        assert_eq!(kind, if command == "resume" { "ItemFinished" } else { "NoOrderLogs" });
    }
    let begun = ending.stores.queue.restore_begin(&item_id, "token", Duration::ZERO).await;
    assert!(matches!(begun, Err(ItemError::Finished(_))), "{begun:?}");
    // What an earlier version of drop-admin would do.
    ending.stores.ledger.pause_item(&item_id, false).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finish_that_was_killed_anywhere_is_completed_by_the_command_or_the_worker() {
    for (killed_after, by_worker) in
        [(1, false), (2, false), (3, false), (3, true), (4, false), (4, true), (6, false), (6, true)]
    {
        let what = format!("killed after step {killed_after}, completed by the worker: {by_worker}");
        let ending = EndingItem::start(NO_HOLD, &["alice"]).await;
        let Stores { queue, ledger, .. } = &ending.stores;
        let item_id = &ending.item.item_id;
        ending.queue_orders(1_600).await;
        ending.closed_for(11).await;
        ledger.pause_item(item_id, true).await.unwrap();
        if killed_after > 1 {
            queue.pause_item(item_id, true).await.unwrap();
        }
        if killed_after > 2 {
            let now = queue.main_time().await.unwrap();
            ledger.finish_item(item_id, now).await.unwrap();
            for _ in 3..killed_after {
                queue.finish_step(item_id, now).await.unwrap();
            }
        }
        if by_worker {
            ending.worker_ends().await;
        } else {
            assert_eq!(ending.finish().await.unwrap()["left"], 0, "{what}");
        }
        ending.assert_ended(&what).await;
        assert_eq!(ending.finish().await.unwrap()["removed"], 0, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_survives_a_lost_redis_a_replica_that_lacks_it_and_a_failover() {
    let ending = EndingItem::start(NO_HOLD, &["alice"]).await;
    let (Stores { queue, ledger, .. }, keys) = (&ending.stores, ending.keys());
    let item_id = &ending.item.item_id;
    ending.closed_for(11).await;
    ending.finish().await.unwrap();
    let mut connection = ending.item.redis.redis.connect().await.unwrap();

    // Redis is lost, and rebuilt with order logs.
    let _: () = redis::cmd("FLUSHALL").query_async(&mut connection).await.unwrap();
    let logged = Stores { queue: queue.clone().with_order_logs(true), ..ending.stores.clone() };
    reconcile::rebuild(&logged, item_id).await.unwrap();
    assert!(!queue.is_restoring(item_id).await.unwrap());
    ending.assert_ended("rebuilt").await;

    // Another server becomes the primary, which lacks the end and still has an order.
    let _: () = connection.hdel(&keys.item, &["finished", "last_closed"]).await.unwrap();
    let _: () = connection.hset_multiple(&keys.item, &[("paused", "0"), ("closed", "1")]).await.unwrap();
    let at = ledger.item(item_id).await.unwrap().item.closes_at.unwrap().as_micros() - 1;
    let _: () = connection.zadd(&keys.orders, "zoe", at).await.unwrap();
    assert_eq!(ending.drained().await, 1, "the drain cannot know");
    let _: () = connection.zadd(&keys.orders, "yara", at).await.unwrap();
    let mut work = ending.item.worker().await.unwrap();
    work_for(&mut work, Duration::from_millis(500)).await;
    assert_eq!(
        ending.item.state("zoe").await.unwrap(),
        OrderState::Released,
        "the ledger has no unit for it"
    );
    assert_eq!(ledger.item(item_id).await.unwrap().units_taken, 1);
    let reconciled = reconcile::reconcile(&ending.stores, item_id, true).await.unwrap();
    assert_eq!(reconciled.item_fields, ["paused", "finished"]);
    ending.assert_ended("reconciled").await;

    ledger.raise_epoch(1).await.unwrap();
    assert_eq!(ledger.pending_ends().await.unwrap().len(), 1, "the new main's Redis may lack the end");
    ending.worker_ends().await;
    ending.assert_ended("after a failover").await;
}
