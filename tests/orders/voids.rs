//! `fairdrop void`, from the operator to the buyers, the shop and the audit.

use crate::command_line::ran;
use anyhow::Context;
use local::aws::lambda::Invoked;
use local::system::System;
use serde_json::{Value, json};
use std::time::Duration;
use tests::{Client, announce, eventually, one_region};

const A_WHILE: Duration = Duration::from_secs(20);

async fn until(system: &System, client: &Client, buyer: &str, status: &str) {
    let token = system.identity.token(buyer).unwrap();
    eventually(&format!("{buyer} is {status}"), A_WHILE, async || {
        Ok((client.mine("shoe", &token).await?.body["status"] == status).then_some(()))
    })
    .await
    .unwrap();
}

async fn order(system: &System, client: &Client, buyer: &str) {
    client.order("shoe", &system.identity.token(buyer).unwrap()).await.unwrap();
}

async fn pay(system: &System, buyer: &str) -> Value {
    let notice = json!({ "item_id": "shoe", "user_token": buyer, "payment_reference": format!("pay-{buyer}"),
                         "outcome": "paid" });
    let invoke = system.main_invoke_api().unwrap();
    eventually("the notice is decided", A_WHILE, async || {
        Ok(match invoke.call("order-confirm", &notice).await? {
            Invoked::Answer(answer) => Some(answer),
            Invoked::FunctionError(_) => None,
        })
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_takes_a_sold_unit_back_and_the_next_buyer_gets_it() {
    let system = one_region().await.unwrap();
    announce(&system, "shoe", json!({ "stock_total": 1, "hold_seconds": 600 })).await.unwrap();
    let client = Client::of(&system, 0).unwrap();
    order(&system, &client, "alice").await;
    until(&system, &client, "alice", "reserved").await;
    order(&system, &client, "bob").await;
    assert_eq!(pay(&system, "alice").await["status"], "sold");

    let line = ["void", "shoe", "alice", "--reason", "stolen card", "--bar", "--by", "Ann"];
    assert_eq!(ran(&system, &line).await.0, 2, "it asks");
    let (code, out, err) = ran(&system, &[&["--json", "--yes"], &line[..]].concat()).await;
    assert_eq!(code, 0, "{err}");
    let answer: Value = serde_json::from_str(&out).unwrap();
    for (name, value) in [
        ("was", json!("sold")),
        ("payment_reference", json!("pay-alice")),
        ("barred", json!(true)),
        ("in_redis", json!(true)),
    ] {
        assert_eq!(answer[name], value, "{answer}");
    }
    until(&system, &client, "bob", "reserved").await;
    until(&system, &client, "alice", "voided").await;
    assert_eq!(pay(&system, "alice").await["type"], "urn:fairdrop:problem:unit-voided");

    // Bob's is taken back while Redis does not answer; the worker writes it later. Alice has ordered again, and is barred.
    order(&system, &client, "alice").await;
    order(&system, &client, "carol").await;
    let reserved = async || {
        let audit = system.admin(&json!({ "command": "audit", "item_id": "shoe" })).await?;
        let sales = audit["sales"].as_array().context("the audit lists no sales")?;
        Ok(sales.iter().any(|sale| sale["state"] == "reserved").then_some(()))
    };
    eventually("bob's reservation is in the ledger", A_WHILE, reserved).await.unwrap();
    let mut redis = system.redis.connect().await.unwrap();
    let _: () = redis::cmd("CLIENT").arg(&["PAUSE", "4000", "WRITE"]).query_async(&mut redis).await.unwrap();
    let void = json!({ "command": "void", "item_id": "shoe", "buyer": "bob", "reason": "wrong size" });
    let voided = system.admin(&void).await.unwrap();
    assert_eq!((&voided["was"], &voided["in_redis"]), (&json!("reserved"), &json!(false)), "{voided}");
    until(&system, &client, "carol", "reserved").await;
    until(&system, &client, "bob", "voided").await;
    // Both of her marks are in one score.
    until(&system, &client, "alice", "voided").await;
    eventually("carol's reservation is in the ledger", A_WHILE, reserved).await.unwrap();

    order(&system, &client, "dora").await;
    until(&system, &client, "dora", "queued").await;
    let (code, out, err) =
        ran(&system, &["--json", "--yes", "exclude", "shoe", "--reason", "bots", "dora", "carol"]).await;
    assert_eq!(code, 0, "{err}");
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&answer["new"], &answer["with_unit"]), (&json!(2), &json!(["carol"])), "{answer}");
    until(&system, &client, "dora", "excluded").await;

    let audit = system.admin(&json!({ "command": "audit", "item_id": "shoe" })).await.unwrap();
    let of = |list: &str, name: &str| -> Vec<Value> {
        audit[list].as_array().unwrap().iter().map(|line| line[name].clone()).collect()
    };
    assert_eq!(of("sales", "state"), ["voided", "voided", "reserved"], "{audit}");
    assert_eq!(of("voids", "reason"), ["stolen card", "wrong size"], "{audit}");
    assert_eq!(of("voids", "was"), ["sold", "reserved"], "{audit}");
    let exclusions = audit["exclusions"].as_array().unwrap();
    let sizes: Vec<_> = exclusions
        .iter()
        .map(|line| (line["reason"].as_str().unwrap(), line["buyers"].as_array().unwrap().len()))
        .collect();
    assert_eq!(sizes, [("stolen card", 1), ("bots", 2)], "{audit}");
    assert_eq!((&audit["units_taken"], &audit["in_order"]), (&json!(1), &json!(true)), "{audit}");
    let (_, csv, _) = ran(&system, &["export", "shoe", "--by", "Ann", "--voided", "--format", "csv"]).await;
    assert!(csv.lines().count() == 3 && csv.contains("\"alice\",\"pay-alice\""), "{csv}");
    let (_, csv, _) = ran(&system, &["export", "shoe", "--by", "Ann", "--format", "csv"]).await;
    assert_eq!(csv.lines().count(), 1, "{csv}");

    let invoke = system.main_invoke_api().unwrap();
    for (buyer, reason, expected) in [
        ("dora", "x", "NoUnit"),
        ("alice two", "x", "BadCommand"),
        ("carol", "", "BadCommand"),
        ("carol", "a\nb", "BadCommand"),
    ] {
        let command = json!({ "command": "void", "item_id": "shoe", "buyer": buyer, "reason": reason });
        let Invoked::FunctionError(error) = invoke.call("drop-admin", &command).await.unwrap() else {
            panic!("{command} did not fail")
        };
        assert_eq!(error["errorType"], expected, "{command}");
    }
}
