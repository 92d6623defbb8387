//! `up`: the system kept running, with the addresses and commands to use it.

use crate::aws::environments::ClassicLimits;
use crate::aws::metrics::Metrics;
use crate::aws::sockets::SocketLimits;
use crate::command::demo::SCALING_RATE;
use crate::crowd;
use crate::crowd::payments::{Buyers, Habits, share};
use crate::system::clock::micros_now;
use crate::system::intake::Intake;
use crate::system::pages::{PageRegion, Pages, PagesAddress, PagesContext, operator_token};
use crate::system::regions;
use crate::system::shop::{Shop, ShopServices};
use crate::system::{Options, System};
use anyhow::Result;
use serde_json::json;
use std::time::Duration;

/// The item that is on sale after the start.
const ITEM_ID: &str = "sneaker-42";
/// Decides the crowd, and what is left open about the shop's bus and cards.
const SEED: u64 = 42;
/// How the names of the crowd's buyers begin.
const CROWD: &str = "buyer-42-";
/// Orders a second when the crowd begins.
const RUSH: f64 = 150.0;

/// Options of `up`.
#[derive(Clone, Debug, clap::Args)]
pub struct UpOptions {
    /// Regions, main included
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub regions: u8,
    /// Units of the first item
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub stock: u32,
    /// Seconds that a reservation waits for payment; 0 sells at once
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub hold_seconds: u32,
    /// Share of the crowd's buyers who do not pay in time, 0 to 1
    #[arg(long, default_value_t = 0.1, value_parser = share)]
    pub unpaid: f64,
    /// Seconds until the first item opens
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub opens_in_seconds: u32,
    /// Other buyers who order after the opening; 0: only you
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=20_000))]
    pub crowd: u32,
    /// How orders get to main's queue
    #[arg(long, value_enum, default_value_t = Intake::default())]
    pub intake: Intake,
}

/// Runs until the returned future is dropped.
pub async fn run(up: &UpOptions) -> Result<bool> {
    eprintln!("Starting {} regions, Redis with a replica, PostgreSQL and all functions ...", up.regions);
    let address = PagesAddress::reserve().await?;
    let services = ShopServices::start(SEED).await?;
    let options = Options {
        event_bus: Some(services.bus.url()),
        live: Some(SocketLimits::default()),
        origins: vec![address.origin()],
        intake: up.intake,
        classic: (up.intake == Intake::Log).then_some(ClassicLimits::waiting(SCALING_RATE, 1_000)),
        ..Options::for_regions(regions::first(up.regions.into()))
    };
    let system = System::start(&options).await?;
    let shop = services.open(&system).await?;
    let opens_at = micros_now() + u64::from(up.opens_in_seconds) * 1_000_000;
    system
        .admin(&json!({ "command": "create", "item": {
            "item_id": ITEM_ID, "name": "Sneaker 42", "stock_total": up.stock,
            "opens_at": opens_at,
            "hold_seconds": up.hold_seconds,
        }}))
        .await?;
    let habits = Habits { unpaid: up.unpaid, seed: SEED };
    let hold = Duration::from_secs(up.hold_seconds.into());
    let _buyers = Buyers::pay(&shop, &system.identity, (&ITEM_ID.parse()?, hold), (CROWD, habits))?;
    let operator_token = operator_token();
    let pages = address.open(PagesContext {
        item_id: ITEM_ID.to_owned(),
        regions: system.regions.iter().filter_map(PageRegion::of).collect(),
        identity: system.identity.clone(),
        metrics: Metrics::watch(system.logs()),
        operator_token: operator_token.clone(),
        shop: Some(shop.url()),
    });
    print_pages(&system, &pages, &operator_token, up);
    print(&system, &shop, ITEM_ID, up)?;
    if let Some(half_life) = crowd::half_life(up.crowd, RUSH).filter(|half_life| !half_life.is_zero()) {
        let plan = crowd::plan(SEED, up.crowd, system.regions.len(), half_life);
        let tokens = crowd::tokens(&system.identity, &plan, || ())?;
        let sent = crowd::send(&system, ITEM_ID, &plan, &tokens, opens_at, || ()).await?;
        println!("The crowd has placed its {} orders.", sent.len());
    }
    std::future::pending().await
}

