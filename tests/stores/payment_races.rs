//! Two events about one reservation at the same moment, in every pair: one outcome, and both senders learn the same.

use crate::held_item::{HeldItem, Holds};
use futures::{StreamExt, stream};
use ledger::{BuyerState, Due, SaleState};
use local::system::clock::micros_now;
use shared::item::ItemChanges;
use shared::permit::Permit;
use shared::queue::{Hold, OrderState, ReservationOutcome, Settlement, TaskBody};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::time::Duration;

/// Races of each pair, unless `FAIRDROP_RACES` says otherwise.
const RACES: usize = 200;
const AT_ONCE: usize = 4;
/// The outcomes of a notice, and the end of the hold.
const EVENTS: [&str; 6] = ["paid", "pending", "declined", "failed", "cancelled", "expiry"];

pub(crate) fn races() -> usize {
    std::env::var("FAIRDROP_RACES").map_or(RACES, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_events_have_one_outcome_and_both_senders_learn_it() {
    let pairs: Vec<[&str; 2]> = (0..EVENTS.len())
        .flat_map(|one| (one + 1..EVENTS.len()).map(move |other| [EVENTS[one], EVENTS[other]]))
        .collect();
    let item = HeldItem::start(Holds { hold_seconds: 1, max_hold_seconds: 0 }, &[]).await.unwrap();
    let count = races();
    let stock_total = u32::try_from(pairs.len() * count).unwrap();
    let more = ItemChanges { stock_total: Some(stock_total.max(2_000)), ..ItemChanges::default() };
    item.ledger.ledger.change_item(&item.item_id, &more).await.unwrap();
    item.redis.queue.update_item(&item.item_id, &more).await.unwrap();
    for pair in pairs {
        let buyers: Vec<String> = (0..count).map(|number| format!("{}-{number}", pair.join("-"))).collect();
        record(&item, &buyers).await;
        let races = buyers.iter().enumerate().map(|(number, buyer)| race(&item, pair, buyer, number));
        let states: Vec<BuyerState> = stream::iter(races).buffer_unordered(AT_ONCE).collect().await;
        let of = |wanted: fn(&BuyerState) -> bool| states.iter().filter(|state| wanted(state)).count();
        let sold = of(|state| matches!(state, BuyerState::Sold));
        let released = of(|state| matches!(state, BuyerState::Released));
        println!("{pair:?}: {sold} sold, {released} released of {count}");
        if let ["paid", "failed" | "cancelled" | "expiry"] = pair {
            assert!(sold > 0 && released > 0, "{pair:?}: {sold} sold, {released} released: that was no race");
        }
    }
    let known = item.ledger.ledger.item(&item.item_id).await.unwrap();
    let in_redis = item.redis.queue.item(&item.item_id).await.unwrap();
    assert_eq!(in_redis.stock_left + known.units_taken, in_redis.stock_total);
}

/// Reserves units for `buyers`, records them, and waits until their holds have ended. They are released by
/// [`expire`] alone.
pub(crate) async fn record(item: &HeldItem, buyers: &[String]) {
    let names: Vec<&str> = buyers.iter().map(String::as_str).collect();
    item.reserve(&names).await.unwrap();
    let queue = &item.redis.queue;
    loop {
        let tasks = queue.take_tasks(&item.item_id, 500).await.unwrap();
        let ids: Vec<String> = tasks.iter().map(|task| task.id.clone()).collect();
        let reservations: Vec<_> = tasks
            .into_iter()
            .filter_map(|task| match task.body {
                TaskBody::Record(reservation) => Some(reservation),
                _ => None,
            })
            .collect();
        if ids.is_empty() {
            break;
        }
        item.ledger.ledger.record(&item.item_id, &reservations, Permit::Unleased).await.unwrap();
        queue.acknowledge(&item.item_id, &ids).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(1_010)).await;
}

/// Two events of `buyer`, and then both again. Returns the state of the reservation.
async fn race(item: &HeldItem, events: [&str; 2], buyer: &str, number: usize) -> BuyerState {
    // One payment, or two of one buyer.
    let references = [format!("{buyer}-a"), format!("{buyer}-{}", ["a", "b"][number / 2 % 2])];
    let act = |which: usize| event(item, events[which], buyer, &references[which]);
    let late = async |which: usize| {
        tokio::time::sleep(Duration::from_micros(number as u64 * 37 % 1_500)).await;
        act(which).await
    };
    let first = number % 2;
    let mut answers = [String::new(), String::new()];
    (answers[first], answers[1 - first]) = tokio::join!(act(first), late(1 - first));

    let state = ledger_state(item, buyer).await;
    let context = format!("{events:?} of {buyer}: {answers:?}, {state:?}");
    for answer in &answers {
        assert!(claim(answer).is_none_or(|claimed| claimed == kind(state)), "untrue: {context}");
    }
    let is_decided = kind(state) != "reserved";
    assert_eq!(is_decided, answers.iter().any(|answer| claim(answer).is_some()), "no outcome: {context}");
    match (state, item.state(buyer).await.unwrap()) {
        (BuyerState::Sold, OrderState::Sold) | (BuyerState::Released, OrderState::Released) => {}
        (BuyerState::Reserved { until }, OrderState::Reserved(Hold::Until(held))) if until == held => {}
        (_, redis) => panic!("{context}, and Redis has {redis:?}"),
    }
    for which in [0, 1] {
        if events[which] == "expiry" && !is_decided {
            continue;
        }
        let again = act(which).await;
        assert!(claim(&again).is_none_or(|claimed| claimed == kind(state)), "{again} again: {context}");
        if claim(&answers[which]).is_some() {
            assert_eq!(again, answers[which], "again: {context}");
        }
    }
    assert_eq!(ledger_state(item, buyer).await, state, "changed by a repetition: {context}");
    state
}

/// What an answer says about the end of the reservation; `None` if it says that it goes on.
fn claim(answer: &str) -> Option<&'static str> {
    match answer {
        "sold" | "already-sold" | "already-paid" => Some("sold"),
        "released" | "reservation-ended" => Some("released"),
        "reserved" | "already-extended" => None,
        other => panic!("unexpected answer {other}"),
    }
}

pub(crate) fn kind(state: BuyerState) -> &'static str {
    match state {
        BuyerState::Sold => "sold",
        BuyerState::Released => "released",
        BuyerState::Reserved { .. } => "reserved",
        BuyerState::Voided => "voided",
        BuyerState::Excluded | BuyerState::None => "none",
    }
}

