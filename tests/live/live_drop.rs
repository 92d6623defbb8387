//! Hundreds of sockets during a drop and during failures: in the end every socket shows the ledger's state.

use futures::future::join_all;
use local::aws::sockets::SocketLimits;
use local::crowd::payments::{Buyers, Habits};
use local::crowd::watcher::Watcher;
use local::system::shop::ShopServices;
use local::system::{Options, System};
use serde_json::json;
use std::time::Duration;
use tests::live::{CONVERGENCE, all_show_the_truth, all_subscribed, live, options, system, watchers};
use tests::{Client, announce, eventually, insist};

/// Orders of all buyers, over `seconds`, alternating between the regions.
async fn all_order(system: &System, count: usize, seconds: u32) {
    let orders = (0..count).map(|number| async move {
        let client = Client::of(system, number % system.regions.len()).unwrap();
        let token = system.identity.token(&format!("buyer-{number}")).unwrap();
        tokio::time::sleep(Duration::from_secs(seconds.into()).mul_f64(number as f64 / count as f64)).await;
        insist(&client, "drop", &token, Duration::from_secs(60)).await
    });
    join_all(orders).await;
}

fn connects(watchers: &[Watcher]) -> u64 {
    watchers.iter().map(|watcher| watcher.state().subscribed).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_sockets_show_the_truth_after_a_drop_with_a_hold() {
    let services = ShopServices::start(7).await.unwrap();
    let options = Options { event_bus: Some(services.bus.url()), ..options(2, SocketLimits::default()) };
    let system = System::start(&options).await.unwrap();
    let shop = services.open(&system).await.unwrap();
    announce(&system, "drop", json!({ "stock_total": 100, "hold_seconds": 4 })).await.unwrap();
    let hold = Duration::from_secs(4);
    let habits = Habits { unpaid: 0.3, seed: 7 };
    let item_id = "drop".parse().unwrap();
    let _buyers = Buyers::pay(&shop, &system.identity, (&item_id, hold), ("", habits)).unwrap();
    let watchers = watchers(&system, 500).unwrap();
    all_subscribed(&watchers).await.unwrap();
    all_order(&system, 500, 3).await;
    let counts = eventually("every unit is sold", Duration::from_secs(90), async || {
        let counts = all_show_the_truth(&system, &watchers).await?;
        Ok((counts.get("sold") == Some(&100)).then_some(counts))
    })
    .await
    .unwrap();
    assert!(counts.get("released").is_some_and(|released| *released > 0), "{counts:?}");
    assert_eq!(counts.values().sum::<usize>(), 500);
    // The item comes in messages of its own.
    let shows_it = |watcher: &Watcher| {
        watcher.state().latest.item("drop").is_some_and(|item| item["phase"] == "sold_out")
    };
    eventually("every watcher shows that all is sold", CONVERGENCE, async || {
        Ok(watchers.iter().all(shows_it).then_some(()))
    })
    .await
    .unwrap();
    println!("{counts:?}, {} messages", watchers.iter().map(|one| one.state().received).sum::<u64>());
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_show_the_truth_after_kills_of_both_functions_and_cut_connections() {
    let system = system(1, json!({ "stock_total": 60 })).await.unwrap();
    let watchers = watchers(&system, 200).unwrap();
    all_subscribed(&watchers).await.unwrap();
    let live = live(&system, 0).unwrap();
    let disturbance = async {
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(700)).await;
            live.publish.kill();
            tokio::time::sleep(Duration::from_millis(700)).await;
            live.updates.kill();
        }
        live.sockets.cut(2);
    };
    tokio::join!(all_order(&system, 200, 5), disturbance);
    let counts = all_show_the_truth(&system, &watchers).await.unwrap();
    assert_eq!(counts.get("sold"), Some(&60), "{counts:?}");
    assert!(connects(&watchers) >= 300, "too few have reconnected: {}", connects(&watchers));
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_show_the_truth_after_every_redis_was_restarted() {
    let mut system = system(1, json!({ "stock_total": 60 })).await.unwrap();
    let watchers = watchers(&system, 200).unwrap();
    all_subscribed(&watchers).await.unwrap();
    all_order(&system, 100, 1).await;
    system.redis.restart().await.unwrap();
    system.replica.restart().await.unwrap();
    system.registry.as_mut().unwrap().restart().await.unwrap();
    all_order(&system, 200, 2).await;
    let counts = all_show_the_truth(&system, &watchers).await.unwrap();
    assert_eq!(counts.get("sold"), Some(&60), "{counts:?}");
}
