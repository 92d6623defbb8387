//! The ledger on a real PostgreSQL: the rules of the database, and races of payments with ends of holds.

use anyhow::Result;
use futures::future::join_all;
use ledger::{
    BuyerState, Due, Extension, LastSigns, Ledger, LedgerError, NEVER_OVERSOLD, Payment, WantedHold,
};
use local::system::postgres::Postgres;
use shared::item::{ItemId, NewItem};
use shared::permit::Permit;
use shared::queue::{Hold, NO_HOLD_MICROS, OrderState, Reservation};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use sqlx::{Connection, Executor, PgConnection};
use std::time::{Duration, Instant};
use tests::LedgerServer;

mod at_risk;
mod connections;
mod database_user;
mod fence;
mod items;
mod monitoring;
mod outbox;
mod payments;
mod service;
mod unpaid;
mod voids;

const NOW: u64 = 1_795_000_000_000_000;
const HOLD: u64 = 600_000_000;

fn at(micros: u64) -> Stamp {
    Stamp::from_micros(micros).unwrap()
}

fn buyer(name: &str) -> UserToken {
    UserToken::parse(name).unwrap()
}

/// A reservation of `name`, made `after` microseconds after the beginning.
fn held(name: &str, after: u64) -> Reservation {
    Reservation {
        user_token: buyer(name),
        placed_at: at(NOW + after - 2_000_000),
        reserved_at: at(NOW + after),
        hold_until: at(NOW + after + HOLD),
        epoch: 1,
    }
}

fn sold_at_once(name: &str, after: u64) -> Reservation {
    Reservation { hold_until: at(NOW + after + NO_HOLD_MICROS), ..held(name, after) }
}

/// The reservation that [`held`] makes, as due.
fn due(name: &str, after: u64, cancelled: bool) -> Due {
    Due { user_token: buyer(name), hold_until: at(NOW + after + HOLD), cancelled, kept_until: None }
}

async fn item(ledger: &Ledger, name: &str, stock_total: u32) -> ItemId {
    let item_id: ItemId = name.parse().unwrap();
    let new = NewItem {
        item_id: item_id.clone(),
        name: name.into(),
        stock_total,
        opens_at: at(NOW),
        closes_at: None,
        hold_seconds: 600,
        max_hold_seconds: 0,
        settle_window_ms: 2_000,
    };
    assert!(ledger.create_item(&new).await.unwrap());
    item_id
}

async fn by_hand(server: &LedgerServer, sql: &'static str) -> Result<u64, String> {
    let mut connection = PgConnection::connect(&server.postgres.url()).await.unwrap();
    connection.execute(sql).await.map(|done| done.rows_affected()).map_err(|error| error.to_string())
}

