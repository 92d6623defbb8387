//! Units that an operator takes back: the ledger's rules.

use super::*;
use ledger::{SaleState, VoidOrder};
use shared::permit::Fence;

fn today() -> Fence {
    Permit::Unleased.fence(1)
}

fn order(buyer: &UserToken, bars: bool) -> VoidOrder<'_> {
    VoidOrder { buyer, reason: "stolen card", by: Some("Ann"), bars }
}

async fn units_taken(ledger: &Ledger, item_id: &ItemId) -> u32 {
    ledger.item(item_id).await.unwrap().units_taken
}

#[tokio::test]
async fn a_voided_unit_is_free_and_its_payment_is_refused_permanently() {
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    let item_id = item(ledger, "a", 3).await;
    let (sold, reserved, other) = (buyer("sold"), buyer("reserved"), buyer("other"));
    ledger.record(&item_id, &[held("sold", 0), held("reserved", 1)], Permit::Unleased).await.unwrap();
    ledger.pay(&item_id, &sold, "pi_1", today()).await.unwrap();
    assert_eq!(ledger.void(&item_id, order(&other, true), today()).await.unwrap(), None);
    for _ in 0..2 {
        let void = ledger.void(&item_id, order(&sold, false), today()).await.unwrap().unwrap();
        assert_eq!((void.was, void.payment_reference.as_deref()), (SaleState::Sold, Some("pi_1")));
        assert_eq!((void.reason.as_str(), void.by.as_deref()), ("stolen card", Some("Ann")));
        let void = ledger.void(&item_id, order(&reserved, false), today()).await.unwrap().unwrap();
        assert_eq!((void.was, void.payment_reference), (SaleState::Reserved, None));
        assert_eq!(void.ends, [at(NOW + 1 + HOLD)]);
        assert_eq!(units_taken(ledger, &item_id).await, 0);
    }
    assert_eq!(ledger.voids(&item_id, 0, 10).await.unwrap().len(), 2, "a repetition is no second void");

    // Redis may not have the void yet.
    let in_redis = [OrderState::Voided, OrderState::Reserved(Hold::Until(at(NOW + 1 + HOLD)))];
    for redis in in_redis {
        let refuse = async |who, reference| ledger.refuse(&item_id, who, reference, redis, today()).await;
        assert_eq!(refuse(&reserved, "pi_2").await, Ok(Payment::Voided));
        assert_eq!(refuse(&sold, "pi_1").await, Ok(Payment::Voided));
        assert_eq!(refuse(&other, "pi_1").await, Ok(Payment::Used), "a payment of another buyer");
        assert_eq!(ledger.pay(&item_id, &sold, "pi_1", today()).await, Ok(Payment::Voided));
        let declined = ledger.decline(&item_id, &reserved, "pi_2", redis, today()).await;
        assert_eq!(declined, Ok(ledger::Decline::Settled(Payment::Voided)));
    }
    // The buyer orders again: the payments of the voided unit buy nothing all the same.
    ledger.record(&item_id, &[held("sold", 50)], Permit::Unleased).await.unwrap();
    assert_eq!(ledger.pay(&item_id, &sold, "pi_1", today()).await, Ok(Payment::Voided));
    assert!(matches!(ledger.pay(&item_id, &sold, "pi_3", today()).await, Ok(Payment::Sold { .. })));
    assert_eq!(ledger.voids(&item_id, 0, 10).await.unwrap().len(), 2, "the record stays");
    // And is voided again.
    let again = ledger.void(&item_id, order(&sold, false), today()).await.unwrap().unwrap();
    assert_eq!(again.payment_reference.as_deref(), Some("pi_3"));
    assert_eq!(
        (ledger.voids(&item_id, 0, 10).await.unwrap().len(), units_taken(ledger, &item_id).await),
        (3, 0)
    );
}

