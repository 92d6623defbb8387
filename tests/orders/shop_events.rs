//! Events for the shop: what the ledger decided reaches the bus, whatever EventBridge answers and whichever process dies.

mod heard;
mod reads;

use anyhow::Result;
use heard::Heard;
use lease::{LeaseRecord, LeaseTiming};
use local::aws::emulators::Moto;
use local::aws::event_bus::{BusEvent, BusFaults, EventBus};
use local::aws::lambda::{Invoke, Invoked};
use local::system::clock::micros_now;
use local::system::folder::WorkFolder;
use local::system::{EVENT_BUS, System, regions};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use shared::item::ItemId;
use shared::stamp::Stamp;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tests::{announce, drop_of, eventually, lease_table, quick, sample};
use tokio::task::JoinSet;

const HOLD: Duration = Duration::from_secs(7);

fn item_id() -> ItemId {
    "drop".parse().unwrap()
}

async fn start(stock_total: u32, seed: u64) -> (System, EventBus) {
    start_with(stock_total, seed, Vec::new()).await
}

async fn start_with(stock_total: u32, seed: u64, of_main: Vec<(String, String)>) -> (System, EventBus) {
    let bus = EventBus::start(EVENT_BUS, seed).await.unwrap();
    let mut options = quick(regions::first(1));
    options.event_bus = Some(bus.url());
    options.of_main = of_main;
    let system = System::start(&options).await.unwrap();
    // Events are written from the publisher's first run on.
    let wanted = async || Ok(system.events_are_wanted().await?.then_some(()));
    eventually("events are wanted", Duration::from_secs(20), wanted).await.unwrap();
    let with = json!({ "stock_total": stock_total, "settle_window_ms": 300, "hold_seconds": HOLD.as_secs() });
    announce(&system, "drop", with).await.unwrap();
    (system, bus)
}

/// What the shop heard is what the ledger has.
async fn heard_is_true(system: &System, heard: &Heard) {
    assert_eq!(heard.waiting.len(), 0, "events are missing before {:?}", heard.waiting.keys().next());
    let sales = system.ledger().unwrap().sales(&item_id(), None, 5_000).await.unwrap();
    assert_eq!(sales.len(), heard.buyers.len());
    for sale in &sales {
        let buyer = sale.user_token.as_str();
        let state = format!("{:?}", sale.state).to_lowercase();
        assert_eq!(heard.state_of(buyer), Some(state.as_str()), "{buyer}");
        let detail = &heard.buyers[buyer].detail;
        let moments = (sale.reserved_at.as_micros().into(), sale.placed_at.as_micros().into());
        assert_eq!((&detail["reserved_at"], &detail["placed_at"]), (&moments.0, &moments.1), "{buyer}");
        if state == "sold" {
            assert_eq!(detail["payment_reference"].as_str(), sale.payment_reference.as_deref());
        }
    }
}

/// The share `p` of the lags is at most this, in milliseconds.
fn percentile(lags: &mut [u64], p: f64) -> f64 {
    lags.sort_unstable();
    let index = ((lags.len() as f64 * p) as usize).min(lags.len().saturating_sub(1));
    lags.get(index).copied().unwrap_or_default() as f64 / 1_000.0
}

/// Waits until nothing is pending and no unit waits for its payment.
async fn everything_is_published(system: &System) {
    let ledger = system.ledger().unwrap();
    eventually("everything is published", Duration::from_secs(90), async || {
        let state = ledger.outbox_state().await?;
        let item = system.admin(&json!({ "command": "describe", "item_id": "drop" })).await?;
        let is_over =
            item["orders_waiting"] == 0 && item["sold"] == item["reservations"] && item["tasks_waiting"] == 0
                || item["sold"] == item["stock_total"];
        Ok((state.pending_since.is_none() && is_over).then_some(()))
    })
    .await
    .unwrap();
}

/// Has all events of the item published again.
async fn republish(system: &System) -> Value {
    let mut command = sample("drop-admin.republish.json");
    command["item_id"] = json!(item_id());
    system.admin(&command).await.unwrap()
}

