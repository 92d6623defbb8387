//! How an edge reads items, with a replica that lags and a main whose lease lapses, on real servers.

use crate::refusals::connections;
use anyhow::Result;
use futures::future::join_all;
use local::system::clock::micros_now;
use local::system::folder::WorkFolder;
use local::system::redis_server::{self, Redis};
use local::system::wan::{ConnectionState, WanConnection};
use redis::AsyncCommands;
use shared::item::{ItemChanges, ItemId};
use shared::item_cache::{ItemCache, MAX_AGE, NoSuchItem, REPLICA_LIMIT};
use shared::main_use::{NEARBY_LIMIT, REFUSAL_LIMIT};
use shared::permit::Permit;
use shared::queue::{HEARTBEAT, ItemCopy, LEASED_UNTIL, MAX_REPLICA_LAG};
use shared::stamp::Stamp;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tests::{RedisQueue, calls, eventually, queue_at};

const SOON: Duration = Duration::from_secs(20);
const SECOND: Duration = Duration::from_secs(1);

fn leased_for(time: Duration) -> Permit {
    let until = Stamp::from_micros(micros_now()).unwrap().saturating_add(time);
    Permit::Leased { epoch: 1, until }
}

/// A main, and a region's replica of it over a connection that can be cut.
pub(crate) struct EdgeFixture {
    pub(crate) main: RedisQueue,
    pub(crate) replica: Redis,
    pub(crate) connection: WanConnection,
    pub(crate) item_id: ItemId,
    _folder: WorkFolder,
}

impl EdgeFixture {
    pub(crate) async fn start() -> Self {
        let main = RedisQueue::start().await.unwrap();
        let folder = WorkFolder::new().unwrap();
        let connection =
            WanConnection::open(([127, 0, 0, 1], main.redis.port()).into(), Duration::ZERO).await.unwrap();
        let replica = Redis::start_follower(folder.path(), "replica", connection.port()).await.unwrap();
        let item_id = main.item("a", 5, 2_000).await.unwrap();
        let fixture = Self { main, replica, connection, item_id, _folder: folder };
        fixture.replicated().await;
        fixture
    }

    /// Waits until the replica has everything that main has.
    pub(crate) async fn replicated(&self) {
        let main = &self.main.queue;
        eventually("the replica follows", SOON, async || {
            Ok(main.wait_for_replicas(1, Duration::from_millis(100)).await?.then_some(()))
        })
        .await
        .unwrap();
    }

    /// The cache of a process that has read nothing yet.
    fn cache(&self) -> ItemCache {
        ItemCache::new(Some(queue_at(self.replica.url()).unwrap()), self.main.queue.clone())
    }

    async fn heartbeat(&self, permit: Permit) {
        self.main.queue.write_heartbeat(permit).await.unwrap();
    }

    async fn rename(&self, name: &str) {
        let changes = ItemChanges { name: Some(name.into()), ..ItemChanges::default() };
        self.main.queue.update_item(&self.item_id, &changes).await.unwrap();
    }

    /// How often main and the replica were asked for an item.
    async fn reads(&self) -> Result<(u64, u64)> {
        Ok((calls(&self.main.redis, "hgetall").await?, calls(&self.replica, "hgetall").await?))
    }
}

impl EdgeFixture {
    /// The number of reads of items and of the set of ids, by main and by the replica.
    async fn commands(&self) -> Result<u64> {
        let mut sum = 0;
        for server in [&self.main.redis, &self.replica] {
            sum += calls(server, "hgetall").await? + calls(server, "smembers").await?;
        }
        Ok(sum)
    }
}

async fn get(cache: &ItemCache, item_id: &ItemId) -> Option<Arc<ItemCopy>> {
    cache.get(item_id, Duration::from_secs(20)).await.unwrap()
}

#[tokio::test]
async fn each_process_that_keeps_the_lease_renews_it_for_the_edges() {
    let fixture = EdgeFixture::start().await;
    let (main, item_id) = (&fixture.main.queue, &fixture.item_id);
    main.drain(item_id, 1, leased_for(SECOND)).await.unwrap();
    tokio::time::sleep(SECOND * 2).await;
    // The drain has paused since; another process has renewed the lease.
    fixture.heartbeat(leased_for(SECOND * 30)).await;
    fixture.replicated().await;
    assert!(get(&fixture.cache(), item_id).await.unwrap().may_be_sold());
    assert_eq!(fixture.reads().await.unwrap().0, 0, "the replica had the lease");
    // A process that renewed earlier, or whose permit has expired, shortens nothing.
    let mut connection = fixture.main.redis.connect().await.unwrap();
    let written: (u64, u64) = connection.mget(&[HEARTBEAT, LEASED_UNTIL]).await.unwrap();
    fixture.heartbeat(leased_for(SECOND * 5)).await;
    let later: (u64, u64) = connection.mget(&[HEARTBEAT, LEASED_UNTIL]).await.unwrap();
    assert!(later.0 > written.0 && later.1 == written.1, "{written:?} {later:?}");
    fixture.heartbeat(leased_for(Duration::ZERO)).await;
    assert_eq!(connection.mget::<_, (u64, u64)>(&[HEARTBEAT, LEASED_UNTIL]).await.unwrap(), later);
}

