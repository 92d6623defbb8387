//! The replay of a failover with real servers: the new main serves no item before the orders of the logs are back.

use crate::failover_stock::{NewMain, id, run};
use local::system::clock::micros_now;
use order_log::{Bucket, LogRecord, OrderLogError, RecordKind};
use reconcile::Stores;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use region_failover::servers::{reconcile_items, replay_again, replay_items, unrestored};
use region_failover::{Answer, Run};
use replay::{RecordSource, ReplayError, ReplayOptions};
use shared::item::ItemId;
use shared::permit::Permit;
use shared::queue::{Keys, RestoreCause, RestoreEnd};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Barrier, Semaphore};
use tokio::time::timeout;

static PLACED_AT: LazyLock<Stamp> = LazyLock::new(|| Stamp::from_micros(micros_now() - 30_000_000).unwrap());

/// A region's log in memory.
struct Log {
    region: &'static str,
    /// `None`: it cannot be read.
    buyers: Option<Vec<&'static str>>,
}

impl RecordSource for Log {
    fn region(&self) -> &str {
        self.region
    }

    async fn bucket(&self, item_id: &ItemId, bucket: u8, _: Stamp) -> Result<Bucket, OrderLogError> {
        let no_answer = || OrderLogError::Unanswered("timed out".into());
        let buyers = self.buyers.as_ref().ok_or_else(no_answer)?;
        // Buyers of one bucket are as good as others.
        let buyers = buyers.iter().filter(|_| bucket == 7);
        let record = |buyer: &&str| {
            let buyer = UserToken::parse(*buyer).unwrap();
            LogRecord::new(RecordKind::Order, item_id.clone(), buyer, *PLACED_AT)
        };
        Ok(Bucket { records: buyers.map(record).collect(), malformed: 0 })
    }
}

fn logged_run() -> Run {
    let mut run = run();
    run.order_logs = ["us-east-1", "eu-west-1"].map(str::to_owned).into();
    run
}