/// The state after every kind of answer that EventBridge may give, without other faults.
#[tokio::test(flavor = "multi_thread")]
async fn events_are_published_in_order_whatever_eventbridge_answers() {
    let (system, bus) = start(30, 1).await;
    bus.refuse_type(Some("fairdrop released"));
    bus.set_faults(BusFaults { refused: 0.2, entry_fails: 0.3, answer_lost: 0.1, answer_late: 0.02 });
    drop_of(&system, 40, 40, "buyer").await.unwrap();
    let ledger = system.ledger().unwrap();
    eventually("releases are dead letters", Duration::from_secs(60), async || {
        Ok((ledger.outbox_state().await?.dead_letters >= 5).then_some(()))
    })
    .await
    .unwrap();
    let invoked =
        system.main_invoke_api().unwrap().call("shop-events", &sample("shop-events.schedule.json")).await;
    let Ok(Invoked::Answer(summary)) = invoked else { panic!("{invoked:?}") };
    assert!(summary["failures"].is_u64(), "{summary}");
    // A refused event does not hold up those after it, and an operator can have it published again.
    bus.refuse_type(None);
    bus.set_faults(BusFaults::default());
    let heard_before = bus.accepted().iter().map(|event| event.detail["sequence"].as_u64().unwrap()).max();
    let again = republish(&system).await;
    assert!(again["events"].as_u64().unwrap() >= heard_before.unwrap(), "{again}");
    system.admin(&json!({ "command": "close", "item_id": "drop" })).await.unwrap();
    everything_is_published(&system).await;
    let heard = eventually("the closing is published", Duration::from_secs(20), async || {
        let mut heard = Heard::default();
        bus.accepted().into_iter().for_each(|event| drop(heard.hear(event)));
        Ok(heard.closed.then_some(heard))
    })
    .await
    .unwrap();
    heard_is_true(&system, &heard).await;
    assert_eq!(ledger.outbox_state().await.unwrap().dead_letters, 0);
}

/// Each call of the publisher holds events that follow what was accepted before: the order of an item is broken by a
/// repetition only.
fn no_event_overtakes(events: &[BusEvent]) {
    let mut highest = 0;
    for event in events {
        let sequence = event.detail["sequence"].as_u64().unwrap();
        // Within a call of ten entries, some may fail and later ones be accepted.
        assert!(sequence < highest + 11, "{sequence} was accepted after {highest}");
        highest = highest.max(sequence);
    }
}

/// What the shop was told about a payment.
#[derive(Debug)]
struct Told {
    answer: Value,
    /// Whether it was first reported so long before the hold's end that order-confirm, if it was killed meanwhile, could
    /// note a repetition in time.
    in_time: bool,
}

/// Two attempts of a report: one may be lost with its process.
const TO_REPORT: Duration = Duration::from_millis(3_500);

