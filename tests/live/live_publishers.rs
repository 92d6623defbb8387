//! Overlapping runs of live-publish: one sends, and another takes over if it dies.

use redis::AsyncCommands;
use serde_json::json;
use std::process::Command;
use std::time::{Duration, Instant};
use tests::eventually;
use tests::live::{all_subscribed, live, system, watchers};

/// The lock of a publisher that died lasts 2 s, and another tries for it five times a second.
const TAKEOVER: Duration = Duration::from_millis(2_500);

#[tokio::test(flavor = "multi_thread")]
async fn overlapping_publishers_send_a_change_once_and_replace_one_that_dies() {
    let system = system(1, json!({ "stock_total": 10 })).await.unwrap();
    let watchers = watchers(&system, 10).unwrap();
    all_subscribed(&watchers).await.unwrap();
    let publish = &live(&system, 0).unwrap().publish;
    let mut registry = system.registry.as_ref().unwrap().connect().await.unwrap();
    eventually("three publishers run", Duration::from_secs(30), async || {
        Ok((publish.process_ids().len() >= 3).then_some(()))
    })
    .await
    .unwrap();
    let received = || watchers.iter().map(|one| one.state().received).sum::<u64>();
    let name = |number: u32| format!("Name {number}");
    let change = async |number: u32| {
        let changes = json!({ "command": "update", "item_id": "drop", "changes": { "name": name(number) } });
        let began = Instant::now();
        system.admin(&changes).await.unwrap();
        eventually("all watchers show the name", Duration::from_secs(10), async || {
            let shows = |one: &local::crowd::watcher::Watcher| {
                one.state().latest.item("drop").is_some_and(|item| item["name"] == name(number).as_str())
            };
            Ok(watchers.iter().all(shows).then_some(()))
        })
        .await
        .unwrap();
        began.elapsed()
    };
    change(0).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = received();
    for number in 1..=5 {
        change(number).await;
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    assert_eq!(received() - before, 5 * watchers.len() as u64, "one message for each change and watcher");

    let holder: String = registry.get("publisher").await.unwrap();
    let process = holder.split('-').next().unwrap().to_owned();
    assert!(publish.process_ids().contains(&process.parse().unwrap()), "{holder}");
    assert!(Command::new("kill").args(["-KILL", &process]).status().unwrap().success());
    let took = change(6).await;
    println!("a change was sent {took:?} after the publisher's death");
    assert!(took < local::system::process::scaled(TAKEOVER) / 2, "{took:?} without a publisher");
}
