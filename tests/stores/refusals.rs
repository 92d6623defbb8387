//! Who may refuse, while main is demoted, and until a process has found the new primary; on real servers.

use crate::edge_reads::EdgeFixture;
use anyhow::{Context, Result};
use lambda_http::Request;
use local::aws::identity::{AUDIENCE, ISSUER, IdentityProvider};
use local::system::clock::micros_now;
use local::system::folder::WorkFolder;
use local::system::redis_server::{self, Redis};
use local::system::wan::{ConnectionState, WanConnection};
use order_intake::App;
use serde_json::json;
use shared::item::ItemChanges;
use shared::item_cache::ItemCache;
use shared::queue::{OrderState, PlaceError, Queue};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tests::{RedisQueue, eventually, order, queue_at, sample};

const SOON: Duration = Duration::from_secs(20);
/// How soon a process must find the new primary after its name has moved: the longest pause between two attempts to
/// connect, and a busy machine.
const FOUND_WITHIN: Duration = Duration::from_secs(3);

/// A region's order-intake, and its identity provider.
struct Intake {
    app: App,
    identity: IdentityProvider,
}

impl Intake {
    fn of(fixture: &EdgeFixture) -> Self {
        let identity = IdentityProvider::new().unwrap();
        let (main, replica) = (fixture.main.redis.url(), fixture.replica.url());
        let jwks = identity.jwks().to_string();
        let source = |name: &str| match name {
            "FAIRDROP_REPLICA_REDIS_URL" => Some(replica.clone()),
            "FAIRDROP_TOKEN_JWKS" => Some(jwks.clone()),
            "FAIRDROP_TOKEN_ISSUER" => Some(ISSUER.to_owned()),
            "FAIRDROP_TOKEN_AUDIENCE" => Some(AUDIENCE.to_owned()),
            "FAIRDROP_REGION" => Some("eu-west-1".to_owned()),
            _ => redis_server::setting(name, &main),
        };
        Self { app: App::from_config(&source).unwrap(), identity }
    }

    /// The status of an order's answer, or the problem's name.
    async fn order(&self, item_id: &str, buyer: &str) -> Result<u16, &'static str> {
        let mut event = sample("order-intake.post.json");
        let token = self.identity.token(buyer).unwrap();
        event["rawPath"] = json!(format!("/items/{item_id}/orders"));
        event["pathParameters"]["item_id"] = json!(item_id);
        event["headers"]["authorization"] = json!(format!("Bearer {token}"));
        let request: Request = lambda_http::request::from_str(&event.to_string()).unwrap();
        let answer = order_intake::handle(&self.app, &request).await;
        answer.map(|response| response.status().as_u16()).map_err(|problem| problem.slug())
    }
}

async fn close_at(fixture: &EdgeFixture, micros: u64) {
    let closes_at = Some(Stamp::from_micros(micros).unwrap());
    let changes = ItemChanges { closes_at, ..ItemChanges::default() };
    fixture.main.queue.update_item(&fixture.item_id, &changes).await.unwrap();
}

#[tokio::test]
async fn an_order_is_refused_as_closed_only_if_main_s_own_item_is_closed() {
    let fixture = EdgeFixture::start().await;
    let intake = Intake::of(&fixture);
    close_at(&fixture, micros_now() - 1_000_000).await;
    fixture.replicated().await;
    assert_eq!(intake.order("a", "alice").await, Err("closed"));
    // The operator opens it again, which the replica does not hear.
    fixture.connection.set(ConnectionState::Silent);
    close_at(&fixture, micros_now() + 600_000_000).await;
    assert_eq!(intake.order("a", "alice").await, Ok(202));
}

