//! Refused and failed payments do not affect a later reservation of the same buyer.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_or_failed_payment_does_not_affect_a_later_reservation() {
    let (system, client) = setup(json!({ "stock_total": 2, "hold_seconds": 600 })).await;
    order(&system, &client, "alice").await;
    until(&system, &client, "alice", "reserved").await;
    let failed = pay_once_recorded(&client, "alice", "pay-1", "failed").await;
    assert_eq!((failed.status, &failed.body["status"]), (200, &json!("released")), "{failed:?}");
    until(&system, &client, "alice", "released").await;
    // Bob has no reservation to pay for, and gets a refund.
    refused(&pay(&client, "bob", "pay-2", "paid").await, 404, "no-reservation");

    for subject in ["alice", "bob"] {
        assert_eq!(order(&system, &client, subject).await.status, 202);
        until(&system, &client, subject, "reserved").await;
    }
    // A `pending` payment extends each hold once the reservation is recorded.
    for (subject, reference) in [("alice", "pay-3"), ("bob", "pay-4")] {
        let pending = pay_once_recorded(&client, subject, reference, "pending").await;
        assert_eq!(pending.body["status"], "reserved", "{pending:?}");
    }
    assert_eq!(pay(&client, "alice", "pay-1", "failed").await.body, failed.body);
    refused(&pay(&client, "alice", "pay-1", "paid").await, 409, "reservation-ended");
    refused(&pay(&client, "bob", "pay-2", "paid").await, 404, "no-reservation");
    refused(&pay(&client, "bob", "pay-2", "failed").await, 404, "no-reservation");
    // A late notice about another failed card changes nothing, either.
    refused(&pay(&client, "bob", "pay-5", "failed").await, 409, "already-extended");
    refused(&pay(&client, "bob", "pay-5", "failed").await, 409, "already-extended");
    for (subject, reference) in [("alice", "pay-3"), ("bob", "pay-4")] {
        let held = until(&system, &client, subject, "reserved").await;
        // The card is declined, and the same payment succeeds with another card.
        let declined = pay(&client, subject, reference, "declined").await;
        assert_eq!((declined.status, &declined.body["status"]), (200, &json!("reserved")), "{declined:?}");
        assert_eq!(declined.body["reserved_until"], held["reserved_until"]);
        assert_eq!(pay(&client, subject, reference, "paid").await.body["status"], "sold");
        // A notice that arrives out of order.
        assert_eq!(pay(&client, subject, reference, "pending").await.body["status"], "sold");
        assert_eq!(pay(&client, subject, reference, "declined").await.body["status"], "sold");
        refused(&pay(&client, subject, reference, "cancelled").await, 409, "already-sold");
    }
}
