//! Archived items: they leave Redis and every loop, and stay in the ledger.

use crate::finish::EndingItem;
use crate::held_item::Holds;
use anyhow::{Context, Result, ensure};
use checkout_worker::{BatchFill, ItemWork, WorkerContext};
use drop_admin::{App, handle};
use futures::stream::{self, StreamExt, TryStreamExt};
use local::system::clock::micros_now;
use reconcile::end_item;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};
use shared::clock::Clock;
use shared::item::{ItemChanges, ItemId};
use shared::permit::Permit;
use shared::queue::Placement;
use shared::stamp::Stamp;
use sqlx::{Connection, Executor, PgConnection};
use std::collections::BTreeSet;
use std::time::Duration;
use tests::{LedgerServer, RedisQueue, order, source};

fn command(name: &str) -> Value {
    json!({ "command": name, "item_id": "a" })
}

async fn execute(ending: &EndingItem, sql: &'static str) {
    let mut connection = PgConnection::connect(&ending.item.ledger.postgres.url()).await.unwrap();
    connection.execute(sql).await.unwrap();
}

/// The names of all keys in Redis.
async fn keys(connection: &mut MultiplexedConnection) -> Vec<String> {
    let mut keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(connection).await.unwrap();
    keys.sort();
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_is_archived_only_when_nothing_of_it_is_open() {
    let ending = EndingItem::start(Holds { hold_seconds: 2, max_hold_seconds: 0 }, &["alice"]).await;
    let why = async || {
        let (kind, text) = ending.refused(command("archive")).await;
        assert_eq!(kind, "NotArchived", "{text}");
        text
    };
    assert!(why().await.contains("1 reservations"));
    ending.closed_for(11).await;
    ending.finish().await.unwrap();
    assert!(why().await.contains("1 reservations"));
    execute(&ending, "UPDATE fairdrop.outbox_wanted SET until = 9007199254740991").await;
    assert_eq!(ending.item.send(&ending.item.notice("alice", "pay-1", "paid")).await, "sold");
    assert!(why().await.contains("tasks"), "the sold unit's notification");
    let mut work = ending.item.worker().await.unwrap();
    while ending.stores.queue.waiting_tasks(&ending.item.item_id).await.unwrap() > 0 {
        let _ = work.round(true).await;
    }
    assert!(
        why().await.contains("shop-events"),
        "the closing has no event yet, and the sale's is not published"
    );
    execute(&ending, "UPDATE fairdrop.items SET closed_event_for = closes_at").await;
    assert!(why().await.contains("shop-events"));
    execute(&ending, "UPDATE fairdrop.outbox SET published_at = 1").await;
    execute(&ending, "UPDATE fairdrop.items SET end_pending = true").await;
    assert!(why().await.contains("run `finish`"));
    ending.finish().await.unwrap();
    let archived = ending.command(command("archive")).await.unwrap();
    assert!(archived["archived_at"].is_u64(), "{archived}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_answers_for_an_archived_item_and_its_name_is_not_used_again() {
    let ending = EndingItem::start(Holds { hold_seconds: 60, max_hold_seconds: 0 }, &["alice", "bob"]).await;
    let (alice, bob) =
        (ending.item.notice("alice", "pay-1", "paid"), ending.item.notice("bob", "pay-2", "failed"));
    assert_eq!(ending.item.send(&alice).await, "sold");
    assert_eq!(ending.item.send(&bob).await, "released");
    let mut work = ending.item.worker().await.unwrap();
    while ending.stores.queue.waiting_tasks(&ending.item.item_id).await.unwrap() > 0 {
        let _ = work.round(true).await;
    }
    ending.closed_for(11).await;
    ending.finish().await.unwrap();
    // Killed after the ledger's decision; the command is repeated. Then a process that was at work writes once more.
    let now = ending.stores.queue.main_time().await.unwrap();
    ending.stores.ledger.archive_item(&ending.item.item_id, now).await.unwrap().unwrap();
    ending.command(command("archive")).await.unwrap();
    let mut connection = ending.item.redis.redis.connect().await.unwrap();
    let own = |keys: Vec<String>| keys.into_iter().filter(|key| key.contains("{a}")).count();
    assert_eq!(own(keys(&mut connection).await), 0);
    let _: () = connection.xgroup_create_mkstream(ending.keys().tasks, "checkout", "0").await.unwrap();
    assert!(
        ending.stores.ledger.pending_ends().await.unwrap().is_empty(),
        "it is deleted again after a minute"
    );
    execute(&ending, "UPDATE fairdrop.items SET archived_at = archived_at - 61000000").await;
    for end in ending.stores.ledger.pending_ends().await.unwrap() {
        end_item(&ending.stores, &end, Duration::ZERO).await.unwrap();
    }
    assert_eq!(own(keys(&mut connection).await), 0);
    assert!(ending.stores.ledger.pending_ends().await.unwrap().is_empty());

    let described = ending.command(command("describe")).await.unwrap();
    assert_eq!((&described["phase"], &described["ledger"]["units_taken"]), (&json!("closed"), &json!(1)));
    assert_eq!(ending.command(command("audit")).await.unwrap()["sales"].as_array().unwrap().len(), 2);
    let export = json!({ "command": "export", "item_id": "a", "by": "Ann" });
    assert_eq!(ending.command(export).await.unwrap()["units"], 1);
    assert_eq!(ending.command(json!({ "command": "list" })).await.unwrap()["items"], json!([]));
    let archived = json!({ "command": "list", "archived": true });
    assert_eq!(ending.command(archived).await.unwrap(), json!({ "items": ["a"], "next": null }));
    assert_eq!(ending.command(json!({ "command": "reconcile" })).await.unwrap()["items"], json!({}));
    let create = json!({ "command": "create", "item": {
        "item_id": "a", "name": "A", "stock_total": 1, "opens_at": micros_now() } });
    let update = json!({ "command": "update", "item_id": "a", "changes": { "name": "B" } });
    let others = ["pause", "resume", "close", "finish", "rebuild", "reconcile"].map(command);
    let exclude = json!({ "command": "exclude", "item_id": "a", "buyers": ["zoe"], "reason": "bots" });
    for refused in others.into_iter().chain([create, update, exclude]) {
        assert_eq!(ending.refused(refused.clone()).await.0, "ItemArchived", "{refused}");
    }
    let at = |micros| Some(Stamp::from_micros(micros).unwrap());
    let (opens_at, closes_at) = (at(micros_now()), at(micros_now() + 1_000_000));
    let opening = ItemChanges { opens_at, closes_at, ..ItemChanges::default() };
    assert_eq!(ending.stores.ledger.reopen_item(&ending.item.item_id, &opening).await.unwrap(), None);

    // The shop repeats its notices, and one is new.
    assert_eq!(ending.item.send(&alice).await, "sold");
    assert_eq!(ending.item.send(&bob).await, "released");
    for (buyer, answer) in
        [("bob", "reservation-ended"), ("carol", "no-reservation"), ("alice", "already-paid")]
    {
        let notice = ending.item.notice(buyer, &format!("late-{buyer}"), "paid");
        assert_eq!(ending.item.send(&notice).await, answer, "{buyer}");
    }
    assert_eq!(own(keys(&mut connection).await), 0);

    // A failover: the new main's Redis may have the item again.
    ending.stores.ledger.raise_epoch(1).await.unwrap();
    assert_eq!(ending.stores.ledger.pending_ends().await.unwrap().len(), 1);
}

/// More than the limit of items in Redis.
const ITEMS: usize = 1_100;
/// Lives that go on at the same time.
const AT_ONCE: usize = 16;
/// The growth of Redis that would be a leak of 60 bytes for each item.
const MAX_GROWTH: i64 = 64 * 1_024;

struct World {
    redis: RedisQueue,
    ledger: LedgerServer,
    admin: App,
    context: WorkerContext,
}

impl World {
    async fn start() -> Result<Self> {
        let (redis, ledger) = tokio::try_join!(RedisQueue::start(), LedgerServer::start())?;
        // Its entries are memory, too.
        let no_log = ["SET", "slowlog-log-slower-than", "-1"];
        redis::cmd("CONFIG").arg(&no_log).query_async::<()>(&mut redis.redis.connect().await?).await?;
        let stores = source(&redis, &ledger);
        let source = |name: &str| match name {
            "FAIRDROP_LEDGER_CONNECTIONS" => Some(AT_ONCE.to_string()),
            _ => stores(name),
        };
        let (admin, context) = (App::from_config(&source).await?, WorkerContext::from_config(&source).await?);
        Ok(Self { redis, ledger, admin, context })
    }

    async fn admin(&self, command: &str, item_id: &ItemId) -> Result<Value> {
        Ok(handle(&self.admin, json!({ "command": command, "item_id": item_id })).await?)
    }

    async fn create(&self, item_id: &ItemId) -> Result<()> {
        let item = json!({ "item_id": item_id, "name": item_id, "stock_total": 2,
            "opens_at": micros_now() - 60_000_000, "settle_window_ms": 50 });
        handle(&self.admin, json!({ "command": "create", "item": item })).await?;
        Ok(())
    }

    /// An item from its creation to the archive: two of three buyers get a unit.
    async fn live(&self, number: usize) -> Result<()> {
        let queue = &self.redis.queue;
        let item_id: ItemId = format!("drop-{number}").parse()?;
        self.create(&item_id).await?;
        for buyer in ["alice", "bob", "carol"] {
            let order = order(&item_id, buyer, micros_now())?;
            let placed = queue.place(&order, Duration::from_millis(50), &Clock::machine()).await?;
            ensure!(placed.placement == Placement::Queued, "{placed:?}");
        }
        let mut reserved = 0;
        while reserved < 2 {
            tokio::time::sleep(Duration::from_millis(60)).await;
            reserved += queue.drain(&item_id, 500, Permit::Unleased).await?.reserved;
        }
        let mut work = ItemWork::new(self.context.clone(), item_id.clone());
        while work.round(true).await? != BatchFill::Empty || queue.waiting_tasks(&item_id).await? > 0 {}
        // It closed before the longest window.
        let at = Stamp::from_micros(micros_now() - 11_000_000)?;
        self.ledger.ledger.close_item(&item_id, at).await?;
        queue.close_item(&item_id, at).await?;
        let finished = self.admin("finish", &item_id).await?;
        ensure!(finished["removed"] == 1 && finished["left"] == 0, "{finished}");
        let archived = self.admin("archive", &item_id).await?;
        ensure!(archived["ledger"]["units_taken"] == 2, "{archived}");
        Ok(())
    }

    /// Keys and memory of Redis, and the commands of one turn of the loops of main's functions.
    async fn cost(&self) -> Result<(Vec<String>, i64, i64)> {
        let mut connection = self.redis.redis.connect().await?;
        let before = figure(&mut connection, "stats", "total_commands_processed").await?;
        let active = self.redis.queue.active_item_ids(Duration::ZERO).await?;
        self.redis.queue.restoring_among(&active).await?;
        for item_id in &active {
            self.redis.queue.drain(item_id, 500, Permit::Unleased).await?;
        }
        let commands = figure(&mut connection, "stats", "total_commands_processed").await? - before;
        redis::cmd("MEMORY").arg("PURGE").query_async::<()>(&mut connection).await?;
        let memory = figure(&mut connection, "memory", "used_memory").await?;
        Ok((keys(&mut connection).await, memory, commands))
    }
}

async fn figure(connection: &mut MultiplexedConnection, section: &str, name: &str) -> Result<i64> {
    let info: String = redis::cmd("INFO").arg(section).query_async(connection).await?;
    let line = info.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    Ok(line.context("INFO lacks a figure")?.trim().parse()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_1100_items_redis_has_the_memory_and_the_loops_have_the_commands_of_one() {
    let world = World::start().await.unwrap();
    let forever: ItemId = "live".parse().unwrap();
    world.create(&forever).await.unwrap();
    let lives = async |numbers: std::ops::Range<usize>| {
        let lives = stream::iter(numbers.map(|number| world.live(number)));
        lives.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await.unwrap();
    };
    // The first ones open connections and load scripts.
    lives(0..AT_ONCE).await;
    world.cost().await.unwrap();
    let (keys, memory, commands) = world.cost().await.unwrap();
    lives(AT_ONCE..ITEMS).await;
    let (keys_after, memory_after, commands_after) = world.cost().await.unwrap();
    println!(
        "{memory} B and {commands} commands after {AT_ONCE}, {memory_after} B and {commands_after} after {ITEMS}"
    );
    assert_eq!((keys_after, commands_after), (keys, commands));
    assert!(memory_after - memory < MAX_GROWTH, "{memory} B grew to {memory_after} B");
    assert_eq!(world.ledger.ledger.item_ids().await.unwrap(), [forever]);
    let sold = world.admin("describe", &"drop-7".parse().unwrap()).await.unwrap();
    assert_eq!(sold["ledger"]["units_taken"], 2, "{sold}");
}

#[tokio::test]
async fn an_audit_has_every_exclusion_on_its_pages() {
    let ending = EndingItem::start(Holds { hold_seconds: 2, max_hold_seconds: 0 }, &[]).await;
    let insert = "INSERT INTO fairdrop.exclusions (item_id, user_token, reason, excluded_at, epoch)
        SELECT 'a', 'bot-' || number, 'bots', 1700000000000000 + number, 1 FROM generate_series(1, 10003) AS number";
    execute(&ending, insert).await;
    let (mut after, mut found) = (Value::Null, Vec::new());
    for _ in 0..3 {
        let audit = json!({ "command": "audit", "item_id": "a", "after": after });
        let mut page = ending.command(audit).await.unwrap();
        let lines = page["exclusions"].as_array().unwrap().clone();
        found.extend(lines.into_iter().map(|line| line["buyers"][0].as_str().unwrap().to_owned()));
        after = page["next"].take();
    }
    assert_eq!(after, Value::Null);
    let different: BTreeSet<&String> = found.iter().collect();
    assert_eq!((found.len(), different.len()), (10_003, 10_003));
}
