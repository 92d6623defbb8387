//! A buyer is erased from a system with order logs: the name is in no store, and the other buyers' sales can still be
//! compared, rebuilt and replayed.

use crate::order_log::World;
use anyhow::{Result, ensure};
use local::system::clock::micros_now;
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use std::time::Duration;
use tests::{announce, eventually};

const SOON: Duration = Duration::from_secs(40);
const REGIONS: usize = 2;

/// Everything that Redis has, as text.
async fn dump_redis(redis: &mut MultiplexedConnection) -> Result<String> {
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(redis).await?;
    let mut text = String::new();
    for key in keys {
        let kind: String = redis::cmd("TYPE").arg(&key).query_async(redis).await?;
        let read: &[&str] = match kind.as_str() {
            "string" => &["GET"],
            "hash" => &["HGETALL"],
            "set" => &["SMEMBERS"],
            "list" => &["LRANGE", "0", "-1"],
            "zset" => &["ZRANGE", "0", "-1"],
            "stream" => &["XRANGE", "-", "+"],
            "none" => continue,
            other => anyhow::bail!("{key} has the unknown type {other}"),
        };
        let mut command = redis::cmd(read[0]);
        command.arg(&key).arg(&read[1..]);
        let value: redis::Value = command.query_async(redis).await?;
        text.push_str(&format!("{key} {}\n", readable(&value)));
    }
    Ok(text)
}

fn readable(value: &redis::Value) -> String {
    match value {
        redis::Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        redis::Value::Array(values) | redis::Value::Set(values) => {
            values.iter().map(readable).collect::<Vec<_>>().join(" ")
        }
        redis::Value::Map(pairs) => {
            pairs.iter().map(|(name, value)| format!("{} {} ", readable(name), readable(value))).collect()
        }
        other => format!("{other:?}"),
    }
}

async fn dump_ledger(url: &str) -> Result<String> {
    let mut ledger = PgConnection::connect(url).await?;
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT tablename::text FROM pg_tables WHERE schemaname = 'fairdrop'")
            .fetch_all(&mut ledger)
            .await?;
    let mut text = String::new();
    for table in tables {
        let rows = sqlx::AssertSqlSafe(format!("SELECT row::text FROM fairdrop.{table} AS row"));
        let rows: Vec<String> = sqlx::query_scalar(rows).fetch_all(&mut ledger).await?;
        text.extend(rows);
    }
    Ok(text)
}

/// What each store has.
async fn dumps(world: &World) -> Result<Vec<(String, String)>> {
    let system = &world.system;
    let mut dumps = vec![
        ("Redis".to_owned(), dump_redis(&mut system.redis.connect().await?).await?),
        ("ledger".to_owned(), dump_ledger(&system.postgres.url()).await?),
    ];
    for region in &system.regions {
        let name = region.region.name;
        dumps.push((name.to_owned(), serde_json::to_string(&world.tables.items(name, "order-log")?)?));
    }
    Ok(dumps)
}

async fn admin(world: &World, command: &str, item: &str) -> Result<Value> {
    world.system.admin(&json!({ "command": command, "item_id": item })).await
}

