//! The outbox: each committed change of a sale has one event, in order, and a publisher takes turns over them.

use super::*;
use ledger::{Decided, EventSale, OutboxEvent, OutboxEventKind, OutboxTurn, Republished, VoidOrder};
use std::collections::BTreeMap;
use std::time::Duration;
use tests::eventually;

/// Another process's connections.
fn connect(server: &LedgerServer) -> Ledger {
    let url = server.postgres.url();
    Ledger::from_config(&|name: &str| (name == "FAIRDROP_LEDGER_URL").then(|| url.clone())).unwrap()
}

/// The pending events of all items.
/// The next turn. A turn that was dropped ends a moment later, when its connection is back in the pool.
async fn turn_after(ledger: &Ledger, after: Option<&ItemId>) -> OutboxTurn {
    let turn = eventually("the last turn has ended", Duration::from_secs(10), async || {
        Ok(ledger.outbox_turn(after).await?)
    });
    turn.await.unwrap()
}

async fn pending(ledger: &Ledger) -> Vec<OutboxEvent> {
    turn_after(ledger, None).await.events
}

fn name(event: &OutboxEvent) -> (&'static str, Option<&EventSale>) {
    match &event.kind {
        OutboxEventKind::Reserved(sale) => ("reserved", Some(sale)),
        OutboxEventKind::Extended(sale) => ("extended", Some(sale)),
        OutboxEventKind::Sold(sale) => ("sold", Some(sale)),
        OutboxEventKind::Released(sale) => ("released", Some(sale)),
        OutboxEventKind::Voided(sale) => ("voided", Some(sale)),
        OutboxEventKind::Closed { .. } => ("closed", None),
    }
}

/// Sequence, kind and buyer of each pending event.
async fn listed(ledger: &Ledger) -> Vec<(u64, &'static str, String)> {
    let events = pending(ledger).await;
    let line = |event: &OutboxEvent| {
        let (kind, sale) = name(event);
        (event.sequence, kind, sale.map(|sale| sale.user_token.as_str().to_owned()).unwrap_or_default())
    };
    events.iter().map(line).collect()
}

fn line(sequence: u64, kind: &'static str, buyer: &str) -> (u64, &'static str, String) {
    (sequence, kind, buyer.to_owned())
}

#[tokio::test]
async fn each_change_of_a_sale_leaves_one_event() {
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    let item_id = item(ledger, "a", 5).await;
    let fence = Permit::Unleased.fence(1);
    let redis = OrderState::Reserved(Hold::Until(at(NOW + HOLD)));
    ledger.record(&item_id, &[held("early", 0)], Permit::Unleased).await.unwrap();
    assert_eq!(listed(ledger).await, [], "no publisher wants events yet");

    ledger.want_events().await.unwrap();
    let batch = [held("ann", 2), sold_at_once("ben", 1), held("cid", 3)];
    ledger.record(&item_id, &batch, Permit::Unleased).await.unwrap();
    ledger.record(&item_id, &batch, Permit::Unleased).await.unwrap();
    let until = at(NOW + 2 * HOLD);
    for _ in 0..2 {
        ledger.extend(&item_id, &buyer("ann"), "pi_1", WantedHold::once(until), redis, fence).await.unwrap();
        ledger.pay(&item_id, &buyer("ann"), "pi_1", fence).await.unwrap();
        ledger.release_due(&item_id, &[due("cid", 3, true)], at(NOW), fence).await.unwrap();
    }
    // A unit that was sold at once is paid later, by a payment that the shop reports itself: it knows.
    ledger.pay(&item_id, &buyer("ben"), "pi_2", fence).await.unwrap();
    ledger.record(&item_id, &[held("cid", 9)], Permit::Unleased).await.unwrap();
    ledger.give_up(&item_id, &buyer("early"), "pi_3", redis, fence).await.unwrap();
    let expected = [
        line(1, "sold", "ben"),
        line(2, "reserved", "ann"),
        line(3, "reserved", "cid"),
        line(4, "extended", "ann"),
        line(5, "sold", "ann"),
        line(6, "released", "cid"),
        line(7, "reserved", "cid"),
        line(8, "released", "early"),
    ];
    assert_eq!(listed(ledger).await, expected);
    let events = pending(ledger).await;
    let (_, extended) = name(&events[3]);
    assert_eq!(extended.unwrap().hold_until, until);
    let (_, sold) = name(&events[4]);
    assert_eq!(sold.unwrap().payment_reference.as_deref(), Some("pi_1"));

    for name in ["ann", "cid"] {
        let order = VoidOrder { buyer: &buyer(name), reason: "fraud", by: None, bars: false };
        for _ in 0..2 {
            ledger.void(&item_id, order, fence).await.unwrap().unwrap();
        }
    }
    assert_eq!(listed(ledger).await[8..], [line(9, "voided", "ann"), line(10, "voided", "cid")]);
    let events = pending(ledger).await;
    let payment = |event| name(event).1.and_then(|sale| sale.payment_reference.clone());
    assert_eq!((payment(&events[8]).as_deref(), payment(&events[9])), (Some("pi_1"), None));
}