/// The text of a replay of which no item failed.
async fn replayed(main: &NewMain, logs: &[Log], unreadable: &BTreeMap<String, String>, run: &Run) -> String {
    match replay_items(&main.stores, logs, unreadable.clone(), run, None).await.unwrap() {
        Answer::Items { text, set_aside, failed } if set_aside.is_empty() && failed.is_none() => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn no_drain_serves_an_item_of_the_new_epoch_before_its_orders_are_back() {
    let (main, mut run) = (NewMain::start(&["drop"]).await, logged_run());
    let drop = id("drop");
    reconcile_items(&main.stores, &run).await.unwrap();
    assert_eq!(main.in_redis("drop").await.0, 2);
    assert_eq!(unrestored(&main.stores, &run).await.unwrap(), std::slice::from_ref(&drop));
    let until = Stamp::MAX;
    let drain = async || {
        main.stores.queue.drain(&drop, 10, Permit::Leased { epoch: 2, until }).await.unwrap().reserved
    };
    let mut connection = main.redis.redis.connect().await.unwrap();
    let _: () = connection.zadd(Keys::of(&drop).orders, "early", PLACED_AT.as_micros() + 1).await.unwrap();
    assert_eq!(drain().await, 0);
    // A second reconciliation, by an execution that was overtaken, changes nothing.
    reconcile_items(&main.stores, &run).await.unwrap();

    let here = Log { region: "eu-west-1", buyers: Some(vec!["ann", "ben"]) };
    let lost = Log { region: "us-east-1", buyers: None };
    let (logs, nothing) = ([here, lost], BTreeMap::new());
    let unreadable = BTreeMap::from([("us-east-1".to_owned(), "no answer".to_owned())]);
    let refused = replay_items(&main.stores, &logs, unreadable.clone(), &run, None).await.unwrap_err().0;
    assert!(refused.contains("without-log us-east-1"), "{refused}");
    // A log that fails after it has answered the probe.
    let Ok(Answer::Items { failed: Some(failed), .. }) =
        replay_items(&main.stores, &logs, nothing.clone(), &run, None).await
    else {
        panic!("the log cannot be read")
    };
    assert!(failed.contains("us-east-1"), "{failed}");
    assert_eq!(drain().await, 0);

    run.without_log("us-east-1").unwrap();
    let text = replayed(&main, &logs, &nothing, &run).await;
    assert!(
        text.starts_with("restored 1 items: 2 orders were put back; without the order log of us-east-1"),
        "{text}"
    );
    assert!(unrestored(&main.stores, &run).await.unwrap().is_empty());
    assert_eq!(drain().await, 3);
    assert!(replayed(&main, &logs, &unreadable, &run).await.starts_with("restored 0 items"));
}

/// An empty log that is read only for two items at the same time.
struct ForTwoItems {
    both: Barrier,
    items: [ItemId; 2],
    /// Reads of each item, and the items in the order of their first reads.
    reads: Mutex<(BTreeMap<ItemId, u32>, Vec<ItemId>)>,
}

impl RecordSource for ForTwoItems {
    fn region(&self) -> &str {
        "us-east-1"
    }

    async fn bucket(&self, item_id: &ItemId, bucket: u8, _: Stamp) -> Result<Bucket, OrderLogError> {
        let is_first = {
            let (reads, order) = &mut *self.reads.lock().unwrap();
            let reads = reads.entry(item_id.clone()).or_default();
            *reads += 1;
            if *reads == 1 {
                order.push(item_id.clone());
            }
            *reads == 1
        };
        assert!(!is_first || bucket == 0);
        if is_first && self.items.contains(item_id) {
            let both = timeout(Duration::from_secs(20), self.both.wait()).await;
            both.map_err(|_| OrderLogError::Unanswered("no other item is read".into()))?;
        }
        Ok(Bucket::default())
    }
}

#[tokio::test]
async fn several_items_are_restored_at_the_same_time_and_those_on_sale_first() {
    let mut names: Vec<String> = (0..20).map(|number| format!("closed-{number:02}")).collect();
    names.push("on-sale".to_owned());
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (main, run) = (NewMain::start(&names).await, logged_run());
    reconcile_items(&main.stores, &run).await.unwrap();
    let mut connection = main.redis.redis.connect().await.unwrap();
    for (name, number) in names.iter().zip(0..20) {
        let closed = micros_now() - 60_000_000 - (number + 13) % 20 * 1_000_000;
        let _: () = connection.hset(Keys::of(&id(name)).item, "closes_at", closed).await.unwrap();
    }
    // The last one to close.
    let items = [id("on-sale"), id("closed-07")];
    let log = ForTwoItems { both: Barrier::new(2), items: items.clone(), reads: Mutex::default() };
    let Answer::Items { text, set_aside, failed } =
        replay_items(&main.stores, std::slice::from_ref(&log), BTreeMap::new(), &run, None).await.unwrap()
    else {
        panic!("a replay is of items")
    };
    assert_eq!((set_aside, failed), (BTreeMap::new(), None));
    assert!(text.starts_with("restored 21 items"), "{text}");
    let (reads, order) = log.reads.into_inner().unwrap();
    for item_id in items {
        let position = order.iter().position(|one| *one == item_id).unwrap();
        assert!(position < 8, "{item_id} is number {position} of {order:?}");
    }
    // An item without records needs no second pass.
    assert!(reads.values().all(|reads| *reads == 256), "{reads:?}");
}

/// A log whose records of one item are not read before the test allows it.
struct SlowForOne {
    slow: ItemId,
    may_read: Semaphore,
}

impl RecordSource for SlowForOne {
    fn region(&self) -> &str {
        "us-east-1"
    }

    async fn bucket(&self, item_id: &ItemId, bucket: u8, since: Stamp) -> Result<Bucket, OrderLogError> {
        if *item_id == self.slow {
            let _permit = self.may_read.acquire().await.unwrap();
        }
        Log { region: "us-east-1", buyers: Some(vec!["ann"]) }.bucket(item_id, bucket, since).await
    }
}

#[tokio::test]
async fn each_item_is_sold_as_soon_as_its_own_orders_are_back_and_not_before() {
    let (main, run) = (NewMain::start(&["fast", "slow"]).await, logged_run());
    let (fast, slow) = (id("fast"), id("slow"));
    reconcile_items(&main.stores, &run).await.unwrap();
    let mut connection = main.redis.redis.connect().await.unwrap();
    for item_id in [&fast, &slow] {
        let younger = PLACED_AT.as_micros() + 1;
        let _: () = connection.zadd(Keys::of(item_id).orders, "younger", younger).await.unwrap();
    }
    let log = SlowForOne { slow: slow.clone(), may_read: Semaphore::new(0) };
    // The lease is open.
    let permit = Permit::Leased { epoch: 2, until: Stamp::MAX };
    let drain = async |item_id: &ItemId| main.stores.queue.drain(item_id, 10, permit).await.unwrap().reserved;
    let selling = async {
        while drain(&fast).await < 2 {
            assert_eq!(drain(&slow).await, 0);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(drain(&slow).await, 0, "its orders are not back");
        log.may_read.add_permits(10_000);
    };
    let selling = timeout(Duration::from_secs(120), selling);
    let replaying = replay_items(&main.stores, std::slice::from_ref(&log), BTreeMap::new(), &run, None);
    let (sold, answer) = tokio::join!(selling, replaying);
    sold.unwrap();
    assert!(matches!(answer.unwrap(), Answer::Items { failed: None, .. }));
    assert_eq!(drain(&slow).await, 2);
}

#[tokio::test]
async fn a_replay_that_takes_too_long_for_the_following_steps_gives_its_items_up_in_time() {
    let (main, run) = (NewMain::start(&["slow"]).await, logged_run());
    reconcile_items(&main.stores, &run).await.unwrap();
    let log = SlowForOne { slow: id("slow"), may_read: Semaphore::new(0) };
    let until = Instant::now() + Duration::from_secs(2);
    let replaying =
        replay_items(&main.stores, std::slice::from_ref(&log), BTreeMap::new(), &run, Some(until));
    let answer = timeout(Duration::from_secs(30), replaying).await.unwrap().unwrap();
    assert!(matches!(&answer, Answer::Items { failed: Some(why), .. } if why.contains("slow")), "{answer:?}");
    // The worker goes on with it at once, and need not wait until this replay has timed out.
    let items = [id("slow")];
    let due = main.stores.queue.restores_due(&items).await.unwrap();
    assert_eq!(due, [(id("slow"), RestoreCause::Wanted)]);
}

#[tokio::test]
async fn items_are_replayed_again_when_a_region_is_repointed_after_they_were_replayed() {
    let (main, run) = (NewMain::start(&["drop", "later", "new"]).await, logged_run());
    let (queue, drop) = (&main.stores.queue, id("drop"));
    let mut connection = main.redis.redis.connect().await.unwrap();
    reconcile_items(&main.stores, &run).await.unwrap();
    let opens_at = micros_now() + 86_400_000_000;
    let _: () = connection.hset(Keys::of(&id("later")).item, "opens_at", opens_at).await.unwrap();
    let nothing = BTreeMap::new();
    replayed(&main, &[Log { region: "us-east-1", buyers: Some(vec![]) }], &nothing, &run).await;
    // After a replay of the failover, too, the worker replays an item again.
    let again_at = async |connection: &mut MultiplexedConnection, item: &str| {
        let found: Option<u64> = connection.hget(Keys::of(&id(item)).item, "restore_again_at").await.unwrap();
        found
    };
    let before = again_at(&mut connection, "drop").await.unwrap();
    // It is over, an item is sold, and one is restored right now.
    for item in ["drop", "later", "new"] {
        let _: () = connection.hdel(Keys::of(&id(item)).item, "restore_again_at").await.unwrap();
    }
    assert!(queue.restore_begin(&id("new"), "in progress", Duration::ZERO).await.unwrap());
    let answer = replay_again(&main.stores, &["us-east-1".to_owned()]).await.unwrap();
    assert!(matches!(&answer, Answer::Done(text) if text.starts_with("2 items")), "{answer:?}");
    assert_eq!(again_at(&mut connection, "later").await, None, "it has no orders");
    assert!(again_at(&mut connection, "drop").await.unwrap() > before);
    assert!(!queue.is_restoring(&drop).await.unwrap(), "it is sold until then");
    assert_eq!(queue.restore_end(&id("new"), "in progress", None).await.unwrap(), RestoreEnd::Ended);
    for item in ["drop", "new"] {
        assert!(again_at(&mut connection, item).await.unwrap() > micros_now(), "{item}");
        let _: () = connection.hset(Keys::of(&id(item)).item, "restore_again_at", 1).await.unwrap();
    }
    let due = queue.restores_due(&[drop.clone(), id("new")]).await.unwrap();
    assert_eq!(due, [(drop, RestoreCause::Again), (id("new"), RestoreCause::Again)]);
}

#[tokio::test]
async fn an_item_that_the_worker_has_restored_meanwhile_is_not_restored_again_by_the_failover() {
    let (main, run) = (NewMain::start(&["first", "second"]).await, logged_run());
    let (queue, ledger) = (&main.stores.queue, &main.stores.ledger);
    reconcile_items(&main.stores, &run).await.unwrap();
    let logs = [Log { region: "us-east-1", buyers: Some(vec!["ann"]) }];
    let first = ReplayOptions { cause: Some(RestoreCause::Wanted), ..ReplayOptions::default() };
    replay::replay(&id("first"), queue, ledger, &logs, &first).await.unwrap();
    // Of a list that is older.
    let error = replay::replay(&id("first"), queue, ledger, &logs, &first).await.unwrap_err();
    assert!(matches!(error, ReplayError::NotDue), "{error}");
    let text = replayed(&main, &logs, &BTreeMap::new(), &run).await;
    assert!(text.starts_with("restored 1 items: 1 orders"), "{text}");
}

#[tokio::test]
async fn without_logs_no_item_waits() {
    let (main, run) = (NewMain::start(&["drop"]).await, run());
    reconcile_items(&main.stores, &run).await.unwrap();
    assert!(unrestored(&main.stores, &run).await.unwrap().is_empty());
    assert!(!main.stores.queue.is_restoring(&id("drop")).await.unwrap());
}

#[tokio::test]
async fn a_finished_item_that_redis_has_lost_stays_finished_and_waits_for_no_replay() {
    let (main, run) = (NewMain::start(&["drop"]).await, logged_run());
    let (Stores { queue, ledger, .. }, drop) = (&main.stores, id("drop"));
    let at = |seconds_ago: u64| Stamp::from_micros(micros_now() - seconds_ago * 1_000_000).unwrap();
    ledger.close_item(&drop, at(20)).await.unwrap();
    ledger.pause_item(&drop, true).await.unwrap();
    ledger.finish_item(&drop, at(5)).await.unwrap();
    reconcile_items(&main.stores, &run).await.unwrap();
    assert!(unrestored(&main.stores, &run).await.unwrap().is_empty());
    let item = queue.item(&drop).await.unwrap();
    assert!(item.is_finished() && item.epoch == 2, "{item:?}");
    let mut connection = main.redis.redis.connect().await.unwrap();
    let _: () = connection.zadd(Keys::of(&drop).orders, "early", at(25).as_micros()).await.unwrap();
    let permit = Permit::Leased { epoch: 2, until: Stamp::MAX };
    assert_eq!(queue.drain(&drop, 10, permit).await.unwrap().taken, 0);
}
