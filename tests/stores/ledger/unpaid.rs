//! Buyers who reserve and do not pay.

use super::*;
use ledger::UnpaidHolds;

async fn unpaid(ledger: &Ledger, item_id: &ItemId) -> (u64, u64) {
    let UnpaidHolds { holds, buyers, .. } = ledger.unpaid_holds(item_id).await.unwrap();
    (holds, buyers)
}

/// A reservation of `name` whose hold ends without a payment.
async fn let_end(ledger: &Ledger, item_id: &ItemId, name: &str, after: u64) {
    ledger.record(item_id, &[held(name, after)], Permit::Unleased).await.unwrap();
    let end = at(NOW + after + HOLD);
    ledger.serve(end, Duration::ZERO).await.unwrap();
    for _ in 0..2 {
        let due = [due(name, after, false)];
        let states = ledger.release_due(item_id, &due, end, Permit::Unleased.fence(1)).await.unwrap();
        assert_eq!(states, [BuyerState::Released]);
    }
}

#[tokio::test]
async fn holds_that_end_without_a_payment_are_counted() {
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    let item_id = item(ledger, "a", 9).await;
    let fence = Permit::Unleased.fence(1);
    let_end(ledger, &item_id, "ann", 0).await;
    let_end(ledger, &item_id, "ann", 10).await;
    assert_eq!(unpaid(ledger, &item_id).await, (2, 1));
    let batch = [held("cancels", 20), held("fails", 21), held("pays", 22), held("leaves", 23)];
    ledger.record(&item_id, &batch, Permit::Unleased).await.unwrap();
    ledger.release_due(&item_id, &[due("cancels", 20, true)], at(NOW + HOLD), fence).await.unwrap();
    let redis = OrderState::Reserved(Hold::Until(at(NOW + 21 + HOLD)));
    for _ in 0..2 {
        ledger.give_up(&item_id, &buyer("fails"), "pi_1", redis, fence).await.unwrap();
    }
    ledger.pay(&item_id, &buyer("pays"), "pi_2", fence).await.unwrap();
    // The shop reports the end of a payment before the worker has seen that the buyer has cancelled.
    let cancelled = OrderState::Reserved(Hold::Release);
    ledger.give_up(&item_id, &buyer("leaves"), "pi_3", cancelled, fence).await.unwrap();
    assert_eq!(unpaid(ledger, &item_id).await, (3, 2));
    // Old ones are deleted.
    assert_eq!(ledger.prune_unpaid_holds().await.unwrap(), 0);
    let aged =
        "UPDATE fairdrop.unpaid_holds SET ended_at = ended_at - 90 * 86400000000 WHERE user_token = 'ann'";
    by_hand(&server, aged).await.unwrap();
    assert_eq!(ledger.prune_unpaid_holds().await.unwrap(), 2);
    assert_eq!(unpaid(ledger, &item_id).await, (1, 1));
}

#[tokio::test]
async fn a_buyer_with_too_many_unpaid_holds_is_excluded_from_items_with_a_limit() {
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    let (one, other, limited) =
        (item(ledger, "one", 9).await, item(ledger, "other", 9).await, item(ledger, "limited", 1).await);
    ledger.limit_unpaid(&limited, Some(2)).await.unwrap();
    assert_eq!(ledger.unpaid_holds(&limited).await.unwrap().limit, Some(2));
    let_end(ledger, &one, "ann", 0).await;
    let_end(ledger, &one, "old", 1).await;
    let_end(ledger, &other, "old", 2).await;
    // Holds of more than 30 days ago do not count.
    by_hand(
        &server,
        "UPDATE fairdrop.unpaid_holds SET ended_at = ended_at - 31 * 86400000000 WHERE user_token = 'old'",
    )
    .await
    .unwrap();
    // Below the limit.
    let reserved = |after| BuyerState::Reserved { until: at(NOW + after + HOLD) };
    let record = async |item_id: &ItemId, name: &str, after| {
        ledger.record(item_id, &[held(name, after)], Permit::Unleased).await.unwrap()
    };
    assert_eq!(record(&limited, "ann", 100).await, [reserved(100)]);
    let_end(ledger, &other, "ann", 10).await;
    // The task is delivered again: the reservation is recorded.
    assert_eq!(record(&limited, "ann", 100).await, [reserved(100)]);
    let cancelled = [due("ann", 100, true)];
    ledger.release_due(&limited, &cancelled, at(NOW + 101), Permit::Unleased.fence(1)).await.unwrap();
    // Now the limit is reached. The only unit goes to the next of the batch.
    let batch = [held("ann", 200), held("old", 201)];
    for _ in 0..2 {
        let states = ledger.record(&limited, &batch, Permit::Unleased).await.unwrap();
        assert_eq!(states, [BuyerState::Excluded, reserved(201)]);
    }
    let exclusions = ledger.exclusions(&limited, None, 10).await.unwrap();
    let reasons: Vec<_> =
        exclusions.iter().map(|one| (one.user_token.as_str(), one.reason.as_str())).collect();
    assert_eq!(reasons, [("ann", "too many unpaid holds")]);
    // Items without a limit do not count.
    assert_eq!(record(&one, "ann", 300).await, [reserved(300)]);
    ledger.limit_unpaid(&limited, None).await.unwrap();
    assert_eq!(record(&limited, "ann", 400).await, [BuyerState::Excluded], "the exclusion stays");
    assert_eq!(ledger.item(&limited).await.unwrap().units_taken, 1);
}
