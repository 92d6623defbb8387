//! A whole main that sells by a lease, and loses it.

use lease::{LeaseRecord, LeaseTiming};
use local::aws::emulators::Moto;
use local::aws::lambda::Invoked;
use local::system::folder::WorkFolder;
use local::system::regions;
use local::system::{Options, System};
use serde_json::json;
use shared::item::ItemId;
use shared::stamp::Stamp;
use std::process::Command;
use std::time::{Duration, Instant};
use tests::{Client, announce, eventually, lease_table, sample};

const MAIN: &str = "us-east-1";
const ITEM: &str = "sneaker-42";
const A_WHILE: Duration = Duration::from_secs(20);

fn signal(signal: &str, process: u32) {
    assert!(Command::new("kill").args([signal, &process.to_string()]).status().unwrap().success());
}

fn now() -> Stamp {
    Stamp::from_micros(local::system::clock::micros_now()).unwrap()
}

const TIMING: LeaseTiming =
    LeaseTiming { lasts: Duration::from_secs(4), tolerance: Duration::from_millis(200) };

/// A system with `count` regions whose main sells by a lease. Runs are long, so that a process is frozen in the middle of
/// one.
async fn leased_system(moto: &Moto, count: usize) -> System {
    moto.make_table(MAIN, "lease").await.unwrap();
    let mut of_main = Moto::environment_at(&moto.url());
    let settings = [
        ("FAIRDROP_LEASE_TABLE", "lease".to_owned()),
        ("FAIRDROP_LEASE_SECONDS", TIMING.lasts.as_secs().to_string()),
        ("FAIRDROP_LEASE_TOLERANCE_MS", TIMING.tolerance.as_millis().to_string()),
    ];
    of_main.extend(settings.map(|(name, value)| (name.to_owned(), value)));
    let options = Options {
        run_every: Duration::from_secs(40),
        of_main,
        ..Options::for_regions(regions::first(count))
    };
    System::start(&options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_in_draining_closes_no_region() {
    let folder = WorkFolder::new().unwrap();
    let moto = Moto::start(folder.path(), &[]).await.unwrap();
    let system = leased_system(&moto, 2).await;
    announce(&system, ITEM, json!({ "stock_total": 50 })).await.unwrap();
    let order = async |region: usize, buyer: &str| {
        let token = system.identity.token(&format!("{buyer}-{region}")).unwrap();
        Client::of(&system, region).unwrap().order(ITEM, &token).await.unwrap()
    };
    eventually("the first orders are sold by a lease", A_WHILE, async || {
        order(0, "early").await;
        Ok((system.drop_result(&ITEM.parse()?).await?.in_ledger.unwrap_or_default().len() == 1).then_some(()))
    })
    .await
    .unwrap();
    signal("-STOP", system.drain.process_id());
    // The lease that the drain wrote last has ended; the worker renews it.
    tokio::time::sleep(TIMING.lasts + Duration::from_secs(2)).await;
    for region in [0, 1] {
        let answer = order(region, "in-the-gap").await;
        assert_eq!(answer.status, 202, "region {region}: {:?}", answer.body);
    }
    signal("-CONT", system.drain.process_id());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_main_that_lost_its_lease_sells_nothing_and_reports_it() {
    let folder = WorkFolder::new().unwrap();
    let moto = Moto::start(folder.path(), &[]).await.unwrap();
    let system = leased_system(&moto, 1).await;
    let table = lease_table(&moto.url(), MAIN).await;
    let item_id: ItemId = "sneaker-42".parse().unwrap();
    announce(&system, "sneaker-42", json!({ "stock_total": 50 })).await.unwrap();
    let client = Client::of(&system, 0).unwrap();
    let sold = async || -> anyhow::Result<usize> {
        Ok(system.drop_result(&item_id).await?.in_ledger.unwrap_or_default().len())
    };

    eventually("the item is sold by a lease", A_WHILE, async || {
        Ok((table.load().await?.expires_at > now()).then_some(()))
    })
    .await
    .unwrap();
    for buyer in 0..5 {
        client.order(ITEM, &system.identity.token(&format!("early-{buyer}")).unwrap()).await.unwrap();
    }
    eventually("all five are sold", A_WHILE, async || Ok((sold().await? == 5).then_some(()))).await.unwrap();
    let shown = system.admin(&sample("drop-admin.lease.json")).await.unwrap();
    assert_eq!((&shown["means"], &shown["lease"]["epoch"]), (&json!("main sells"), &json!(1)), "{shown}");

    // The worker freezes, with reservations made after it; then main loses its lease.
    signal("-STOP", system.worker.process_id());
    for buyer in 0..5 {
        client.order(ITEM, &system.identity.token(&format!("late-{buyer}")).unwrap()).await.unwrap();
    }
    eventually("the drain has reserved them", A_WHILE, async || {
        Ok((system.drop_result(&item_id).await?.taken.len() == 10).then_some(()))
    })
    .await
    .unwrap();
    let closed = loop {
        let closed = table.load().await.unwrap().closed("failover");
        if table.change(&closed).await.is_ok() {
            break closed;
        }
    };
    let began = Instant::now();
    let taken = loop {
        if let Some(taken) = closed.taken("eu-west-1", "failover", now(), TIMING) {
            break taken;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    table.change(&taken).await.unwrap();
    println!("taken {:.1} s after it was closed", began.elapsed().as_secs_f64());
    let refused = client.order(ITEM, &system.identity.token("too-late").unwrap()).await.unwrap();
    assert_eq!((refused.status, refused.problem()), (503, Some("main-unreachable")), "{:?}", refused.body);

    // A payment is not decided, and may be sent again.
    let invoke = system.main_invoke_api().unwrap();
    let paid = invoke.call("order-confirm", &sample("order-confirm.invoke.json")).await.unwrap();
    let Invoked::FunctionError(error) = paid else { panic!("a payment was decided without a lease") };
    assert!(error.to_string().contains("ledger-unavailable"), "{error}");
    let void = json!({ "command": "void", "item_id": ITEM, "buyer": "early-0", "reason": "fraud" });
    let Invoked::FunctionError(error) = invoke.call("drop-admin", &void).await.unwrap() else {
        panic!("a unit was voided without a lease")
    };
    assert_eq!(error["errorType"], "LeaseOver", "{error}");

    signal("-CONT", system.worker.process_id());
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(sold().await.unwrap(), 5, "the thawed worker has sold by a lease that has ended");
    let shown = system.admin(&sample("drop-admin.lease.json")).await.unwrap();
    assert_eq!(shown["means"], "a failover has closed the lease: no region sells", "{shown}");

    // Another region is main by the lease: it would sell on although this one says that the item is closed.
    for command in ["close", "create", "limit_unpaid", "rebuild", "reconcile", "republish"] {
        let Invoked::FunctionError(refusal) =
            invoke.call("drop-admin", &sample(&format!("drop-admin.{command}.json"))).await.unwrap()
        else {
            panic!("{command} was executed in a region that is not main")
        };
        assert_eq!(refusal["errorType"], "NotMain", "{command}: {refusal}");
    }

    let restored = sample("drop-admin.ledger_restored.json");
    let Invoked::FunctionError(refusal) = invoke.call("drop-admin", &restored).await.unwrap() else {
        panic!("an epoch was begun in a region that is not main")
    };
    assert_eq!(refusal["errorType"], "NotMain", "{refusal}");

    // With the lease back, main goes on and keeps every promise.
    let opened =
        LeaseRecord { region: MAIN.into(), epoch: 1, ..taken.opened("eu-west-1", 2, "failover").unwrap() };
    table.change(&opened).await.unwrap();
    eventually("all ten are sold", A_WHILE, async || Ok((sold().await? == 10).then_some(()))).await.unwrap();

    let voided = system.admin(&void).await.unwrap();
    assert_eq!((&voided["was"], &voided["in_redis"]), (&json!("sold"), &json!(true)), "{voided}");
    assert_eq!(sold().await.unwrap(), 9);
    client.order(ITEM, &system.identity.token("next").unwrap()).await.unwrap();
    eventually("the unit is sold again", A_WHILE, async || Ok((sold().await? == 10).then_some(())))
        .await
        .unwrap();

    // Units that a failover has withheld are sold when an operator asks for it.
    system.ledger().unwrap().withhold(&item_id, 5, false, 3).await.unwrap();
    system.admin(&json!({ "command": "reconcile", "item_id": "sneaker-42", "repair": true })).await.unwrap();
    let held = system.admin(&json!({ "command": "describe", "item_id": "sneaker-42" })).await.unwrap();
    assert_eq!((&held["stock_left"], &held["ledger"]["withheld"]), (&json!(35), &json!(5)), "{held}");
    let freed = system.admin(&sample("drop-admin.sell_withheld.json")).await.unwrap();
    assert_eq!((&freed["stock_left"], &freed["ledger"]["withheld"]), (&json!(40), &json!(0)), "{freed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn main_sells_on_under_a_new_epoch_after_its_ledger_was_restored() {
    let folder = WorkFolder::new().unwrap();
    let moto = Moto::start(folder.path(), &[]).await.unwrap();
    let system = leased_system(&moto, 1).await;
    let item_id: ItemId = ITEM.parse().unwrap();
    announce(&system, ITEM, json!({ "stock_total": 50 })).await.unwrap();
    let client = Client::of(&system, 0).unwrap();
    let sold = async |expected: usize| -> anyhow::Result<Option<()>> {
        let sales = system.drop_result(&item_id).await?.in_ledger.unwrap_or_default();
        Ok((sales.len() == expected).then_some(()))
    };
    let order = async |buyer: &str| {
        eventually("the order is queued", A_WHILE, async || {
            let answer = client.order(ITEM, &system.identity.token(buyer)?).await?;
            Ok((answer.status == 202).then_some(()))
        })
        .await
        .unwrap();
    };
    order("early").await;
    eventually("it is sold", A_WHILE, async || sold(1).await).await.unwrap();

    let restored = sample("drop-admin.ledger_restored.json");
    let refused = system.admin(&restored).await.unwrap_err().to_string();
    assert!(refused.contains("ItemSelling"), "{refused}");
    system.admin(&json!({ "command": "pause", "item_id": ITEM })).await.unwrap();
    // Epochs that differ, as after the fence that an operator writes to the restored ledger: nothing is recorded.
    system.ledger().unwrap().raise_epoch(1).await.unwrap();
    order("between").await;
    let begun = system.admin(&restored).await.unwrap();
    assert_eq!((&begun["epoch"], &begun["items"]), (&json!(3), &json!(1)), "{begun}");
    let shown = system.admin(&sample("drop-admin.lease.json")).await.unwrap();
    assert_eq!((&shown["lease"]["epoch"], &shown["ledger_epoch"]), (&json!(3), &json!(3)), "{shown}");
    let sales = system.drop_result(&item_id).await.unwrap().in_ledger.unwrap();
    assert_eq!(sales.len(), 1, "the item is paused");

    system.admin(&json!({ "command": "resume", "item_id": ITEM })).await.unwrap();
    order("late").await;
    eventually("all three are sold", A_WHILE, async || sold(3).await).await.unwrap();
    let audit = system.admin(&json!({ "command": "audit", "item_id": ITEM })).await.unwrap();
    let epochs: Vec<&serde_json::Value> =
        audit["sales"].as_array().unwrap().iter().map(|sale| &sale["epoch"]).collect();
    assert_eq!(epochs, [&json!(1), &json!(3), &json!(3)], "{audit}");
}
