//! order-place at the limits of Lambda: throttled invocations, and processes that are killed at the time limit.

use super::*;
use anyhow::ensure;
use local::aws::environments::ClassicLimits;
use std::collections::BTreeMap;

/// More orders than fit into one call to main, in each shard of the log.
const ORDERS: usize = 2_400;
/// The function's time limit. AWS has 30 s.
const LIMIT: Duration = Duration::from_secs(5);

impl World {
    /// Replaces order-place of a region by processes of classic Lambda, and its mapping by one with another time limit.
    fn limit_place(&mut self, region: usize, limits: ClassicLimits, invoke_limit: Duration) {
        let running = &self.system.regions[region];
        let (name, invoke) = (running.region.name, running.invoke_api());
        let launch = self.launches[region].clone();
        self.place[region] =
            FunctionProcess::start_classic(launch, limits, &invoke, self.system.logs()).unwrap();
        let options = MappingOptions { invoke_limit, ..MappingOptions::order_place() };
        self.mappings[region] =
            EventSourceMapping::start(self.tables.url(), name, "order-log", invoke, options);
    }

    /// Waits until each of the orders of a region, by their buyers and stamps, is in the queue with its stamp, or has its
    /// refusal in the log. Returns how many are queued.
    async fn all_decided(&self, region: usize, item: &str, orders: &BTreeMap<String, u64>) -> usize {
        let name = self.system.regions[region].region.name;
        let decided = eventually("every accepted order is decided", 4 * SOON, async || {
            let queued: BTreeMap<String, u64> =
                self.queued(item).await?.into_iter().map(|(buyer, stamp)| (buyer, stamp as u64)).collect();
            let mut refused = Vec::new();
            for record in self.tables.items(name, "order-log")? {
                if record["outcome"]["S"] == "refused" {
                    let key = record["buyer_stamp"]["S"].as_str().unwrap_or_default();
                    refused.extend(key.rsplit_once('#').map(|(buyer, _)| buyer.to_owned()));
                }
            }
            for (buyer, stamp) in orders {
                match queued.get(buyer) {
                    Some(place) => assert_eq!(place, stamp, "{buyer}"),
                    None if refused.contains(buyer) => {}
                    None => bail!("{buyer}'s order is neither placed nor refused"),
                }
            }
            assert!(queued.keys().all(|buyer| orders.contains_key(buyer) && !refused.contains(buyer)));
            Ok(Some(queued.len()))
        });
        decided.await.unwrap()
    }
}

/// The pauses after which a client repeats an order that API Gateway did not pass on (docs/PROBLEMS.md).
const PAUSES: [u64; 4] = [1, 2, 4, 8];

