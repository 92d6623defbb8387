//! A payment that is declined and then succeeds under the same reference, at the end of its hold.

use crate::held_item::{HeldItem, Holds, status_of, work_for};
use futures::future::join_all;
use ledger::{BuyerState, Due};
use local::system::clock::micros_now;
use serde_json::Value;
use shared::queue::OrderState;
use shared::user_token::UserToken;
use std::time::Duration;

const BUYERS: u64 = 60;
/// The first payment succeeds this long before the end of the holds, the last one this long after it.
const BEFORE_THE_END: Duration = Duration::from_millis(400);
const AFTER_THE_END: Duration = Duration::from_millis(1_200);

/// A card that is declined twice and succeeds at the moment `starts_at`, under one reference.
async fn pay_at_the_end(item: &HeldItem, buyer: &str, starts_at: u64) -> Value {
    let notice = |outcome: &str| item.notice(buyer, &format!("card-{buyer}"), outcome);
    for _ in 0..2 {
        let declined = item.answer(&notice("declined")).await;
        assert_eq!((status_of(&declined).as_str(), &declined["outcome"]), ("reserved", &"declined".into()));
        assert!(declined["reserved_until"].as_u64().is_some(), "{declined}");
    }
    tokio::time::sleep(Duration::from_micros(starts_at.saturating_sub(micros_now()))).await;
    item.answer(&notice("paid")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_after_a_decline_and_the_end_of_its_hold_have_one_outcome() {
    let buyers: Vec<String> = (0..BUYERS).map(|number| format!("buyer-{number:02}")).collect();
    let names: Vec<&str> = buyers.iter().map(String::as_str).collect();
    let item = HeldItem::start(Holds { hold_seconds: 2, max_hold_seconds: 0 }, &names).await.unwrap();
    let ends_at = item.held_until(&buyers[0]).await;
    let step = (BEFORE_THE_END + AFTER_THE_END).as_micros() as u64 / BUYERS;
    let first = ends_at.as_micros() - BEFORE_THE_END.as_micros() as u64;
    let payments =
        join_all(buyers.iter().zip(0..).map(|(buyer, n)| pay_at_the_end(&item, buyer, first + n * step)));
    // Workers that are killed within their rounds, and some that finish them.
    let workers = async {
        for lives_ms in (0..).map(|n| [3, 1_000, 20, 60][n % 4]) {
            let mut work = item.worker().await.unwrap();
            let _ = tokio::time::timeout(Duration::from_millis(lives_ms), work.round(true)).await;
        }
    };
    let answers = tokio::select! { answers = payments => answers, () = workers => unreachable!() };

    work_for(&mut item.worker().await.unwrap(), Duration::from_secs(3)).await;
    let due: Vec<Due> = buyers
        .iter()
        .map(|buyer| Due {
            user_token: UserToken::parse(buyer).unwrap(),
            hold_until: ends_at,
            cancelled: false,
            kept_until: None,
        })
        .collect();
    let states = item.ledger.ledger.buyer_states(&item.item_id, &due).await.unwrap();
    let mut sold = 0;
    for ((buyer, answer), state) in buyers.iter().zip(&answers).zip(states) {
        let in_redis = item.state(buyer).await.unwrap();
        match status_of(answer).as_str() {
            "sold" => {
                assert_eq!((state, in_redis), (BuyerState::Sold, OrderState::Sold), "{buyer}");
                sold += 1;
            }
            "reservation-ended" => {
                assert_eq!((state, in_redis), (BuyerState::Released, OrderState::Released), "{buyer}");
            }
            _ => panic!("{buyer}: {answer}"),
        }
    }
    assert!(sold > 0 && sold < BUYERS, "{sold} of {BUYERS} paid: that was no race");
    let known = item.ledger.ledger.item(&item.item_id).await.unwrap();
    assert_eq!(u64::from(known.units_taken), sold);
}
