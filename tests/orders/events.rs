//! The sample event of every trigger works, and no other event stops a function's process.

use anyhow::{Context, Result};
use local::aws::functions::{FunctionProcess, Launch};
use local::aws::lambda::{Emulator, Invoked};
use local::system::System;
use local::system::folder::WorkFolder;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};
use tests::{announce, one_region, sample};

/// The sample with a valid token.
fn signed(file: &str, token: &str) -> Value {
    let mut event = sample(file);
    event["headers"]["authorization"] = format!("Bearer {token}").into();
    event
}

async fn answer(system: &System, function: &str, event: &Value) -> Result<(u64, Value)> {
    match system.main_invoke_api()?.call(function, event).await? {
        Invoked::Answer(answer) => {
            let status = answer["statusCode"].as_u64().context("no status")?;
            let body = serde_json::from_str(answer["body"].as_str().unwrap_or("null"))?;
            Ok((status, body))
        }
        Invoked::FunctionError(error) => anyhow::bail!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_requests_work() {
    let system = one_region().await.unwrap();
    announce(&system, "sneaker-42", json!({ "settle_window_ms": 10_000 })).await.unwrap();
    let token = system.identity.token("alice").unwrap();
    let (status, body) =
        answer(&system, "order-intake", &signed("order-intake.post.json", &token)).await.unwrap();
    assert_eq!((status, &body["status"]), (202, &json!("queued")), "{body}");
    let (status, body) = answer(&system, "order-status", &sample("order-status.item.json")).await.unwrap();
    assert_eq!((status, &body["item_id"]), (200, &json!("sneaker-42")), "{body}");
    let (status, body) =
        answer(&system, "order-status", &signed("order-status.mine.json", &token)).await.unwrap();
    assert_eq!((status, &body["ahead"]), (200, &json!(0)), "{body}");
    let (status, body) =
        answer(&system, "order-status", &signed("order-status.leave.json", &token)).await.unwrap();
    assert_eq!((status, &body["status"]), (200, &json!("none")), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_schedules_drain_and_record() {
    let system = one_region().await.unwrap();
    announce(&system, "a", json!({ "stock_total": 3 })).await.unwrap();
    let invoke = system.main_invoke_api().unwrap();
    let invoked = invoke.call("checkout-drain", &sample("checkout-drain.schedule.json")).await.unwrap();
    let Invoked::Answer(summary) = invoked else { panic!("{invoked:?}") };
    assert_eq!((&summary["items"], &summary["failures"]), (&json!(1), &json!(0)), "{summary}");
    let invoked = invoke.call("checkout-worker", &sample("checkout-worker.schedule.json")).await.unwrap();
    let Invoked::Answer(summary) = invoked else { panic!("{invoked:?}") };
    assert_eq!((&summary["items"], &summary["failures"]), (&json!(1), &json!(0)), "{summary}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_socket_events_connect_and_are_answered() {
    let system = tests::live::system(1, json!({})).await.unwrap();
    announce(&system, "sneaker-42", json!({})).await.unwrap();
    let invoke = system.main_invoke_api().unwrap();
    let call = async |event: &Value| match invoke.call("live-updates", event).await.unwrap() {
        Invoked::Answer(answer) => answer,
        Invoked::FunctionError(error) => panic!("{error}"),
    };
    let mut connect = sample("live-updates.connect.json");
    assert_eq!(call(&connect).await["statusCode"], 401, "the placeholder is not a token");
    let protocols = format!("fairdrop.live.v1, bearer.{}", system.identity.token("alice").unwrap());
    connect["multiValueHeaders"]["Sec-WebSocket-Protocol"] = json!([protocols]);
    let answer = call(&connect).await;
    assert_eq!(answer["statusCode"], 200, "{answer}");
    assert_eq!(answer["headers"]["Sec-WebSocket-Protocol"], "fairdrop.live.v1", "{answer}");
    for (kind, expected) in [("ping", "pong"), ("subscribe", "subscribed"), ("unsubscribe", "unsubscribed")] {
        let answer = call(&sample(&format!("live-updates.{kind}.json"))).await;
        let body: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
        assert_eq!(body["type"], expected, "{body}");
    }
    assert_eq!(call(&sample("live-updates.disconnect.json")).await["statusCode"], 200);
    let answer = call(&sample("live-updates.ping.json")).await;
    assert!(answer["body"].as_str().unwrap().contains("not-connected"), "{answer}");
    let published = invoke.call("live-publish", &sample("live-publish.schedule.json")).await.unwrap();
    let Invoked::Answer(summary) = published else { panic!("{published:?}") };
    assert_eq!((&summary["broken"], &summary["failures"]), (&json!(0), &json!(0)), "{summary}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_fails_does_not_stop_the_others() {
    let system = one_region().await.unwrap();
    let mut connection = system.redis.connect().await.unwrap();
    // Broken in four ways: no item, not a hash, fields that are not numbers, a queue of the wrong type.
    let mut break_it = redis::pipe();
    break_it.sadd("items", &["gone", "no-hash", "no-number", "no-queue", "not an id {}"]).ignore();
    break_it.set("item:{no-hash}", "x").ignore();
    break_it.cmd("HSET").arg("item:{no-number}").arg(&["stock_left", "many", "opens_at", "soon"]).ignore();
    break_it.zadd("orders:{no-number}", "a", 1).ignore();
    break_it.set("orders:{no-queue}", "x").ignore();
    break_it.cmd("HSET").arg("item:{no-queue}").arg(&["stock_left", "1"]).ignore();
    let _: () = break_it.query_async(&mut connection).await.unwrap();
    announce(&system, "sound", json!({ "settle_window_ms": 50 })).await.unwrap();
    let client = tests::Client::of(&system, 0).unwrap();
    let token = system.identity.token("alice").unwrap();
    assert_eq!(client.order("sound", &token).await.unwrap().status, 202);
    tests::eventually("the sound item is sold", Duration::from_secs(15), async || {
        Ok((client.mine("sound", &token).await?.body["status"] == "sold").then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_other_services_are_refused_and_the_process_goes_on() {
    let system = one_region().await.unwrap();
    let invoke = system.main_invoke_api().unwrap();
    let foreign = [
        "null".to_owned(),
        "[]".to_owned(),
        "[{}]".to_owned(),
        "{}".to_owned(),
        "7".to_owned(),
        "\"text\"".to_owned(),
        json!({ "Records": [{ "eventSource": "aws:sqs", "body": "x" }] }).to_string(),
        json!({ "detail-type": "EC2 Instance State-change Notification", "source": "aws.ec2", "detail": {} })
            .to_string(),
        json!({ "version": "2.0", "requestContext": "x" }).to_string(),
    ];
    let region = &system.regions[0];
    let before = (region.intake.process_id(), system.drain.process_id());
    for event in &foreign {
        for (function, expected) in [
            ("order-intake", "API Gateway"),
            ("order-status", "API Gateway"),
            ("checkout-drain", ""),
            ("drop-admin", "not a command"),
        ] {
            let invoked = invoke.call_within(function, event.clone(), Duration::from_secs(10)).await.unwrap();
            let Invoked::FunctionError(error) = invoked else {
                panic!("{function} accepted {event}: {invoked:?}")
            };
            let message = error["errorMessage"].as_str().unwrap();
            assert!(message.contains(expected) && !message.is_empty(), "{function}: {error}");
        }
    }
    assert_eq!(before, (region.intake.process_id(), system.drain.process_id()));
    let broken_base64 = json!({
        "version": "2.0", "routeKey": "ANY /items/{item_id}/orders", "rawPath": "/items/a/orders",
        "rawQueryString": "", "headers": {}, "pathParameters": { "item_id": "a" },
        "body": "%%% not base64", "isBase64Encoded": true,
        "requestContext": { "http": { "method": "POST", "path": "/items/a/orders" }, "timeEpoch": 0 },
    });
    let (status, body) = answer(&system, "order-intake", &broken_base64).await.unwrap();
    assert_eq!((status, &body["type"]), (400, &json!("urn:fairdrop:problem:bad-body")));
    assert_eq!(before.0, region.intake.process_id());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_leaves_the_process_and_the_other_requests_alive() {
    let folder = WorkFolder::new().unwrap();
    let emulator = Emulator::start().await.unwrap();
    let invoke = emulator.invoke_api();
    let launch = Launch {
        function: "panicking-function",
        region: "nowhere".into(),
        concurrency: 8,
        processes: 1,
        environment: Vec::new(),
        wrapper: Vec::new(),
        binaries: None,
    };
    let function = FunctionProcess::start(launch, &invoke, folder.path()).unwrap();
    let process_id = function.process_id();
    let request = |path: &str| {
        let (invoke, event) = (
            invoke.clone(),
            json!({
                "version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": "", "headers": {},
                "isBase64Encoded": false,
                "requestContext": { "http": { "method": "GET", "path": path }, "timeEpoch": 0 },
            }),
        );
        async move { invoke.call_within("panicking-function", event.to_string(), Duration::from_secs(10)).await }
    };
    request("/").await.unwrap();
    let started = Instant::now();
    let (panic, refusal, a, b, c) =
        tokio::join!(request("/panic"), request("/refuse"), request("/"), request("/"), request("/"));
    assert!(
        started.elapsed() < Duration::from_millis(1_200),
        "the requests ran one after the other: {:?}",
        started.elapsed()
    );
    let Ok(Invoked::FunctionError(error)) = panic else { panic!("{panic:?}") };
    assert!(error["errorMessage"].as_str().unwrap().contains("as requested"), "{error}");
    for (answer, status) in [(refusal, 404), (a, 200), (b, 200), (c, 200)] {
        let Ok(Invoked::Answer(answer)) = answer else { panic!("{answer:?}") };
        assert_eq!(answer["statusCode"], status);
    }
    for _ in 0..20 {
        let _ = request("/panic").await;
    }
    assert!(matches!(request("/").await, Ok(Invoked::Answer(_))));
    assert_eq!(function.process_id(), process_id);
}

#[test]
fn the_release_profile_unwinds_on_panic() {
    let manifest =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml")).unwrap();
    let release = manifest.split("[profile.release]").nth(1).unwrap().split("\n[").next().unwrap();
    assert!(release.contains("panic = \"unwind\""), "cargo-lambda would build it with panic = \"abort\"");
}
