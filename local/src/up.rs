//! `up`: the system kept running, with everything needed to talk to it.

use crate::buyer::micros_now;
use crate::regions;
use crate::system::{Options, System};
use anyhow::Result;
use serde_json::json;

/// What is kept running.
#[derive(Clone, Debug, clap::Args)]
pub struct Up {
    /// How many regions, main included
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub regions: u8,
    /// How many units the first item has
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub stock: u32,
}

/// Runs until it is dropped.
pub async fn run(up: &Up) -> Result<bool> {
    eprintln!("Starting {} regions, Redis with a replica, and every function ...", up.regions);
    let system = System::start(&Options::for_regions(regions::first(up.regions.into()))).await?;
    let item_id = "sneaker-42";
    system
        .admin(&json!({ "command": "create", "item": {
            "item_id": item_id, "name": "Sneaker 42", "stock_total": up.stock, "opens_at": micros_now(),
        }}))
        .await?;
    print(&system, item_id)?;
    std::future::pending().await
}

fn print(system: &System, item_id: &str) -> Result<()> {
    println!("\nGateways (each region's front door):");
    for running in &system.regions {
        let region = running.region;
        println!(
            "  {:<16} {}  round trip to main {} ms",
            region.name,
            running.gateway.url(),
            region.round_trip_ms
        );
    }
    println!("Redis: main {}, replica {}", system.redis.url(), system.replica.url());
    println!("Logs of every process: {}", system.logs().display());
    let Some(main) = system.regions.first() else { return Ok(()) };
    let url = system.regions.last().unwrap_or(main).gateway.url();
    println!("\nA buyer's token, good for a day:\n  export TOKEN={}", system.identity.token("buyer-1")?);
    println!("\nThe item, then an order, its status, and leaving the queue:");
    println!("  curl -i {url}/items/{item_id}");
    for (method, path) in [("POST", "orders"), ("GET", "orders/me"), ("DELETE", "orders/me")] {
        println!("  curl -i -X {method} -H \"Authorization: Bearer $TOKEN\" {url}/items/{item_id}/{path}");
    }
    let admin = main.invoke_api().invoke_url("drop-admin");
    println!("\nWhat an operator can do (create, update, pause, resume, close, describe, list):");
    println!("  curl {admin} -d '{}'", json!({ "command": "describe", "item_id": item_id }));
    println!("  curl {admin} -d @events/drop-admin.create.json");
    println!("\nCtrl-C stops everything.");
    Ok(())
}
