//! Live updates of orders that go through a region's order log, with moto's DynamoDB. No order-place runs: the test decides.

use local::aws::emulators::Moto;
use local::aws::sockets::SocketLimits;
use local::crowd::socket::Socket;
use local::system::folder::WorkFolder;
use order_log::{Refusal, RefusalReason};
use serde_json::{Value, json};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::time::Duration;
use tests::live::{MESSAGE_TIMEOUT, options, socket, system_with};
use tests::{Client, eventually, order, order_log, queue_at};

const SOON: Duration = Duration::from_secs(20);

/// The next order message.
async fn next_order(socket: &mut Socket) -> Value {
    loop {
        let message = socket.receive(MESSAGE_TIMEOUT).await.expect("an order message");
        if message["type"] == "order" {
            return message;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_order_is_shown_until_it_is_queued_or_refused() {
    let folder = WorkFolder::new().unwrap();
    let moto = Moto::start(folder.path(), &[]).await.unwrap();
    let mut options = options(1, SocketLimits::default());
    let region = options.regions[0].region.name;
    moto.make_order_log(region, "order-log").await.unwrap();
    options.of_edges = Moto::environment_at(&moto.url());
    options.of_edges.push(("FAIRDROP_ORDER_LOG_TABLE".into(), "order-log".into()));
    // live-publish calls the sockets' API at another address.
    options.of_publish.push(("AWS_ENDPOINT_URL_DYNAMODB".into(), moto.url()));
    let system = system_with(&options, json!({ "settle_window_ms": 10_000 })).await.unwrap();
    let client = Client::of(&system, 0).unwrap();
    let token = |buyer: &str| system.identity.token(buyer).unwrap();
    let order_of = async |buyer: &str| {
        let answer = eventually("the order is accepted", SOON, async || {
            let answer = client.order("drop", &token(buyer)).await?;
            Ok((answer.status == 202).then_some(answer))
        });
        answer.await.unwrap().body["placed_at"].as_u64().unwrap()
    };

    let mut alice = socket(&system, 0, "alice").await.unwrap();
    let mut ben = socket(&system, 0, "ben").await.unwrap();
    // Another page of the same buyer, which was open before.
    assert_eq!(alice.subscribe("drop").await.unwrap()["order"]["status"], "none");
    let (of_alice, of_ben) = (order_of("alice").await, order_of("ben").await);
    for (socket, placed_at) in [(&mut alice, of_alice), (&mut ben, of_ben)] {
        let shown = socket.subscribe("drop").await.unwrap()["order"].clone();
        assert_eq!(
            (&shown["status"], &shown["placed_at"]),
            (&json!("accepted"), &json!(placed_at)),
            "{shown}"
        );
        assert_eq!(shown["decided_by"], placed_at + 15_000_000, "{shown}");
    }

    let queue = queue_at(system.redis.url()).unwrap();
    let item_id = "drop".parse().unwrap();
    let placed = order(&item_id, "alice", of_alice).unwrap();
    queue.place(&placed, SOON, &shared::clock::Clock::machine()).await.unwrap();
    let shown = next_order(&mut alice).await;
    assert_eq!((&shown["status"], &shown["placed_at"]), (&json!("queued"), &json!(of_alice)), "{shown}");

    let log = order_log(&moto.url(), region).unwrap();
    let record = log.latest_of(&item_id, &UserToken::parse("ben").unwrap()).await.unwrap().unwrap();
    let refusal =
        Refusal { reason: RefusalReason::ClockAhead, decided_at: Stamp::from_micros(of_ben).unwrap() };
    log.refuse(&record, refusal).await.unwrap();
    let shown = next_order(&mut ben).await;
    assert_eq!((&shown["status"], &shown["reason"]), (&json!("refused"), &json!("clock-ahead")), "{shown}");
    // A later subscription says the same, as the order's status does.
    let again = ben.subscribe("drop").await.unwrap()["order"].clone();
    assert_eq!((&again["status"], &again["reason"]), (&json!("refused"), &json!("clock-ahead")), "{again}");
    let status = client.mine("drop", &token("ben")).await.unwrap().body;
    assert_eq!(
        (&status["status"], &status["reason"]),
        (&json!("refused"), &json!("clock-ahead")),
        "{status}"
    );
}