/// Buyers' payments, as the shop sends them when it hears of a reservation. A part is never paid, a part is declined
/// first, a part is reported twice.
async fn pay(invoke: Invoke, reserved: Value) -> Option<(String, Told)> {
    let buyer = reserved["user_token"].as_str()?.to_owned();
    let (reserved_at, hold_until) = (reserved["reserved_at"].as_u64()?, reserved["hold_until"].as_u64()?);
    let mut in_time = false;
    let random = buyer.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    if random % 5 == 0 {
        return None;
    }
    let notice = |outcome: &str| {
        json!({
            "item_id": item_id(), "user_token": buyer, "outcome": outcome,
            "payment_reference": format!("pay-{buyer}-{reserved_at}"),
        })
        .to_string()
    };
    let mut outcomes = if random % 3 == 0 { vec!["declined", "paid"] } else { vec!["paid"] };
    if random % 4 == 0 {
        outcomes.insert(0, "pending");
    }
    if random % 7 == 0 {
        outcomes.push("paid");
    }
    tokio::time::sleep(Duration::from_millis((random % 900).into())).await;
    let mut last = Value::Null;
    for outcome in outcomes {
        let began = Instant::now();
        in_time |= outcome == "paid" && micros_now() + (TO_REPORT.as_micros() as u64) < hold_until;
        loop {
            let answer = invoke.call_within("order-confirm", notice(outcome), Duration::from_secs(3)).await;
            if let Ok(Invoked::Answer(answer)) = answer {
                last = answer;
                break;
            }
            if began.elapsed() > Duration::from_secs(60) {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    }
    Some((buyer, Told { answer: last, in_time }))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shop_hears_what_the_ledger_decided_whatever_dies() {
    const STOCK: u32 = 80;
    let (mut system, bus) = start(STOCK, 5).await;
    bus.set_faults(BusFaults { refused: 0.05, entry_fails: 0.1, answer_lost: 0.05, answer_late: 0.01 });
    let over = AtomicBool::new(false);
    let invoke = system.main_invoke_api().unwrap();
    let mut sent = drop_of(&system, 60, 60, "early").await.unwrap();
    let shop = async {
        let (mut heard, mut read, mut payments, mut answers) =
            (Heard::default(), 0, JoinSet::new(), BTreeMap::new());
        while !over.load(Ordering::Relaxed) || !payments.is_empty() {
            let events = bus.accepted();
            for event in events[read..].iter().cloned() {
                for fresh in heard.hear(event) {
                    if fresh.detail["type"] == "reserved" {
                        payments.spawn(pay(invoke.clone(), fresh.detail.clone()));
                    }
                }
            }
            read = events.len();
            while let Some(done) = payments.try_join_next() {
                answers.extend(done.unwrap());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        (heard, read, answers)
    };
    let dropping = async {
        let mut random = StdRng::seed_from_u64(9);
        let mut kills = [0; 3];
        let mut kill = |system: &System| {
            let victim = random.random_range(0..3);
            kills[victim] += 1;
            match victim {
                0 => system.worker.kill(),
                1 => system.events.as_ref().unwrap().kill(),
                _ => system.confirm.kill(),
            }
            Duration::from_millis(random.random_range(50..250))
        };
        for _ in 0..30 {
            tokio::time::sleep(kill(&system)).await;
        }
        system.postgres.kill();
        sent.extend(drop_of(&system, 20, 20, "dead").await.unwrap());
        tokio::time::sleep(Duration::from_secs(19)).await;
        system.postgres.restart().await.unwrap();
        for _ in 0..30 {
            tokio::time::sleep(kill(&system)).await;
        }
        sent.extend(drop_of(&system, 60, 60, "late").await.unwrap());
        everything_is_published(&system).await;
        over.store(true, Ordering::Relaxed);
        kills
    };
    let ((mut heard, read, answers), kills) = tokio::join!(shop, dropping);
    everything_is_published(&system).await;
    let events = bus.accepted();
    events[read..].iter().cloned().for_each(|event| drop(heard.hear(event)));
    heard_is_true(&system, &heard).await;
    no_event_overtakes(&events);
    // A payment that was answered with *sold* is a sale, and no other answer is. Who paid in time has the unit.
    let mut in_time = 0;
    for (buyer, told) in &answers {
        let is_sold = told.answer["status"] == "sold";
        assert_eq!(is_sold, heard.state_of(buyer) == Some("sold"), "{buyer}: {told:?}");
        assert!(is_sold || !told.in_time, "{buyer}: {told:?}");
        in_time += u32::from(told.in_time);
    }
    assert!(in_time > 20, "{in_time} payments were reported early enough");
    let kinds = events.iter().fold(BTreeMap::<&str, u64>::new(), |mut kinds, event| {
        *kinds.entry(&event.detail_type).or_default() += 1;
        kinds
    });
    let repeated = events.len() - heard.ids.len();
    println!("{kinds:?}, {repeated} repeated, {in_time} paid in time, kills: {kills:?}");
    assert!(
        ["fairdrop reserved", "fairdrop extended", "fairdrop sold", "fairdrop released"]
            .iter()
            .all(|kind| kinds.get(kind).is_some_and(|count| *count > 3)),
        "{kinds:?}"
    );
    assert!(repeated > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_without_the_lease_publishes_nothing() {
    const TIMING: LeaseTiming =
        LeaseTiming { lasts: Duration::from_secs(4), tolerance: Duration::from_millis(200) };
    const MAIN: &str = "us-east-1";
    let folder = WorkFolder::new().unwrap();
    let moto = Moto::start(folder.path(), &[]).await.unwrap();
    moto.make_table(MAIN, "lease").await.unwrap();
    let mut of_main = Moto::environment_at(&moto.url());
    let settings = [
        ("FAIRDROP_LEASE_TABLE", "lease".to_owned()),
        ("FAIRDROP_LEASE_SECONDS", TIMING.lasts.as_secs().to_string()),
        ("FAIRDROP_LEASE_TOLERANCE_MS", TIMING.tolerance.as_millis().to_string()),
    ];
    of_main.extend(settings.map(|(name, value)| (name.to_owned(), value)));
    let (system, bus) = start_with(5, 4, of_main).await;
    drop_of(&system, 5, 40, "buyer").await.unwrap();
    accepted(&bus, 5).await;

    let table = lease_table(&moto.url(), MAIN).await;
    let closed = loop {
        let closed = table.load().await.unwrap().closed("failover");
        if table.change(&closed).await.is_ok() {
            break closed;
        }
    };
    let now = || Stamp::from_micros(local::system::clock::micros_now()).unwrap();
    let taken = loop {
        if let Some(taken) = closed.taken("eu-west-1", "failover", now(), TIMING) {
            break taken;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    table.change(&taken).await.unwrap();
    // A call that had begun before may end later.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = bus.accepted().len();
    // drop-admin refuses it here.
    system.ledger().unwrap().republish(&item_id(), 0).await.unwrap();
    let invoke = system.main_invoke_api().unwrap();
    let began = Instant::now();
    let run = invoke.call("shop-events", &sample("shop-events.schedule.json")).await.unwrap();
    let Invoked::Answer(summary) = run else { panic!("{run:?}") };
    assert_eq!(summary["published"], 0, "{summary}");
    assert!(began.elapsed() < Duration::from_secs(2), "a run without the lease took {:?}", began.elapsed());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(bus.accepted().len(), before, "a region without the lease has published");

    let opened =
        LeaseRecord { region: MAIN.into(), epoch: 1, ..taken.opened("eu-west-1", 2, "failover").unwrap() };
    table.change(&opened).await.unwrap();
    accepted(&bus, before + 5).await;
}

/// EventBridge accepts events for a bus that does not exist, and drops them.
#[tokio::test(flavor = "multi_thread")]
async fn no_event_is_sent_to_a_bus_that_does_not_exist() {
    let (system, bus) = start(5, 9).await;
    bus.set_deleted(true);
    // The runs that found the bus within the last minute end, or ask again.
    tokio::time::sleep(Duration::from_secs(61)).await;
    drop_of(&system, 5, 5, "buyer").await.unwrap();
    let ledger = system.ledger().unwrap();
    eventually("events are pending", Duration::from_secs(20), async || {
        Ok(ledger.outbox_state().await?.pending_since)
    })
    .await
    .unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!((bus.dropped(), bus.accepted().len()), (0, 0));
    bus.set_deleted(false);
    accepted(&bus, 5).await;
}

/// EventBridge's control plane can fail while it accepts events.
#[tokio::test(flavor = "multi_thread")]
async fn events_are_sent_although_eventbridge_does_not_say_whether_the_bus_exists() {
    let bus = EventBus::start(EVENT_BUS, 11).await.unwrap();
    bus.throttle_describe(true);
    let mut options = quick(regions::first(1));
    options.event_bus = Some(bus.url());
    let system = System::start(&options).await.unwrap();
    let wanted = async || Ok(system.events_are_wanted().await?.then_some(()));
    eventually("events are wanted", Duration::from_secs(20), wanted).await.unwrap();
    announce(&system, "drop", json!({ "stock_total": 5, "settle_window_ms": 300, "hold_seconds": 60 }))
        .await
        .unwrap();
    drop_of(&system, 5, 5, "buyer").await.unwrap();
    accepted(&bus, 5).await;
}

/// Prints the figures of the documents: the time from a decision to its acceptance, and the rate of one publisher.
#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_keeps_up_with_a_drop() -> Result<()> {
    let (system, bus) = start(400, 3).await;
    drop_of(&system, 200, 100, "buyer").await?;
    accepted(&bus, 200).await;
    let mut heard = Heard::default();
    bus.accepted().into_iter().for_each(|event| drop(heard.hear(event)));
    let (half, most) = (percentile(&mut heard.lags, 0.5), percentile(&mut heard.lags, 0.99));
    println!("from decision to acceptance: p50 {half:.0} ms, p99 {most:.0} ms");
    assert!(half < 2_000.0, "{half} ms");
    let (began, before) = (Instant::now(), bus.accepted().len());
    let again = republish(&system).await;
    let events = again["events"].as_u64().unwrap() as usize;
    accepted(&bus, before + events).await;
    println!("{:.0} events a second of one item", events as f64 / began.elapsed().as_secs_f64());
    Ok(())
}

async fn accepted(bus: &EventBus, events: usize) {
    let all = async || Ok((bus.accepted().len() >= events).then_some(()));
    eventually("the events are published", Duration::from_secs(60), all).await.unwrap();
}
