//! Payments whose invocation Lambda ends at the function's time limit.

use super::*;
use local::aws::environments::ClassicLimits;
use local::aws::functions::OVERLAPPING_RUNS;
use local::aws::lambda::EventRetries;
use local::system::{Options, regions};
use sqlx::{Connection, PgConnection};
use tests::quick;

/// The function's time limit: less than it waits for a lock of the ledger. AWS has 20 s.
const LIMIT: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_lambda_cuts_off_is_recorded_once_by_its_repetition() {
    let limits = ClassicLimits::strict(1_000, OVERLAPPING_RUNS);
    let options = Options { limits_in_main: Some(limits), ..quick(regions::first(1)) };
    let system = System::start(&options).await.unwrap();
    announce(&system, "a", json!({ "hold_seconds": 600 })).await.unwrap();
    let client = Client::of(&system, 0).unwrap();
    order(&system, &client, "alice").await;
    until(&system, &client, "alice", "reserved").await;
    let mut ledger = PgConnection::connect(&system.postgres.url()).await.unwrap();
    let mut holding = ledger.begin().await.unwrap();
    eventually("the reservation is recorded, and its row is locked", TIMEOUT, async || {
        let lock = "SELECT 1 FROM fairdrop.sales WHERE item_id = 'a' AND user_token = 'alice' FOR UPDATE";
        Ok(sqlx::query(lock).fetch_optional(&mut *holding).await?)
    })
    .await
    .unwrap();
    let notice = json!({
        "item_id": "a", "user_token": "alice", "payment_reference": "pay-1", "outcome": "paid",
    });
    let retries = EventRetries::of("order-confirm").with_minutes_of(Duration::from_secs(1));
    let invoke = system.main_invoke_api().unwrap();
    let sending =
        tokio::spawn(
            async move { invoke.send_event("order-confirm", notice.to_string(), LIMIT, retries).await },
        );
    eventually("Lambda cuts the invocation off", TIMEOUT, async || {
        Ok((system.confirm.figures().timed_out > 0).then_some(()))
    })
    .await
    .unwrap();
    holding.rollback().await.unwrap();
    let end = sending.await.unwrap();
    assert!(end.is_processed && end.errors > 0, "{end:?}");
    until(&system, &client, "alice", "sold").await;
    let again = pay(&client, "alice", "pay-1", "paid").await;
    assert_eq!((again.status, &again.body["status"]), (200, &json!("sold")), "{again:?}");
    refused(&pay(&client, "alice", "pay-2", "paid").await, 409, "already-paid");
    let outcome = system.drop_result(&"a".parse().unwrap()).await.unwrap();
    assert_eq!((outcome.sold.len(), outcome.in_ledger.map(|sold| sold.len())), (1, Some(1)));
}
