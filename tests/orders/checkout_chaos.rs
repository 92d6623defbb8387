//! A drop with holds while processes are killed, PostgreSQL fails and Redis is lost.

use anyhow::Result;
use futures::future::join_all;
use local::crowd::SentOrder;
use local::crowd::audit::{AuditFindings, DropResult};
use local::crowd::payments::{Buyers, Habits, PaymentAnswer, Pays};
use local::system::System;
use local::system::redis_server;
use local::system::regions;
use local::system::shop::{Shop, ShopServices};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use shared::item::ItemId;
use shared::queue::Keys;
use sqlx::{Connection, Executor, PgConnection};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tests::{announce, drop_of, quick};

const HABITS: Habits = Habits { unpaid: 0.2, seed: 11 };
const HOLD: Duration = Duration::from_secs(3);

fn item_id() -> ItemId {
    "drop".parse().unwrap()
}

async fn setup(stock_total: u32) -> (System, Shop, Buyers) {
    let services = ShopServices::start(HABITS.seed).await.unwrap();
    let mut options = quick(regions::first(2));
    options.event_bus = Some(services.bus.url());
    options.answer_limit = Duration::from_secs(2);
    let system = System::start(&options).await.unwrap();
    let shop = services.open(&system).await.unwrap();
    let with =
        json!({ "stock_total": stock_total, "settle_window_ms": 1_000, "hold_seconds": HOLD.as_secs() });
    announce(&system, "drop", with).await.unwrap();
    let buyers = Buyers::pay(&shop, &system.identity, (&item_id(), HOLD), ("", HABITS)).unwrap();
    (system, shop, buyers)
}

