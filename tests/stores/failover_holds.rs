//! Reservations that wait for payment when main is lost, with real servers: the old main may have sold them without
//! replicating the sale.

use ledger::{BuyerState, Due, Extension, Payment, SaleState, VoidOrder, WantedHold};
use local::system::clock::micros_now;
use local::system::redis_server;
use reconcile::{Stores, reconcile_at_rest};
use redis::AsyncCommands;
use shared::config::RedisConfig;
use shared::item::{ItemId, NewItem};
use shared::permit::{Fence, Permit};
use shared::queue::{Hold, Keys, Link, OrderState, Reservation};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::collections::BTreeMap;
use tests::{LedgerServer, RedisQueue};

const STOCK: u32 = 10;

struct NewMain {
    redis: RedisQueue,
    ledger: LedgerServer,
    item_id: ItemId,
    began: u64,
}

impl NewMain {
    /// The new main before its epoch begins: its ledger has a reservation of each buyer in `held` that waits for payment.
    async fn start(held: &[&str]) -> Self {
        let (redis, ledger) = tokio::join!(RedisQueue::start(), LedgerServer::start());
        let (redis, ledger) = (redis.unwrap(), ledger.unwrap());
        let item_id = redis.item("drop", STOCK, 500).await.unwrap();
        let began = micros_now() - 60_000_000;
        let main = Self { redis, ledger, item_id, began };
        let new = NewItem {
            item_id: main.item_id.clone(),
            name: "drop".into(),
            stock_total: STOCK,
            opens_at: Stamp::from_micros(began).unwrap(),
            closes_at: None,
            hold_seconds: 30,
            max_hold_seconds: 0,
            settle_window_ms: 500,
        };
        assert!(main.ledger.ledger.create_item(&new).await.unwrap());
        for buyer in held {
            let reservation = main.reservation(buyer);
            main.ledger.ledger.record(&main.item_id, &[reservation], Permit::Unleased).await.unwrap();
            main.score(buyer, main.hold_until().as_micros() as f64).await;
        }
        main
    }

    fn reservation(&self, buyer: &str) -> Reservation {
        Reservation {
            user_token: UserToken::parse(buyer).unwrap(),
            placed_at: Stamp::from_micros(self.began).unwrap(),
            reserved_at: Stamp::from_micros(self.began + 1_000_000).unwrap(),
            hold_until: self.hold_until(),
            epoch: 1,
        }
    }

    /// A time in the past.
    fn hold_until(&self) -> Stamp {
        Stamp::from_micros(self.began + 31_000_000).unwrap()
    }

    fn stores(&self) -> Stores {
        let url = self.redis.redis.url();
        let source = |name: &str| redis_server::setting(name, &url);
        let link = Link::new(RedisConfig::main(&source).unwrap());
        Stores { link, queue: self.redis.queue.clone(), ledger: self.ledger.ledger.clone() }
    }

    async fn score(&self, buyer: &str, score: f64) {
        let mut connection = self.redis.redis.connect().await.unwrap();
        let _: () = connection.zadd(Keys::of(&self.item_id).reservations, buyer, score).await.unwrap();
    }

    /// What the worker does once the hold of `buyer` has ended.
    async fn release(&self, buyer: &str, epoch: u64) -> BuyerState {
        let due = Due {
            user_token: UserToken::parse(buyer).unwrap(),
            hold_until: self.hold_until(),
            cancelled: false,
            kept_until: None,
        };
        let now = Stamp::from_micros(micros_now()).unwrap();
        let fence = Fence { epoch, until: None };
        let states = self.ledger.ledger.release_due(&self.item_id, &[due], now, fence).await.unwrap();
        states.into_iter().next().unwrap()
    }
}

#[tokio::test]
async fn old_holds_are_not_sold_again_before_an_operator_has_compared() {
    let main = NewMain::start(&["waits"]).await;
    let ledger = &main.ledger.ledger;
    // Nine are free, and one more could have been paid for.
    assert_eq!(ledger.replica(main.hold_until()).await.unwrap().units_unsold, u64::from(STOCK));
    ledger.raise_epoch(1).await.unwrap();
    assert_eq!(ledger.withhold(&main.item_id, 3, true, 2).await.unwrap(), 3);

    let reserved = BuyerState::Reserved { until: main.hold_until() };
    assert_eq!(main.release("waits", 2).await, reserved, "the hold has ended, and the unit stays reserved");
    // A part of the withheld units is put on sale: the operator is not finished yet.
    ledger.withhold_at_most(&main.item_id, 1).await.unwrap();
    assert_eq!(main.release("waits", 2).await, reserved);
    assert!(ledger.item(&main.item_id).await.unwrap().keeps_old_holds);
    ledger.withhold_at_most(&main.item_id, 0).await.unwrap();
    assert_eq!(main.release("waits", 2).await, BuyerState::Released);
}

