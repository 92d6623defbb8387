//! A payment that is declined and then succeeds under the same reference, at the end of its hold.

use anyhow::Result;
use checkout_worker::{ItemWork, WorkerContext};
use futures::future::join_all;
use ledger::{BuyerState, Due};
use local::system::clock::micros_now;
use order_confirm::App;
use redis::AsyncCommands;
use serde_json::{Value, json};
use shared::item::{ItemId, NewItem};
use shared::permit::Permit;
use shared::queue::{Hold, Keys, OrderState};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::time::Duration;
use tests::{LedgerServer, RedisQueue, source};

const BUYERS: u64 = 60;
/// The first payment succeeds this long before the end of the holds, the last one this long after it.
const BEFORE_THE_END: Duration = Duration::from_millis(400);
const AFTER_THE_END: Duration = Duration::from_millis(1_200);

/// Sends a notice until its answer is no temporary refusal.
async fn send(confirm: &App, notice: &Value) -> Value {
    loop {
        match order_confirm::answer(confirm, notice.clone()).await {
            Ok(answer) => return answer,
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// A card that is declined twice and succeeds at the moment `starts_at`, under one reference.
async fn pay_at_the_end(confirm: &App, item_id: &ItemId, buyer: &str, starts_at: u64) -> Value {
    let notice = |outcome: &str| {
        json!({ "item_id": item_id, "user_token": buyer, "payment_reference": format!("card-{buyer}"),
                "outcome": outcome })
    };
    for _ in 0..2 {
        let declined = send(confirm, &notice("declined")).await;
        assert_eq!((&declined["status"], &declined["outcome"]), (&json!("reserved"), &json!("declined")));
        assert!(declined["reserved_until"].as_u64().is_some(), "{declined}");
    }
    tokio::time::sleep(Duration::from_micros(starts_at.saturating_sub(micros_now()))).await;
    send(confirm, &notice("paid")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_after_a_decline_and_the_end_of_its_hold_have_one_outcome() {
    let (redis, ledger) = (RedisQueue::start().await.unwrap(), LedgerServer::start().await.unwrap());
    let item_id: ItemId = "a".parse().unwrap();
    let new = NewItem {
        item_id: item_id.clone(),
        name: "A".into(),
        stock_total: 100,
        opens_at: Stamp::from_micros(micros_now() - 3_600_000_000).unwrap(),
        closes_at: None,
        hold_seconds: 2,
        settle_window_ms: 50,
    };
    ledger.ledger.create_item(&new).await.unwrap();
    redis.queue.create_item(&new, 1).await.unwrap();
    let buyers: Vec<String> = (0..BUYERS).map(|number| format!("buyer-{number:02}")).collect();
    let orders: Vec<(u64, &str)> =
        (micros_now() - 9_000_000..).zip(buyers.iter().map(String::as_str)).collect();
    let mut connection = redis.redis.connect().await.unwrap();
    let _: () = connection.zadd_multiple(Keys::of(&item_id).orders, &orders).await.unwrap();
    redis.queue.drain(&item_id, 500, Permit::Unleased).await.unwrap();

    let token = |buyer: &str| UserToken::parse(buyer).unwrap();
    let OrderState::Reserved(Hold::Until(ends_at)) =
        redis.queue.order_state(&item_id, &token(&buyers[0])).await.unwrap()
    else {
        panic!("the drain reserved nothing")
    };
    let confirm = App::from_config(&source(&redis, &ledger)).await.unwrap();
    let step = (BEFORE_THE_END + AFTER_THE_END).as_micros() as u64 / BUYERS;
    let first = ends_at.as_micros() - BEFORE_THE_END.as_micros() as u64;
    let payments = join_all(
        buyers.iter().zip(0..).map(|(buyer, n)| pay_at_the_end(&confirm, &item_id, buyer, first + n * step)),
    );
    // Workers that are killed within their rounds, and some that finish them.
    let workers = async {
        for lives_ms in (0..).map(|n| [3, 1_000, 20, 60][n % 4]) {
            let mut work = worker(&redis, &ledger, &item_id).await.unwrap();
            let _ = tokio::time::timeout(Duration::from_millis(lives_ms), work.round(true)).await;
        }
    };
    let answers = tokio::select! { answers = payments => answers, () = workers => unreachable!() };

    let mut work = worker(&redis, &ledger, &item_id).await.unwrap();
    for _ in 0..150 {
        let _ = work.round(true).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let due: Vec<Due> = buyers
        .iter()
        .map(|buyer| Due { user_token: token(buyer), hold_until: ends_at, cancelled: false })
        .collect();
    let states = ledger.ledger.buyer_states(&item_id, &due).await.unwrap();
    let mut sold = 0;
    for ((buyer, answer), state) in buyers.iter().zip(&answers).zip(states) {
        let in_redis = redis.queue.order_state(&item_id, &token(buyer)).await.unwrap();
        match (answer["status"].as_str(), answer["type"].as_str()) {
            (Some("sold"), _) => {
                assert_eq!((state, in_redis), (BuyerState::Sold, OrderState::Sold), "{buyer}");
                sold += 1;
            }
            (_, Some("urn:fairdrop:problem:reservation-ended")) => {
                assert_eq!((state, in_redis), (BuyerState::Released, OrderState::Released), "{buyer}");
            }
            _ => panic!("{buyer}: {answer}"),
        }
    }
    assert!(sold > 0 && sold < BUYERS, "{sold} of {BUYERS} paid: that was no race");
    let known = ledger.ledger.item(&item_id).await.unwrap();
    assert_eq!(u64::from(known.units_taken), sold);
}

async fn worker(redis: &RedisQueue, ledger: &LedgerServer, item_id: &ItemId) -> Result<ItemWork> {
    Ok(ItemWork::new(WorkerContext::from_config(&source(redis, ledger)).await?, item_id.clone()))
}