/// Waits until every unit is sold, or no buyer is left.
async fn over(system: &System, stock_total: u64) -> DropResult {
    let started = Instant::now();
    loop {
        let item = system.admin(&json!({ "command": "describe", "item_id": "drop" })).await;
        let figure = |field: &str| item.as_ref().ok().and_then(|item| item[field].as_u64());
        let no_buyer_left = figure("orders_waiting") == Some(0) && figure("sold") == figure("reservations");
        if figure("sold") == Some(stock_total) || no_buyer_left && figure("tasks_waiting") == Some(0) {
            return system.drop_result(&item_id()).await.unwrap();
        }
        assert!(started.elapsed() < Duration::from_secs(120), "the drop does not end: {item:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Counts buyers whom Redis shows as *sold* before the ledger has the sale. Reads Redis first.
async fn count_premature_sales(system: &System, over: &AtomicBool) -> Result<u64> {
    let ledger = system.ledger()?;
    let keys = Keys::of(&item_id());
    let (mut premature, mut observations) = (0, 0);
    while !over.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let Ok(mut connection) = system.redis.connect().await else { continue };
        let asked = redis::cmd("ZRANGE")
            .arg(&[keys.reservations.as_str(), "+inf", "+inf", "BYSCORE"])
            .query_async::<Vec<String>>(&mut connection)
            .await;
        let (Ok(shown_sold), Ok(sales)) = (asked, ledger.sales(&item_id(), None, 5_000).await) else {
            continue;
        };
        let sold: HashSet<&str> = sales
            .iter()
            .filter(|sale| sale.state == ledger::SaleState::Sold)
            .map(|sale| sale.user_token.as_str())
            .collect();
        premature += shown_sold.iter().filter(|buyer| !sold.contains(buyer.as_str())).count() as u64;
        observations += 1;
    }
    assert!(observations > 20, "{observations} observations are too few");
    Ok(premature)
}

/// A payment was answered with *sold* if and only if the ledger has the sale.
fn payments_are_true(buyers: &Buyers, outcome: &DropResult) {
    let sold = outcome.in_ledger.as_ref().unwrap();
    for (subject, answer) in buyers.answers() {
        assert_eq!(answer == PaymentAnswer::Sold, sold.contains(&subject), "{subject}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_200_kills_no_order_is_lost_and_no_unit_is_sold_twice() {
    const STOCK: u32 = 150;
    let (system, _shop, buyers) = setup(STOCK).await;
    let (over_yet, kills) = (AtomicBool::new(false), AtomicU32::new(0));
    let selling = AtomicBool::new(true);
    let killer = async {
        let mut random = StdRng::seed_from_u64(3);
        while selling.load(Ordering::Relaxed) || kills.load(Ordering::Relaxed) < 200 {
            tokio::time::sleep(Duration::from_millis(random.random_range(20..130))).await;
            match random.random_range(0..5) {
                0 => system.drain.kill(),
                1 | 2 => system.worker.kill(),
                3 => system.confirm.kill(),
                _ => system.regions[random.random_range(0..2)].intake.kill(),
            }
            kills.fetch_add(1, Ordering::Relaxed);
        }
    };
    let dropping = async {
        let sent = drop_of(&system, 300, 40, "buyer").await;
        selling.store(false, Ordering::Relaxed);
        sent
    };
    let ending = async {
        let ((), sent) = tokio::join!(killer, dropping);
        let outcome = over(&system, STOCK.into()).await;
        over_yet.store(true, Ordering::Relaxed);
        (sent.unwrap(), outcome)
    };
    let ((sent, outcome), premature) = tokio::join!(ending, count_premature_sales(&system, &over_yet));
    assert_eq!(premature.unwrap(), 0, "buyers were shown as sold before the ledger had the sale");
    check(&outcome, &sent, &buyers, STOCK);
    assert!(kills.into_inner() >= 200);
    let unpaid = outcome.reservations.iter().filter(|one| HABITS.of(&one.user_token) != Pays::InTime).count();
    assert!(unpaid > 10 && outcome.released.values().sum::<u64>() > 10, "{unpaid}: too few holds ended");
}

/// Nothing is oversold, lost, doubled or falsely reported, and all paid units are sold.
fn check(outcome: &DropResult, sent: &[SentOrder], buyers: &Buyers, stock: u32) {
    assert_eq!(outcome.check(sent), AuditFindings::default());
    payments_are_true(buyers, outcome);
    let sold = outcome.in_ledger.as_ref().unwrap().len();
    assert!(
        sold == stock as usize || outcome.queued.is_empty(),
        "{sold} sold and {} wait",
        outcome.queued.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn selling_continues_after_every_kind_of_postgres_failure() {
    const STOCK: u32 = 60;
    let (mut system, _shop, buyers) = setup(STOCK).await;
    let url = system.postgres.url();
    let execute = async |sql: &'static str| {
        let mut connection = PgConnection::connect(&url).await?;
        connection.execute(sql).await?;
        anyhow::Ok(())
    };
    let mut sent = drop_of(&system, 40, 40, "before").await.unwrap();

    for _ in 0..5 {
        execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'fairdrop'")
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    execute("ALTER SYSTEM SET default_transaction_read_only = on").await.unwrap();
    execute("SELECT pg_reload_conf()").await.unwrap();
    sent.extend(drop_of(&system, 20, 20, "read-only").await.unwrap());
    let mut connection = PgConnection::connect(&url).await.unwrap();
    for sql in [
        "SET default_transaction_read_only = off",
        "ALTER SYSTEM RESET default_transaction_read_only",
        "SELECT pg_reload_conf()",
    ] {
        connection.execute(sql).await.unwrap();
    }
    // Another transaction holds the item's row until statements time out.
    let mut transaction = connection.begin().await.unwrap();
    transaction.execute("SELECT * FROM fairdrop.items FOR UPDATE").await.unwrap();
    sent.extend(drop_of(&system, 20, 4, "locked").await.unwrap());
    transaction.rollback().await.unwrap();

    system.postgres.kill();
    sent.extend(drop_of(&system, 20, 20, "dead").await.unwrap());
    system.postgres.restart().await.unwrap();
    system.postgres.stop();
    tokio::time::sleep(Duration::from_secs(1)).await;
    system.postgres.restart().await.unwrap();
    sent.extend(drop_of(&system, 20, 20, "after").await.unwrap());

    let outcome = over(&system, STOCK.into()).await;
    check(&outcome, &sent, &buyers, STOCK);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_lost_in_the_middle_and_rebuilt() {
    const STOCK: u32 = 60;
    let (system, _shop, buyers) = setup(STOCK).await;
    drop_of(&system, 80, 40, "before").await.unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    let mut connection = system.redis.connect().await.unwrap();
    let _: () = redis::cmd("FLUSHALL").query_async(&mut connection).await.unwrap();
    let sold_before = sold(&system).await;
    assert!(!sold_before.is_empty(), "Redis was lost before the first sale");

    let rebuilt = system.admin(&json!({ "command": "rebuild", "item_id": "drop" })).await.unwrap();
    let taken = rebuilt["units_taken"].as_u64().unwrap();
    assert!(taken > 0 && taken <= STOCK.into(), "{rebuilt}");
    // The waiting orders are lost with Redis: buyers see that, and order again.
    let again = drop_of(&system, 80, 40, "before").await.unwrap();
    let more = drop_of(&system, 30, 40, "after").await.unwrap();
    let outcome = over(&system, STOCK.into()).await;
    // The rebuild starts a new stream; earlier reservations are in the ledger.
    let findings = outcome.check(&[]);
    assert_eq!(AuditFindings { lost: 0, ..findings }, AuditFindings::default());
    let after = sold(&system).await;
    assert!(sold_before.is_subset(&after), "a sale was lost");
    assert!(after.len() <= STOCK as usize);
    let reconciled = system.admin(&json!({ "command": "reconcile" })).await.unwrap();
    let item: &Value = &reconciled["items"]["drop"];
    assert_eq!(
        (&item["differences"], &item["stock_left"]),
        (&json!({}), &item["stock_counted"]),
        "{reconciled}"
    );
    for order in again.iter().chain(&more).filter(|order| order.answer == local::crowd::OrderAnswer::Queued) {
        let has_place = outcome.taken.contains(&order.subject)
            || outcome.queued.contains(&order.subject)
            || outcome.released.contains_key(&order.subject)
            || after.contains(&order.subject);
        assert!(has_place, "{} was answered queued, and has no place", order.subject);
    }
    drop(buyers);
}

async fn sold(system: &System) -> HashSet<String> {
    let sales = system.ledger().unwrap().sales(&item_id(), None, 5_000).await.unwrap();
    let sold = sales.into_iter().filter(|sale| sale.state == ledger::SaleState::Sold);
    sold.map(|sale| sale.user_token.as_str().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn several_workers_and_payments_at_the_same_time_are_harmless() {
    const STOCK: u32 = 100;
    let (system, _shop, buyers) = setup(STOCK).await;
    // A second schedule on the same function, and more workers in this process.
    let source = |name: &str| match name {
        "FAIRDROP_LEDGER_URL" => Some(system.postgres.url()),
        "FAIRDROP_TASK_IDLE_AFTER_MS" => Some("100".to_owned()),
        _ => redis_server::setting(name, &system.redis.url()),
    };
    let context = checkout_worker::WorkerContext::from_config(&source).await.unwrap();
    let over_yet = AtomicBool::new(false);
    let workers = join_all((0..3).map(|_| async {
        let mut work = checkout_worker::ItemWork::new(context.clone(), item_id());
        while !over_yet.load(Ordering::Relaxed) {
            let _ = work.round(true).await;
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
    }));
    let dropping = async {
        let sent = drop_of(&system, 200, 100, "buyer").await.unwrap();
        let outcome = over(&system, STOCK.into()).await;
        over_yet.store(true, Ordering::Relaxed);
        (sent, outcome)
    };
    let (_, (sent, outcome)) = tokio::join!(workers, dropping);
    check(&outcome, &sent, &buyers, STOCK);
}