#[tokio::test]
async fn what_is_not_committed_leaves_no_event() {
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    let item_id = item(ledger, "a", 2).await;
    ledger.want_events().await.unwrap();
    ledger.record(&item_id, &[held("ann", 0)], Permit::Unleased).await.unwrap();
    let late = Permit::Leased { epoch: 1, until: at(1) };
    assert_eq!(ledger.record(&item_id, &[held("ben", 1)], late).await, Err(LedgerError::LeaseOver));
    let paid = ledger.pay(&item_id, &buyer("ann"), "pi_1", late.fence(1)).await;
    assert_eq!(paid, Err(LedgerError::LeaseOver));
    let stale = ledger.pay(&item_id, &buyer("ann"), "pi_1", Permit::Unleased.fence(2)).await;
    assert_eq!(stale, Err(LedgerError::StaleEpoch));
    // The next event has the next sequence: a transaction that is rolled back uses none.
    ledger.pay(&item_id, &buyer("ann"), "pi_1", Permit::Unleased.fence(1)).await.unwrap();
    assert_eq!(listed(ledger).await, [line(1, "reserved", "ann"), line(2, "sold", "ann")]);
    for sql in [
        "UPDATE fairdrop.outbox SET user_token = 'other'",
        "DELETE FROM fairdrop.outbox",
        "TRUNCATE fairdrop.outbox",
    ] {
        assert!(by_hand(&server, sql).await.is_err(), "{sql}");
    }
}

/// Payments, ends of holds, extensions and batches of one item at the same time. No call may meet a deadlock.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_concurrent_changes_follow_each_buyers_sale() {
    let server = LedgerServer::start().await.unwrap();
    let ledgers: Vec<Ledger> = (0..6).map(|_| connect(&server)).collect();
    let item_id = item(&server.ledger, "a", 60).await;
    server.ledger.want_events().await.unwrap();
    let fence = Permit::Unleased.fence(1);
    let works = ledgers.iter().enumerate().map(|(worker, ledger)| {
        let item_id = item_id.clone();
        async move {
            for round in 0..40_u64 {
                let who = |number: u64| format!("buyer{}", (number * 7 + round * 3) % 60);
                let redis = OrderState::Reserved(Hold::Until(at(NOW + round + HOLD)));
                match worker {
                    0 | 1 => {
                        let batch: Vec<Reservation> = (0..20).map(|one| held(&who(one), round)).collect();
                        ledger.record(&item_id, &batch, Permit::Unleased).await.unwrap();
                    }
                    2 => {
                        let all: Vec<Due> = (0..20).map(|one| due(&who(one), round, true)).collect();
                        ledger.release_due(&item_id, &all, at(NOW), fence).await.unwrap();
                    }
                    3 => {
                        let until = at(NOW + 2 * HOLD);
                        let buyer = buyer(&who(2));
                        ledger
                            .extend(&item_id, &buyer, "pi_x", WantedHold::once(until), redis, fence)
                            .await
                            .unwrap();
                    }
                    _ => {
                        let name = who(worker as u64);
                        ledger.pay(&item_id, &buyer(&name), &format!("pi_{name}"), fence).await.unwrap();
                    }
                }
            }
        }
    });
    join_all(works).await;

    let mut states = BTreeMap::new();
    let mut expected = 1;
    loop {
        let turn = turn_after(&server.ledger, None).await;
        if turn.events.is_empty() {
            break;
        }
        let events = turn.events.clone();
        for event in &events {
            assert_eq!(event.sequence, expected);
            expected += 1;
            let (kind, sale) = name(event);
            let sale = sale.unwrap();
            let before = states.insert(sale.user_token.clone(), (kind, sale.reserved_at, sale.hold_until));
            let may_follow = match before.map(|(kind, ..)| kind) {
                None | Some("released") => kind == "reserved",
                Some(_) => kind == "sold" || kind == "released" || kind == "extended",
            };
            assert!(may_follow, "{kind} of {:?} follows {before:?}", sale.user_token);
        }
        let decided: Vec<_> = events.iter().map(|event| (event, Decided::Published)).collect();
        turn.finish(&decided).await.unwrap();
    }
    assert!(expected > 100, "{expected}");
    let sales = server.ledger.sales(&item_id, None, 1_000).await.unwrap();
    assert_eq!(sales.len(), states.len());
    for sale in sales {
        let (kind, reserved_at, hold_until) = states[&sale.user_token];
        let state = match kind {
            "extended" => "reserved",
            kind => kind,
        };
        assert_eq!(format!("{:?}", sale.state).to_lowercase(), state);
        assert_eq!((sale.reserved_at, sale.hold_until), (reserved_at, hold_until));
    }
}

