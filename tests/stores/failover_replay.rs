//! The replay of a failover with real servers: the new main serves no item before the orders of the logs are back.

use crate::failover_stock::{NewMain, id, run};
use local::system::clock::micros_now;
use order_log::{Bucket, LogRecord, OrderLogError, RecordKind};
use reconcile::Stores;
use redis::AsyncCommands;
use region_failover::servers::{reconcile_items, replay_items, unrestored};
use region_failover::{Answer, Run};
use replay::RecordSource;
use shared::item::ItemId;
use shared::permit::Permit;
use shared::queue::Keys;
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::collections::BTreeMap;
use std::sync::LazyLock;

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
    match replay_items(&main.stores, logs, unreadable.clone(), run).await.unwrap() {
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
    let refused = replay_items(&main.stores, &logs, unreadable.clone(), &run).await.unwrap_err().0;
    assert!(refused.contains("without-log us-east-1"), "{refused}");
    // A log that fails after it has answered the probe.
    let Ok(Answer::Items { failed: Some(failed), .. }) =
        replay_items(&main.stores, &logs, nothing.clone(), &run).await
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
