//! Cold processes of order-intake: how many of them connect to main.

use super::*;
use local::aws::identity::{AUDIENCE, ISSUER};
use local::aws::lambda::{Emulator, Invoke, Invoked};
use order_log::{Refusal, RefusalReason};

/// Processes of order-intake that start at once.
const COLD: u32 = 20;

/// Processes that serve one order at a time, as on classic Lambda, with a replica and a connection to main of their own.
struct Herd<'a> {
    world: &'a World,
    to_main: WanConnection,
    intake: FunctionProcess,
    invoke: Invoke,
    _lambda: Emulator,
}

impl<'a> Herd<'a> {
    async fn start(world: &'a World) -> Self {
        let (region, redis) = (world.system.regions[0].region.name, world.system.redis.port());
        let to_main = WanConnection::open(([127, 0, 0, 1], redis).into(), Duration::ZERO).await.unwrap();
        let mut environment = vec![
            ("FAIRDROP_MAIN_REDIS_URL".into(), redis_server::url_at(to_main.port())),
            ("FAIRDROP_REPLICA_REDIS_URL".into(), world.system.replica.url()),
            ("FAIRDROP_TOKEN_JWKS".into(), world.system.identity.jwks().to_string()),
            ("FAIRDROP_TOKEN_KEYS_FROM".into(), "discovery".into()),
            ("FAIRDROP_TOKEN_ISSUER".into(), ISSUER.into()),
            ("FAIRDROP_TOKEN_AUDIENCE".into(), AUDIENCE.into()),
            ("FAIRDROP_ORDER_LOG_TABLE".into(), "order-log".into()),
        ];
        environment.extend(Moto::environment_at(&format!("http://127.0.0.1:{}", world.table.port())));
        let launch = Launch {
            function: "order-intake",
            region: region.to_owned(),
            concurrency: 1,
            processes: COLD,
            environment,
            wrapper: Vec::new(),
            binaries: None,
        };
        let lambda = Emulator::start().await.unwrap();
        let invoke = lambda.invoke_api();
        let intake = FunctionProcess::start(launch, &invoke, world.system.logs()).unwrap();
        Self { world, to_main, intake, invoke, _lambda: lambda }
    }

    /// The status and the problem of the answer to an order.
    async fn order(&self, item: &str, buyer: &str) -> Result<(u64, String)> {
        let mut event = sample("order-intake.post.json");
        event["rawPath"] = json!(format!("/items/{item}/orders"));
        event["requestContext"]["http"]["path"] = event["rawPath"].clone();
        event["pathParameters"]["item_id"] = json!(item);
        event["headers"]["authorization"] = json!(format!("Bearer {}", self.world.token(buyer)));
        let answer = match self.invoke.call("order-intake", &event).await? {
            Invoked::Answer(answer) => answer,
            Invoked::FunctionError(error) => bail!("{error}"),
        };
        let body: Value = serde_json::from_str(answer["body"].as_str().unwrap_or("null"))?;
        let problem = body["type"].as_str().and_then(|name| name.rsplit(':').next());
        Ok((answer["statusCode"].as_u64().unwrap_or_default(), problem.unwrap_or_default().to_owned()))
    }

    /// An order that gets this answer. A busy machine may take longer than a call may; the order is then sent again.
    async fn gets(&self, item: &str, buyer: &str, status: u64, problem: &str) {
        let answered = async || {
            let answer = self.order(item, buyer).await?;
            if answer == (status, problem.to_owned()) { Ok(Some(())) } else { bail!("{answer:?}") }
        };
        eventually(&format!("{buyer}'s order gets {status} {problem}"), SOON, answered).await.unwrap();
    }

    /// As many orders at once as there are processes.
    async fn all_get(&self, item: &str, status: u64, problem: &str) {
        let orders = (0..COLD)
            .map(|number| async move { self.gets(item, &format!("buyer-{number}"), status, problem).await });
        join_all(orders).await;
        let (processes, connections) = (self.intake.process_ids().len(), self.to_main.accepted());
        println!("{processes} processes, {connections} connections to main");
        assert!(processes > 5, "{processes} processes");
        assert_eq!(connections, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_start_and_accept_orders_open_no_connection_to_main() {
    let world = World::start(1, 0.0).await.unwrap();
    announce(&world.system, "a", json!({ "settle_window_ms": LONG_WINDOW_MS })).await.unwrap();
    let herd = Herd::start(&world).await;
    herd.all_get("a", 202, "").await;
    // That an item does not exist is another matter.
    herd.gets("nothing", "alice", 404, "no-such-item").await;
    assert_eq!(herd.to_main.accepted(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_start_after_the_sale_open_no_connection_to_main() {
    let world = World::start(1, 0.0).await.unwrap();
    announce(&world.system, "a", json!({ "stock_total": 1, "settle_window_ms": WINDOW_MS })).await.unwrap();
    announce(&world.system, "b", json!({ "settle_window_ms": WINDOW_MS })).await.unwrap();
    world.order(0, "a", "alice").await.unwrap();
    world.until("a", "alice", "sold").await;
    world.system.admin(&json!({ "command": "close", "item_id": "b" })).await.unwrap();
    for (item, phase) in [("a", "sold_out"), ("b", "closed")] {
        eventually("the region's copy follows", SOON, async || {
            Ok((world.clients[0].item(item).await?.body["phase"] == phase).then_some(()))
        })
        .await
        .unwrap();
    }
    let herd = Herd::start(&world).await;
    herd.all_get("a", 410, "sold-out").await;
    herd.all_get("b", 410, "closed").await;

    // A buyer who has something, or may have, is never told that there is nothing.
    herd.gets("a", "alice", 202, "").await;
    world.mappings[0].pause(true);
    let in_transit = |buyer: &str| {
        let (item_id, buyer) = ("a".parse().unwrap(), UserToken::parse(buyer).unwrap());
        LogRecord::new(RecordKind::Order, item_id, buyer, Stamp::from_micros(micros_now()).unwrap())
    };
    let log = order_log(&world.tables.url(), "us-east-1").unwrap();
    log.append(&in_transit("ben")).await.unwrap();
    herd.gets("a", "ben", 202, "").await;
    // An order that main has refused is nothing.
    let refused = in_transit("cid");
    log.append(&refused).await.unwrap();
    let decided_at = refused.placed_at;
    log.refuse(&refused, Refusal { reason: RefusalReason::TooLate, decided_at }).await.unwrap();
    herd.gets("a", "cid", 410, "sold-out").await;
    world.mappings[0].pause(false);
    world.until("a", "ben", "queued").await;
    assert_eq!(world.status("a", "alice").await.unwrap()["status"], "sold");
    assert_eq!(herd.to_main.accepted(), 0);
}
