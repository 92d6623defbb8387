//! A region cut off from main.

use anyhow::Result;
use futures::future::join_all;
use local::crowd::audit::DropResult;
use local::system::regions;
use local::system::wan::ConnectionState;
use local::system::{Options, System};
use serde_json::json;
use shared::queue::MAX_WINDOW;
use std::time::{Duration, Instant};
use tests::{Answer, Client, announce, eventually, quick};

const SETTLE_WINDOW: Duration = Duration::from_millis(1_000);
/// Longer than an order is tried.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

async fn orders(system: &System, region: usize, name: &str, count: u32) -> Result<Vec<(Answer, Duration)>> {
    let client = Client::of(system, region)?;
    let orders = (0..count).map(|number| {
        let (client, token) = (client.clone(), system.identity.token(&format!("{name}-{number}")));
        async move {
            let started = Instant::now();
            Ok((client.order("a", &token?).await?, started.elapsed()))
        }
    });
    join_all(orders).await.into_iter().collect()
}

async fn cut_and_restore(cut: ConnectionState) {
    let options = Options { answer_limit: ANSWER_LIMIT, ..quick(regions::first(2)) };
    let system = System::start(&options).await.unwrap();
    let window_ms = u64::try_from(SETTLE_WINDOW.as_millis()).unwrap();
    announce(&system, "a", json!({ "stock_total": 1_000, "settle_window_ms": window_ms })).await.unwrap();
    let far = &system.regions[1];
    let process = far.intake.process_id();
    for region in [0, 1] {
        for (answer, _) in orders(&system, region, "before", 5).await.unwrap() {
            assert!(matches!(answer.status, 200 | 202), "{answer:?}");
        }
    }

    far.connection.set(cut);
    let (cut_off, near) = tokio::join!(orders(&system, 1, "cut-off", 20), orders(&system, 0, "near", 20));
    for (answer, took) in cut_off.unwrap() {
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(matches!(answer.problem(), Some("main-unreachable" | "outcome-unknown")), "{answer:?}");
        // The longest window, plus time for HTTP and a busy machine.
        assert!(took < MAX_WINDOW + Duration::from_millis(1_000), "{took:?}");
    }
    for (answer, took) in near.unwrap() {
        assert_eq!(answer.status, 202, "{answer:?}");
        assert!(took < Duration::from_millis(800), "the cut slowed another region: {took:?}");
    }
    // By now no connection is left, so that no order is sent.
    tokio::time::sleep(SETTLE_WINDOW).await;
    for (answer, _) in orders(&system, 1, "later", 5).await.unwrap() {
        assert_eq!((answer.status, answer.problem()), (503, Some("main-unreachable")), "{answer:?}");
        assert_eq!(answer.body["outcome"], "not_queued");
    }
    // Reading the order's status fails, too.
    let status = Client::of(&system, 1).unwrap();
    let asked = status.mine("a", &system.identity.token("later-0").unwrap()).await.unwrap();
    assert_eq!((asked.status, asked.problem()), (503, Some("status-unavailable")));

    far.connection.set(ConnectionState::Up);
    eventually("the region works again", Duration::from_secs(10), async || {
        let answers = orders(&system, 1, "after", 1).await?;
        Ok(answers.iter().all(|(answer, _)| matches!(answer.status, 200 | 202)).then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(far.intake.process_id(), process, "intake must reconnect without a restart");
    tokio::time::sleep(SETTLE_WINDOW * 2).await;
    let outcome =
        DropResult::read(&mut system.redis.connect().await.unwrap(), &"a".parse().unwrap()).await.unwrap();
    let late = outcome
        .taken
        .iter()
        .chain(&outcome.queued)
        .find(|buyer| buyer.starts_with("cut-off") || buyer.starts_with("later"));
    assert_eq!(late, None, "an order of the cut region was queued");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_whose_connection_to_main_is_silent_refuses_orders() {
    cut_and_restore(ConnectionState::Silent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_whose_connection_to_main_is_refused_refuses_orders() {
    cut_and_restore(ConnectionState::Refusing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_delay_follows_the_ages_of_a_far_region_s_orders() {
    let slow = regions::WorldRegion { name: "ap-southeast-2", round_trip_ms: 320.0 };
    let system = System::start(&quick(vec![regions::WORLD[0], slow])).await.unwrap();
    announce(&system, "a", json!({ "stock_total": 1_000, "settle_window_ms": 150 })).await.unwrap();
    // The connection is open by now, so that only the transit time counts.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let near = async {
        for number in 0..80 {
            orders(&system, 0, &format!("near-{number}"), 1).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let far = async {
        tokio::time::sleep(Duration::from_millis(800)).await;
        let first = orders(&system, 1, "far", 1).await.unwrap().remove(0).0;
        // The watermark stands still until the delay is in force.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        (first, orders(&system, 1, "far-again", 1).await.unwrap().remove(0).0)
    };
    let ((), (first, again)) = tokio::join!(near, far);
    // On a busy machine the delay has already grown.
    assert!(first.status == 202 || first.problem() == Some("too-late"), "{first:?}");
    assert_eq!(again.status, 202, "{again:?}");
    let item = system.admin(&json!({ "command": "describe", "item_id": "a" })).await.unwrap();
    assert!(item["settle_delay_ms"].as_u64().unwrap() > 300, "{item}");
}
