//! Calls to a Redis that does not answer, or not in time, on real servers.

use anyhow::Result;
use local::aws::identity::{AUDIENCE, ISSUER, IdentityProvider};
use local::system::clock::micros_now;
use local::system::folder::WorkFolder;
use local::system::redis_server::Redis;
use redis::RedisResult;
use shared::config::RedisConfig;
use shared::edge::Edge;
use shared::item_cache::{ItemCache, MAX_AGE, REPLICA_LIMIT};
use shared::problem::Problem;
use shared::queue::{Link, LinkError};
use shared::stamp::Stamp;
use std::process::Command;
use std::time::{Duration, Instant};
use tests::{RedisQueue, eventually, queue_at};

const A_MOMENT: Duration = Duration::from_millis(20);

fn link_at(url: String) -> Link {
    let source = |name: &str| (name == "FAIRDROP_MAIN_REDIS_URL").then(|| url.clone());
    Link::new(RedisConfig::main(&source).unwrap())
}

/// The server's id of the connection that `link` uses now.
async fn connection_of(link: &Link) -> Result<i64, LinkError> {
    link.call(async |mut connection| redis::cmd("CLIENT").arg("ID").query_async(&mut connection).await).await
}

fn signal(signal: &str, process: u32) {
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
    let item_id = server.item("a", 3, 25_000).await.unwrap();
    let (url, jwks) = (server.redis.url(), IdentityProvider::new().unwrap().jwks().to_string());
    let source = |name: &str| match name {
        "FAIRDROP_MAIN_REDIS_URL" => Some(url.clone()),
        "FAIRDROP_TOKEN_JWKS" => Some(jwks.clone()),
        "FAIRDROP_TOKEN_ISSUER" => Some(ISSUER.to_owned()),
        "FAIRDROP_TOKEN_AUDIENCE" => Some(AUDIENCE.to_owned()),
        _ => None,
    };
    let edge = Edge::from_config(&source).unwrap();
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
    assert_eq!(item.unwrap().item_id, item_id);
}
