//! Late and repeated notices of a payment, after which the buyer has another reservation.

use super::*;
use ledger::{Decline, SaleState, VoidOrder};
use shared::permit::Fence;

fn today() -> Fence {
    Permit::Unleased.fence(1)
}

/// The state in Redis of a buyer whose reservation was made `after` microseconds after the beginning.
fn in_redis(after: u64) -> OrderState {
    OrderState::Reserved(Hold::Until(at(NOW + after + HOLD)))
}

async fn state_of(ledger: &Ledger, item_id: &ItemId, who: &UserToken) -> Option<SaleState> {
    ledger.states_of(item_id, std::slice::from_ref(who)).await.unwrap().get(who).copied()
}

#[tokio::test]
async fn a_permanently_refused_payment_buys_nothing_for_a_later_reservation() {
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    let item_id = item(ledger, "a", 10).await;
    let (x, y) = (buyer("x"), buyer("y"));
    ledger.record(&item_id, &[held("x", 0)], Permit::Unleased).await.unwrap();
    ledger.release_due(&item_id, &[due("x", 0, true)], at(NOW), today()).await.unwrap();
    // No answer is final before Redis was asked, or while a newer reservation is in transit.
    assert_eq!(ledger.pay(&item_id, &x, "late", today()).await, Ok(Payment::Unknown));
    assert_eq!(ledger.refuse(&item_id, &x, "late", in_redis(10), today()).await, Ok(Payment::Unknown));
    assert_eq!(
        ledger.refuse(&item_id, &x, "late", OrderState::Released, today()).await,
        Ok(Payment::Released)
    );
    assert_eq!(ledger.pay(&item_id, &y, "early", today()).await, Ok(Payment::Unknown));
    assert_eq!(
        ledger.refuse(&item_id, &y, "early", OrderState::None, today()).await,
        Ok(Payment::NoReservation)
    );

    ledger.record(&item_id, &[held("x", 10), held("y", 11)], Permit::Unleased).await.unwrap();
    let later = at(NOW + 2 * HOLD);
    let refused =
        [(&x, "late", in_redis(10), Payment::Released), (&y, "early", in_redis(11), Payment::NoReservation)];
    for (who, reference, redis, answer) in refused {
        assert_eq!(ledger.pay(&item_id, who, reference, today()).await, Ok(answer));
        assert_eq!(ledger.refuse(&item_id, who, reference, redis, today()).await, Ok(answer));
        assert_eq!(
            ledger.extend(&item_id, who, reference, WantedHold::once(later), OrderState::None, today()).await,
            Ok(Extension::Settled(answer))
        );
        assert_eq!(ledger.give_up(&item_id, who, reference, redis, today()).await, Ok(answer));
        assert_eq!(state_of(ledger, &item_id, who).await, Some(SaleState::Reserved));
    }
    // Nor does it belong to another buyer.
    assert_eq!(ledger.pay(&item_id, &y, "late", today()).await, Ok(Payment::Used));
    assert_eq!(ledger.give_up(&item_id, &y, "late", in_redis(11), today()).await, Ok(Payment::Used));
    // Another payment buys the new unit; the answer to the old payment stays.
    assert!(matches!(ledger.pay(&item_id, &x, "new", today()).await, Ok(Payment::Sold { .. })));
    assert_eq!(ledger.pay(&item_id, &x, "late", today()).await, Ok(Payment::Released));
    assert_eq!(ledger.pay(&item_id, &x, "other", today()).await, Ok(Payment::AlreadyPaid));
    assert_eq!(ledger.pay(&item_id, &y, "other", today()).await, Ok(Payment::Used));
    assert_eq!(state_of(ledger, &item_id, &y).await, Some(SaleState::Reserved));
}

#[tokio::test]
async fn a_failed_payment_releases_its_own_reservation_and_no_later_one() {
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    let item_id = item(ledger, "a", 10).await;
    let x = buyer("x");
    ledger.record(&item_id, &[held("x", 0)], Permit::Unleased).await.unwrap();
    let fail = |redis| ledger.give_up(&item_id, &x, "card", redis, today());
    assert_eq!(fail(in_redis(0)).await, Ok(Payment::Released));
    ledger.record(&item_id, &[held("x", 10)], Permit::Unleased).await.unwrap();
    assert_eq!(fail(in_redis(10)).await, Ok(Payment::Released));
    assert_eq!(state_of(ledger, &item_id, &x).await, Some(SaleState::Reserved));
    assert_eq!(ledger.item(&item_id).await.unwrap().units_taken, 1);
    assert_eq!(ledger.pay(&item_id, &x, "card", today()).await, Ok(Payment::Released));
}

