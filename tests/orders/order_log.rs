//! Orders that go through a region's order log: the built functions, a real table's protocol and its stream, and a mapping
//! that delivers batches as AWS's documents allow.

mod cut_off;
mod herd;
mod limits;
mod trimmed;

use anyhow::{Result, bail};
use futures::future::join_all;
use local::aws::dynamodb::{DynamoDb, DynamoDbOptions};
use local::aws::emulators::Moto;
use local::aws::event_source::{EventSourceMapping, MappingOptions};
use local::aws::functions::{FunctionProcess, Launch};
use local::crowd::{OrderAnswer, SentOrder};
use local::system::clock::micros_now;
use local::system::redis_server;
use local::system::wan::{ConnectionState, WanConnection};
use local::system::{Options, System, regions};
use order_log::{LogRecord, RecordKind};
use redis::AsyncCommands;
use serde_json::{Value, json};
use shared::queue::Keys;
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::time::{Duration, Instant};
use tests::{Answer, Client, announce, eventually, order_log, quick, sample};

const SOON: Duration = Duration::from_secs(20);
/// Long enough for a busy machine's path through the log.
const WINDOW_MS: u64 = 4_000;
/// An order stays in the queue for this long.
const LONG_WINDOW_MS: u64 = 10_000;

/// Regions with order logs.
pub(crate) struct World {
    pub(crate) system: System,
    pub(crate) mappings: Vec<EventSourceMapping>,
    place: Vec<FunctionProcess>,
    /// How order-place is started in each region.
    launches: Vec<Launch>,
    pub(crate) clients: Vec<Client>,
    /// From the functions to the tables.
    table: WanConnection,
    pub(crate) tables: DynamoDb,
}

impl World {
    /// Of the batches that succeed, the mappings deliver the share `repeated` again. Now and then they stop for a time.
    async fn start(count: usize, repeated: f64) -> Result<Self> {
        Self::start_with(count, repeated, Duration::from_secs(1)).await
    }

    /// The same, with the interval of the schedules in main.
    pub(crate) async fn start_with(count: usize, repeated: f64, run_every: Duration) -> Result<Self> {
        Self::start_as(count, repeated, |options| options.run_every = run_every).await
    }

    /// The same, with other options of the system.
    async fn start_as(count: usize, repeated: f64, change: impl FnOnce(&mut Options)) -> Result<Self> {
        let tables = DynamoDb::start(DynamoDbOptions::default()).await?;
        let table = WanConnection::open(([127, 0, 0, 1], tables.port()).into(), Duration::ZERO).await?;
        let mut options = quick(regions::first(count));
        options.answer_limit = Duration::from_secs(30);
        change(&mut options);
        options.of_edges = Moto::environment_at(&format!("http://127.0.0.1:{}", table.port()));
        options.of_edges.push(("FAIRDROP_ORDER_LOG_TABLE".into(), "order-log".into()));
        for region in &options.regions {
            tables.make_order_log(region.region.name, "order-log", 0)?;
        }
        let log = |region: &local::system::RegionOptions| format!("{}=order-log", region.region.name);
        let logs: Vec<String> = options.regions.iter().map(log).collect();
        options.of_main = Moto::environment_at(&format!("http://127.0.0.1:{}", tables.port()));
        options.of_main.push(("FAIRDROP_ORDER_LOGS".into(), logs.join(",")));
        let system = System::start(&options).await?;
        let (mut mappings, mut place, mut launches) = (Vec::new(), Vec::new(), Vec::new());
        for region in &system.regions {
            let mut environment = options.of_edges.clone();
            let main = redis_server::url_at(region.connection.port());
            environment.push(("FAIRDROP_MAIN_REDIS_URL".into(), main));
            let launch = Launch {
                function: "order-place",
                region: region.region.name.to_owned(),
                concurrency: 1,
                processes: 3,
                environment,
                wrapper: Vec::new(),
                binaries: None,
            };
            place.push(FunctionProcess::start(launch.clone(), &region.invoke_api(), system.logs())?);
            launches.push(launch);
            let options = MappingOptions {
                batch_size: 50,
                window: Duration::from_millis(100),
                repeated,
                stalled: 0.02,
                stall: Duration::from_millis(500)..Duration::from_millis(1_500),
                ..MappingOptions::order_place()
            };
            let (name, invoke) = (region.region.name, region.invoke_api());
            mappings.push(EventSourceMapping::start(tables.url(), name, "order-log", invoke, options));
        }
        let clients = (0..count).map(|index| Client::of(&system, index)).collect::<Result<_>>()?;
        Ok(Self { system, mappings, place, launches, clients, table, tables })
    }

    pub(crate) fn token(&self, buyer: &str) -> String {
        self.system.identity.token(buyer).unwrap()
    }

