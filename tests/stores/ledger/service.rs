//! Outages of the workers, and the grace of holds after them.

use super::*;

const SECOND: u64 = 1_000_000;
const MOST: Duration = Duration::from_secs(600);

async fn serve(ledger: &Ledger, now: u64) -> u64 {
    ledger.serve(at(now), MOST).await.unwrap().as_micros()
}

#[tokio::test]
async fn a_gap_of_more_than_five_seconds_is_an_outage() {
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    for (now, grace_until) in [
        // The first worker of all.
        (NOW, 0),
        (NOW + 5 * SECOND, 0),
        // A notice that failed meanwhile comes again after some minutes.
        (NOW + 10 * SECOND + 1, NOW + 190 * SECOND + 1),
        // Another worker is behind.
        (NOW + 6 * SECOND, NOW + 190 * SECOND + 1),
        (NOW + 11 * SECOND, NOW + 190 * SECOND + 1),
        // The next grace is as long as its outage.
        (NOW + 211 * SECOND, NOW + 411 * SECOND),
        // And this outage is longer than the longest grace.
        (NOW + 2_011 * SECOND, NOW + 2_611 * SECOND),
        // A short one within a long grace.
        (NOW + 2_017 * SECOND, NOW + 2_611 * SECOND),
    ] {
        assert_eq!(serve(ledger, now).await, grace_until, "{}", now - NOW);
    }
    let outages = by_hand(&server, "DELETE FROM fairdrop.outages WHERE ended_at - began_at > 5000000").await;
    assert_eq!(outages, Ok(4));
    // Many workers find the same outage.
    let found = join_all((0..20).map(|_| serve(ledger, NOW + 3_000 * SECOND))).await;
    assert_eq!(found, [NOW + 3_600 * SECOND; 20]);
    assert_eq!(by_hand(&server, "DELETE FROM fairdrop.outages").await, Ok(1));
    // Without a grace an outage is recorded, too.
    let grace_until = ledger.serve(at(NOW + 9_000 * SECOND), Duration::ZERO).await.unwrap();
    assert_eq!(grace_until, at(NOW + 9_000 * SECOND));
}

#[tokio::test]
async fn a_hold_is_extended_after_an_outage_and_released_only_by_a_worker_that_serves() {
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    let item_id = item(ledger, "a", 5).await;
    let batch = [held("x", 0), held("y", 1), held("z", 2)];
    serve(ledger, NOW).await;
    ledger.record(&item_id, &batch, Permit::Unleased).await.unwrap();
    let all = [due("x", 0, false), due("y", 1, true), due("z", 2, false)];
    let release = async |due: &[Due], now: u64, epoch| {
        ledger.release_due(&item_id, due, at(now), Permit::Unleased.fence(epoch)).await.unwrap()
    };
    let until = |until: u64| BuyerState::Reserved { until: at(until) };

    // No worker has served since: this one was frozen, and does not know of the outage. A cancellation needs no grace.
    let now = NOW + HOLD + SECOND;
    let states = release(&all, now, 1).await;
    assert_eq!(states, [until(NOW + HOLD), BuyerState::Released, until(NOW + HOLD + 2)]);

    // The standby has the row: a failover is an outage. The holds end when the grace does.
    ledger.raise_epoch(1).await.unwrap();
    let grace_until = serve(ledger, now).await;
    assert_eq!(grace_until, now + 600 * SECOND);
    let others = [all[0].clone(), all[2].clone()];
    assert_eq!(release(&others, now, 2).await, [until(grace_until); 2]);
    // Redis has not got the extension yet, and the worker asks again.
    assert_eq!(release(&others, now + SECOND, 2).await, [until(grace_until); 2]);
    assert!(matches!(
        ledger.pay(&item_id, &buyer("z"), "pay-1", Permit::Unleased.fence(2)).await,
        Ok(Payment::Sold { .. })
    ));
    let now = grace_until + SECOND;
    for before in (0..600).rev() {
        serve(ledger, now - before * SECOND).await;
    }
    assert_eq!(release(&others, now, 2).await, [BuyerState::Released, BuyerState::Sold]);
}

