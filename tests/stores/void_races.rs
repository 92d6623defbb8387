//! A unit is taken back at the moment at which it is paid, cancelled, extended or released, and at which the stock changes:
//! no unit is lost or sold twice, and no payment that bought a unit is without an answer.

use crate::held_item::{HeldItem, Holds};
use crate::payment_races::{event, kind, ledger_state, races, record};
use futures::{StreamExt, stream};
use ledger::{BuyerState, SaleState, VoidOrder};
use shared::item::ItemChanges;
use shared::permit::Permit;
use shared::queue::OrderState;
use shared::user_token::UserToken;
use std::time::Duration;

const AT_ONCE: usize = 4;
const EVENTS: [&str; 8] =
    ["paid", "pending", "declined", "failed", "cancelled", "expiry", "leave", "restock"];

#[tokio::test(flavor = "multi_thread")]
async fn a_void_races_with_every_other_event() {
    let item = HeldItem::start(Holds { hold_seconds: 1, max_hold_seconds: 0 }, &[]).await.unwrap();
    let count = races();
    for other in EVENTS {
        let buyers: Vec<String> = (0..count).map(|number| format!("{other}-{number}")).collect();
        record(&item, &buyers).await;
        let races = buyers.iter().enumerate().map(|(number, buyer)| race(&item, other, buyer, number));
        let states: Vec<(BuyerState, bool)> = stream::iter(races).buffer_unordered(AT_ONCE).collect().await;
        let voided = states.iter().filter(|(state, _)| *state == BuyerState::Voided).count();
        let sold_before = states.iter().filter(|(_, was_sold)| *was_sold).count();
        println!("{other}: {voided} voided of {count}, {sold_before} of them had been paid");
        match other {
            "paid" => assert!((1..count).contains(&sold_before), "{sold_before}: that was no race"),
            "failed" | "cancelled" | "expiry" => {
                assert!((1..count).contains(&voided), "{voided}: that was no race");
            }
            _ => assert_eq!(voided, count, "{other}"),
        }
    }
    restock(&item, 1).await;
    let known = item.ledger.ledger.item(&item.item_id).await.unwrap();
    let in_redis = item.redis.queue.item(&item.item_id).await.unwrap();
    assert_eq!((in_redis.stock_left, known.units_taken), (known.item.stock_total, 0));
}

/// A void and another event of `buyer`, and then both again. Returns the state, and whether a sale was voided.
async fn race(item: &HeldItem, other: &str, buyer: &str, number: usize) -> (BuyerState, bool) {
    let reference = format!("{buyer}-pay");
    let act = async || match other {
        "leave" => {
            let token = UserToken::parse(buyer).unwrap();
            item.redis.queue.leave(&item.item_id, &token).await.unwrap();
            String::new()
        }
        "restock" => restock(item, number).await,
        notice => event(item, notice, buyer, &reference).await,
    };
    let wait = Duration::from_micros(number as u64 * 37 % 1_500);
    let (void_wait, other_wait) =
        if number.is_multiple_of(2) { (wait, Duration::ZERO) } else { (Duration::ZERO, wait) };
    let (voided, answer) = tokio::join!(
        async {
            tokio::time::sleep(void_wait).await;
            void(item, buyer).await
        },
        async {
            tokio::time::sleep(other_wait).await;
            act().await
        }
    );
    let state = ledger_state(item, buyer).await;
    let context = format!("{other} of {buyer}: {answer}, {voided:?}, {state:?}");
    match voided {
        None => assert_eq!(state, BuyerState::Released, "{context}"),
        Some(_) => assert_eq!(state, BuyerState::Voided, "{context}"),
    }
    // Who was told `sold` finds the payment in the void; every other payment was refused.
    let was_sold = voided == Some(SaleState::Sold);
    match answer.as_str() {
        "sold" => assert!(was_sold, "{context}"),
        "unit-voided" => assert_eq!(voided, Some(SaleState::Reserved), "{context}"),
        _ => assert!(!was_sold, "{context}"),
    }
    if ["paid", "pending", "failed", "cancelled"].contains(&other) {
        let expected = if voided.is_some() { "unit-voided" } else { "reservation-ended" };
        let again = event(item, "paid", buyer, &reference).await;
        assert_eq!(again, expected, "again: {context}");
    }
    assert_eq!(void(item, buyer).await, voided, "a repetition: {context}");
    assert_eq!(ledger_state(item, buyer).await, state, "changed by a repetition: {context}");
    let expected = if voided.is_some() { OrderState::Voided } else { OrderState::Released };
    assert_eq!(item.state(buyer).await.unwrap(), expected, "{context}, the ledger has {}", kind(state));
    (state, was_sold)
}

/// As drop-admin does it. Returns what the unit was.
async fn void(item: &HeldItem, buyer: &str) -> Option<SaleState> {
    let token = UserToken::parse(buyer).unwrap();
    let order = VoidOrder { buyer: &token, reason: "fraud", by: None, bars: false };
    let ledger = &item.ledger.ledger;
    let void = ledger.void(&item.item_id, order, Permit::Unleased.fence(1)).await.unwrap()?;
    reconcile::settle_void(&item.redis.queue, ledger, &void).await.unwrap();
    Some(void.was)
}

/// The stock goes up and down by one.
async fn restock(item: &HeldItem, number: usize) -> String {
    let stock_total = Some(2_000 + u32::from(number.is_multiple_of(2)));
    let changes = ItemChanges { stock_total, ..ItemChanges::default() };
    let _ = item.ledger.ledger.change_item(&item.item_id, &changes).await.unwrap();
    let _ = item.redis.queue.update_item(&item.item_id, &changes).await;
    String::new()
}