#[tokio::test]
async fn reservations_that_only_redis_had_are_kept_too() {
    let main = NewMain::start(&[]).await;
    let ledger = &main.ledger.ledger;
    ledger.raise_epoch(1).await.unwrap();
    ledger.withhold(&main.item_id, 3, true, 2).await.unwrap();
    // The task was replicated, and the ledger's row was not: the new worker records it under the new epoch.
    let until = Stamp::from_micros(micros_now() + 60_000_000).unwrap();
    ledger
        .record(&main.item_id, &[main.reservation("late")], Permit::Leased { epoch: 2, until })
        .await
        .unwrap();
    assert_eq!(main.release("late", 2).await, BuyerState::Reserved { until: main.hold_until() });
    // The task was done, and does not exist any more: a repair does not release the reservation either.
    main.score("alone", main.hold_until().as_micros() as f64).await;
    main.score("late", main.hold_until().as_micros() as f64).await;
    let found = reconcile_at_rest(&main.stores(), &main.item_id).await.unwrap();
    assert_eq!(found.differences.get("taken in Redis alone"), Some(&1));
    assert_eq!((found.repaired, found.stock_counted), (0, i64::from(STOCK) - 3 - 2));
    ledger.withhold_at_most(&main.item_id, 0).await.unwrap();
    assert_eq!(reconcile_at_rest(&main.stores(), &main.item_id).await.unwrap().repaired, 1);
}

#[tokio::test]
async fn a_later_reservation_or_sale_in_redis_is_not_repaired_as_a_released_one() {
    let main = NewMain::start(&["again", "bought-again"]).await;
    for buyer in ["again", "bought-again"] {
        assert_eq!(main.release(buyer, 1).await, BuyerState::Released);
    }
    main.score("again", (main.hold_until().as_micros() + 90_000_000) as f64).await;
    main.score("bought-again", f64::INFINITY).await;
    main.ledger.ledger.raise_epoch(1).await.unwrap();
    let found = reconcile_at_rest(&main.stores(), &main.item_id).await.unwrap();
    assert_eq!(found.differences.get("taken again in Redis alone"), Some(&2));
    assert_eq!((found.repaired, found.stock_counted), (0, i64::from(STOCK) - 2));
}

#[tokio::test]
async fn a_later_reservation_that_ends_before_the_released_long_hold_goes_to_the_operator() {
    let main = NewMain::start(&["again", "lagging"]).await;
    let (ledger, fence) = (&main.ledger.ledger, Fence { epoch: 1, until: None });
    let held = OrderState::Reserved(Hold::Until(main.hold_until()));
    let long = WantedHold::once(Stamp::from_micros(micros_now() + 86_400_000_000).unwrap());
    for buyer in ["again", "lagging"] {
        let (token, reference) = (UserToken::parse(buyer).unwrap(), format!("pi_{buyer}"));
        ledger.extend(&main.item_id, &token, &reference, long, held, fence).await.unwrap();
        let released = ledger.give_up(&main.item_id, &token, &reference, held, fence).await;
        assert_eq!(released, Ok(Payment::Released));
    }
    main.score("again", (main.hold_until().as_micros() + 90_000_000) as f64).await;
    // Redis has neither the extension nor the release of this one.
    main.score("lagging", main.hold_until().as_micros() as f64).await;
    ledger.raise_epoch(1).await.unwrap();
    let found = reconcile_at_rest(&main.stores(), &main.item_id).await.unwrap();
    assert_eq!(found.differences.get("taken again in Redis alone"), Some(&1));
    assert_eq!(found.differences.get("released in the ledger alone"), Some(&1));
    assert_eq!((found.repaired, found.stock_counted), (1, i64::from(STOCK) - 1));
}