#[tokio::test]
async fn a_hold_gets_a_grace_eight_times() {
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    let item_id = item(ledger, "a", 5).await;
    ledger.record(&item_id, &[held("x", 0)], Permit::Unleased).await.unwrap();
    let mut due = due("x", 0, false);
    for grace in 1..=9 {
        let now = due.hold_until.as_micros();
        due.kept_until = Some(at(now + 60 * SECOND));
        let states =
            ledger.release_due(&item_id, &[due.clone()], at(now), Permit::Unleased.fence(1)).await.unwrap();
        match states[..] {
            [BuyerState::Reserved { until }] if grace <= 8 => {
                assert_eq!(until, at(now + 60 * SECOND));
                due.hold_until = until;
            }
            [BuyerState::Released] if grace == 9 => {}
            _ => panic!("grace {grace}: {states:?}"),
        }
    }
}

/// The first record may come long after the last service: the release before did not write one.
#[tokio::test]
async fn the_first_record_gives_the_longest_grace_if_buyers_hold_units() {
    let server = LedgerServer::start().await.unwrap();
    let item_id = item(&server.ledger, "a", 5).await;
    server.ledger.record(&item_id, &[held("x", 0)], Permit::Unleased).await.unwrap();
    assert_eq!(serve(&server.ledger, NOW).await, NOW + 600 * SECOND);
    assert_eq!(serve(&server.ledger, NOW + SECOND).await, NOW + 600 * SECOND);
}

#[tokio::test]
async fn a_clock_that_was_set_back_releases_nothing_before_the_longest_grace() {
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    let item_id = item(ledger, "a", 5).await;
    let now = NOW + HOLD + SECOND;
    assert_eq!(serve(ledger, now + 100 * SECOND).await, 0);
    ledger.record(&item_id, &[held("x", 0)], Permit::Unleased).await.unwrap();
    let release = async |now: u64| {
        let (due, fence) = ([due("x", 0, false)], Permit::Unleased.fence(1));
        ledger.release_due(&item_id, &due, at(now), fence).await.unwrap()
    };
    let until = |until: u64| [BuyerState::Reserved { until: at(until) }];
    // No worker has served by the new clock yet.
    assert_eq!(release(now).await, until(NOW + HOLD));
    for after in 0..3 {
        assert_eq!(serve(ledger, now + after * SECOND).await, now + 600 * SECOND);
    }
    assert_eq!(release(now + 2 * SECOND).await, until(now + 600 * SECOND));
    // An outage by the new clock counts again.
    assert_eq!(serve(ledger, now + 602 * SECOND).await, now + 1_202 * SECOND);
}

/// Functions from before the migration write neither the counts nor the earlier ends.
#[tokio::test]
async fn the_database_itself_keeps_the_ends_of_a_hold_and_begins_again_with_a_new_reservation() {
    let server = LedgerServer::start().await.unwrap();
    let item_id = item(&server.ledger, "a", 5).await;
    server.ledger.record(&item_id, &[held("x", 0)], Permit::Unleased).await.unwrap();
    for (change, columns) in [
        (
            "SET hold_until = 7, extensions = 1, graces = 1",
            "earlier_ends = '{1795000600000000}' AND graces = 1",
        ),
        (
            "SET hold_until = 9, extended_for = 'pi'",
            "earlier_ends = '{1795000600000000,7}' AND extensions = 1",
        ),
        ("SET state = 'released'", "earlier_ends = '{1795000600000000,7}' AND extensions = 1"),
        (
            "SET state = 'reserved', reserved_at = reserved_at + 1, hold_until = 11, extended_for = NULL",
            "earlier_ends = '{}' AND extensions = 0 AND graces = 0",
        ),
        ("SET state = 'sold', payment_reference = 'pi_2'", "earlier_ends = '{}'"),
    ] {
        let mut connection = PgConnection::connect(&server.postgres.url()).await.unwrap();
        let changed = format!("UPDATE fairdrop.sales {change}");
        let expected = format!("SELECT FROM fairdrop.sales WHERE {columns}");
        for statement in [changed, expected] {
            let done = connection.execute(sqlx::AssertSqlSafe(statement.clone())).await.unwrap();
            assert_eq!(done.rows_affected(), 1, "{statement}");
        }
    }
}
