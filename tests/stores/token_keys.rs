//! A process's copy of the fetched token keys, on a real Redis.

use crate::edge_reads::EdgeFixture;
use local::aws::identity::{AUDIENCE, ISSUER, IdentityProvider};
use local::system::redis_server;
use local::system::wan::{ConnectionState, WanConnection};
use serde_json::json;
use shared::main_use::MainUse;
use shared::permit::Permit;
use shared::queue::{MAX_REPLICA_LAG, Queue, ReadFrom};
use shared::token::TokenError;
use shared::token_keys::{REFRESH_INTERVAL, TokenKeys, UNKNOWN_INTERVAL, UNKNOWN_WAIT, Unproven};
use std::time::{Duration, Instant};
use tests::{RedisQueue, calls, eventually, queue_at};

fn provider(key_id: &str) -> IdentityProvider {
    IdentityProvider::with_key_id(key_id).unwrap()
}

/// The keys of a process that has `seed` (or nothing) configured.
fn keys(seed: Option<&IdentityProvider>, replica: Option<&RedisQueue>, main: &RedisQueue) -> TokenKeys {
    keys_at(seed, replica.map(|replica| replica.queue.clone()), main.queue.clone())
}

fn keys_at(seed: Option<&IdentityProvider>, replica: Option<Queue>, main: Queue) -> TokenKeys {
    keys_of(seed, replica, main, MainUse::Always)
}

fn keys_of(
    seed: Option<&IdentityProvider>,
    replica: Option<Queue>,
    main: Queue,
    main_use: MainUse,
) -> TokenKeys {
    let jwks = seed.map(|seed| seed.jwks().to_string());
    let source = |name: &str| match name {
        "FAIRDROP_TOKEN_JWKS" => jwks.clone(),
        "FAIRDROP_TOKEN_KEYS_FROM" => Some("discovery".into()),
        "FAIRDROP_TOKEN_ISSUER" => Some(ISSUER.to_owned()),
        "FAIRDROP_TOKEN_AUDIENCE" => Some(AUDIENCE.to_owned()),
        _ => None,
    };
    TokenKeys::from_config(&source, replica, main, main_use).unwrap()
}

async fn store(server: &RedisQueue, provider: &IdentityProvider) {
    let document = provider.jwks().to_string();
    server.queue.store_token_keys(Some(&document), Duration::ZERO).await.unwrap();
}

/// The number of reads of the stored set that the server has answered.
async fn reads(server: &RedisQueue) -> u64 {
    calls(&server.redis, "hmget").await.unwrap()
}

/// A sign of life of main, as the server has it.
async fn heartbeat(server: &RedisQueue) {
    server.queue.write_heartbeat(Permit::Unleased).await.unwrap();
}

async fn buyer(keys: &TokenKeys, provider: &IdentityProvider) -> Result<(), Unproven> {
    keys.prove(&provider.token("alice").unwrap()).await.map(drop)
}

const UNKNOWN: Result<(), Unproven> = Err(Unproven::Refused(TokenError::UnknownKey));