#[tokio::test]
async fn a_declined_payment_decides_nothing_and_buys_when_it_succeeds() {
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    let item_id = item(ledger, "a", 10).await;
    let x = buyer("x");
    let decline = async |redis| ledger.decline(&item_id, &x, "card", redis, today()).await;
    // In transit; then recorded, however often it is declined.
    assert_eq!(decline(in_redis(0)).await, Ok(Decline::Settled(Payment::Unknown)));
    ledger.record(&item_id, &[held("x", 0)], Permit::Unleased).await.unwrap();
    for _ in 0..3 {
        assert_eq!(decline(in_redis(0)).await, Ok(Decline::HeldUntil(at(NOW + HOLD))));
    }
    // After the end nothing is stored, either: the next reservation is bought by the same payment.
    ledger.release_due(&item_id, &[due("x", 0, true)], at(NOW), today()).await.unwrap();
    assert_eq!(decline(OrderState::Released).await, Ok(Decline::Settled(Payment::Released)));
    ledger.record(&item_id, &[held("x", 10)], Permit::Unleased).await.unwrap();
    assert_eq!(decline(in_redis(10)).await, Ok(Decline::HeldUntil(at(NOW + 10 + HOLD))));
    assert!(matches!(ledger.pay(&item_id, &x, "card", today()).await, Ok(Payment::Sold { .. })));
    // A notice that arrives out of order.
    assert!(matches!(decline(OrderState::Sold).await, Ok(Decline::Settled(Payment::Sold { .. }))));
}

