//! The operator's commands, through the built `drop-admin`, with the samples of `events/`.

use local::aws::lambda::Invoked;
use local::system::System;
use serde_json::{Value, json};
use std::path::Path;
use tests::{announce, one_region};

fn sample(name: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../events");
    let text = std::fs::read_to_string(folder.join(format!("drop-admin.{name}.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

async fn error_type(system: &System, command: Value) -> String {
    match system.main_invoke_api().unwrap().call("drop-admin", &command).await.unwrap() {
        Invoked::FunctionError(error) => error["errorType"].as_str().unwrap().to_owned(),
        Invoked::Answer(answer) => panic!("{command} did not fail: {answer}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sample_does_what_its_name_says() {
    let system = one_region().await.unwrap();
    let mut create = sample("create");
    // The sample's item has a date: it may have closed.
    let now = local::system::clock::micros_now();
    create["item"]["opens_at"] = json!(now);
    create["item"]["closes_at"] = json!(now + 3_600_000_000);
    let created = system.admin(&create).await.unwrap();
    assert_eq!(created["stock_left"], 500);
    assert_eq!(created["paused"], false);
    assert_eq!(system.admin(&sample("update")).await.unwrap()["stock_left"], 600);
    assert_eq!(system.admin(&sample("pause")).await.unwrap()["paused"], true);
    assert_eq!(system.admin(&sample("resume")).await.unwrap()["paused"], false);
    assert_eq!(system.admin(&sample("describe")).await.unwrap()["orders_waiting"], 0);
    assert_eq!(system.admin(&sample("list")).await.unwrap(), json!({ "items": ["sneaker-42"] }));
    let excluded = system.admin(&sample("exclude")).await.unwrap();
    assert_eq!((&excluded["new"], &excluded["in_redis"]), (&json!(2), &json!(true)), "{excluded}");
    assert_eq!(system.admin(&sample("limit_unpaid")).await.unwrap()["ledger"]["unpaid_limit"], 3);
    assert_eq!(system.admin(&sample("export-voided")).await.unwrap()["voided"], json!([]));
    assert_eq!(error_type(&system, sample("void")).await, "NoUnit");
    let closed = system.admin(&sample("close")).await.unwrap();
    assert!(closed["closes_at"].as_u64() <= closed["main_time"].as_u64(), "{closed}");
    assert_eq!(closed["phase"], "closed");
    assert_eq!(system.admin(&sample("close")).await.unwrap()["closes_at"], closed["closes_at"]);
    assert_eq!(error_type(&system, sample("update-reopen")).await, "ItemClosed");
    assert_eq!(system.admin(&sample("update-serve-waiting")).await.unwrap()["stock_left"], 600);
    // An order may be in transit.
    assert_eq!(error_type(&system, sample("finish")).await, "NotClosed");
    assert_eq!(error_type(&system, sample("archive")).await, "NotArchived");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_fails_returns_its_error_type() {
    let system = one_region().await.unwrap();
    announce(&system, "a", json!({ "closes_at": local::system::clock::micros_now() + 60_000_000 }))
        .await
        .unwrap();
    let item = |with: Value| {
        let mut item =
            json!({ "item_id": "b", "name": "B", "stock_total": 1, "opens_at": 1_795_000_000_000_000_u64 });
        for (name, value) in with.as_object().unwrap() {
            item[name] = value.clone();
        }
        json!({ "command": "create", "item": item })
    };
    let update = |changes: Value| json!({ "command": "update", "item_id": "a", "changes": changes });
    let cases = [
        (json!({ "command": "lease" }), "NoLease"),
        (item(json!({ "item_id": "a" })), "ItemExists"),
        (item(json!({ "name": "" })), "BadItem"),
        (item(json!({ "closes_at": 1_795_000_000_000_000_u64 })), "BadItem"),
        (item(json!({ "opens_at": 1_795_000_000_000_u64 })), "BadItem"),
        (item(json!({ "settle_window_ms": 1 })), "BadItem"),
        (item(json!({ "item_id": "a/b" })), "BadCommand"),
        (item(json!({ "stock_total": -1 })), "BadCommand"),
        (item(json!({ "opens_at": 9_007_199_254_740_992_u64 })), "BadCommand"),
        (item(json!({ "colour": "red" })), "BadCommand"),
        (update(json!({ "settle_window_ms": 10_001 })), "BadItem"),
        (update(json!({ "opens_at": local::system::clock::micros_now() + 120_000_000 })), "BadItem"),
        (json!({ "command": "describe", "item_id": "nothing" }), "NoSuchItem"),
        (json!({ "command": "pause", "item_id": "nothing" }), "NoSuchItem"),
        (json!({ "command": "destroy", "item_id": "a" }), "BadCommand"),
        (json!(null), "BadCommand"),
        (json!([1, 2]), "BadCommand"),
        (json!({ "Records": [{ "eventSource": "aws:s3" }] }), "BadCommand"),
    ];
    for (command, expected) in cases {
        assert_eq!(error_type(&system, command.clone()).await, expected, "{command}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_can_always_be_raised_and_not_lowered_below_what_is_taken() {
    let system = one_region().await.unwrap();
    announce(&system, "a", json!({ "stock_total": 2 })).await.unwrap();
    let client = tests::Client::of(&system, 0).unwrap();
    for buyer in ["x", "y", "z"] {
        client.order("a", &system.identity.token(buyer).unwrap()).await.unwrap();
    }
    let stock =
        |units: u32| json!({ "command": "update", "item_id": "a", "changes": { "stock_total": units } });
    let describe = json!({ "command": "describe", "item_id": "a" });
    let reserved = async |units: u64| {
        tests::eventually("the drain has taken the stock", std::time::Duration::from_secs(10), async || {
            let item = system.admin(&describe).await?;
            Ok((item["reservations"] == units).then_some(item))
        })
        .await
        .unwrap()
    };
    assert_eq!(reserved(2).await["orders_waiting"], 1);
    assert_eq!(error_type(&system, stock(1)).await, "StockTaken");
    assert_eq!(system.admin(&stock(2)).await.unwrap()["stock_left"], 0);
    system.admin(&stock(3)).await.unwrap();
    assert_eq!(reserved(3).await["orders_waiting"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn withheld_units_go_on_sale_once_even_if_the_command_is_repeated() {
    let system = one_region().await.unwrap();
    announce(&system, "a", json!({ "stock_total": 10 })).await.unwrap();
    let item_id = "a".parse().unwrap();
    system.ledger().unwrap().withhold(&item_id, 5, false, 2).await.unwrap();
    system.admin(&json!({ "command": "reconcile", "item_id": "a", "repair": true })).await.unwrap();
    let keep = |units: u32| json!({ "command": "sell_withheld", "item_id": "a", "keep": units });
    let counts = |item: &Value| (item["stock_left"].clone(), item["ledger"]["withheld"].clone());
    let describe = json!({ "command": "describe", "item_id": "a" });
    assert_eq!(counts(&system.admin(&describe).await.unwrap()), (json!(5), json!(5)));
    // The answer was lost, and the operator repeats the command.
    for _ in 0..2 {
        assert_eq!(counts(&system.admin(&keep(2)).await.unwrap()), (json!(8), json!(2)));
    }
    assert_eq!(error_type(&system, keep(3)).await, "FewerWithheld");
    let by_number = json!({ "command": "sell_withheld", "item_id": "a", "units": 1 });
    assert_eq!(error_type(&system, by_number).await, "BadCommand");
    assert_eq!(counts(&system.admin(&describe).await.unwrap()), (json!(8), json!(2)));
    assert_eq!(counts(&system.admin(&keep(0)).await.unwrap()), (json!(10), json!(0)));
}