#[tokio::test]
async fn a_copy_whose_lease_has_lapsed_is_asked_of_main_before_a_refusal() {
    let fixture = EdgeFixture::start().await;
    fixture.heartbeat(leased_for(SECOND)).await;
    fixture.replicated().await;
    fixture.connection.set(ConnectionState::Silent);
    fixture.heartbeat(leased_for(SECOND * 2)).await;
    let cache = fixture.cache();
    tokio::time::sleep(SECOND).await;
    // By the replica main may not sell any more.
    assert!(get(&cache, &fixture.item_id).await.unwrap().may_be_sold());
    tokio::time::sleep(SECOND).await;
    let before = fixture.reads().await.unwrap().0;
    let began = Instant::now();
    for _ in 0..20 {
        assert!(!get(&cache, &fixture.item_id).await.unwrap().may_be_sold());
    }
    let asked = fixture.reads().await.unwrap().0 - before;
    assert!((1..=1 + began.elapsed().as_secs()).contains(&asked), "main was asked {asked} times");
}

#[tokio::test]
async fn a_replica_that_answers_but_lags_counts_as_failed() {
    let fixture = EdgeFixture::start().await;
    fixture.heartbeat(leased_for(SECOND * 60)).await;
    fixture.replicated().await;
    fixture.connection.set(ConnectionState::Silent);
    fixture.rename("newer").await;
    let cache = fixture.cache();
    assert_eq!(get(&cache, &fixture.item_id).await.unwrap().item.name, "a", "the replica lags by little");
    tokio::time::sleep(MAX_REPLICA_LAG).await;
    assert_eq!(get(&cache, &fixture.item_id).await.unwrap().item.name, "newer");
    // It is not asked again for a while.
    let before = fixture.reads().await.unwrap();
    tokio::time::sleep(MAX_AGE).await;
    get(&cache, &fixture.item_id).await.unwrap();
    assert_eq!(fixture.reads().await.unwrap(), (before.0 + 1, before.1));
}

#[tokio::test]
async fn that_an_item_does_not_exist_is_the_word_of_main() {
    let fixture = EdgeFixture::start().await;
    fixture.connection.set(ConnectionState::Silent);
    let new = fixture.main.item("new", 1, 2_000).await.unwrap();
    let cache = fixture.cache();
    assert_eq!(get(&cache, &new).await.unwrap().item.item_id, new);
    assert_eq!(get(&cache, &"none".parse().unwrap()).await, None);
}

#[tokio::test]
async fn a_replica_is_read_even_if_main_has_never_written_a_heartbeat() {
    let fixture = EdgeFixture::start().await;
    assert!(get(&fixture.cache(), &fixture.item_id).await.unwrap().may_be_sold());
    assert_eq!(fixture.reads().await.unwrap(), (0, 1));
}

#[tokio::test]
async fn a_flood_of_unknown_ids_costs_a_handful_of_commands() {
    let fixture = EdgeFixture::start().await;
    let bad: Vec<ItemId> = (0..500).map(|n| format!("bad-{n}").parse().unwrap()).collect();
    for at_once in [false, true] {
        let cache = fixture.cache();
        let before = fixture.commands().await.unwrap();
        let began = Instant::now();
        if at_once {
            let answers = join_all(bad.iter().map(|item_id| get(&cache, item_id))).await;
            assert!(answers.iter().all(Option::is_none));
        } else {
            for item_id in &bad {
                assert_eq!(get(&cache, item_id).await, None);
            }
        }
        // One id is let through, to the replica and to main; the set of ids answers for the others.
        let seconds = 1 + began.elapsed().as_secs();
        let commands = fixture.commands().await.unwrap() - before;
        assert!(commands <= 3 * seconds, "{commands} reads in {seconds} s");
        // Items that exist are found in the middle of it, and a new one within a second.
        assert!(get(&cache, &fixture.item_id).await.is_some());
        let new = fixture.main.item(if at_once { "new" } else { "newer" }, 1, 2_000).await.unwrap();
        tokio::time::sleep(MAX_AGE).await;
        assert_eq!(get(&cache, &new).await.unwrap().item.item_id, new);
    }
}

#[tokio::test]
async fn the_first_item_of_a_process_costs_no_read_of_the_set_of_ids() {
    let fixture = EdgeFixture::start().await;
    let before = fixture.commands().await.unwrap();
    assert!(get(&fixture.cache(), &fixture.item_id).await.is_some());
    assert_eq!(fixture.commands().await.unwrap() - before, 1);
}