#[tokio::test]
async fn the_database_keeps_what_was_voided() {
    let server = LedgerServer::start().await.unwrap();
    let item_id = item(&server.ledger, "a", 3).await;
    server.ledger.record(&item_id, &[held("x", 0), sold_at_once("y", 1)], Permit::Unleased).await.unwrap();
    let y = buyer("y");
    server.ledger.void(&item_id, order(&y, true), today()).await.unwrap().unwrap();
    for (case, why) in [
        ("UPDATE fairdrop.sales SET state = 'voided' WHERE user_token = 'x'", "with a reason"),
        ("UPDATE fairdrop.sales SET state = 'sold' WHERE user_token = 'y'", "cannot become active"),
        ("UPDATE fairdrop.sales SET state = 'released' WHERE user_token = 'y'", "cannot become active"),
        ("UPDATE fairdrop.sales SET state = 'sold', reserved_at = reserved_at + 1 WHERE user_token = 'y'", "cannot become active"),
        ("DELETE FROM fairdrop.voids", "stays"),
        ("UPDATE fairdrop.voids SET reason = 'none'", "stays"),
        ("DELETE FROM fairdrop.exclusions", "stays"),
        (
            "INSERT INTO fairdrop.exclusions (item_id, user_token, reason, epoch) VALUES ('a', 'x', 'x', 2)",
            "another epoch",
        ),
        (
            "INSERT INTO fairdrop.sales (item_id, user_token, state, placed_at, reserved_at, hold_until, epoch)
             VALUES ('a', 'y', 'reserved', 9007199254740990, 9007199254740990, 9007199254740990, 1)
             ON CONFLICT (item_id, user_token) DO UPDATE SET state = 'reserved'",
            "is excluded",
        ),
    ] {
        let error = by_hand(&server, case).await.unwrap_err();
        assert!(error.contains(why), "{case}: {error}");
    }
    assert_eq!(units_taken(&server.ledger, &item_id).await, 1);
}

#[tokio::test]
async fn an_older_order_and_an_excluded_buyer_get_no_unit() {
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    let item_id = item(ledger, "a", 1).await;
    let (x, y) = (buyer("x"), buyer("y"));
    ledger.record(&item_id, &[held("x", 0)], Permit::Unleased).await.unwrap();
    ledger.void(&item_id, order(&x, false), today()).await.unwrap().unwrap();
    // A failover of Redis has brought the order back, and the drain has reserved for it again.
    let again = Reservation { placed_at: held("x", 0).placed_at, ..held("x", 9) };
    // It takes no unit from the next buyer, although it is the first of the batch.
    let states = ledger.record(&item_id, &[again, held("y", 10)], Permit::Unleased).await.unwrap();
    assert_eq!(states, [BuyerState::Voided, BuyerState::Reserved { until: at(NOW + 10 + HOLD) }]);
    ledger.void(&item_id, order(&y, true), today()).await.unwrap().unwrap();
    let batch = [held("y", 20), held("z", 21)];
    let expected = [BuyerState::Excluded, BuyerState::Reserved { until: at(NOW + 21 + HOLD) }];
    for _ in 0..2 {
        assert_eq!(ledger.record(&item_id, &batch, Permit::Unleased).await.unwrap(), expected);
    }
    // A task that is delivered again is about the voided reservation.
    let states = ledger.record(&item_id, &[held("y", 10)], Permit::Unleased).await.unwrap();
    assert_eq!(states, [BuyerState::Voided]);
    let due = ledger.release_due(&item_id, &[due("y", 10, true)], at(NOW + HOLD), today()).await.unwrap();
    assert_eq!(due, [BuyerState::Voided]);
    assert_eq!(units_taken(ledger, &item_id).await, 1);
}

#[tokio::test]
async fn nothing_is_voided_under_an_old_epoch_or_without_the_lease() {
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    let item_id = item(ledger, "a", 1).await;
    let x = buyer("x");
    ledger.record(&item_id, &[held("x", 0)], Permit::Unleased).await.unwrap();
    let stale = ledger.void(&item_id, order(&x, true), Permit::Unleased.fence(2)).await;
    assert_eq!(stale, Err(LedgerError::StaleEpoch));
    ledger.sell_by_lease().await.unwrap();
    assert_eq!(ledger.void(&item_id, order(&x, true), today()).await, Err(LedgerError::LeaseOver));
    let over = Fence { epoch: 1, until: Some(at(NOW)) };
    assert_eq!(ledger.void(&item_id, order(&x, true), over).await, Err(LedgerError::LeaseOver));
    assert_eq!(units_taken(ledger, &item_id).await, 1);
    assert_eq!(ledger.voids(&item_id, 0, 10).await.unwrap(), []);
}

/// The worker goes on recording before the migration.
#[tokio::test]
async fn reservations_are_recorded_before_the_migration() {
    let server = LedgerServer::start().await.unwrap();
    let item_id = item(&server.ledger, "a", 2).await;
    by_hand(
        &server,
        "DROP TRIGGER refuse_excluded ON fairdrop.sales; DROP TABLE fairdrop.exclusions, fairdrop.voids",
    )
    .await
    .unwrap();
    let states = server.ledger.record(&item_id, &[held("x", 0)], Permit::Unleased).await.unwrap();
    assert_eq!(states, [BuyerState::Reserved { until: at(NOW + HOLD) }]);
}
