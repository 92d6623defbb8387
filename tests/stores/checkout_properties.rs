//! Random schedules of orders, drains, dying workers, payments, cancellations and ending holds.
//! At every moment and in both stores the stock is right, the order is kept, and no status is false.

use anyhow::{Context, Result, bail};
use checkout_worker::{BatchFill, ItemWork, WorkerContext};
use futures::future::join_all;
use ledger::{ExclusionOrder, Ledger, LedgerError, SaleState, VoidOrder};
use local::crowd::audit::DropResult;
use local::system::clock::micros_now;
use local::system::process::scaled;
use order_confirm::App;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;
use shared::item::{ItemId, NewItem};
use shared::permit::Permit;
use shared::queue::{Keys, OrderState, Queue};
use shared::stamp::Stamp;
use std::collections::HashSet;
use std::time::{Duration, Instant};
use tests::{LedgerServer, RedisQueue, order, queue_at, source};

const SETTLE_WINDOW_MS: u32 = 60;
const BUYERS: u8 = 16;

/// One event, `starts_ms` after the beginning.
#[derive(Clone, Debug)]
enum DropEvent {
    /// A buyer's order, with a transit of `transit_ms`.
    Place { buyer: u8, starts_ms: u64, transit_ms: u64 },
    /// The drain takes up to `most` orders.
    Drain { starts_ms: u64, most: u32 },
    /// A worker starts and is killed after `lives_ms`.
    Work { starts_ms: u64, lives_ms: u64 },
    /// The shop reports the payment, `times` times at the same moment.
    Pay { buyer: u8, starts_ms: u64, times: u8 },
    /// The shop reports a payment that has not succeeded.
    Fail { buyer: u8, starts_ms: u64, outcome: &'static str },
    /// The buyer leaves the queue or cancels the reservation.
    Leave { buyer: u8, starts_ms: u64 },
    /// An operator takes the buyer's unit back. If drop-admin `dies`, Redis does not have it before the end.
    Void { buyer: u8, starts_ms: u64, dies: bool },
    /// An operator excludes the buyer, likewise: without the mark in Redis, the ledger refuses the reservation.
    Exclude { buyer: u8, starts_ms: u64, dies: bool },
}

fn step() -> impl Strategy<Value = DropEvent> {
    let at = || 0..700_u64;
    prop_oneof![
        8 => (0..BUYERS, 0..400_u64, 0..70_u64)
            .prop_map(|(buyer, starts_ms, transit_ms)| DropEvent::Place { buyer, starts_ms, transit_ms }),
        5 => (at(), prop_oneof![1..=3_u32, Just(500)]).prop_map(|(starts_ms, most)| DropEvent::Drain { starts_ms, most }),
        5 => (at(), prop_oneof![0..12_u64, Just(500)]).prop_map(|(starts_ms, lives_ms)| DropEvent::Work { starts_ms, lives_ms }),
        4 => (0..BUYERS, at(), 1..=3_u8).prop_map(|(buyer, starts_ms, times)| DropEvent::Pay { buyer, starts_ms, times }),
        2 => (0..BUYERS, at(), prop_oneof![2 => Just("declined"), 1 => Just("failed"), 1 => Just("cancelled")])
            .prop_map(|(buyer, starts_ms, outcome)| DropEvent::Fail { buyer, starts_ms, outcome }),
        1 => (0..BUYERS, at()).prop_map(|(buyer, starts_ms)| DropEvent::Leave { buyer, starts_ms }),
        2 => (0..BUYERS, at(), any::<bool>())
            .prop_map(|(buyer, starts_ms, dies)| DropEvent::Void { buyer, starts_ms, dies }),
        1 => (0..BUYERS, at(), any::<bool>())
            .prop_map(|(buyer, starts_ms, dies)| DropEvent::Exclude { buyer, starts_ms, dies }),
    ]
}

/// One random drop.
#[derive(Clone, Debug)]
struct DropCase {
    stock: u32,
    hold_seconds: u32,
    /// Buyers who pay in the end, whatever happens before.
    payers: HashSet<u8>,
    steps: Vec<DropEvent>,
}

struct CheckoutServers {
    redis: RedisQueue,
    ledger: LedgerServer,
    confirm: App,
}

impl CheckoutServers {
    async fn start() -> Result<Self> {
        let (redis, ledger) = (RedisQueue::start().await?, LedgerServer::start().await?);
        let source = source(&redis, &ledger);
        let confirm = App::from_config(&source).await?;
        Ok(Self { redis, ledger, confirm })
    }

