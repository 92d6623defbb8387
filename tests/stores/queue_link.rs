//! Calls to a Redis that does not answer, or not in time, on real servers.

use anyhow::{Context, Result};
use local::aws::identity::{AUDIENCE, ISSUER, IdentityProvider};
use local::system::clock::micros_now;
use local::system::folder::WorkFolder;
use local::system::redis_server::{self, Redis};
use redis::RedisResult;
use serde_json::json;
use shared::clock::Clock;
use shared::config::RedisConfig;
use shared::edge::Edge;
use shared::item::NewItem;
use shared::item_cache::{ItemCache, MAX_AGE, REPLICA_LIMIT};
use shared::main_use::MainUse;
use shared::permit::Permit;
use shared::problem::Problem;
use shared::queue::{
    Hold, ItemError, Link, LinkError, ORDER_SCRIPTS, OrderState, PlaceError, Placement, Queue, ReadFrom,
};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::process::Command;
use std::time::{Duration, Instant};
use tests::{LedgerServer, RedisQueue, calls, eventually, order, queue_at, source};

const A_MOMENT: Duration = Duration::from_millis(20);

fn link_at(url: String) -> Link {
    let source = |name: &str| redis_server::setting(name, &url);
    Link::new(RedisConfig::main(&source).unwrap())
}

/// The server's id of the connection that `link` uses now.
async fn connection_of(link: &Link) -> Result<i64, LinkError> {
    link.call(async |mut connection| redis::cmd("CLIENT").arg("ID").query_async(&mut connection).await).await
}

pub(crate) fn signal(signal: &str, process: u32) {
    assert!(Command::new("kill").args([signal, &process.to_string()]).status().unwrap().success());
}

#[tokio::test]
async fn a_caller_with_a_short_time_limit_does_not_close_the_shared_connection() {
    let server = RedisQueue::start().await.unwrap();
    let link = link_at(server.redis.url());
    let first = connection_of(&link).await.unwrap();
    let gave_up = link.run(A_MOMENT, async |_| std::future::pending::<RedisResult<()>>().await).await;
    assert!(matches!(gave_up, Err(LinkError::Unanswered(_))), "{gave_up:?}");
    // Immediately, and after the probe.
    for later in [Duration::ZERO, Duration::from_millis(1_200)] {
        tokio::time::sleep(later).await;
        assert_eq!(connection_of(&link).await.unwrap(), first);
    }
}

#[tokio::test]
async fn a_silent_connection_is_replaced_even_if_every_caller_timed_out_early() {
    let server = RedisQueue::start().await.unwrap();
    let link = link_at(server.redis.url());
    let first = connection_of(&link).await.unwrap();
    let mut other = server.redis.connect().await.unwrap();
    let _: () = redis::cmd("CLIENT").arg("PAUSE").arg(1_500).query_async(&mut other).await.unwrap();
    let gave_up = link
        .run(A_MOMENT, async |mut connection| redis::cmd("PING").query_async::<String>(&mut connection).await)
        .await;
    assert!(matches!(gave_up, Err(LinkError::Unanswered(_))), "{gave_up:?}");
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_ne!(connection_of(&link).await.unwrap(), first);
}

/// Whether the replica has all writes of the server, over a separate connection.
async fn is_acknowledged(server: &RedisQueue) -> Result<bool> {
    Ok(queue_at(server.redis.url())?.wait_for_replicas(1, Duration::from_millis(100)).await?)
}