#[tokio::test]
async fn the_database_itself_enforces_the_rules() {
    let server = LedgerServer::start().await.unwrap();
    let item_id = item(&server.ledger, "a", 2).await;
    server.ledger.record(&item_id, &[held("x", 0), sold_at_once("y", 1)], Permit::Unleased).await.unwrap();
    let row = "INSERT INTO fairdrop.sales (item_id, user_token, state, placed_at, reserved_at, hold_until, epoch) VALUES ";
    let cases: [(&str, &str); 13] = [
        ("('a', 'z', 'sold', 1, 1, 1, 1)", NEVER_OVERSOLD),
        ("('a', 'z', 'reserved', 1, 1, 1, 1)", NEVER_OVERSOLD),
        ("('a', 'z', 'released', 1, 1, 1, 2)", "another epoch"),
        ("('b', 'z', 'sold', 1, 1, 1, 1)", "sales_item_id_fkey"),
        ("('a', 'z', 'stolen', 1, 1, 1, 1)", "state_check"),
        ("UPDATE fairdrop.sales SET state = 'reserved' WHERE user_token = 'y'", "cannot change"),
        ("UPDATE fairdrop.sales SET state = 'released' WHERE user_token = 'y'", "cannot change"),
        ("UPDATE fairdrop.sales SET reserved_at = 9 WHERE user_token = 'x'", "cannot be replaced"),
        ("DELETE FROM fairdrop.sales", "never deleted"),
        ("TRUNCATE fairdrop.sales", "never deleted"),
        ("UPDATE fairdrop.items SET units_taken = 0", "counted from the sales"),
        ("UPDATE fairdrop.items SET stock_total = 1", NEVER_OVERSOLD),
        ("UPDATE fairdrop.current_epoch SET epoch = 1", "only goes up"),
    ];
    for (case, why) in cases {
        let sql: &'static str = if case.starts_with('(') { format!("{row}{case}").leak() } else { case };
        let error = by_hand(&server, sql).await.unwrap_err();
        assert!(error.contains(why), "{case}: {error}");
    }
    let known = server.ledger.item(&item_id).await.unwrap();
    assert_eq!((known.units_taken, known.item.stock_total), (2, 2));
    // Released, a unit is free again; only a newer reservation can take it for the buyer.
    by_hand(&server, "UPDATE fairdrop.sales SET state = 'released' WHERE user_token = 'x'").await.unwrap();
    assert_eq!(server.ledger.item(&item_id).await.unwrap().units_taken, 1);
    let error = by_hand(&server, "UPDATE fairdrop.sales SET state = 'sold' WHERE user_token = 'x'").await;
    assert!(error.unwrap_err().contains("cannot become active again"));
}

#[tokio::test]
async fn writes_under_an_old_epoch_are_refused() {
    let server = LedgerServer::start().await.unwrap();
    let item_id = item(&server.ledger, "a", 5).await;
    server.ledger.record(&item_id, &[held("x", 0)], Permit::Unleased).await.unwrap();
    by_hand(&server, "UPDATE fairdrop.current_epoch SET epoch = 2").await.unwrap();
    let stale = Err(LedgerError::StaleEpoch);
    assert_eq!(server.ledger.record(&item_id, &[held("y", 1)], Permit::Unleased).await.map(drop), stale);
    assert_eq!(
        server.ledger.pay(&item_id, &buyer("x"), "p", Permit::Unleased.fence(1)).await.map(drop),
        stale
    );
    let due = [due("x", 0, true)];
    assert_eq!(
        server.ledger.release_due(&item_id, &due, at(NOW), Permit::Unleased.fence(1)).await.map(drop),
        stale
    );
    assert_eq!(server.ledger.epoch().await, Ok(2));
    assert!(matches!(
        server.ledger.pay(&item_id, &buyer("x"), "p", Permit::Unleased.fence(2)).await,
        Ok(Payment::Sold { .. })
    ));
}

#[tokio::test]
async fn a_batch_is_recorded_in_order_while_there_is_stock() {
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    let item_id = item(ledger, "a", 3).await;
    let batch: Vec<Reservation> =
        ["e", "d", "c", "b", "a"].iter().zip(0..).map(|(name, n)| held(name, n)).collect();
    let until = |n: u64| BuyerState::Reserved { until: at(NOW + n + HOLD) };
    let expected = [until(0), until(1), until(2), BuyerState::None, BuyerState::None];
    assert_eq!(ledger.record(&item_id, &batch, Permit::Unleased).await.unwrap(), expected);
    // Again, whole or in part: nothing changes.
    assert_eq!(ledger.record(&item_id, &batch, Permit::Unleased).await.unwrap(), expected);
    assert_eq!(ledger.record(&item_id, &batch[1..4], Permit::Unleased).await.unwrap(), expected[1..4]);
    assert_eq!(ledger.item(&item_id).await.unwrap().units_taken, 3);

    let all = [due("e", 0, false), due("d", 1, true), due("c", 2, false), due("b", 3, true)];
    let standings =
        ledger.release_due(&item_id, &all, at(NOW + HOLD), Permit::Unleased.fence(1)).await.unwrap();
    assert_eq!(standings, [BuyerState::Released, BuyerState::Released, until(2), BuyerState::None]);
    assert_eq!(ledger.item(&item_id).await.unwrap().units_taken, 1);
    // A reservation that is not the one in the ledger is not released, and its state is not Released.
    let others = [due("c", 20, true), due("d", 20, true)];
    let standings =
        ledger.release_due(&item_id, &others, at(NOW + 2 * HOLD), Permit::Unleased.fence(1)).await.unwrap();
    assert_eq!(standings, [until(2), BuyerState::None]);
    // A repetition does not reactivate a released reservation; a newer reservation replaces it, once.
    assert_eq!(
        ledger.record(&item_id, &batch[..2], Permit::Unleased).await.unwrap(),
        [BuyerState::Released, BuyerState::Released]
    );
    let newer = sold_at_once("e", 10);
    assert_eq!(
        ledger.record(&item_id, &[newer.clone(), newer], Permit::Unleased).await.unwrap(),
        [BuyerState::Sold, BuyerState::Sold]
    );
    assert_eq!(ledger.item(&item_id).await.unwrap().units_taken, 2);
    let in_order = ledger.sales(&item_id, None, 100).await.unwrap();
    let names: Vec<&str> = in_order.iter().map(|sale| sale.user_token.as_str()).collect();
    assert_eq!(names, ["d", "c", "e"]);
    let page = ledger.sales(&item_id, in_order.first(), 1).await.unwrap();
    assert_eq!(page, in_order[1..2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_and_the_end_of_its_hold_have_one_outcome() {
    const RACES: u64 = 1_000;
    let server = LedgerServer::start().await.unwrap();
    let item_id = item(&server.ledger, "a", 2_000).await;
    let names: Vec<String> = (0..RACES).map(|n| format!("buyer-{n}")).collect();
    let batch: Vec<Reservation> = names.iter().zip(0..).map(|(name, n)| held(name, n)).collect();
    for part in batch.chunks(500) {
        server.ledger.record(&item_id, part, Permit::Unleased).await.unwrap();
    }
    let mut paid = 0;
    for (name, n) in names.iter().zip(0..) {
        let due = [due(name, n, false)];
        let end = at(NOW + RACES + HOLD);
        let token = buyer(name);
        let pay = server.ledger.pay(&item_id, &token, name, Permit::Unleased.fence(1));
        let release = server.ledger.release_due(&item_id, &due, end, Permit::Unleased.fence(1));
        // The first call alternates between races.
        let (payment, standings) = if n % 2 == 0 {
            tokio::join!(pay, release)
        } else {
            let (release, pay) = tokio::join!(release, pay);
            (pay, release)
        };
        match (payment.unwrap(), standings.unwrap()[0]) {
            (Payment::Sold { .. }, BuyerState::Sold) => paid += 1,
            (Payment::Unknown, BuyerState::Released) => {}
            other => panic!("two outcomes: {other:?}"),
        }
    }
    let known = server.ledger.item(&item_id).await.unwrap();
    assert_eq!(u64::from(known.units_taken), paid);
    assert!(paid > 0 && paid < RACES, "{paid} of {RACES} paid: that was no race");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_payment_counts_once_and_for_one_buyer() {
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    let item_id = item(ledger, "a", 10).await;
    ledger
        .record(&item_id, &[held("x", 0), held("y", 1), sold_at_once("z", 2)], Permit::Unleased)
        .await
        .unwrap();
    let x = buyer("x");
    let same = join_all((0..100).map(|_| ledger.pay(&item_id, &x, "pay-1", Permit::Unleased.fence(1)))).await;
    let sold = Payment::Sold { placed_at: at(NOW - 2_000_000) };
    assert!(same.iter().all(|answer| answer.as_ref() == Ok(&sold)), "{same:?}");
    assert_eq!(ledger.pay(&item_id, &x, "pay-2", Permit::Unleased.fence(1)).await, Ok(Payment::AlreadyPaid));
    assert_eq!(
        ledger.pay(&item_id, &buyer("y"), "pay-1", Permit::Unleased.fence(1)).await,
        Ok(Payment::Used)
    );
    assert_eq!(
        ledger.pay(&item_id, &buyer("stranger"), "pay-3", Permit::Unleased.fence(1)).await,
        Ok(Payment::Unknown)
    );
    // Sold without a hold and paid afterwards: the payment is recorded once.
    assert!(matches!(
        ledger.pay(&item_id, &buyer("z"), "pay-4", Permit::Unleased.fence(1)).await,
        Ok(Payment::Sold { .. })
    ));
    assert_eq!(
        ledger.pay(&item_id, &buyer("z"), "pay-5", Permit::Unleased.fence(1)).await,
        Ok(Payment::AlreadyPaid)
    );

    let y = buyer("y");
    let later = at(NOW + 2 * HOLD);
    let extend = |reference| {
        ledger.extend(
            &item_id,
            &y,
            reference,
            WantedHold::once(later),
            OrderState::None,
            Permit::Unleased.fence(1),
        )
    };
    let extended = join_all((0..20).map(|_| extend("pay-6"))).await;
    assert!(extended.iter().all(|answer| *answer == Ok(Extension::Until(later))), "{extended:?}");
    assert_eq!(extend("pay-7").await, Ok(Extension::Spent));
    let due = [due("y", 1, false)];
    let at_first_end =
        ledger.release_due(&item_id, &due, at(NOW + HOLD + 1), Permit::Unleased.fence(1)).await.unwrap();
    assert_eq!(at_first_end, [BuyerState::Reserved { until: later }]);
    let held = OrderState::Reserved(Hold::Until(later));
    assert_eq!(
        ledger.give_up(&item_id, &y, "pay-6", held, Permit::Unleased.fence(1)).await,
        Ok(Payment::Released)
    );
    assert_eq!(ledger.pay(&item_id, &y, "pay-6", Permit::Unleased.fence(1)).await, Ok(Payment::Released));
    assert_eq!(extend("pay-6").await, Ok(Extension::Settled(Payment::Released)));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_workers_at_once_record_everything_once() {
    let server = LedgerServer::start().await.unwrap();
    let item_id = item(&server.ledger, "a", 700).await;
    let batch: Vec<Reservation> = (0..1_000).map(|n| held(&format!("buyer-{n:04}"), n)).collect();
    // Each of four workers has every task, in batches that overlap.
    let works = (0..4).map(|worker| {
        let (ledger, item_id, batch) = (server.ledger.clone(), item_id.clone(), batch.clone());
        async move {
            for part in batch[worker * 7..].chunks(90 + worker) {
                ledger.record(&item_id, part, Permit::Unleased).await.unwrap();
            }
            ledger.record(&item_id, &batch[..100], Permit::Unleased).await.unwrap();
        }
    });
    join_all(works).await;
    assert_eq!(server.ledger.item(&item_id).await.unwrap().units_taken, 700);
    assert_eq!(server.ledger.sales(&item_id, None, 2_000).await.unwrap().len(), 700);
}

#[tokio::test]
async fn last_signs_are_the_latest_heartbeat_and_the_latest_sale() {
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    assert_eq!(ledger.last_signs().await.unwrap(), LastSigns::default());
    let [one, other] = [item(ledger, "one", 2).await, item(ledger, "other", 2).await];
    ledger.record(&one, &[held("a", 7_000), held("b", 9_000)], Permit::Unleased).await.unwrap();
    ledger.record(&other, &[held("a", 8_000)], Permit::Unleased).await.unwrap();
    ledger.write_heartbeat().await.unwrap();
    let last = ledger.last_signs().await.unwrap();
    assert_eq!(last.sale_ms, Some(NOW / 1_000 + 9));
    let beat_at = ledger.replica(at(NOW)).await.unwrap().beat_at.unwrap();
    assert_eq!(last.heartbeat_ms, Some(beat_at.as_micros() / 1_000));
}

#[tokio::test]
async fn migrations_are_applied_once() {
    let server = LedgerServer::start().await.unwrap();
    let again = join_all((0..4).map(|_| server.ledger.migrate())).await;
    assert!(again.iter().all(|migrated| migrated.as_ref().is_ok_and(|one| one.applied == 0)), "{again:?}");
}