fn print_pages(system: &System, pages: &Pages, operator_token: &str, up: &UpOptions) {
    println!("\nThe buyer's page, in each region (docs/PAGES.md):");
    for running in &system.regions {
        println!("  {:<16} {}", running.region.name, pages.buyer(running.region.name));
    }
    println!("\nThe shop's checkout, to which the buyer's page leads when a unit is reserved:");
    println!("  {}", pages.checkout(ITEM_ID));
    println!("\nThe operator's page, and the token to sign in with:");
    println!("  {}\n  {operator_token}", pages.operator());
    if up.crowd == 0 {
        println!("  For a drop with a crowd: make up ARGS=\"--crowd 2000 --opens-in-seconds 20\"");
    }
}

fn print(system: &System, shop: &Shop, item_id: &str, up: &UpOptions) -> Result<()> {
    println!("\nHTTP API of each region:");
    for running in &system.regions {
        let region = running.region;
        println!(
            "  {:<16} {}  round trip to main {} ms",
            region.name,
            running.gateway.url(),
            region.round_trip_ms
        );
    }
    println!("\nWebSocket API of each region (live updates, see docs/LIVE.md):");
    for running in &system.regions {
        if let Some(live) = &running.live {
            println!("  {:<16} {}", running.region.name, live.sockets.url());
        }
    }
    println!("\nRedis: main {}, replica {}", system.redis.url(), system.replica.url());
    println!(
        "  redis-cli --tls --cacert {} -p {}",
        system.redis.authority_file().display(),
        system.redis.port()
    );
    println!("PostgreSQL: {}", system.postgres.url());
    println!("Logs of every process: {}", system.logs().display());
    let Some(main) = system.regions.first() else { return Ok(()) };
    let url = system.regions.last().unwrap_or(main).gateway.url();
    println!("\nA buyer's token, valid for a day:\n  export TOKEN={}", system.identity.token("buyer-1")?);
    println!("\nThe item; an order, its status, and its cancellation:");
    println!("  curl -i {url}/items/{item_id}");
    for (method, path) in [("POST", "orders"), ("GET", "orders/me"), ("DELETE", "orders/me")] {
        println!("  curl -i -X {method} -H \"Authorization: Bearer $TOKEN\" {url}/items/{item_id}/{path}");
    }
    if let Some(live) = system.regions.last().and_then(|running| running.live.as_ref()) {
        println!("\nChanges of the item and the order, in a browser's console:");
        println!(
            "  s = new WebSocket(\"{}\", [\"fairdrop.live.v1\", \"bearer.$TOKEN\"]); s.onmessage = e => console.log(e.data);",
            live.sockets.url()
        );
        println!("  s.onopen = () => s.send('{}')", json!({ "action": "subscribe", "item_id": item_id }));
    }
    if up.hold_seconds > 0 {
        let paying = "-H 'content-type: application/json' -d '{\"card\": \"card_ok\"}'";
        println!(
            "\nTo pay in the shop (card_ok, card_declined, card_slow_4000, card_later_6000 or card_twice):"
        );
        println!(
            "  curl -i -H \"Authorization: Bearer $TOKEN\" {}/shop/api/items/{item_id}/payments {paying}",
            shop.url()
        );
        let notice = json!({ "user_token": "buyer-1", "payment_reference": "pay-1", "outcome": "paid" });
        let payments = format!("{}/items/{item_id}/payments", main.gateway.url());
        println!("To report a payment in the shop's place (paid, pending, declined, failed or cancelled):");
        println!("  curl -i {payments} -H 'Authorization: AWS4-HMAC-SHA256 local' -d '{notice}'");
    }
    let functions = main.invoke_api();
    println!("\nCommands of an operator (`make cli` installs fairdrop; fairdrop --help):");
    println!("  export FAIRDROP_LOCAL={}", functions.endpoint());
    println!("  fairdrop describe {item_id}");
    println!("  fairdrop audit {item_id} --format csv");
    println!("  curl {} -d @events/drop-admin.create.json", functions.invoke_url("drop-admin"));
    println!("\nPress Ctrl-C to stop all servers and functions.");
    Ok(())
}