pub(crate) async fn event(item: &HeldItem, event: &str, buyer: &str, reference: &str) -> String {
    if event == "expiry" {
        expire(item, buyer).await
    } else {
        item.send(&item.notice(buyer, reference, event)).await
    }
}

/// The worker's work on one ended hold.
pub(crate) async fn expire(item: &HeldItem, buyer: &str) -> String {
    let user_token = UserToken::parse(buyer).unwrap();
    let OrderState::Reserved(Hold::Until(hold_until)) = item.state(buyer).await.unwrap() else {
        return kind(ledger_state(item, buyer).await).to_owned();
    };
    let due = Due { user_token: user_token.clone(), hold_until, cancelled: false, kept_until: None };
    let now = Stamp::from_micros(micros_now()).unwrap();
    let released =
        item.ledger.ledger.release_due(&item.item_id, &[due], now, Permit::Unleased.fence(1)).await.unwrap();
    let outcome = match released[0] {
        BuyerState::Sold => ReservationOutcome::Sold,
        BuyerState::Reserved { until } => ReservationOutcome::Reserved { until },
        BuyerState::Released => ReservationOutcome::Released { returns_unit: true },
        BuyerState::Voided => ReservationOutcome::Voided,
        BuyerState::Excluded | BuyerState::None => panic!("{buyer} is not recorded"),
    };
    let settlement = Settlement { user_token, expected: Some(hold_until.to_string()), outcome };
    item.redis.queue.settle(&item.item_id, &[settlement]).await.unwrap();
    kind(released[0]).to_owned()
}

pub(crate) async fn ledger_state(item: &HeldItem, buyer: &str) -> BuyerState {
    let user_token = UserToken::parse(buyer).unwrap();
    let ledger = &item.ledger.ledger;
    let states = ledger.states_of(&item.item_id, std::slice::from_ref(&user_token)).await.unwrap();
    match states[&user_token] {
        SaleState::Sold => BuyerState::Sold,
        SaleState::Released => BuyerState::Released,
        SaleState::Voided => BuyerState::Voided,
        SaleState::Reserved => {
            let any = Due { user_token, hold_until: Stamp::EPOCH, cancelled: false, kept_until: None };
            ledger.buyer_states(&item.item_id, &[any]).await.unwrap()[0]
        }
    }
}