#[tokio::test]
async fn publishers_take_turns_and_what_is_not_finished_stays_pending() {
    let server = LedgerServer::start().await.unwrap();
    let (ledger, other) = (&server.ledger, connect(&server));
    ledger.want_events().await.unwrap();
    let mut ids = Vec::new();
    for number in 0..20 {
        let item_id = item(ledger, &format!("item{number:02}"), 200).await;
        let batch: Vec<Reservation> = (0..101).map(|one| held(&format!("b{one}"), one)).collect();
        ledger.record(&item_id, &batch, Permit::Unleased).await.unwrap();
        ids.push(item_id);
    }
    let turn = turn_after(ledger, None).await;
    assert!(other.outbox_turn(None).await.unwrap().is_none(), "two publishers had a turn");
    assert_eq!(turn.events.len(), 1_600, "16 items with 100 events each");
    assert_eq!(turn.last_item.as_ref(), Some(&ids[15]));
    let events = turn.events.clone();
    drop(turn);

    let turn = turn_after(&other, None).await;
    assert_eq!(turn.events, events, "what was not finished is sent again");
    let decided = [(&events[0], Decided::Published), (&events[1], Decided::DeadLetter("MalformedDetail"))];
    turn.finish(&decided).await.unwrap();
    let next = pending(ledger).await;
    assert_eq!((next[0].sequence, next[98].sequence, next[99].sequence), (3, 101, 1));
    let after = turn_after(ledger, Some(&ids[15])).await;
    assert_eq!((&after.events[0].item_id, after.last_item.as_ref()), (&ids[16], None));
    drop(after);
    let state = ledger.outbox_state().await.unwrap();
    assert_eq!((state.dead_letters, state.pending_since), (1, Some(events[2].at)));

    let republished = ledger.republish(&ids[0], 2).await;
    assert_eq!(republished, Ok(Republished { events: 1, next: None }));
    assert_eq!(pending(ledger).await[0].sequence, 2);
    assert_eq!(ledger.outbox_state().await.unwrap().dead_letters, 0);
}

#[tokio::test]
async fn published_events_are_kept_for_two_weeks_and_pending_ones_for_ever() {
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    let item_id = item(ledger, "a", 3).await;
    ledger.want_events().await.unwrap();
    ledger.record(&item_id, &[held("ann", 0), held("ben", 1)], Permit::Unleased).await.unwrap();
    let turn = turn_after(ledger, None).await;
    let first = turn.events[0].clone();
    turn.finish(&[(&first, Decided::Published)]).await.unwrap();
    let day = 86_400_000_000;
    let now = ledger.outbox_state().await.unwrap().now.as_micros();
    assert_eq!(ledger.prune_outbox(at(now + 13 * day)).await, Ok(0));
    assert_eq!(ledger.prune_outbox(at(now + 15 * day)).await, Ok(1));
    assert_eq!(ledger.prune_outbox(at(now + 1_000 * day)).await, Ok(0));
    assert_eq!(listed(ledger).await, [line(2, "reserved", "ben")]);

    // Two weeks without a publisher: nothing is written, and the next event shows a gap.
    by_hand(&server, "UPDATE fairdrop.outbox_wanted SET until = 1").await.unwrap();
    ledger.record(&item_id, &[held("cid", 2)], Permit::Unleased).await.unwrap();
    for _ in 0..2 {
        ledger.want_events().await.unwrap();
    }
    ledger.pay(&item_id, &buyer("cid"), "pi_1", Permit::Unleased.fence(1)).await.unwrap();
    assert_eq!(listed(ledger).await, [line(2, "reserved", "ben"), line(4, "sold", "cid")]);
}

