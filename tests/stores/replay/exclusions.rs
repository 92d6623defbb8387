//! Voided units and excluded buyers, after a loss of Redis.

use super::*;
use ledger::{ExclusionOrder, VoidOrder};

fn token(buyer: u8) -> UserToken {
    UserToken::parse(format!("buyer-{buyer:02}")).unwrap()
}

#[tokio::test]
async fn a_replay_gives_no_unit_back_and_none_to_an_excluded_buyer() {
    let world = World::start().await.unwrap();
    let item = world.announce(6).await.unwrap();
    let (ledger, fence) = (&world.ledger.ledger, Permit::Unleased.fence(1));
    let began = micros_now() - 8_000_000;
    let order = async |buyer: u8, at: u64| {
        let step = Step::Order { buyer, region: 0, is_delivered: true };
        item.run(&step, at).await.unwrap();
    };
    for buyer in [0, 1] {
        order(buyer, began + u64::from(buyer)).await;
    }
    item.drain(500).await.unwrap();
    world.work(&item.item_id).await.unwrap();
    let (voided, barred, excluded) = (token(0), token(1), token(2));
    for (buyer, bars) in [(&voided, false), (&barred, true)] {
        let order = VoidOrder { buyer, reason: "fraud", by: None, bars };
        ledger.void(&item.item_id, order, fence).await.unwrap().unwrap();
    }
    // New orders of all three, and of one buyer more. Redis is lost before it has the voids and the exclusion.
    for buyer in [1, 2, 3] {
        order(buyer, micros_now()).await;
    }
    let exclusion = ExclusionOrder { buyers: std::slice::from_ref(&excluded), reason: "bots", by: None };
    ledger.exclude(&item.item_id, exclusion, fence).await.unwrap();
    tokio::time::sleep(2 * WINDOW).await;
    item.lose(None).await.unwrap();
    item.replay(&ReplayOptions::default()).await.unwrap();
    assert_eq!(item.drain(500).await.unwrap(), 3);
    world.work(&item.item_id).await.unwrap();
    let state = async |buyer: &UserToken| world.queue.order_state(&item.item_id, buyer).await.unwrap();
    assert_eq!(state(&voided).await, OrderState::Voided);
    assert_eq!(state(&barred).await, OrderState::Voided);
    assert_eq!(state(&excluded).await, OrderState::Excluded);
    assert!(matches!(state(&token(3)).await, OrderState::Reserved(_)));
    let known = ledger.item(&item.item_id).await.unwrap();
    assert_eq!(known.units_taken, 1);
    assert_eq!(world.queue.item(&item.item_id).await.unwrap().stock_left, 5);
}