#[tokio::test]
async fn a_new_key_is_accepted_at_its_first_token_and_a_missing_one_is_refused_soon() {
    let server = RedisQueue::start().await.unwrap();
    let (old, new) = (provider("old"), provider("new"));
    let keys = keys(Some(&old), None, &server);
    assert_eq!(buyer(&keys, &old).await, Ok(()));
    assert_eq!(buyer(&keys, &new).await, UNKNOWN);
    store(&server, &new).await;
    tokio::time::sleep(UNKNOWN_INTERVAL).await;
    assert_eq!(buyer(&keys, &new).await, Ok(()), "the token itself causes the read");
    // The fetched set alone counts, not the configured one.
    assert_eq!(buyer(&keys, &old).await, UNKNOWN);
    // Without a token that names an unknown key, the copy is read in the background.
    store(&server, &old).await;
    assert_eq!(buyer(&keys, &new).await, Ok(()));
    tokio::time::sleep(REFRESH_INTERVAL).await;
    assert_eq!(buyer(&keys, &new).await, Ok(()), "a token that the copy verifies never waits");
    let began = Instant::now();
    while buyer(&keys, &new).await.is_ok() {
        assert!(began.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(buyer(&keys, &old).await, Ok(()));
}

#[tokio::test]
async fn a_process_that_has_just_started_waits_for_the_keys_and_has_none_without_them() {
    let server = RedisQueue::start().await.unwrap();
    let provider = provider("a");
    assert_eq!(buyer(&keys(None, None, &server), &provider).await, Err(Unproven::NoKeys));
    store(&server, &provider).await;
    assert_eq!(buyer(&keys(None, None, &server), &provider).await, Ok(()));
}

#[tokio::test]
async fn a_flood_of_unknown_keys_reads_the_set_once_a_second() {
    let server = RedisQueue::start().await.unwrap();
    let (known, stranger) = (provider("a"), provider("b"));
    store(&server, &known).await;
    let keys = keys(Some(&known), None, &server);
    let (before, began, mut sent) = (reads(&server).await, Instant::now(), 0);
    while began.elapsed() < UNKNOWN_INTERVAL * 3 {
        let all = (0..50).map(|_| buyer(&keys, &stranger));
        assert!(futures::future::join_all(all).await.iter().all(|outcome| *outcome == UNKNOWN));
        sent += 50;
        tokio::task::yield_now().await;
    }
    let read = reads(&server).await - before;
    // One at once and one a second, and one in the background.
    assert!(sent >= 1_000 && (2..=5).contains(&read), "{read} reads for {sent} tokens");
    // A token of another issuer causes none; one in the background may fall into this time.
    let before = reads(&server).await;
    let foreign =
        json!({ "iss": "https://other.example", "aud": AUDIENCE, "sub": "a", "exp": 4_000_000_000_u64 });
    for _ in 0..4 {
        tokio::time::sleep(UNKNOWN_INTERVAL).await;
        assert_eq!(keys.prove(&stranger.sign(&foreign).unwrap()).await.map(drop), UNKNOWN);
    }
    assert!(reads(&server).await <= before + 1);
}

#[tokio::test]
async fn the_copy_stays_if_redis_is_lost_or_has_a_set_that_cannot_be_used() {
    let mut server = RedisQueue::start().await.unwrap();
    let (known, stranger) = (provider("a"), provider("b"));
    store(&server, &known).await;
    let keys = keys(None, None, &server);
    assert_eq!(buyer(&keys, &known).await, Ok(()));
    let mut connection = server.redis.connect().await.unwrap();
    for broken in ["", "x", r#"{"keys":[]}"#] {
        let set = redis::cmd("HSET").arg(&["token_keys", "document", broken]).to_owned();
        set.query_async::<()>(&mut connection).await.unwrap();
        tokio::time::sleep(UNKNOWN_INTERVAL).await;
        assert_eq!(buyer(&keys, &stranger).await, UNKNOWN, "{broken:?}");
        assert_eq!(buyer(&keys, &known).await, Ok(()), "{broken:?}");
    }
    server.redis.kill();
    tokio::time::sleep(UNKNOWN_INTERVAL).await;
    let began = Instant::now();
    assert_eq!(buyer(&keys, &stranger).await, UNKNOWN);
    assert!(began.elapsed() < UNKNOWN_WAIT + Duration::from_secs(2));
    assert_eq!(buyer(&keys, &known).await, Ok(()));
}

#[tokio::test]
async fn the_replica_is_read_and_main_if_it_fails() {
    let (main, mut replica) = tokio::try_join!(RedisQueue::start(), RedisQueue::start()).unwrap();
    let (seed, of_main, of_replica) = (provider("seed"), provider("main"), provider("replica"));
    store(&main, &of_main).await;
    store(&replica, &of_replica).await;
    heartbeat(&replica).await;
    let process = keys(Some(&seed), Some(&replica), &main);
    assert_eq!(buyer(&process, &seed).await, Ok(()));
    eventually("the replica is read", REFRESH_INTERVAL, async || {
        Ok((calls(&replica.redis, "hmget").await? > 0).then_some(()))
    })
    .await
    .unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(buyer(&process, &of_replica).await, Ok(()));
    assert_eq!(reads(&main).await, 0);
    replica.redis.kill();
    let process = keys(Some(&seed), Some(&replica), &main);
    until_refused(&process, &seed).await;
    assert_eq!(buyer(&process, &of_main).await, Ok(()));
}

/// Waits until a read in the background has replaced the key. Before that, no token names an unknown key.
async fn until_refused(keys: &TokenKeys, provider: &IdentityProvider) {
    let began = Instant::now();
    let limit = MAX_REPLICA_LAG + REFRESH_INTERVAL * 2 + Duration::from_secs(3);
    while buyer(keys, provider).await.is_ok() {
        assert!(began.elapsed() < limit, "the key is still accepted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_replica_without_a_set_or_without_a_heartbeat_is_not_believed() {
    let (main, replica) = tokio::try_join!(RedisQueue::start(), RedisQueue::start()).unwrap();
    let (seed, new, other) = (provider("seed"), provider("new"), provider("other"));
    store(&main, &new).await;
    heartbeat(&replica).await;
    until_refused(&keys(Some(&seed), Some(&replica), &main), &seed).await;
    let silent = RedisQueue::start().await.unwrap();
    store(&silent, &other).await;
    let process = keys(Some(&seed), Some(&silent), &main);
    until_refused(&process, &seed).await;
    assert_eq!(buyer(&process, &new).await, Ok(()));
    // If main does not answer, such a set is better than none.
    let mut main = main;
    main.redis.kill();
    until_refused(&keys(Some(&seed), Some(&silent), &main), &seed).await;
}

#[tokio::test]
async fn an_unknown_key_is_asked_of_main_and_an_older_set_of_the_replica_does_not_replace_mains() {
    let edge = EdgeFixture::start().await;
    let (old, new) = (provider("old"), provider("new"));
    store(&edge.main, &old).await;
    heartbeat(&edge.main).await;
    edge.replicated().await;
    let keys = keys_at(None, Some(queue_at(edge.replica.url()).unwrap()), edge.main.queue.clone());
    assert_eq!(buyer(&keys, &old).await, Ok(()));
    edge.connection.set(ConnectionState::Silent);
    store(&edge.main, &new).await;
    tokio::time::sleep(UNKNOWN_INTERVAL).await;
    // By its heartbeat, the replica is near main for as long as the reads below take.
    let mut connection = edge.replica.connect().await.unwrap();
    let writable = redis::cmd("CONFIG").arg(&["SET", "replica-read-only", "no"]).to_owned();
    writable.query_async::<()>(&mut connection).await.unwrap();
    let began = Instant::now();
    while began.elapsed() < REFRESH_INTERVAL + UNKNOWN_INTERVAL * 2 {
        let ahead = redis::cmd("SET").arg(&["heartbeat", "4000000000000000"]).to_owned();
        ahead.query_async::<()>(&mut connection).await.unwrap();
        assert_eq!(buyer(&keys, &new).await, Ok(()), "after {:?}", began.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(calls(&edge.replica, "hmget").await.unwrap() >= 2);
}

#[tokio::test]
async fn a_withdrawn_key_is_refused_soon_although_the_replica_is_cut_off() {
    let edge = EdgeFixture::start().await;
    let (old, new) = (provider("old"), provider("new"));
    store(&edge.main, &old).await;
    heartbeat(&edge.main).await;
    edge.replicated().await;
    let keys = keys_at(None, Some(queue_at(edge.replica.url()).unwrap()), edge.main.queue.clone());
    assert_eq!(buyer(&keys, &old).await, Ok(()));
    edge.connection.set(ConnectionState::Silent);
    store(&edge.main, &new).await;
    until_refused(&keys, &old).await;
}

#[tokio::test]
async fn where_main_is_spared_the_replica_has_the_keys_and_main_is_asked_before_a_refusal() {
    let (main, replica) = tokio::try_join!(RedisQueue::start(), RedisQueue::start()).unwrap();
    let (seed, new, stranger) = (provider("seed"), provider("new"), provider("stranger"));
    store(&main, &new).await;
    store(&replica, &new).await;
    heartbeat(&replica).await;
    let sparing = |seed, replica| keys_of(seed, replica, main.queue.clone(), MainUse::BeforeRefusals);
    // A process that has just started, without a key of its own.
    let process = sparing(None, Some(replica.queue.clone()));
    assert_eq!(buyer(&process, &new).await, Ok(()));
    // A replica that cannot vouch for its set, and none at all.
    tokio::time::sleep(MAX_REPLICA_LAG).await;
    assert_eq!(buyer(&sparing(None, Some(replica.queue.clone())), &new).await, Ok(()));
    let alone = sparing(Some(&seed), None);
    assert_eq!(buyer(&alone, &seed).await, Ok(()));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(reads(&main).await, 0, "what is accepted asks nothing of main");
    assert_eq!(buyer(&alone, &new).await, Ok(()), "main has the key");
    assert_eq!(buyer(&process, &stranger).await, UNKNOWN);
    assert_eq!(reads(&main).await, 2);
}

#[tokio::test]
async fn a_main_that_takes_no_writes_answers_nothing() {
    let edge = EdgeFixture::start().await;
    let provider = provider("a");
    store(&edge.main, &provider).await;
    edge.replicated().await;
    let demoted = queue_at(edge.replica.url()).unwrap();
    assert_eq!(buyer(&keys_at(None, None, demoted), &provider).await, Err(Unproven::NoKeys));
}

#[tokio::test]
async fn a_read_goes_on_after_the_token_has_stopped_waiting() {
    let server = RedisQueue::start().await.unwrap();
    let provider = provider("a");
    store(&server, &provider).await;
    let wan =
        WanConnection::open(([127, 0, 0, 1], server.redis.port()).into(), Duration::ZERO).await.unwrap();
    let main = queue_at(redis_server::url_at(wan.port())).unwrap();
    main.token_keys(ReadFrom::Main, Duration::from_secs(10)).await.unwrap();
    let keys = keys_at(None, None, main);
    wan.set(ConnectionState::Silent);
    assert_eq!(buyer(&keys, &provider).await, Err(Unproven::NoKeys));
    wan.set(ConnectionState::Up);
    tokio::time::sleep(Duration::from_millis(500)).await;
    wan.set(ConnectionState::Silent);
    assert_eq!(buyer(&keys, &provider).await, Ok(()));
}

#[tokio::test]
async fn an_older_fetch_does_not_replace_a_newer_one() {
    let server = RedisQueue::start().await.unwrap();
    let queue = queue_at(server.redis.url()).unwrap();
    let second = Duration::from_secs(1);
    let stored = async || {
        let set = queue.token_keys(ReadFrom::Main, second * 10).await.unwrap();
        set.map(|set| set.document)
    };
    assert_eq!(queue.store_token_keys(None, Duration::ZERO).await.unwrap(), None);
    let age = queue.store_token_keys(Some("first"), second * 5).await.unwrap().unwrap();
    assert!((second * 5..second * 15).contains(&age), "{age:?}");
    queue.store_token_keys(Some("older"), second * 60).await.unwrap();
    assert_eq!(stored().await.as_deref(), Some("first"));
    // A fetch that failed measures the age and changes nothing.
    assert!(queue.store_token_keys(None, Duration::ZERO).await.unwrap().unwrap() >= second * 5);
    assert_eq!(stored().await.as_deref(), Some("first"));
    assert!(queue.store_token_keys(Some("newer"), second).await.unwrap().unwrap() < second * 5);
    assert_eq!(stored().await.as_deref(), Some("newer"));
    // After a failover, main's clock may be behind the one that stored the set.
    let mut connection = server.redis.connect().await.unwrap();
    let ahead = redis::cmd("HSET").arg(&["token_keys", "fetched_at", "9000000000000000"]).to_owned();
    ahead.query_async::<()>(&mut connection).await.unwrap();
    queue.store_token_keys(Some("newest"), Duration::ZERO).await.unwrap();
    assert_eq!(stored().await.as_deref(), Some("newest"));
}
