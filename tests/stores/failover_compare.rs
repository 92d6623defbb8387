//! The comparison of the old main with the new one, with real servers on both sides.

use ledger::LastSigns;
use local::system::clock::micros_now;
use local::system::redis_server;
use reconcile::Stores;
use redis::AsyncCommands;
use region_failover::compare::{Comparison, ComparisonPage, LostOrder, MAX_LISTED, compare};
use shared::config::RedisConfig;
use shared::item::{ItemId, NewItem};
use shared::permit::Permit;
use shared::queue::{Keys, Link, NO_HOLD_MICROS, Reservation};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use tests::{LedgerServer, RedisQueue};

/// More than one read returns.
const CROWD: u64 = 6_000;

/// A main: Redis, ledger, and an item on both.
struct Side {
    redis: RedisQueue,
    ledger: LedgerServer,
}

impl Side {
    async fn start(items: &[&str]) -> Self {
        let (redis, ledger) = tokio::join!(RedisQueue::start(), LedgerServer::start());
        let side = Self { redis: redis.unwrap(), ledger: ledger.unwrap() };
        for name in items {
            let new = NewItem {
                item_id: side.redis.item(name, 10, 500).await.unwrap(),
                name: (*name).into(),
                stock_total: 10,
                opens_at: at(0),
                closes_at: None,
                hold_seconds: 600,
                max_hold_seconds: 0,
                settle_window_ms: 500,
            };
            assert!(side.ledger.ledger.create_item(&new).await.unwrap());
        }
        side
    }

    fn stores(&self) -> Stores {
        let url = self.redis.redis.url();
        let source = |name: &str| redis_server::setting(name, &url);
        let link = Link::new(RedisConfig::main(&source).unwrap());
        Stores { link, queue: self.redis.queue.clone(), ledger: self.ledger.ledger.clone() }
    }

    async fn queue(&self, item: &str, orders: &[(u64, String)]) {
        let mut connection = self.redis.redis.connect().await.unwrap();
        let _: () = connection.zadd_multiple(Keys::of(&id(item)).orders, orders).await.unwrap();
    }

    async fn reserve(&self, item: &str, holds: &[(f64, &str)]) {
        let mut connection = self.redis.redis.connect().await.unwrap();
        let _: () = connection.zadd_multiple(Keys::of(&id(item)).reservations, holds).await.unwrap();
    }

    /// Sells a unit, as the worker does.
    async fn sell(&self, item: &str, buyer: &str, reserved_at: Stamp) {
        let sale = Reservation {
            user_token: UserToken::parse(buyer).unwrap(),
            placed_at: at(1_000),
            reserved_at,
            hold_until: Stamp::from_micros(reserved_at.as_micros() + NO_HOLD_MICROS).unwrap(),
            epoch: 1,
        };
        self.ledger.ledger.record(&id(item), &[sale], Permit::Unleased).await.unwrap();
    }
}

fn id(item: &str) -> ItemId {
    item.parse().unwrap()
}

/// `ms` milliseconds after a full hour, one to two hours ago.
fn at(ms: u64) -> Stamp {
    Stamp::from_micros(micros_now() / 3_600_000_000 * 3_600_000_000 - 3_600_000_000 + ms * 1_000).unwrap()
}

fn order(item: &str, buyer: &str, there: &'static str, placed_at: Option<Stamp>) -> LostOrder {
    LostOrder { item_id: id(item), user_token: buyer.into(), there, placed_at }
}

async fn compared(old: &Side, new: &Side) -> (Comparison, ComparisonPage) {
    compare(&old.stores(), &new.stores(), 0).await.unwrap()
}

#[tokio::test]
async fn compare_lists_the_orders_and_sales_that_only_the_old_main_has() {
    // "young" was created after the last replicated write.
    let (mut old, new) = tokio::join!(Side::start(&["both", "young"]), Side::start(&["both"]));
    let stamp = |ms| at(ms).as_micros();
    let queued = [(2_000, "gone"), (2_001, "waits"), (2_002, "served")];
    old.queue("both", &queued.map(|(ms, buyer)| (stamp(ms), buyer.to_owned()))).await;
    old.queue("young", &[(stamp(2_003), "early".to_owned())]).await;
    let until = stamp(900_000) as f64;
    let holds =
        [(until, "drained"), (-until, "released"), (f64::INFINITY, "sold"), (f64::INFINITY, "replicated")];
    old.reserve("both", &holds).await;
    old.sell("both", "replicated", at(3_000)).await;
    old.sell("both", "sold", at(4_000)).await;

    new.queue("both", &[(stamp(2_001), "waits".to_owned())]).await;
    new.sell("both", "served", at(5_000)).await;
    new.sell("both", "replicated", at(3_000)).await;

    let (found, listed) = compared(&old, &new).await;
    let expected = [
        order("both", "gone", "queued", Some(at(2_000))),
        order("both", "drained", "reserved", None),
        order("young", "early", "queued", Some(at(2_003))),
    ];
    assert_eq!(listed.lost_orders, expected);
    assert_eq!((found.orders_lost, found.orders_unknown.as_deref()), (Some(3), None));
    let sales: Vec<&str> = listed.lost.iter().map(|lost| lost.user_token.as_str()).collect();
    assert_eq!((sales, found.sales_lost, found.reservations_lost), (vec!["sold"], 1, 0));
    assert_eq!(
        found.last,
        LastSigns { heartbeat_ms: None, sale_ms: Some(at(4_000).as_micros() / 1_000) },
        "the old main's own"
    );

    // All orders of a crowd are counted, and a part is listed.
    let crowd: Vec<(u64, String)> =
        (0..CROWD).map(|number| (stamp(10_000) + number, format!("one-{number:04}"))).collect();
    old.queue("both", &crowd).await;
    let (found, listed) = compared(&old, &new).await;
    assert_eq!((found.orders_lost, listed.lost_orders.len()), (Some(CROWD + 3), MAX_LISTED));

    assert_eq!((found.next_skip(0), found.next_skip(5_003)), (Some(1_000), None));
    let (_, rest) = compare(&old.stores(), &new.stores(), CROWD).await.unwrap();
    assert_eq!((rest.lost.len(), rest.lost_orders.len()), (0, 3));

    // If the old main's Redis follows the new one, or does not answer, the ledgers are still compared.
    old.redis.redis.follow(Some(new.redis.redis.port())).await.unwrap();
    let (found, listed) = compared(&old, &new).await;
    assert_eq!((found.orders_lost, found.sales_lost, listed.lost_orders.len()), (None, 1, 0));
    assert!(found.orders_unknown.unwrap().contains("follows the new main's"));
    old.redis.redis.kill();
    let (found, _) = compared(&old, &new).await;
    assert!(found.orders_unknown.unwrap().contains("does not answer"));
    assert_eq!(found.sales_lost, 1);
}