#[tokio::test]
async fn a_demoted_main_shuts_no_buyer_out() {
    let mut fixture = EdgeFixture::start().await;
    close_at(&fixture, micros_now() - 1_000_000).await;
    fixture.replicated().await;
    fixture.connection.set(ConnectionState::Silent);
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    fixture.main.redis.follow(Some(dead)).await.unwrap();
    let intake = Intake::of(&fixture);
    assert_eq!(intake.order("a", "alice").await, Err("status-unavailable"));
    for unknown in ["new", "newer"] {
        assert_eq!(intake.order(unknown, "alice").await, Err("main-unreachable"), "{unknown}");
    }
    fixture.main.redis.follow(None).await.unwrap();
    eventually("main refuses again", SOON, async || {
        let refused = [intake.order("a", "alice").await, intake.order("new", "alice").await];
        Ok((refused == [Err("closed"), Err("no-such-item")]).then_some(()))
    })
    .await
    .unwrap();
}

/// The number of connections that the server has accepted.
pub(crate) async fn connections(redis: &Redis) -> Result<u64> {
    let mut connection = redis.connect().await?;
    let stats: String = redis::cmd("INFO").arg("stats").query_async(&mut connection).await?;
    let count = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
    Ok(count.context("the server does not count its connections")?.trim().parse()?)
}

#[tokio::test]
async fn a_process_reaches_the_new_primary_soon_after_its_name_has_moved() {
    let mut old = RedisQueue::start().await.unwrap();
    let item_id = old.item("a", 5, 2_000).await.unwrap();
    let folder = WorkFolder::new().unwrap();
    let mut new = Redis::start_replica(folder.path(), "new", &old.redis).await.unwrap();
    let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let name = WanConnection::open(address(old.redis.port()), Duration::ZERO).await.unwrap();
    let process = || queue_at(redis_server::url_at(name.port())).unwrap();
    let (busy, idle) = (process(), process());
    let edge = ItemCache::new(None, process());
    let buyer = UserToken::parse("alice").unwrap();
    let place = async |queue: &Queue| {
        let placed = order(&item_id, "alice", micros_now()).unwrap();
        queue.place(&placed, Duration::from_millis(300), &old.clock).await.map(drop)
    };
    place(&busy).await.unwrap();
    assert!(matches!(idle.order_state(&item_id, &buyer).await.unwrap(), OrderState::Queued { .. }));
    assert!(edge.get(&item_id, SOON).await.unwrap().is_some());
    eventually("the replica has the order", SOON, async || {
        Ok(old.queue.wait_for_replicas(1, Duration::from_millis(100)).await?.then_some(()))
    })
    .await
    .unwrap();

    new.follow(None).await.unwrap();
    old.redis.follow(Some(new.port())).await.unwrap();
    // The name still leads to the demoted server, which accepts connections: they are not opened in a loop.
    let (before, began) = (connections(&old.redis).await.unwrap(), Instant::now());
    while began.elapsed() < Duration::from_secs(4) {
        let left = Duration::from_secs(4).saturating_sub(began.elapsed());
        match tokio::time::timeout(left, place(&busy)).await {
            Ok(refused) => {
                assert!(matches!(refused, Err(PlaceError::Unreachable | PlaceError::Unknown)), "{refused:?}")
            }
            Err(_) => break,
        }
    }
    let opened = connections(&old.redis).await.unwrap() - before;
    assert!((2..=20).contains(&opened), "{opened} connections in 4 s");

    name.lead_to(address(new.port()));
    let moved = Instant::now();
    let soon = async |what: &str, error: anyhow::Error| {
        assert!(moved.elapsed() < FOUND_WITHIN, "{what} has not found the new primary: {error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    while let Err(error) = place(&busy).await {
        soon("a process that places orders", error.into()).await;
    }
    loop {
        match idle.order_state(&item_id, &buyer).await {
            Ok(state) => break assert!(matches!(state, OrderState::Queued { .. }), "{state:?}"),
            Err(error) => soon("a process that was idle", error.into()).await,
        }
    }
    while let Err(error) = edge.get(&item_id, SOON).await {
        soon("an edge without a replica", error.into()).await;
    }
    println!("found after {:?}; {opened} connections before", moved.elapsed());
}