#[tokio::test]
async fn a_main_that_hangs_does_not_use_up_an_orders_time() {
    let fixture = EdgeFixture::start().await;
    let second = fixture.main.item("b", 1, 2_000).await.unwrap();
    fixture.heartbeat(leased_for(SECOND * 60)).await;
    fixture.replicated().await;
    let wan = WanConnection::open(([127, 0, 0, 1], fixture.main.redis.port()).into(), Duration::ZERO);
    let wan = wan.await.unwrap();
    let main = queue_at(redis_server::url_at(wan.port())).unwrap();
    main.item_ids_on_primary(SOON).await.unwrap();
    wan.set(ConnectionState::Silent);
    let cache = ItemCache::new(Some(queue_at(fixture.replica.url()).unwrap()), main);
    // The second unknown id within a second is the one that the set of ids is read for.
    assert!(get(&cache, &fixture.item_id).await.is_some());
    let began = Instant::now();
    assert!(get(&cache, &second).await.is_some());
    assert!(began.elapsed() < REPLICA_LIMIT + MAX_AGE, "{:?}", began.elapsed());
}

/// How long a read takes that has the replica's limit, on a busy machine.
const NEARBY: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_nearby_item_is_the_replicas_and_main_is_asked_only_before_a_refusal() {
    let fixture = EdgeFixture::start().await;
    fixture.heartbeat(Permit::Unleased).await;
    fixture.replicated().await;
    let nearby = async |cache: &ItemCache, id: &ItemId| {
        cache.nearby(id, NEARBY).await.map(|copy| copy.map(|copy| copy.item.name.clone()))
    };
    let unknown: ItemId = "unknown".parse().unwrap();
    let own = queue_at(fixture.main.redis.url()).unwrap();
    let cache = ItemCache::new(Some(queue_at(fixture.replica.url()).unwrap()), own);
    let before = connections(&fixture.main.redis).await.unwrap();
    assert_eq!(nearby(&cache, &fixture.item_id).await, Ok(Some("a".into())));
    fixture.rename("b").await;
    fixture.replicated().await;
    assert_eq!(nearby(&cache, &fixture.item_id).await, Ok(Some("a".into())), "a copy of a second");
    // The count itself opens one.
    assert_eq!(connections(&fixture.main.redis).await.unwrap() - before, 1, "main was not asked");
    // The replica lacks two items; main has one of them.
    fixture.connection.set(ConnectionState::Silent);
    let fresh = fixture.main.item("fresh", 1, 2_000).await.unwrap();
    assert_eq!(nearby(&cache, &fresh).await, Ok(None));
    assert_eq!(nearby(&cache, &unknown).await, Err(NoSuchItem));
    // A replica that is too far behind tells nothing, and is not asked again for a while.
    tokio::time::sleep(MAX_REPLICA_LAG + SECOND).await;
    let reads = fixture.reads().await.unwrap();
    for _ in 0..3 {
        assert_eq!(nearby(&cache, &fixture.item_id).await, Ok(None));
    }
    let later = fixture.reads().await.unwrap();
    assert_eq!((later.0 - reads.0, later.1 - reads.1), (0, 1));
    assert_eq!(nearby(&ItemCache::new(None, fixture.main.queue.clone()), &unknown).await, Ok(None));
}

#[tokio::test]
async fn a_request_waits_for_neither_a_silent_replica_nor_a_silent_main() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let queue = || queue_at(format!("redis://{}", silent.local_addr().unwrap())).unwrap();
    let item_id: ItemId = "a".parse().unwrap();
    let cache = ItemCache::new(Some(queue()), queue());
    let began = Instant::now();
    assert_eq!(cache.nearby(&item_id, NEARBY_LIMIT).await, Ok(None));
    assert!(began.elapsed() < NEARBY_LIMIT * 4, "{:?}", began.elapsed());
    // The replica has no such item, and main does not say whether it has.
    let fixture = EdgeFixture::start().await;
    let cache = ItemCache::new(Some(queue_at(fixture.replica.url()).unwrap()), queue());
    let began = Instant::now();
    assert_eq!(cache.nearby(&"unknown".parse().unwrap(), NEARBY).await, Ok(None));
    assert!(began.elapsed() < REFUSAL_LIMIT + SECOND, "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_item_that_an_earlier_version_sold_by_a_lease_is_not_sold_without_one() {
    let server = RedisQueue::start().await.unwrap();
    let item_id = server.item("a", 5, 2_000).await.unwrap();
    server.queue.drain(&item_id, 1, Permit::Unleased).await.unwrap();
    let mut connection = server.redis.connect().await.unwrap();
    let _: () = connection.hset(format!("item:{{{item_id}}}"), "leased_until", "1").await.unwrap();
    assert!(server.queue.drain(&item_id, 1, Permit::Unleased).await.is_err());
}