#[tokio::test]
async fn a_connection_without_a_write_waits_for_replicas_too() {
    let server = RedisQueue::start().await.unwrap();
    let folder = WorkFolder::new().unwrap();
    let replica = Redis::start_replica(folder.path(), "replica", &server.redis).await.unwrap();
    let soon = Duration::from_secs(10);
    eventually("the replica follows", soon, async || Ok(is_acknowledged(&server).await?.then_some(())))
        .await
        .unwrap();
    signal("-STOP", replica.process_id());
    server.item("unheard-of", 1, 50).await.unwrap();
    assert!(!is_acknowledged(&server).await.unwrap(), "a replica that stands still has acknowledged");
    signal("-CONT", replica.process_id());
    eventually("it follows again", soon, async || Ok(is_acknowledged(&server).await?.then_some(())))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_silent_replica_is_tried_once_and_then_skipped() {
    let server = RedisQueue::start().await.unwrap();
    let item_id = server.item("a", 1, 50).await.unwrap();
    // The system accepts connections, but no process reads from them.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let replica = queue_at(format!("redis://{}", silent.local_addr().unwrap())).unwrap();
    let cache = ItemCache::new(Some(replica), server.queue.clone());
    let began = Instant::now();
    assert!(cache.get(&item_id, Duration::from_secs(5)).await.unwrap().is_some());
    let took = began.elapsed();
    assert!(took >= REPLICA_LIMIT && took < REPLICA_LIMIT + Duration::from_millis(750), "{took:?}");
    // The copy is too old by then, and the replica is still skipped.
    tokio::time::sleep(MAX_AGE + Duration::from_millis(100)).await;
    let began = Instant::now();
    assert!(cache.get(&item_id, Duration::from_secs(5)).await.unwrap().is_some());
    assert!(began.elapsed() < REPLICA_LIMIT, "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_order_s_item_is_read_until_main_answers_or_the_window_ends() {
    let mut server = RedisQueue::start().await.unwrap();
    let item_id = server.item("a", 3, 10_000).await.unwrap();
    let (url, jwks) = (server.redis.url(), IdentityProvider::new().unwrap().jwks().to_string());
    let source = |name: &str| match name {
        "FAIRDROP_TOKEN_JWKS" => Some(jwks.clone()),
        "FAIRDROP_TOKEN_ISSUER" => Some(ISSUER.to_owned()),
        "FAIRDROP_TOKEN_AUDIENCE" => Some(AUDIENCE.to_owned()),
        _ => redis_server::setting(name, &url),
    };
    let edge = Edge::from_config(&source, MainUse::Always).unwrap();
    let before = |micros: u64| Stamp::from_micros(micros_now() - micros).unwrap();
    edge.item_for_order(&item_id, before(0)).await.unwrap();
    tokio::time::sleep(MAX_AGE + Duration::from_millis(100)).await;

    server.redis.kill();
    let began = Instant::now();
    let late = edge.item_for_order(&item_id, before(60_000_000)).await;
    assert_eq!(late, Err(Problem::MainUnreachable));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let restart = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.redis.restart().await
    };
    let (item, restarted) = tokio::join!(edge.item_for_order(&item_id, before(0)), restart);
    restarted.unwrap();
    assert_eq!(item.unwrap().item.item_id, item_id);
}

#[tokio::test]
async fn while_main_is_lost_a_process_soon_refuses_at_once_and_finds_it_again() {
    let mut server = RedisQueue::start().await.unwrap();
    let item_id = server.item("a", 3, 2_000).await.unwrap();
    let url = server.redis.url();
    let source = |name: &str| redis_server::setting(name, &url);
    let config = RedisConfig::main(&source).unwrap();
    let process = Queue::new(Link::with_breaker(config, ORDER_SCRIPTS));
    let place = async |buyer: &str| {
        let placed = order(&item_id, buyer, micros_now()).unwrap();
        process.place(&placed, Duration::from_secs(2), &server.clock).await.map(|placing| placing.placement)
    };
    assert_eq!(place("alice").await, Ok(Placement::Queued));
    server.redis.kill();
    // The first order waits for main, which may be back at any moment.
    let began = Instant::now();
    assert!(place("ben").await.is_err());
    let waited = began.elapsed();
    assert!(waited >= Duration::from_secs(4), "{waited:?}");
    // Later ones do not, except for one every few seconds.
    let began = Instant::now();
    let mut quick = 0;
    while began.elapsed() < Duration::from_secs(6) {
        let asked = Instant::now();
        assert_eq!(place("cid").await, Err(PlaceError::Unreachable));
        quick += u32::from(asked.elapsed() < Duration::from_millis(100));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(quick >= 20, "{quick} orders were refused at once");
    server.redis.restart().await.unwrap();
    let restarted = Instant::now();
    eventually("an order is placed", Duration::from_secs(20), async || {
        Ok((place("dora").await == Ok(Placement::Queued)).then_some(()))
    })
    .await
    .unwrap();
    println!("the first waited {waited:?}; found after {:?}", restarted.elapsed());
}

/// A port on which nothing answers: a primary that a demoted server cannot reach.
fn dead_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn is_read_only(error: &LinkError) -> bool {
    matches!(error, LinkError::Refused(code) if code == "READONLY")
}

#[tokio::test]
async fn a_demoted_main_gives_no_answer_that_could_mislead() {
    let mut server = RedisQueue::start().await.unwrap();
    let item_id = server.item("a", 1, 50).await.unwrap();
    let buyer = UserToken::parse("reserved").unwrap();
    let placed = order(&item_id, "reserved", micros_now()).unwrap();
    server.queue.place(&placed, Duration::from_secs(2), &server.clock).await.unwrap();
    eventually("the order is drained", Duration::from_secs(10), async || {
        Ok((server.queue.drain(&item_id, 10, Permit::Unleased).await?.reserved == 1).then_some(()))
    })
    .await
    .unwrap();
    let reserved = OrderState::Reserved(Hold::Sale);
    assert_eq!(server.queue.order_state(&item_id, &buyer).await.unwrap(), reserved);

    server.redis.follow(Some(dead_port())).await.unwrap();
    // It is cut off from its new primary, and goes on answering plain reads.
    assert_eq!(server.queue.item(&item_id).await.unwrap().item_id, item_id);
    let state = server.queue.order_state(&item_id, &buyer).await.unwrap_err();
    assert!(is_read_only(&state), "{state}");
    let status = server.queue.status(ReadFrom::Main, &item_id, &[&buyer]).await;
    assert!(matches!(&status, Err(ItemError::Link(error)) if is_read_only(error)), "{status:?}");
    let item = server.queue.item_on_primary(&item_id).await;
    assert!(matches!(&item, Err(ItemError::Link(error)) if is_read_only(error)), "{item:?}");
    let left = server.queue.leave(&item_id, &buyer).await.unwrap_err();
    assert!(is_read_only(&left), "{left}");
    // Neither "already reserved" nor "too late": the buyer may try again.
    let again = order(&item_id, "reserved", micros_now()).unwrap();
    let placing = server.queue.place(&again, Duration::from_millis(300), &server.clock).await;
    assert!(matches!(placing, Err(PlaceError::Unreachable | PlaceError::Unknown)), "{placing:?}");

    server.redis.follow(None).await.unwrap();
    assert_eq!(server.queue.order_state(&item_id, &buyer).await.unwrap(), reserved);
    assert_eq!(server.queue.item_on_primary(&item_id).await.unwrap().item_id, item_id);
}

#[tokio::test]
async fn a_process_leaves_a_demoted_server_at_its_first_read() {
    let mut server = RedisQueue::start().await.unwrap();
    let item_id = server.item("a", 1, 50).await.unwrap();
    let link = link_at(server.redis.url());
    let first = connection_of(&link).await.unwrap();
    server.redis.follow(Some(dead_port())).await.unwrap();
    // REPLICAOF itself closes no connection of a client.
    assert_eq!(connection_of(&link).await.unwrap(), first);
    let buyer = UserToken::parse("nobody").unwrap();
    let refused = Queue::new(link.clone()).order_state(&item_id, &buyer).await.unwrap_err();
    assert!(is_read_only(&refused), "{refused}");
    assert_ne!(connection_of(&link).await.unwrap(), first);
}

#[tokio::test]
async fn a_demoted_main_leads_to_no_final_refusal_of_a_payment() {
    let (mut server, ledger) = (RedisQueue::start().await.unwrap(), LedgerServer::start().await.unwrap());
    let new = NewItem {
        item_id: "a".parse().unwrap(),
        name: "A".into(),
        stock_total: 1,
        opens_at: Stamp::from_micros(micros_now() - 3_600_000_000).unwrap(),
        closes_at: None,
        hold_seconds: 600,
        max_hold_seconds: 0,
        settle_window_ms: 50,
    };
    ledger.ledger.create_item(&new).await.unwrap();
    server.queue.create_item(&new, 1).await.unwrap();
    let confirm = order_confirm::App::from_config(&source(&server, &ledger)).await.unwrap();
    for (outcome, reference) in [("paid", "p-1"), ("pending", "p-2"), ("failed", "p-3")] {
        let notice = json!({
            "item_id": "a", "user_token": "nobody", "payment_reference": reference, "outcome": outcome,
        });
        server.redis.follow(Some(dead_port())).await.unwrap();
        // An error, so that Lambda and the shop try again.
        let temporary = order_confirm::answer(&confirm, notice.clone()).await.unwrap_err().to_string();
        assert!(temporary.contains("status-unavailable"), "{outcome}: {temporary}");
        server.redis.follow(None).await.unwrap();
        // Until the connection is back, the answer stays temporary.
        let last = eventually("main answers", Duration::from_secs(10), async || {
            Ok(order_confirm::answer(&confirm, notice.clone()).await.ok())
        });
        let last = last.await.unwrap();
        assert!(last["type"].as_str().unwrap().ends_with("no-reservation"), "{outcome}: {last}");
    }
}

#[tokio::test]
async fn the_first_order_of_a_process_and_a_status_are_one_round_trip_each() {
    let server = RedisQueue::start().await.unwrap();
    let item_id = server.item("a", 1, 10_000).await.unwrap();
    let mut connection = server.redis.connect().await.unwrap();
    let _: () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut connection).await.unwrap();
    let _: () = redis::cmd("CONFIG").arg("RESETSTAT").query_async(&mut connection).await.unwrap();
    let url = server.redis.url();
    let source = |name: &str| redis_server::setting(name, &url);
    let queue = Queue::new(Link::with_scripts(RedisConfig::main(&source).unwrap(), ORDER_SCRIPTS));

    let first = order(&item_id, "first", micros_now()).unwrap();
    let placing = queue.place(&first, Duration::from_secs(10), &Clock::machine()).await.unwrap();
    assert_eq!(placing.placement, Placement::Queued);
    // A script that the server did not have would be sent twice by its hash.
    assert_eq!(calls(&server.redis, "evalsha").await.unwrap(), 1);
    assert_eq!(calls(&server.redis, "script|load").await.unwrap(), ORDER_SCRIPTS.len() as u64);
    // The accepted order pays nothing for the check of refusals.
    assert_eq!(calls(&server.redis, "zrem").await.unwrap(), 0);

    let changes = async || {
        let mut connection = server.redis.connect().await?;
        let info: String = redis::cmd("INFO").arg("persistence").query_async(&mut connection).await?;
        let changes = info.lines().find_map(|line| line.strip_prefix("rdb_changes_since_last_save:"));
        anyhow::Ok(changes.context("the server does not count its changes")?.to_owned())
    };
    let before = changes().await.unwrap();
    let buyer = UserToken::parse("first").unwrap();
    let state = queue.order_state(&item_id, &buyer).await.unwrap();
    assert_eq!(state, OrderState::Queued { placed_at: first.placed_at, ahead: 0 });
    assert_eq!(calls(&server.redis, "exec").await.unwrap(), 1);
    assert_eq!(calls(&server.redis, "zrem").await.unwrap(), 1);
    assert_eq!(changes().await.unwrap(), before, "the check of the role has changed data");
}
