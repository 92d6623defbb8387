//! Processes killed and servers restarted in the middle of a drop.

use local::aws::environments::ClassicLimits;
use local::aws::functions::OVERLAPPING_RUNS;
use local::crowd::OrderAnswer;
use local::crowd::audit::{AuditFindings, DropResult};
use local::system::regions;
use local::system::{Options, System};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use shared::queue::MAX_WINDOW;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tests::{Client, announce, drop_of, eventually, quick};

async fn settled(system: &System) -> DropResult {
    eventually("the drain has finished", Duration::from_secs(60), async || {
        let item = system.admin(&json!({ "command": "describe", "item_id": "drop" })).await?;
        let is_drained = item["stock_left"] == 0 || item["orders_waiting"] == 0;
        Ok((is_drained && item["sold"] == item["reservations"]).then_some(()))
    })
    .await
    .unwrap();
    system.drop_result(&"drop".parse().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_120_kills_no_order_is_lost_and_no_unit_is_sold_twice() {
    let mut options = quick(regions::first(2));
    options.answer_limit = Duration::from_secs(2);
    let system = System::start(&options).await.unwrap();
    announce(&system, "drop", json!({ "stock_total": 400, "settle_window_ms": 1_000 })).await.unwrap();
    let over = AtomicU32::new(0);
    let kills = AtomicU32::new(0);
    let killer = async {
        let mut random = StdRng::seed_from_u64(7);
        while over.load(Ordering::Relaxed) == 0 || kills.load(Ordering::Relaxed) < 120 {
            tokio::time::sleep(Duration::from_millis(random.random_range(20..160))).await;
            match random.random_range(0..3) {
                0 => system.drain.kill(),
                n => system.regions[n - 1].intake.kill(),
            }
            kills.fetch_add(1, Ordering::Relaxed);
        }
    };
    let dropping = async {
        let sent = drop_of(&system, 600, 60, "buyer").await;
        over.store(1, Ordering::Relaxed);
        sent
    };
    let ((), sent) = tokio::join!(killer, dropping);
    let sent = sent.unwrap();
    let outcome = settled(&system).await;
    assert_eq!(outcome.check(&sent), AuditFindings::default());
    assert!(kills.into_inner() >= 120);
    let queued = sent.iter().filter(|order| order.answer == OrderAnswer::Queued).count();
    assert!(queued >= 400, "only {queued} were queued");
    assert_eq!(outcome.reservations.len(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_lambda_kills_at_its_limit_loses_nothing_and_reserves_nothing_twice() {
    let mut options = quick(regions::first(2));
    options.limits_in_main = Some(ClassicLimits::strict(1_000, OVERLAPPING_RUNS));
    let system = System::start(&options).await.unwrap();
    announce(&system, "drop", json!({ "stock_total": 200, "settle_window_ms": 1_000 })).await.unwrap();
    let over = AtomicU32::new(0);
    // Processes hang in the middle of their runs, until Lambda kills them.
    let hanging = async {
        let mut random = StdRng::seed_from_u64(7);
        while over.load(Ordering::Relaxed) == 0 || system.drain.figures().timed_out < 5 {
            tokio::time::sleep(Duration::from_millis(random.random_range(100..900))).await;
            let processes = system.drain.process_ids();
            if let Some(process) = processes.get(random.random_range(0..=processes.len())) {
                // It may have ended meanwhile.
                let _ = stop(*process);
            }
        }
    };
    let dropping = async {
        let sent = drop_of(&system, 300, 60, "buyer").await;
        over.store(1, Ordering::Relaxed);
        sent
    };
    let ((), sent) = tokio::join!(hanging, dropping);
    let sent = sent.unwrap();
    let outcome = settled(&system).await;
    assert_eq!(outcome.check(&sent), AuditFindings::default());
    assert_eq!(outcome.reservations.len(), 200);
    println!("{:?}", system.drain.figures());
}

/// Stops a process, as if it hung.
fn stop(process: u32) -> std::io::Result<std::process::ExitStatus> {
    std::process::Command::new("kill").args(["-STOP", &process.to_string()]).status()
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_refused_while_main_s_redis_is_down_and_accepted_after_its_restart() {
    // Longer than an order is tried.
    let options = Options { answer_limit: MAX_WINDOW * 3 / 2, ..quick(regions::first(2)) };
    let mut system = System::start(&options).await.unwrap();
    announce(&system, "drop", json!({ "stock_total": 300, "settle_window_ms": 1_000 })).await.unwrap();
    let mut sent = drop_of(&system, 100, 100, "before").await.unwrap();
    assert!(sent.iter().all(|order| order.answer == OrderAnswer::Queued), "{sent:?}");
    let intake_process = system.regions[1].intake.process_id();

    system.redis.kill();
    let token = system.identity.token("meanwhile").unwrap();
    for index in [0, 1] {
        let client = Client::of(&system, index).unwrap();
        // By the edge's cached copy the item is still on sale; only main is unreachable.
        let started = Instant::now();
        let answer = client.order("drop", &token).await.unwrap();
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.header("retry-after").is_some());
        assert!(matches!(answer.problem(), Some("main-unreachable" | "outcome-unknown")), "{answer:?}");
        assert!(started.elapsed() < MAX_WINDOW + Duration::from_millis(2_500), "{:?}", started.elapsed());
    }

    system.redis.restart().await.unwrap();
    sent.extend(drop_of(&system, 100, 100, "after").await.unwrap());
    assert!(sent.iter().all(|order| order.answer == OrderAnswer::Queued), "{sent:?}");
    assert_eq!(
        system.regions[1].intake.process_id(),
        intake_process,
        "intake must reconnect without a restart"
    );
    let outcome = settled(&system).await;
    assert_eq!(outcome.check(&sent), AuditFindings::default());
    assert_eq!(outcome.reservations.len(), 200);
    assert!(!outcome.taken.contains("meanwhile"));
}