    async fn context(&self) -> Result<WorkerContext> {
        Ok(WorkerContext::from_config(&source(&self.redis, &self.ledger)).await?)
    }
}

fn name(buyer: u8) -> String {
    format!("buyer-{buyer:02}")
}

/// Sends a payment notice. The schedule repeats one payment of each buyer (`attempt` 0), whatever the answers; later
/// payments have a higher `attempt`.
async fn pay(servers: &CheckoutServers, item_id: &ItemId, buyer: u8, attempt: u32, outcome: &str) -> String {
    let notice = json!({
        "item_id": item_id, "user_token": name(buyer), "payment_reference": format!("pay-{buyer}-{attempt}"),
        "outcome": outcome,
    });
    match order_confirm::answer(&servers.confirm, notice).await {
        Ok(answer) => answer["status"].as_str().unwrap_or("refused").to_owned(),
        Err(_) => "again".to_owned(),
    }
}

/// What an event promises for the end.
enum Outcome {
    /// A payment was answered with *sold*.
    AnsweredSold(u8),
    ExcludedWithoutUnit(u8),
}

async fn run_event(
    step: DropEvent,
    servers: &CheckoutServers,
    queue: &Queue,
    item_id: &ItemId,
) -> Result<Option<Outcome>> {
    let after = |ms| tokio::time::sleep(Duration::from_millis(ms));
    match step {
        DropEvent::Place { buyer, starts_ms, transit_ms } => {
            after(starts_ms).await;
            let order = order(item_id, &name(buyer), micros_now())?;
            after(transit_ms).await;
            let settle_window = Duration::from_millis(SETTLE_WINDOW_MS.into());
            let _ = queue.place(&order, settle_window, &servers.redis.clock).await;
        }
        DropEvent::Drain { starts_ms, most } => {
            after(starts_ms).await;
            queue.drain(item_id, most, Permit::Unleased).await?;
        }
        DropEvent::Work { starts_ms, lives_ms } => {
            let mut work = ItemWork::new(servers.context().await?, item_id.clone());
            after(starts_ms).await;
            let _ = tokio::time::timeout(Duration::from_millis(lives_ms), work.round(true)).await;
        }
        DropEvent::Pay { buyer, starts_ms, times } => {
            after(starts_ms).await;
            let answers = join_all((0..times).map(|_| pay(servers, item_id, buyer, 0, "paid"))).await;
            let is_sold = answers.iter().any(|answer| answer == "sold");
            return Ok(is_sold.then_some(Outcome::AnsweredSold(buyer)));
        }
        DropEvent::Fail { buyer, starts_ms, outcome } => {
            after(starts_ms).await;
            pay(servers, item_id, buyer, 0, outcome).await;
        }
        DropEvent::Leave { buyer, starts_ms } => {
            after(starts_ms).await;
            queue.leave(item_id, &order(item_id, &name(buyer), 0)?.user_token).await?;
        }
        DropEvent::Void { buyer, starts_ms, dies } => {
            after(starts_ms).await;
            let token = order(item_id, &name(buyer), 0)?.user_token;
            let order = VoidOrder { buyer: &token, reason: "fraud", by: None, bars: false };
            let ledger = &servers.ledger.ledger;
            let void = until_answered(|| ledger.void(item_id, order, Permit::Unleased.fence(1))).await?;
            if let Some(void) = void.filter(|_| !dies) {
                reconcile::settle_void(queue, ledger, &void).await?;
            }
        }
        DropEvent::Exclude { buyer, starts_ms, dies } => {
            after(starts_ms).await;
            let buyers = [order(item_id, &name(buyer), 0)?.user_token];
            let order = ExclusionOrder { buyers: &buyers, reason: "bots", by: None };
            let ledger = &servers.ledger.ledger;
            let excluded =
                until_answered(|| ledger.exclude(item_id, order, Permit::Unleased.fence(1))).await?;
            if !dies {
                queue.exclude(item_id, &buyers).await?;
            }
            if excluded.with_unit.is_empty() {
                return Ok(Some(Outcome::ExcludedWithoutUnit(buyer)));
            }
        }
    }
    Ok(None)
}

/// Repeats a command that a repetition does not change until the ledger answers: a busy machine may have no connection left.
async fn until_answered<T, Fut>(call: impl Fn() -> Fut) -> Result<T, LedgerError>
where
    Fut: Future<Output = Result<T, LedgerError>>,
{
    let started = Instant::now();
    loop {
        match call().await {
            Err(LedgerError::Unavailable(_)) if started.elapsed() < scaled(Duration::from_secs(20)) => {}
            answer => return answer,
        }
    }
}

/// Checks the invariants again and again.
async fn watch(servers: &CheckoutServers, item_id: &ItemId) -> Result<()> {
    let keys = Keys::of(item_id);
    let mut connection = servers.redis.redis.connect().await?;
    let script = redis::Script::new(
        "return { redis.call('HGET', KEYS[1], 'stock_left') + redis.call('ZCOUNT', KEYS[2], 0, '+inf'),
                  redis.call('ZRANGE', KEYS[2], '+inf', '+inf', 'BYSCORE') }",
    );
    loop {
        let (units, sold_in_redis): (i64, Vec<String>) =
            script.key(&keys.item).key(&keys.reservations).invoke_async(&mut connection).await?;
        // The ledger is read after Redis: a unit that is sold in Redis must be committed already.
        let ledger = &servers.ledger.ledger;
        let known = until_answered(|| ledger.item(item_id)).await?;
        let mut sold = sold(ledger, item_id).await?;
        // They were sold, and may be reserved again by now.
        let voids = until_answered(|| ledger.voids(item_id, 0, 1_000)).await?.into_iter();
        let voided = voids.filter(|void| void.was == SaleState::Sold);
        sold.extend(voided.map(|void| void.user_token.as_str().to_owned()));
        if units != i64::from(known.item.stock_total) {
            bail!("{units} units in Redis of {}", known.item.stock_total);
        }
        if known.units_taken > known.item.stock_total {
            bail!("oversold: {} of {}", known.units_taken, known.item.stock_total);
        }
        if let Some(buyer) = sold_in_redis.iter().find(|buyer| !sold.contains(*buyer)) {
            bail!("{buyer} is sold in Redis, and not in the ledger");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn sold(ledger: &Ledger, item_id: &ItemId) -> Result<HashSet<String>> {
    let sales = until_answered(|| ledger.sales(item_id, None, 1_000)).await?;
    let sold = sales.into_iter().filter(|sale| sale.state == SaleState::Sold);
    Ok(sold.map(|sale| sale.user_token.as_str().to_owned()).collect())
}

/// Lets the drop finish: the payers pay, the other buyers cancel.
async fn finish(servers: &CheckoutServers, item_id: &ItemId, case: &DropCase) -> Result<()> {
    let queue = &servers.redis.queue;
    let mut work = ItemWork::new(servers.context().await?, item_id.clone());
    let (started, mut attempt) = (Instant::now(), 0);
    loop {
        let ledger = &servers.ledger.ledger;
        for void in until_answered(|| ledger.unsettled_voids(Duration::ZERO, 100)).await? {
            reconcile::settle_void(queue, ledger, &void).await?;
        }
        queue.drain(item_id, 500, Permit::Unleased).await?;
        let found = work.round(true).await.context("a round failed")?;
        let (waiting, taken, sold) = queue.counts(item_id).await?;
        let tasks = queue.waiting_tasks(item_id).await?;
        if found == BatchFill::Empty
            && tasks == 0
            && taken == sold
            && (waiting == 0 || sold == u64::from(case.stock))
        {
            return Ok(());
        }
        for buyer in 0..BUYERS {
            let token = order(item_id, &name(buyer), 0)?.user_token;
            if !matches!(queue.order_state(item_id, &token).await?, OrderState::Reserved(_)) {
                continue;
            }
            if case.payers.contains(&buyer) {
                // A new reference, since an earlier one may have been refused permanently.
                attempt += 1;
                pay(servers, item_id, buyer, attempt, "paid").await;
            } else {
                queue.leave(item_id, &token).await?;
            }
        }
        if started.elapsed() > scaled(Duration::from_secs(20)) {
            bail!("the drop does not end: {waiting} waiting, {taken} taken, {sold} sold, {tasks} tasks");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn run(servers: &CheckoutServers, id: &str, case: &DropCase) -> Result<()> {
    let item_id: ItemId = id.parse()?;
    let new = NewItem {
        item_id: item_id.clone(),
        name: id.to_owned(),
        stock_total: case.stock,
        opens_at: Stamp::from_micros(micros_now() - 3_600_000_000)?,
        closes_at: None,
        hold_seconds: case.hold_seconds,
        max_hold_seconds: 0,
        settle_window_ms: SETTLE_WINDOW_MS,
    };
    servers.ledger.ledger.create_item(&new).await?;
    servers.redis.queue.create_item(&new, 1).await?;
    let queues = (0..3).map(|_| queue_at(servers.redis.redis.url())).collect::<Result<Vec<_>>>()?;
    let happening = async {
        let taking = case.steps.iter().cloned().zip(queues.iter().cycle());
        let taking = taking.map(|(step, queue)| run_event(step, servers, queue, &item_id));
        let outcomes = join_all(taking).await.into_iter().collect::<Result<Vec<_>>>()?;
        finish(servers, &item_id, case).await?;
        anyhow::Ok(outcomes.into_iter().flatten().collect::<Vec<_>>())
    };
    let outcomes = tokio::select! {
        outcomes = happening => outcomes?,
        ended = watch(servers, &item_id) => { ended?; bail!("the watch ended") }
    };
    check_end_state(servers, &item_id, case, &outcomes).await
}

async fn check_end_state(
    servers: &CheckoutServers,
    item_id: &ItemId,
    case: &DropCase,
    outcomes: &[Outcome],
) -> Result<()> {
    let mut outcome = DropResult::read(&mut servers.redis.redis.connect().await?, item_id).await?;
    outcome.read_ledger(&servers.ledger.ledger, item_id).await?;
    let findings = outcome.check(&[]);
    if findings != local::crowd::audit::AuditFindings::default() {
        bail!("{findings:?} {outcome:?}");
    }
    let sold = sold(&servers.ledger.ledger, item_id).await?;
    let voids = servers.ledger.ledger.voids(item_id, 0, 1_000).await?;
    let was_voided = |buyer: &u8| {
        let of_buyer = voids.iter().filter(|void| void.user_token.as_str() == name(*buyer));
        of_buyer
            .filter_map(|void| void.payment_reference.as_deref())
            .any(|paid| paid == format!("pay-{buyer}-0"))
    };
    for outcome in outcomes {
        match outcome {
            Outcome::AnsweredSold(buyer) if !sold.contains(&name(*buyer)) && !was_voided(buyer) => {
                bail!("{}'s payment was answered with sold, and the ledger has no sale", name(*buyer));
            }
            Outcome::ExcludedWithoutUnit(buyer) if sold.contains(&name(*buyer)) => {
                bail!("{} was excluded before the reservation, and has bought", name(*buyer));
            }
            _ => {}
        }
    }
    // Payers may be left waiting only if all units are sold.
    let paid: Vec<&String> = sold.iter().collect();
    let still_waiting =
        outcome.queued.iter().filter(|buyer| case.payers.iter().any(|payer| name(*payer) == **buyer));
    if still_waiting.count() > 0 && paid.len() < case.stock as usize {
        bail!("a payer waits although units are left");
    }
    let left = servers.ledger.ledger.item(item_id).await?;
    if left.units_taken as usize != sold.len() {
        bail!("the ledger counts {} and has {}", left.units_taken, sold.len());
    }
    Ok(())
}

#[test]
fn random_schedules_keep_stock_order_and_truth() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let servers = runtime.block_on(CheckoutServers::start()).unwrap();
    let mut runner = TestRunner::new(Config {
        cases: 60,
        max_shrink_iters: 4,
        failure_persistence: None,
        ..Config::default()
    });
    let number = std::cell::Cell::new(0);
    let stock = prop_oneof![1 => Just(0_u32), 3 => Just(1), 4 => 2..10_u32];
    let payers = proptest::collection::hash_set(0..BUYERS, 0..usize::from(BUYERS));
    let steps = proptest::collection::vec(step(), 5..120);
    let case = (stock, prop_oneof![1 => Just(0_u32), 3 => Just(1)], payers, steps);
    let case =
        case.prop_map(|(stock, hold_seconds, payers, steps)| DropCase { stock, hold_seconds, payers, steps });
    let outcome = runner.run(&case, |case| {
        number.set(number.get() + 1);
        let id = format!("drop-{}", number.get());
        runtime.block_on(run(&servers, &id, &case)).map_err(|error| TestCaseError::fail(format!("{error:#}")))
    });
    outcome.unwrap();
}