#[tokio::test]
async fn a_failed_payment_does_not_end_a_hold_that_was_extended_for_another_payment() {
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    let item_id = item(ledger, "a", 10).await;
    let x = buyer("x");
    ledger.record(&item_id, &[held("x", 0)], Permit::Unleased).await.unwrap();
    let later = at(NOW + 2 * HOLD);
    let extended =
        ledger.extend(&item_id, &x, "transfer", WantedHold::once(later), OrderState::None, today()).await;
    assert_eq!(extended, Ok(Extension::Until(later)));
    let redis = OrderState::Reserved(Hold::Until(later));
    for _ in 0..2 {
        assert_eq!(ledger.give_up(&item_id, &x, "card", redis, today()).await, Ok(Payment::HeldForAnother));
        assert_eq!(state_of(ledger, &item_id, &x).await, Some(SaleState::Reserved));
    }
    assert_eq!(ledger.pay(&item_id, &x, "card", today()).await, Ok(Payment::HeldForAnother));
    assert_eq!(ledger.give_up(&item_id, &x, "transfer", redis, today()).await, Ok(Payment::Released));
    assert_eq!(state_of(ledger, &item_id, &x).await, Some(SaleState::Released));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_concurrent_notices_get_one_answer() {
    const RACES: u64 = 200;
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    let item_id = item(ledger, "a", 1_000).await;
    for n in 0..RACES {
        let name = format!("buyer-{n}");
        let (who, batch) = (buyer(&name), [held(&name, n)]);
        let record = ledger.record(&item_id, &batch, Permit::Unleased);
        let pay = ledger.pay(&item_id, &who, &name, today());
        let refuse = ledger.refuse(&item_id, &who, &name, OrderState::None, today());
        // The first call alternates between races.
        let (recorded, paid, refused) = if n % 2 == 0 {
            tokio::join!(record, pay, refuse)
        } else {
            let (refused, recorded, paid) = tokio::join!(refuse, record, pay);
            (recorded, paid, refused)
        };
        recorded.unwrap();
        let last = ledger.pay(&item_id, &who, &name, today()).await.unwrap();
        assert!(matches!(last, Payment::Sold { .. } | Payment::NoReservation), "{last:?}");
        for answer in [paid.unwrap(), refused.unwrap()] {
            assert!(answer == Payment::Unknown || answer == last, "{name}: {answer:?}, then {last:?}");
        }
    }
}

#[tokio::test]
async fn a_pending_payment_whose_reservation_has_ended_neither_buys_nor_releases_the_next_one() {
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    let item_id = item(ledger, "a", 10).await;
    let later = at(NOW + 2 * HOLD);
    let pending = async |who: &UserToken, reference: &str| {
        ledger.extend(&item_id, who, reference, WantedHold::once(later), OrderState::None, today()).await
    };
    for (name, answer) in
        [("voided", Payment::Voided), ("expired", Payment::Released), ("cancels", Payment::Released)]
    {
        let (x, reference) = (buyer(name), format!("transfer-{name}"));
        ledger.record(&item_id, &[held(name, 0)], Permit::Unleased).await.unwrap();
        assert_eq!(pending(&x, &reference).await, Ok(Extension::Until(later)));
        if name == "voided" {
            let order = VoidOrder { buyer: &x, reason: "fraud", by: None, bars: false };
            ledger.void(&item_id, order, today()).await.unwrap().unwrap();
        } else {
            let due = [due(name, 0, name == "cancels")];
            let states = ledger.release_due(&item_id, &due, later, today()).await.unwrap();
            assert_eq!(states, [BuyerState::Released], "{name}");
        }
        ledger.record(&item_id, &[held(name, 10)], Permit::Unleased).await.unwrap();
        let redis = in_redis(10);
        assert_eq!(ledger.give_up(&item_id, &x, &reference, redis, today()).await, Ok(answer), "{name}");
        assert_eq!(ledger.pay(&item_id, &x, &reference, today()).await, Ok(answer), "{name}");
        assert_eq!(pending(&x, &reference).await, Ok(Extension::Settled(answer)), "{name}");
        assert_eq!(state_of(ledger, &item_id, &x).await, Some(SaleState::Reserved), "{name}");
        let sold = ledger.pay(&item_id, &x, &format!("card-{name}"), today()).await;
        assert!(matches!(sold, Ok(Payment::Sold { .. })), "{name}: {sold:?}");
    }
    // A reference that has bought another buyer's unit keeps no hold from ending.
    ledger.record(&item_id, &[held("x", 0), held("y", 1)], Permit::Unleased).await.unwrap();
    let (x, y) = (buyer("x"), buyer("y"));
    assert_eq!(pending(&x, "shared").await, Ok(Extension::Until(later)));
    assert!(matches!(ledger.pay(&item_id, &y, "shared", today()).await, Ok(Payment::Sold { .. })));
    let states = ledger.release_due(&item_id, &[due("x", 0, false)], later, today()).await.unwrap();
    assert_eq!(states, [BuyerState::Released]);
    assert_eq!(ledger.pay(&item_id, &x, "shared", today()).await, Ok(Payment::Used));
}

#[tokio::test]
async fn the_database_itself_enforces_final_answers() {
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    let item_id = item(ledger, "a", 10).await;
    let over = Permit::Leased { epoch: 1, until: at(1) }.fence(1);
    let (x, z) = (buyer("x"), buyer("z"));
    // Without a valid lease, nothing is refused either.
    assert_eq!(
        ledger.refuse(&item_id, &z, "refused", OrderState::None, over).await,
        Err(LedgerError::LeaseOver)
    );
    assert_eq!(
        ledger.refuse(&item_id, &z, "refused", OrderState::None, today()).await,
        Ok(Payment::NoReservation)
    );
    ledger.record(&item_id, &[held("x", 0), sold_at_once("y", 1)], Permit::Unleased).await.unwrap();
    assert!(matches!(ledger.pay(&item_id, &x, "paid", today()).await, Ok(Payment::Sold { .. })));
    let row = "INSERT INTO fairdrop.payments (item_id, payment_reference, user_token, answer, epoch) VALUES ";
    let cases = [
        ("UPDATE fairdrop.payments SET answer = 'already-paid'", "a final answer is final"),
        ("DELETE FROM fairdrop.payments", "a final answer is final"),
        ("TRUNCATE fairdrop.payments", "a final answer is final"),
        (
            "UPDATE fairdrop.sales SET payment_reference = 'refused' WHERE user_token = 'y'",
            "refused permanently",
        ),
        ("('a', 'paid', 'y', 'no-reservation', 1)", "has bought"),
        ("('a', 'refused', 'y', 'no-reservation', 1)", "payments_pkey"),
        ("('a', 'p', 'y', 'perhaps', 1)", "answer_check"),
        ("('a', 'p', 'y', 'no-reservation', 2)", "another epoch"),
        ("('b', 'p', 'y', 'no-reservation', 1)", "payments_item_id_fkey"),
    ];
    for (case, why) in cases {
        let sql: &'static str = if case.starts_with('(') { format!("{row}{case}").leak() } else { case };
        let error = by_hand(&server, sql).await.unwrap_err();
        assert!(error.contains(why), "{case}: {error}");
    }
}
