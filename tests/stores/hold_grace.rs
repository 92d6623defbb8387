//! Outages and slow payments take no unit from a buyer who has paid in time.

use crate::held_item::{HeldItem, Holds, status_of, work_for};
use checkout_worker::ItemWork;
use futures::future::join_all;
use ledger::SaleState;
use local::system::clock::micros_now;
use order_confirm::App;
use shared::queue::OrderState;
use shared::user_token::UserToken;
use std::time::Duration;
use tests::source;

/// Rounds of a worker until a moment.
async fn work_until(work: &mut ItemWork, micros: u64) {
    work_for(work, Duration::from_micros(micros.saturating_sub(micros_now()))).await;
}

const SHORT: Holds = Holds { hold_seconds: 2, max_hold_seconds: 0 };

#[tokio::test(flavor = "multi_thread")]
async fn holds_that_end_while_no_worker_runs_get_a_grace() {
    let item = HeldItem::start(SHORT, &["pays", "does-not", "cancels"]).await.unwrap();
    let mut work = item.worker().await.unwrap();
    work_for(&mut work, Duration::from_millis(300)).await;
    drop(work);
    let ended_at = item.held_until("pays").await;
    tokio::time::sleep(Duration::from_secs(7)).await;

    let mut work = item.worker_with(Some("9")).await.unwrap();
    let before = micros_now();
    work.round(true).await.unwrap();
    let grace_until = item.held_until("pays").await;
    assert!(grace_until > ended_at);
    let grace_ms = (grace_until.as_micros() - before) / 1_000;
    assert!((9_000..14_000).contains(&grace_ms), "a grace of {grace_ms} ms");
    assert_eq!(item.held_until("does-not").await, grace_until);
    assert_eq!(item.query("SELECT count(*) FROM fairdrop.outages").await, 1);

    // A buyer who cancels needs no grace.
    item.redis.queue.leave(&item.item_id, &UserToken::parse("cancels").unwrap()).await.unwrap();
    work_for(&mut work, Duration::from_millis(200)).await;
    assert_eq!(item.state("cancels").await.unwrap(), OrderState::Released);
    assert_eq!(item.send(&item.notice("pays", "pi_1", "paid")).await, "sold");
    while item.state("does-not").await.unwrap() != OrderState::Released {
        assert!(micros_now() < grace_until.as_micros() + 10_000_000, "the unpaid hold never ends");
        work_for(&mut work, Duration::from_millis(100)).await;
    }
    assert!(micros_now() >= grace_until.as_micros(), "the unpaid hold ended before the grace");
    assert_eq!(item.ledger.ledger.item(&item.item_id).await.unwrap().units_taken, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_was_reported_in_time_and_not_decided_is_honoured_when_it_is_repeated() {
    let item =
        HeldItem::start(SHORT, &["in-time", "not-repeated", "silent", "late", "declined"]).await.unwrap();
    let mut work = item.worker_with(Some("12")).await.unwrap();
    work_for(&mut work, Duration::from_millis(300)).await;
    // An order-confirm that reaches Redis and not the ledger, while the worker reaches both.
    let stores = source(&item.redis, &item.ledger);
    let no_ledger = |name: &str| match name {
        "FAIRDROP_LEDGER_URL" => Some("postgres://fairdrop@127.0.0.1:1/fairdrop".to_owned()),
        _ => stores(name),
    };
    let cut_off = App::from_config(&no_ledger).await.unwrap();
    let unavailable = async |buyer: &str, outcome: &str| {
        let notice = item.notice(buyer, &format!("pi_{buyer}"), outcome);
        let error = order_confirm::answer(&cut_off, notice).await.unwrap_err();
        assert!(error.to_string().contains("ledger-unavailable"), "{error}");
    };
    let ends_at = item.held_until("in-time").await;
    let said = async {
        tokio::join!(
            unavailable("in-time", "paid"),
            unavailable("not-repeated", "pending"),
            // No money has moved.
            unavailable("declined", "declined"),
        );
    };
    assert!(micros_now() + 500_000 < ends_at.as_micros(), "the notices are late, not the hold");
    // Each answer takes as long as order-confirm waits for a connection: until after the end of the holds.
    tokio::join!(said, work_until(&mut work, ends_at.as_micros() + 1));
    tokio::join!(unavailable("late", "paid"), work_for(&mut work, Duration::from_secs(1)));
    for buyer in ["silent", "late", "declined"] {
        assert_eq!(item.state(buyer).await.unwrap(), OrderState::Released, "{buyer}");
    }
    let grace_until = ends_at.saturating_add(Duration::from_secs(12));
    assert_eq!(item.held_until("in-time").await, grace_until);
    assert_eq!(item.held_until("not-repeated").await, grace_until);
    assert_eq!(item.send(&item.notice("in-time", "pi_in-time", "paid")).await, "sold");
    work_until(&mut work, grace_until.as_micros() + 500_000).await;
    assert_eq!(item.state("not-repeated").await.unwrap(), OrderState::Released);
    let sales = item.ledger.ledger.sales(&item.item_id, None, 10).await.unwrap();
    let sold: Vec<&str> = sales
        .iter()
        .filter(|sale| sale.state == SaleState::Sold)
        .map(|sale| sale.user_token.as_str())
        .collect();
    assert_eq!(sold, ["in-time"]);
}

/// Redis does not answer for longer than the hold lasts, and the notice is repeated long after.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_only_the_ledger_could_note_is_honoured_when_it_is_repeated() {
    let mut item = HeldItem::start(SHORT, &["paid", "pending", "declined", "silent"]).await.unwrap();
    // Shorter than the outage: only the note protects these holds.
    let mut work = item.worker_with(Some("60")).await.unwrap();
    work_for(&mut work, Duration::from_millis(300)).await;
    let ends_at = item.held_until("paid").await.as_micros();
    item.redis.redis.kill();
    for outcome in ["paid", "pending", "declined"] {
        let notice = item.notice(outcome, &format!("pi_{outcome}"), outcome);
        let error = order_confirm::answer(&item.confirm, notice).await.unwrap_err();
        assert!(error.to_string().contains("status-unavailable"), "{error}");
    }
    assert!(micros_now() < ends_at, "the notices are late, not the hold");
    // Less than an outage.
    tokio::time::sleep(Duration::from_micros(ends_at + 300_000 - micros_now())).await;
    item.redis.redis.restart().await.unwrap();
    work_for(&mut work, Duration::from_secs(3)).await;
    // The connection is replaced when it fails.
    let _ = item.state("paid").await;
    assert_eq!(item.query("SELECT count(*) FROM fairdrop.outages").await, 0, "that was an outage");
    for buyer in ["declined", "silent"] {
        assert_eq!(item.state(buyer).await.unwrap(), OrderState::Released, "{buyer}");
    }
    assert_eq!(item.held_until("paid").await.as_micros(), ends_at + 60_000_000);
    assert_eq!(item.send(&item.notice("paid", "pi_paid", "paid")).await, "sold");
    assert_eq!(item.send(&item.notice("pending", "pi_pending", "paid")).await, "sold");
}

/// order-confirm is cut off from Redis, which the worker reaches.
#[tokio::test(flavor = "multi_thread")]
async fn a_note_in_the_ledger_holds_for_its_hold_and_until_its_notice_is_decided() {
    let item = HeldItem::start(SHORT, &["repeated", "refused", "b", "late"]).await.unwrap();
    let mut work = item.worker_with(Some("3")).await.unwrap();
    work_for(&mut work, Duration::from_millis(300)).await;
    assert_eq!(item.send(&item.notice("b", "pi_b", "paid")).await, "sold");
    let stores = source(&item.redis, &item.ledger);
    let no_redis = |name: &str| match name {
        "FAIRDROP_MAIN_REDIS_URL" => Some("rediss://127.0.0.1:1".to_owned()),
        _ => stores(name),
    };
    let cut_off = App::from_config(&no_redis).await.unwrap();
    let unavailable = async |buyer: &str, reference: &str| {
        let notice = item.notice(buyer, reference, "paid");
        let error = order_confirm::answer(&cut_off, notice).await.unwrap_err();
        assert!(error.to_string().contains("status-unavailable"), "{error}");
    };
    unavailable("repeated", "pi_repeated").await;
    unavailable("refused", "pi_b").await;
    assert_eq!(item.send(&item.notice("refused", "pi_b", "paid")).await, "payment-used");
    let ends_at = item.held_until("late").await.as_micros();
    assert!(micros_now() < ends_at, "the notices are late, not the hold");
    work_until(&mut work, ends_at + 500_000).await;
    unavailable("late", "pi_late").await;
    for buyer in ["refused", "late"] {
        assert_eq!(item.state(buyer).await.unwrap(), OrderState::Released, "{buyer}");
    }
    // It is not repeated: the grace ends, and is no second one.
    assert_eq!(item.held_until("repeated").await.as_micros(), ends_at + 3_000_000);
    work_until(&mut work, ends_at + 3_500_000).await;
    assert_eq!(item.state("repeated").await.unwrap(), OrderState::Released);
    assert_eq!(item.ledger.ledger.prune_attempts().await.unwrap(), 1);
    assert_eq!(item.query("SELECT count(*) FROM fairdrop.attempts").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_payment_gives_no_grace() {
    let item = HeldItem::start(SHORT, &["a", "b", "c"]).await.unwrap();
    let mut work = item.worker().await.unwrap();
    work_for(&mut work, Duration::from_millis(200)).await;
    assert_eq!(item.send(&item.notice("a", "pi_1", "pending")).await, "reserved");
    assert_eq!(item.send(&item.notice("a", "pi_2", "pending")).await, "already-extended");
    let sold = item.send(&item.notice("b", "pi_3", "paid")).await;
    assert_eq!(sold, "sold");
    assert_eq!(item.send(&item.notice("a", "pi_3", "paid")).await, "payment-used");
    // Nor does a repeated notice that changes nothing: the hold ends when its answer says.
    let pending = item.notice("c", "pi_4", "pending");
    let first = item.answer(&pending).await;
    assert_eq!(item.answer(&pending).await["reserved_until"], first["reserved_until"]);
    let ends_at = item.held_until("c").await;
    assert_eq!(first["reserved_until"], ends_at.as_micros());
    work_until(&mut work, ends_at.as_micros() + 500_000).await;
    for buyer in ["a", "c"] {
        assert_eq!(item.state(buyer).await.unwrap(), OrderState::Released, "{buyer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_one_notice_leaves_the_grace_of_another() {
    let item = HeldItem::start(SHORT, &["refused", "repeats", "b"]).await.unwrap();
    let mut work = item.worker().await.unwrap();
    work_for(&mut work, Duration::from_millis(200)).await;
    assert_eq!(item.send(&item.notice("b", "pi_b", "paid")).await, "sold");
    // Reported in time, and answered with a 503.
    let noted = async |buyer: &str| {
        let token = UserToken::parse(buyer).unwrap();
        item.redis.queue.record_attempt(&item.item_id, &token, &format!("Paid pi_{buyer}")).await.unwrap();
    };
    noted("refused").await;
    assert_eq!(item.send(&item.notice("refused", "pi_b", "paid")).await, "payment-used");
    assert_eq!(item.send(&item.notice("repeats", "pi_repeats", "pending")).await, "reserved");
    noted("repeats").await;
    assert_eq!(item.send(&item.notice("repeats", "pi_repeats", "pending")).await, "reserved");
    let ends_at = item.held_until("repeats").await;
    work_until(&mut work, ends_at.as_micros() + 500_000).await;
    for buyer in ["refused", "repeats"] {
        let notice = item.notice(buyer, &format!("pi_{buyer}"), "paid");
        assert_eq!(item.send(&notice).await, "sold", "{buyer}");
    }
}

/// The ledger is unavailable for longer than the holds last; both buyers have paid before, and their notices were not answered.
#[tokio::test(flavor = "multi_thread")]
async fn no_buyer_who_paid_in_time_loses_the_unit_to_an_outage_of_postgresql() {
    let mut item = HeldItem::start(SHORT, &["recorded"]).await.unwrap();
    let mut work = item.worker().await.unwrap();
    work_for(&mut work, Duration::from_millis(300)).await;
    item.ledger.postgres.stop();
    // Its task waits in Redis.
    item.reserve(&["not-recorded"]).await.unwrap();
    let notices =
        ["recorded", "not-recorded"].map(|buyer| (buyer, item.notice(buyer, &format!("pi_{buyer}"), "paid")));
    let answers =
        join_all(notices.iter().map(|(_, notice)| order_confirm::answer(&item.confirm, notice.clone())));
    for answer in answers.await {
        let temporary = answer.unwrap_err().to_string();
        assert!(temporary.contains("ledger-unavailable"), "{temporary}");
    }
    work_for(&mut work, Duration::from_secs(8)).await;
    item.ledger.postgres.restart().await.unwrap();
    // The worker is faster than the shop.
    work_for(&mut work, Duration::from_secs(2)).await;
    for (buyer, notice) in &notices {
        let answer = order_confirm::answer(&item.confirm, notice.clone()).await.unwrap();
        assert_eq!(status_of(&answer), "sold", "{buyer}: {answer}");
    }
}