/// drop-admin dies when it has deleted the buyer's records in the order logs, and before the ledger has the pseudonym.
async fn kill_between_logs_and_ledger(world: &World, erase: &Value) -> Result<()> {
    let mut ledger = PgConnection::connect(&world.system.postgres.url()).await?;
    let mut holding = ledger.begin().await?;
    sqlx::query("SELECT FROM fairdrop.items WHERE item_id = 'ended' FOR UPDATE")
        .execute(&mut *holding)
        .await?;
    let killing = async {
        let deleted = eventually("the order logs lack the buyer", SOON, async || {
            let mut logs = dumps(world).await?.into_iter().skip(2);
            Ok(logs.all(|(_, text)| !text.contains("ann-of-region-0")).then_some(()))
        });
        let deleted = deleted.await;
        world.system.drop_admin.kill();
        deleted
    };
    let (killed, deleted) = tokio::join!(world.system.admin(erase), killing);
    deleted?;
    ensure!(killed.is_err(), "drop-admin was not killed: {killed:?}");
    Ok(holding.rollback().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_buyer_is_in_no_store_and_everything_still_verifies() {
    let world = World::start_with(REGIONS, 0.2, Duration::from_secs(8)).await.unwrap();
    for item in ["ended", "open"] {
        announce(&world.system, item, json!({ "stock_total": 1, "settle_window_ms": 2_000 })).await.unwrap();
    }
    // annabel's records are beside ann's.
    world.order(0, "ended", "ann-of-region-0").await.unwrap();
    world.order(1, "ended", "ann-of-region-0").await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    world.order(0, "ended", "bob").await.unwrap();
    world.order(1, "open", "carol").await.unwrap();
    world.until("ended", "ann-of-region-0", "sold").await;
    world.until("open", "carol", "sold").await;
    let erase = json!({ "command": "erase", "buyer": "ann-of-region-0", "by": "Ann" });
    let refused = world.system.admin(&erase).await.unwrap_err().to_string();
    assert!(refused.contains("BuyerInItems") && refused.contains("ended"), "{refused}");
    for (store, text) in dumps(&world).await.unwrap() {
        assert!(text.contains("ann-of-region-0"), "{store} never had the buyer");
    }

    admin(&world, "close", "ended").await.unwrap();
    eventually("the item is finished", SOON, async || {
        let finished = admin(&world, "finish", "ended").await?;
        Ok((finished["left"] == 0).then_some(()))
    })
    .await
    .unwrap();
    eventually("the item is archived", SOON, async || admin(&world, "archive", "ended").await.map(Some))
        .await
        .unwrap();
    // It closed long ago, and a buyer may have withdrawn an order since, until it was archived.
    let mut ledger = PgConnection::connect(&world.system.postgres.url()).await.unwrap();
    let closed_long_ago = "UPDATE fairdrop.items SET closes_at = closes_at - 40 * 86400000000,
                                  opens_at = opens_at - 40 * 86400000000 WHERE item_id = 'ended'";
    sqlx::query(closed_long_ago).execute(&mut ledger).await.unwrap();
    kill_between_logs_and_ledger(&world, &erase).await.unwrap();
    let repeat =
        eventually("drop-admin completes it", SOON, async || world.system.admin(&erase).await.map(Some));
    let erased = repeat.await.unwrap();
    assert_eq!(
        (&erased["log_records"], erased["ledger_rows"].as_u64() > Some(0)),
        (&json!(0), true),
        "{erased}"
    );
    for (field, hours) in [
        ("log_backups_end_at", 35 * 24),
        ("log_streams_end_at", 24),
        ("dead_letters_end_at", 14 * 24),
        ("redis_snapshots_end_at", 24),
        ("live_ends_at", 2),
    ] {
        let ends_at = erased["remains"][field].as_u64().unwrap_or_default();
        let expected = micros_now() + hours * 3_600_000_000;
        assert!(ends_at.abs_diff(expected) < 60_000_000, "{field}: {erased}");
    }
    for (store, text) in dumps(&world).await.unwrap() {
        assert!(!text.contains("ann-of-region-0"), "{store} has the buyer: {text}");
        assert!(store == "Redis" || text.contains("bob") || text.contains("carol"), "{store}: {text}");
    }

    // What a failover does to the stores: Redis is another one, and the item on sale is put back.
    let mut world = world;
    world.system.redis.restart_empty().await.unwrap();
    eventually("the item on sale is rebuilt", SOON, async || {
        admin(&world, "rebuild", "open").await.map(Some)
    })
    .await
    .unwrap();
    eventually("its queue is restored", SOON, async || {
        let item = admin(&world, "describe", "open").await?;
        ensure!(item["sold"] == 1, "{item}");
        Ok((item["restoring"] == false).then_some(()))
    })
    .await
    .unwrap();
    let compared = world.system.admin(&json!({ "command": "reconcile" })).await.unwrap();
    assert_eq!(compared["items"].as_object().unwrap().len(), 1, "{compared}");
    assert_eq!(compared["items"]["open"]["differences"], json!({}), "{compared}");
    let audit = admin(&world, "audit", "ended").await.unwrap();
    assert_eq!((&audit["in_order"], &audit["units_taken"]), (&json!(true), &json!(1)), "{audit}");
    for (store, text) in dumps(&world).await.unwrap() {
        assert!(!text.contains("ann-of-region-0"), "{store} has the buyer again: {text}");
    }
}