/// The old main's Redis had the voids, and the new one's copy lacks them.
#[tokio::test]
async fn a_void_of_a_hold_that_redis_has_lost_is_repaired_and_one_of_a_sale_is_left_to_the_operator() {
    let main = NewMain::start(&["bought", "waits"]).await;
    let (ledger, queue, fence) = (&main.ledger.ledger, &main.redis.queue, Fence { epoch: 1, until: None });
    let [bought, waits] = ["bought", "waits"].map(|buyer| UserToken::parse(buyer).unwrap());
    ledger.pay(&main.item_id, &bought, "pi_bought", fence).await.unwrap();
    let void = async |buyer: &UserToken, epoch| {
        let order = VoidOrder { buyer, reason: "fraud", by: None, bars: false };
        let void = ledger.void(&main.item_id, order, Fence { epoch, until: None }).await.unwrap().unwrap();
        reconcile::settle_void(queue, ledger, &void).await.unwrap();
    };
    void(&bought, 1).await;
    void(&waits, 1).await;
    // Perhaps bought again since: that sale was not replicated to the ledger's copy.
    main.score("bought", f64::INFINITY).await;
    main.score("waits", main.hold_until().as_micros() as f64).await;
    let mut redis = main.redis.redis.connect().await.unwrap();
    let _: () = redis.del(Keys::of(&main.item_id).tasks).await.unwrap();

    ledger.raise_epoch(1).await.unwrap();
    let found = reconcile_at_rest(&main.stores(), &main.item_id).await.unwrap();
    let expected = [("taken again in Redis alone", 1), ("voided in the ledger alone", 1)];
    assert_eq!(found.differences, BTreeMap::from(expected));
    let state = async |buyer| queue.order_state(&main.item_id, buyer).await.unwrap();
    assert_eq!((state(&waits).await, state(&bought).await), (OrderState::Voided, OrderState::Sold));
    void(&bought, 2).await;
    assert_eq!(state(&bought).await, OrderState::Voided);
}

#[tokio::test]
async fn a_late_notice_of_another_payment_does_not_release_a_unit_that_redis_has_as_sold() {
    let main = NewMain::start(&["bought"]).await;
    let ledger = &main.ledger.ledger;
    ledger.raise_epoch(1).await.unwrap();
    let (buyer, fence) = (UserToken::parse("bought").unwrap(), Fence { epoch: 2, until: None });
    let later = Stamp::from_micros(micros_now() + 60_000_000).unwrap();
    let sold = OrderState::Sold;
    let extended =
        ledger.extend(&main.item_id, &buyer, "first-card", WantedHold::once(later), sold, fence).await;
    assert_eq!(extended, Ok(Extension::Settled(Payment::Unknown)));
    let released = ledger.give_up(&main.item_id, &buyer, "first-card", sold, fence).await;
    assert_eq!(released, Ok(Payment::Unknown));
    let sales = ledger.sales(&main.item_id, None, 10).await.unwrap();
    assert_eq!(sales.first().map(|sale| sale.state), Some(SaleState::Reserved));
    let paid = ledger.pay(&main.item_id, &buyer, "second-card", fence).await;
    assert!(matches!(paid, Ok(Payment::Sold { .. })), "{paid:?}");
}

#[tokio::test]
async fn without_withheld_units_old_holds_are_released() {
    let main = NewMain::start(&["waits"]).await;
    main.ledger.ledger.raise_epoch(1).await.unwrap();
    main.ledger.ledger.withhold(&main.item_id, 0, false, 2).await.unwrap();
    assert_eq!(main.release("waits", 2).await, BuyerState::Released);
}

#[tokio::test]
async fn a_unit_that_redis_has_as_sold_under_an_earlier_epoch_stays_sold() {
    let main = NewMain::start(&["bought", "waits"]).await;
    // Redis's copy was slightly ahead of the ledger's.
    main.score("bought", f64::INFINITY).await;
    main.ledger.ledger.raise_epoch(1).await.unwrap();
    let found = reconcile_at_rest(&main.stores(), &main.item_id).await.unwrap();
    assert_eq!(found.differences.get("sold by the old main, by Redis alone"), Some(&1));
    assert_eq!((found.stock_counted, found.repaired), (i64::from(STOCK) - 2, 0));
    let mut connection = main.redis.redis.connect().await.unwrap();
    let score: f64 = connection.zscore(Keys::of(&main.item_id).reservations, "bought").await.unwrap();
    assert_eq!(score, f64::INFINITY, "it is not released");
    let sale = main.ledger.ledger.sales(&main.item_id, None, 10).await.unwrap();
    assert!(sale.iter().all(|sale| sale.state == SaleState::Reserved), "{sale:?}");
}
