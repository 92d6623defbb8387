//! Changes of an item by an operator.

use super::*;
use shared::item::ItemChanges;

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_changes_all_take_effect() {
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    let item_id = item(ledger, "a", 5).await;
    // As if all operators had read the item before one of them writes.
    let changes = [
        ItemChanges { name: Some("B".into()), ..ItemChanges::default() },
        ItemChanges { stock_total: Some(9), ..ItemChanges::default() },
        ItemChanges { opens_at: Some(at(NOW + 5)), ..ItemChanges::default() },
        ItemChanges { hold_seconds: Some(30), ..ItemChanges::default() },
    ];
    let (changed, paused, closed) = tokio::join!(
        join_all(changes.iter().map(|one| ledger.change_item(&item_id, one))),
        ledger.pause_item(&item_id, true),
        ledger.close_item(&item_id, at(NOW + 9)),
    );
    assert!(changed.iter().all(|one| matches!(one, Ok(Some(_)))), "{changed:?}");
    assert!(paused.unwrap().paused && closed.unwrap().item.closes_at == Some(at(NOW + 9)));
    let known = ledger.item(&item_id).await.unwrap();
    assert_eq!((known.item.name.as_str(), known.item.stock_total, known.item.hold_seconds), ("B", 9, 30));
    assert_eq!((known.item.opens_at, known.item.closes_at), (at(NOW + 5), Some(at(NOW + 9))));
    assert!(known.paused);
    // A closed item stays closed.
    let closed = ledger.close_item(&item_id, at(NOW + 20)).await.unwrap();
    assert_eq!(closed.item.closes_at, Some(at(NOW + 9)));
    assert!(!ledger.pause_item(&item_id, false).await.unwrap().paused);
}

#[tokio::test]
async fn impossible_changes_are_refused() {
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    let item_id = item(ledger, "a", 5).await;
    let closes = |micros| ItemChanges { closes_at: Some(at(micros)), ..ItemChanges::default() };
    assert_eq!(ledger.change_item(&item_id, &closes(NOW)).await, Ok(None));
    assert!(matches!(ledger.change_item(&item_id, &closes(NOW + 1)).await, Ok(Some(_))));
    let opens = ItemChanges { opens_at: Some(at(NOW + 1)), ..ItemChanges::default() };
    assert_eq!(ledger.change_item(&item_id, &opens).await, Ok(None));
    // An item that was closed before it opened can still get another name.
    ledger.close_item(&item_id, at(NOW - 1)).await.unwrap();
    let named = ItemChanges { name: Some("B".into()), ..ItemChanges::default() };
    assert!(matches!(ledger.change_item(&item_id, &named).await, Ok(Some(known)) if known.item.name == "B"));

    ledger.record(&item_id, &[held("x", 0), held("y", 1)], Permit::Unleased).await.unwrap();
    let stock = ItemChanges { stock_total: Some(1), ..ItemChanges::default() };
    let refused = ledger.change_item(&item_id, &stock).await.map(drop);
    assert_eq!(refused, Err(LedgerError::Refused(NEVER_OVERSOLD.into())));
    let nothing: ItemId = "nothing".parse().unwrap();
    let missing = Err(LedgerError::NoSuchItem(nothing.clone()));
    assert_eq!(ledger.change_item(&nothing, &named).await.map(drop), missing);
    assert_eq!(ledger.pause_item(&nothing, true).await.map(drop), missing);
    assert_eq!(ledger.close_item(&nothing, at(NOW)).await.map(drop), missing);
    assert_eq!(ledger.withhold_at_most(&nothing, 0).await.map(drop), missing);
}

#[tokio::test]
async fn withheld_units_only_decrease() {
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    let item_id = item(ledger, "a", 5).await;
    assert_eq!(ledger.withhold(&item_id, 4, false, 2).await, Ok(4));
    for (most, left) in [(4, 4), (3, 3), (3, 3), (5, 3), (0, 0), (1, 0)] {
        assert_eq!(ledger.withhold_at_most(&item_id, most).await, Ok(left));
    }
}