impl World {
    /// An order, as the buyer's page sends it. Returns its stamp, and how often it was sent.
    async fn order_as_a_page(&self, item: &str, buyer: &str) -> Result<(u64, usize)> {
        let token = self.token(buyer);
        for (number, pause) in PAUSES.into_iter().map(Some).chain([None]).enumerate() {
            let answer = self.clients[0].order(item, &token).await?;
            if let (202, Some(stamp)) = (answer.status, answer.body["placed_at"].as_u64()) {
                return Ok((stamp, number + 1));
            }
            // What API Gateway says itself is neither a problem of fairdrop nor a refusal.
            ensure!(matches!(answer.status, 500 | 503) && answer.problem().is_none(), "{answer:?}");
            let Some(seconds) = pause else { break };
            let jitter = rand::random_range(0.5..1.0);
            tokio::time::sleep(Duration::from_secs(seconds).mul_f64(jitter)).await;
        }
        bail!("{buyer}'s order was not accepted")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_beyond_lambda_s_limits_is_accepted_when_its_pages_repeat_their_orders() {
    let limits = ClassicLimits::strict(2, 2);
    let change = |options: &mut Options| options.classic = Some(limits);
    let world = World::start_as(1, 0.0, change).await.unwrap();
    announce(&world.system, "a", json!({ "settle_window_ms": LONG_WINDOW_MS })).await.unwrap();
    world.system.admin(&json!({ "command": "pause", "item_id": "a" })).await.unwrap();
    let buyers: Vec<String> = (0..16).map(|number| format!("buyer-{number}")).collect();
    let sent = join_all(buyers.iter().map(|buyer| world.order_as_a_page("a", buyer))).await;
    let sent: Vec<(u64, usize)> = sent.into_iter().collect::<Result<_>>().unwrap();
    let figures = world.system.regions[0].intake.figures();
    println!("attempts: {:?}; {figures:?}", sent.iter().map(|(_, attempts)| attempts).collect::<Vec<_>>());
    assert!(figures.throttled > 0, "{figures:?}");
    let orders = buyers.into_iter().zip(sent.into_iter().map(|(stamp, _)| stamp)).collect();
    world.all_decided(0, "a", &orders).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_lambda_throttles_are_delivered_again_whole_and_in_order() {
    let mut world = World::start(1, 0.0).await.unwrap();
    announce(&world.system, "a", json!({ "settle_window_ms": LONG_WINDOW_MS })).await.unwrap();
    world.system.admin(&json!({ "command": "pause", "item_id": "a" })).await.unwrap();
    let invoke = world.system.regions[0].invoke_api();
    // First no invocation at all, then one at a time for four shards.
    invoke.park("order-place", true);
    world.limit_place(0, ClassicLimits::strict(1_000, 1), LIMIT * 6);
    let buyers: Vec<String> = (0..40).map(|number| format!("buyer-{number}")).collect();
    let stamps = join_all(buyers.iter().map(|buyer| world.order(0, "a", buyer))).await;
    let orders: BTreeMap<String, u64> =
        buyers.into_iter().zip(stamps.into_iter().map(Result::unwrap)).collect();
    eventually("batches are throttled", SOON, async || {
        Ok((world.mappings[0].delivered().throttled >= 4).then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(world.mappings[0].delivered().records, 0);
    invoke.park("order-place", false);
    let queued = world.all_decided(0, "a", &orders).await;
    let delivered = world.mappings[0].delivered();
    println!(
        "{queued} of {} orders were in time; {delivered:?}; {:?}",
        orders.len(),
        world.place[0].figures()
    );
    // A throttle is no error of the function: the batch is not halved for it.
    assert_eq!((delivered.failed, delivered.records), (0, orders.len() as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_half_placed_when_lambda_kills_the_process_is_neither_lost_nor_placed_twice() {
    let mut world = World::start(3, 0.0).await.unwrap();
    announce(&world.system, "a", json!({ "settle_window_ms": LONG_WINDOW_MS })).await.unwrap();
    world.system.admin(&json!({ "command": "pause", "item_id": "a" })).await.unwrap();
    // The farthest region: main has placed a part of a batch while the rest waits for its answer.
    let far = 2;
    world.limit_place(far, ClassicLimits::strict(1_000, 20), LIMIT);
    world.mappings[far].pause(true);
    let name = world.system.regions[far].region.name;
    let log = order_log(&world.tables.url(), name).unwrap();
    let now = micros_now();
    let orders: BTreeMap<String, u64> =
        (0..ORDERS).map(|number| (format!("buyer-{number}"), now + number as u64)).collect();
    let written = orders.iter().map(|(buyer, stamp)| {
        let (buyer, stamp) = (UserToken::parse(buyer.as_str()).unwrap(), Stamp::from_micros(*stamp).unwrap());
        let record = LogRecord::new(RecordKind::Order, "a".parse().unwrap(), buyer, stamp);
        let log = &log;
        async move { log.append(&record).await }
    });
    let written: Vec<_> =
        futures::StreamExt::collect(futures::StreamExt::buffer_unordered(futures::stream::iter(written), 32))
            .await;
    written.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
    world.mappings[far].pause(false);
    let half = eventually("main has a part of a batch", SOON, async || {
        let placed = world.queued("a").await?.len();
        Ok((placed > 0).then_some(placed))
    });
    let half = half.await.unwrap();
    // They hang, until Lambda kills them.
    for process in world.place[far].process_ids() {
        let _ = std::process::Command::new("kill").args(["-STOP", &process.to_string()]).status();
    }
    eventually("Lambda kills the process", SOON, async || {
        Ok((world.place[far].figures().timed_out > 0).then_some(()))
    })
    .await
    .unwrap();
    let queued = world.all_decided(far, "a", &orders).await;
    let figures = world.place[far].figures();
    println!("{half} of {ORDERS} orders were placed, and in the end {queued} were in time; {figures:?}");
    assert!(half < ORDERS, "the processes were stopped too late");
    assert!(world.mappings[far].delivered().failed > 0);
}
