//! Idle items cost main's Redis no commands and write no metrics, and a change is served soon.

use anyhow::{Context, Result};
use local::system::clock::micros_now;
use local::system::regions;
use local::system::{Options, System};
use redis::AsyncCommands;
use serde_json::json;
use shared::queue::{ACTIVATED_ITEMS, IDLE_ITEMS, ITEMS, Keys};
use std::collections::HashMap;
use std::time::Duration;
use tests::{Client, announce, eventually, quick};

const COUNTED: Duration = Duration::from_secs(8);

/// Runs of a few seconds: the cost of their starts is counted, too.
async fn system() -> Result<System> {
    System::start(&Options { run_every: Duration::from_secs(3), ..quick(regions::first(1)) }).await
}

/// Adds finished items, and waits until all of them are idle.
async fn finish(system: &System, prefix: &str, items: usize) -> Result<()> {
    let mut connection = system.redis.connect().await?;
    let before: usize = connection.zcard(IDLE_ITEMS).await?;
    let yesterday = micros_now() - 86_400_000_000;
    let mut pipe = redis::pipe();
    for number in 0..items {
        let name = format!("{prefix}-{number}");
        let key = Keys::of(&name.parse()?).item;
        pipe.cmd("COPY").arg(Keys::of(&"live".parse()?).item).arg(&key).ignore();
        pipe.hset_multiple(&key, &[("opens_at", yesterday - 1), ("closes_at", yesterday)]).ignore();
        pipe.sadd(ITEMS, name).ignore();
    }
    pipe.query_async::<()>(&mut connection).await?;
    eventually("all finished items are idle", Duration::from_secs(20), async || {
        let idle: usize = connection.zcard(IDLE_ITEMS).await?;
        Ok((idle == before + items).then_some(()))
    })
    .await
}

/// How often each command is executed in [`COUNTED`], by scripts, too.
async fn commands(system: &System) -> Result<HashMap<String, u64>> {
    let mut connection = system.redis.connect().await?;
    let _: () = redis::cmd("CONFIG").arg("RESETSTAT").query_async(&mut connection).await?;
    tokio::time::sleep(COUNTED).await;
    let stats: String = redis::cmd("INFO").arg("commandstats").query_async(&mut connection).await?;
    stats
        .lines()
        .filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(":calls="))
        .map(|(name, rest)| {
            Ok((name.to_owned(), rest.split(',').next().context("a line without calls")?.parse()?))
        })
        .collect()
}

/// What the functions have written, after the first `from` bytes of each.
fn logs(system: &System, from: [usize; 2]) -> Result<[String; 2]> {
    let read = |name, from| {
        let log = std::fs::read(system.logs().join(format!("us-east-1-{name}.log")))?;
        anyhow::Ok(String::from_utf8_lossy(log.get(from..).unwrap_or_default()).into_owned())
    };
    Ok([read("checkout-drain", from[0])?, read("checkout-worker", from[1])?])
}

#[tokio::test(flavor = "multi_thread")]
async fn finished_items_cost_no_commands_and_write_no_metrics() {
    let system = system().await.unwrap();
    announce(&system, "live", json!({})).await.unwrap();
    finish(&system, "few", 10).await.unwrap();
    let few = commands(&system).await.unwrap();
    finish(&system, "many", 300).await.unwrap();
    // The end of a run writes what was set before the items were idle.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let logged = logs(&system, [0, 0]).unwrap().map(|log| log.len());
    let many = commands(&system).await.unwrap();
    let total = |counts: &HashMap<String, u64>| counts.values().sum::<u64>();
    // 300 items would cost 9,000 commands a second. How many runs overlap differs between the two.
    assert!(total(&few) > 100, "the live item is served: {few:?}");
    assert!(total(&many) < total(&few) * 3 + 300, "{few:?} {many:?}");
    let new = logs(&system, logged).unwrap().concat();
    assert!(new.contains(r#""Item":"live""#), "the live item's metrics are written: {new}");
    let finished = new.lines().find(|line| line.contains("few-") || line.contains("many-"));
    assert_eq!(finished, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_item_that_changes_is_served_soon() {
    let system = system().await.unwrap();
    let mut connection = system.redis.connect().await.unwrap();
    let idle = async |item_id: &str| {
        let mut connection = system.redis.connect().await?;
        // As if it had been created long ago.
        let _: () = connection.zrem(ACTIVATED_ITEMS, item_id).await?;
        eventually("the item is idle", Duration::from_secs(20), async || {
            Ok(connection.zscore::<_, _, Option<f64>>(IDLE_ITEMS, item_id).await?.map(drop))
        })
        .await
    };
    let client = Client::of(&system, 0).unwrap();
    let token = |buyer: &str| system.identity.token(buyer).unwrap();
    // The settle window, a second until the functions list the item again, and what the machine needs.
    let limit = Duration::from_secs(3);
    let sold = async |item_id: &str, buyer: &str| {
        let token = token(buyer);
        eventually("the order is served", limit, async || {
            let mine = client.mine(item_id, &token).await?;
            Ok((mine.body["status"] == "sold").then_some(()))
        })
        .await
    };
    announce(&system, "restocked", json!({ "stock_total": 1 })).await.unwrap();
    for buyer in ["alice", "bob"] {
        assert_eq!(client.order("restocked", &token(buyer)).await.unwrap().status, 202);
    }
    sold("restocked", "alice").await.unwrap();
    idle("restocked").await.unwrap();
    system
        .admin(&json!({ "command": "update", "item_id": "restocked", "changes": { "stock_total": 2 } }))
        .await
        .unwrap();
    sold("restocked", "bob").await.unwrap();

    announce(&system, "tomorrow", json!({ "opens_at": micros_now() + 86_400_000_000 })).await.unwrap();
    idle("tomorrow").await.unwrap();
    let now = json!({ "command": "update", "item_id": "tomorrow", "changes": { "opens_at": micros_now() } });
    system.admin(&now).await.unwrap();
    eventually("intake knows that it is open", limit, async || {
        Ok((client.order("tomorrow", &token("carol")).await?.status == 202).then_some(()))
    })
    .await
    .unwrap();
    sold("tomorrow", "carol").await.unwrap();

    announce(&system, "closed", json!({ "stock_total": 1 })).await.unwrap();
    system.admin(&json!({ "command": "close", "item_id": "closed" })).await.unwrap();
    let yesterday = micros_now() - 86_400_000_000;
    let key = Keys::of(&"closed".parse().unwrap()).item;
    let _: () = connection
        .hset_multiple(&key, &[("opens_at", yesterday - 1), ("closes_at", yesterday)])
        .await
        .unwrap();
    idle("closed").await.unwrap();
    let tomorrow = json!({ "closes_at": micros_now() + 86_400_000_000 });
    system.admin(&json!({ "command": "update", "item_id": "closed", "changes": tomorrow })).await.unwrap();
    eventually("intake knows that it is open again", limit, async || {
        Ok((client.order("closed", &token("dave")).await?.status == 202).then_some(()))
    })
    .await
    .unwrap();
    sold("closed", "dave").await.unwrap();
}