    /// An order that must be accepted; its stamp.
    pub(crate) async fn order(&self, region: usize, item: &str, buyer: &str) -> Result<u64> {
        let answer = self.clients[region].order(item, &self.token(buyer)).await?;
        let (status, placed_at) = (&answer.body["status"], answer.body["placed_at"].as_u64());
        match (answer.status, placed_at) {
            (202, Some(placed_at)) if *status == "accepted" => {
                assert_eq!(answer.body["decided_by"], placed_at + 15_000_000, "{answer:?}");
                Ok(placed_at)
            }
            _ => bail!("{answer:?}"),
        }
    }

    async fn status(&self, item: &str, buyer: &str) -> Result<Value> {
        Ok(self.clients[0].mine(item, &self.token(buyer)).await?.body)
    }

    /// Waits until the buyer's order has `status`.
    pub(crate) async fn until(&self, item: &str, buyer: &str, status: &str) -> Value {
        let what = format!("{buyer}'s order is {status}");
        eventually(&what, SOON, async || {
            let body = self.status(item, buyer).await?;
            if body["status"] == status { Ok(Some(body)) } else { bail!("{body}") }
        })
        .await
        .unwrap()
    }

    async fn queued(&self, item: &str) -> Result<Vec<(String, f64)>> {
        let orders = Keys::of(&item.parse()?).orders;
        Ok(self.system.redis.connect().await?.zrange_withscores(orders, 0, -1).await?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_in_the_log_is_queued_and_sold_or_refused_or_withdrawn() {
    let world = World::start(1, 1.0).await.unwrap();
    announce(&world.system, "a", json!({ "stock_total": 1, "settle_window_ms": WINDOW_MS })).await.unwrap();
    announce(&world.system, "b", json!({ "settle_window_ms": LONG_WINDOW_MS })).await.unwrap();
    let held = json!({ "settle_window_ms": WINDOW_MS, "hold_seconds": 600 });
    announce(&world.system, "c", held).await.unwrap();
    // A process reads an id that it does not know once a second.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let placed_at = world.order(0, "a", "alice").await.unwrap();
    // An order that reached the log too late.
    let log = order_log(&world.tables.url(), "us-east-1").unwrap();
    let late = micros_now() - 60_000_000;
    let buyer = UserToken::parse("late").unwrap();
    let stamp = Stamp::from_micros(late).unwrap();
    log.append(&LogRecord::new(RecordKind::Order, "a".parse().unwrap(), buyer, stamp)).await.unwrap();
    let refused = world.until("a", "late", "refused").await;
    assert_eq!((&refused["reason"], &refused["placed_at"]), (&json!("too-late"), &json!(late)));

    let queued = world.until("a", "alice", "queued").await;
    assert_eq!(queued["placed_at"], placed_at);

    // A withdrawal, and a newer order that its repetitions must not reach.
    world.order(0, "b", "ben").await.unwrap();
    world.until("b", "ben", "queued").await;
    let left = world.clients[0].leave("b", &world.token("ben")).await.unwrap();
    assert_eq!((left.status, &left.body["cancelling"]), (202, &json!(true)), "{left:?}");
    world.until("b", "ben", "none").await;
    let again = world.order(0, "b", "ben").await.unwrap();
    world.until("b", "ben", "queued").await;

    // A reservation is cancelled by a withdrawal, too.
    world.order(0, "c", "dora").await.unwrap();
    world.until("c", "dora", "reserved").await;
    let left = world.clients[0].leave("c", &world.token("dora")).await.unwrap();
    assert_eq!(left.status, 202, "{left:?}");
    world.until("c", "dora", "released").await;

    world.until("a", "alice", "sold").await;
    // The whole stream is delivered again, with each batch twice: also old records after their successors.
    let total = world.mappings[0].delivered().records;
    let records = world.tables.items("us-east-1", "order-log").unwrap().len() as u64;
    world.mappings[0].deliver_again();
    eventually("the records are delivered again", SOON, async || {
        Ok((world.mappings[0].delivered().records >= total + 2 * records).then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(world.status("c", "dora").await.unwrap()["status"], "released");
    assert_eq!(world.queued("b").await.unwrap(), [("ben".to_owned(), again as f64)]);
    assert_eq!(world.queued("a").await.unwrap(), []);
    assert_eq!(world.status("a", "alice").await.unwrap()["status"], "sold");
    let unknown = world.clients[0].order("nothing", &world.token("alice")).await.unwrap();
    assert!(matches!(unknown.status, 202 | 404), "{unknown:?}");
    if unknown.status == 202 {
        let refused = eventually("the order of an unknown item is refused", SOON, async || {
            let newest = log.latest_of(&"nothing".parse()?, &UserToken::parse("alice")?).await?;
            Ok(newest.and_then(|record| record.refusal))
        });
        assert_eq!(refused.await.unwrap().reason.slug(), "no-such-item");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_through_the_log_serves_the_stamps_in_order_although_order_place_is_killed() {
    let world = World::start(2, 0.3).await.unwrap();
    let stock = 20;
    let item = json!({ "stock_total": stock, "settle_window_ms": LONG_WINDOW_MS });
    announce(&world.system, "a", item).await.unwrap();
    let buyers: Vec<String> = (0..60).map(|number| format!("buyer-{number}")).collect();
    let orders = buyers.iter().enumerate().map(|(number, buyer)| {
        let world = &world;
        async move {
            tokio::time::sleep(Duration::from_millis(60) * u32::try_from(number).unwrap()).await;
            eventually("the order is accepted", SOON, async || {
                world.order(number % 2, "a", buyer).await.map(Some)
            })
            .await
        }
    });
    let throttle = |share| {
        let names = world.system.regions.iter().map(|region| region.region.name);
        names.for_each(|name| world.tables.throttle(name, "order-log", share).unwrap());
    };
    throttle(0.2);
    let kills = async {
        for number in 0..10 {
            tokio::time::sleep(Duration::from_millis(350)).await;
            world.place[number % 2].kill();
            world.mappings[number % 2].pause(number % 3 == 0);
        }
        world.mappings.iter().for_each(|mapping| mapping.pause(false));
        throttle(0.0);
    };
    let (stamps, ()) = tokio::join!(join_all(orders), kills);
    stamps.into_iter().collect::<Result<Vec<u64>>>().unwrap();
    let log = [0, 1]
        .map(|number| order_log(&world.tables.url(), world.system.regions[number].region.name).unwrap());
    let (outcome, accepted) = eventually("every accepted order is decided", 4 * SOON, async || {
        let outcome = world.system.drop_result(&"a".parse()?).await?;
        let mut accepted = Vec::new();
        for (number, buyer) in buyers.iter().enumerate() {
            if outcome.queued.contains(buyer) || outcome.taken.contains(buyer) {
                accepted.push((number, buyer));
                continue;
            }
            // A batch that was killed several times may be too late; then its record says so.
            let newest = log[number % 2].latest_of(&"a".parse()?, &UserToken::parse(buyer.as_str())?).await?;
            if newest.and_then(|record| record.refusal).is_none() {
                bail!("{buyer}'s order is neither placed nor refused");
            }
        }
        Ok((outcome.sold.len() == stock.min(accepted.len())).then_some((outcome, accepted)))
    })
    .await
    .unwrap();
    println!("{} of {} accepted orders were in time", accepted.len(), buyers.len());
    assert!(accepted.len() > stock, "{} orders were in time", accepted.len());
    let sent: Vec<SentOrder> = accepted
        .into_iter()
        .map(|(number, buyer)| SentOrder {
            subject: buyer.clone(),
            region: number % 2,
            arrived_at: None,
            answer: OrderAnswer::Queued,
            answer_ms: 0.0,
        })
        .collect();
    assert_eq!(outcome.check(&sent), Default::default());
    // No waiting order is older than a served one.
    let last = outcome.reservations.iter().map(|one| one.placed_at).max().unwrap();
    let waiting = world.queued("a").await.unwrap();
    assert!(waiting.iter().all(|(_, placed_at)| *placed_at as u64 > last), "{waiting:?}, {last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_accepted_without_main_and_refused_without_the_log() {
    let world = World::start(1, 0.0).await.unwrap();
    announce(&world.system, "a", json!({ "settle_window_ms": LONG_WINDOW_MS })).await.unwrap();
    let main = &world.system.regions[0].connection;
    main.set(ConnectionState::Silent);
    let began = Instant::now();
    world.order(0, "a", "alice").await.unwrap();
    println!("accepted after {:?} while main is silent", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    main.set(ConnectionState::Up);
    world.until("a", "alice", "queued").await;

    let problem = |answer: &Answer| {
        let outcome = answer.body["outcome"].as_str().unwrap_or_default().to_owned();
        (answer.status, answer.problem().unwrap_or_default().to_owned(), outcome)
    };
    world.table.set(ConnectionState::Silent);
    let began = Instant::now();
    let answer = world.clients[0].order("a", &world.token("ben")).await.unwrap();
    assert_eq!(problem(&answer), (503, "outcome-unknown".into(), "unknown".into()), "{answer:?}");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    let left = world.clients[0].leave("a", &world.token("alice")).await.unwrap();
    assert_eq!((left.status, left.problem()), (503, Some("outcome-unknown")), "{left:?}");
    world.table.set(ConnectionState::Up);
    // Both calls may have been executed or not. Buyers repeat them.
    world.order(0, "a", "ben").await.unwrap();
    let left = world.clients[0].leave("a", &world.token("alice")).await.unwrap();
    assert_eq!(left.status, 202, "{left:?}");
    world.until("a", "ben", "queued").await;
    world.until("a", "alice", "none").await;

    world.tables.delete_table("us-east-1", "order-log");
    let answer = world.clients[0].order("a", &world.token("cid")).await.unwrap();
    assert_eq!(problem(&answer), (503, "log-unavailable".into(), "not_queued".into()), "{answer:?}");
    let queued: Vec<String> = world.queued("a").await.unwrap().into_iter().map(|(buyer, _)| buyer).collect();
    assert_eq!(queued, ["ben"], "nothing half accepted");
}