#[tokio::test]
async fn each_closing_is_reported_once() {
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    let closed_before = item(ledger, "a", 3).await;
    ledger.close_item(&closed_before, at(1)).await.unwrap();
    ledger.want_events().await.unwrap();
    let item_id = item(ledger, "b", 3).await;
    assert_eq!(ledger.report_closings(Permit::Unleased).await, Ok(0));
    ledger.close_item(&item_id, at(NOW * 2)).await.unwrap();
    assert_eq!(ledger.report_closings(Permit::Unleased).await, Ok(0), "it closes in the future");
    ledger.close_item(&item_id, at(2)).await.unwrap();
    let late = Permit::Leased { epoch: 1, until: at(1) };
    assert_eq!(ledger.report_closings(late).await, Err(LedgerError::LeaseOver));
    assert_eq!(ledger.report_closings(Permit::Unleased).await, Ok(1));
    assert_eq!(ledger.report_closings(Permit::Unleased).await, Ok(0));
    let events = pending(ledger).await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].kind, OutboxEventKind::Closed { closes_at: at(2) });
    assert_eq!((&events[0].item_id, events[0].sequence), (&item_id, 1));
}

#[tokio::test]
async fn events_are_published_again_in_batches_of_a_thousand() {
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    let item_id = item(ledger, "a", 2_500).await;
    ledger.want_events().await.unwrap();
    for part in 0..5 {
        let batch: Vec<Reservation> =
            (part * 500..(part + 1) * 500).map(|one| held(&format!("b{one}"), one)).collect();
        ledger.record(&item_id, &batch, Permit::Unleased).await.unwrap();
    }
    by_hand(&server, "UPDATE fairdrop.outbox SET published_at = 1").await.unwrap();
    for (from, events, next) in [(0, 1_000, Some(1_001)), (1_001, 1_000, Some(2_001)), (2_001, 500, None)] {
        assert_eq!(ledger.republish(&item_id, from).await, Ok(Republished { events, next }));
    }
    assert_eq!(ledger.republish(&item_id, 0).await, Ok(Republished { events: 0, next: None }));
    assert_eq!(listed(ledger).await.len(), 100);
}

#[tokio::test]
async fn a_malformed_event_holds_up_its_own_item_only() {
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    ledger.want_events().await.unwrap();
    let mut ids = Vec::new();
    for number in 0..17 {
        let item_id = item(ledger, &format!("item{number:02}"), 9).await;
        ledger.record(&item_id, &[held("ann", 0)], Permit::Unleased).await.unwrap();
        ids.push(item_id);
    }
    by_hand(
        &server,
        "INSERT INTO fairdrop.sales (item_id, user_token, state, placed_at, reserved_at, hold_until, epoch)
         VALUES ('item03', 'two words', 'sold', 1, 1, 1, 1)",
    )
    .await
    .unwrap();
    ledger.record(&ids[3], &[held("ben", 1)], Permit::Unleased).await.unwrap();
    let turn = turn_after(ledger, None).await;
    let of_item: Vec<u64> =
        turn.events.iter().filter(|one| one.item_id == ids[3]).map(|one| one.sequence).collect();
    assert_eq!((turn.events.len(), &of_item[..], turn.last_item.as_ref()), (16, &[1][..], Some(&ids[15])));
    let malformed = turn.malformed.as_ref().map(|one| (one.item_id.as_str(), one.sequence));
    assert_eq!(malformed, Some(("item03", 2)));
    let decided: Vec<_> = turn.events.clone();
    let decided: Vec<_> = decided.iter().map(|event| (event, Decided::Published)).collect();
    turn.finish(&decided).await.unwrap();
    // The item with the malformed event at its head has no event in a turn, and those after it have.
    assert_eq!(listed(ledger).await, [line(1, "reserved", "ann")]);
    assert!(ledger.outbox_state().await.unwrap().pending_since.is_some());
}
