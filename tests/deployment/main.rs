//! The SAM CLI deploys the template into an emulator of AWS, in three regions, and a drop runs on the result.
//! With `FAIRDROP_SAM_BUILD` it deploys the output of `sam build`, otherwise the functions that the other tests run.

mod cloud;
mod refused;

use cloud::{Cloud, parameters};
use local::aws::identity::IdentityProvider;
use local::system::clock::micros_now;
use local::system::folder::WorkFolder;
use local::system::postgres::Postgres;
use local::system::redis_server::Redis;
use local::system::tls;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tests::eventually;
use tests::template::{self, MAIN, STANDBY};

const EDGE: &str = "ap-southeast-1";

/// Functions of each kind of region.
const EVERYWHERE: [&str; 2] = ["order-intake", "order-status"];
const OF_MAIN: [&str; 4] = ["checkout-drain", "checkout-worker", "drop-admin", "order-confirm"];

fn names(lists: &[&[&str]]) -> BTreeSet<String> {
    lists.iter().flat_map(|list| list.iter()).map(ToString::to_string).collect()
}

/// An HTTP request, as API Gateway passes it to a function.
fn request(file: &str, token: &str) -> Value {
    let mut event = tests::sample(file);
    event["headers"]["authorization"] = json!(format!("Bearer {token}"));
    event["requestContext"]["timeEpoch"] = json!(micros_now() / 1_000);
    event
}

#[tokio::test(flavor = "multi_thread")]
async fn three_regions_are_deployed_and_main_sells() {
    let folder = WorkFolder::new().unwrap();
    let build = match std::env::var_os("FAIRDROP_SAM_BUILD") {
        Some(built) => PathBuf::from(built),
        None => {
            template::build(folder.path()).unwrap();
            folder.path().to_owned()
        }
    };
    let cloud = Cloud::start(folder.path()).await.unwrap();
    let identity = IdentityProvider::new().unwrap();
    let mut deployed = BTreeMap::new();
    for region in [MAIN, STANDBY, EDGE] {
        let began = Instant::now();
        let left_out = cloud.deploy(&build, region, &parameters(region, &identity.jwks())).unwrap();
        println!(
            "{region}: deployed in {:.0} s; the emulator has no {}",
            began.elapsed().as_secs_f64(),
            left_out.join(", ")
        );
        deployed.insert(region, cloud.functions(region).await.unwrap());
    }
    // Each region has its own functions and no others.
    let there = |region: &str| deployed[region].keys().cloned().collect::<BTreeSet<String>>();
    assert_eq!(there(MAIN), names(&[&EVERYWHERE, &OF_MAIN]));
    assert_eq!(there(STANDBY), names(&[&EVERYWHERE, &OF_MAIN, &["replica-lag", "region-failover"]]));
    assert_eq!(there(EDGE), names(&[&EVERYWHERE, &["live-updates", "live-publish"]]));
    let endpoint = &deployed[EDGE]["live-publish"]["FAIRDROP_LIVE_ENDPOINT"];
    assert!(endpoint.starts_with("https://") && endpoint.ends_with("/live"), "{endpoint}");
    assert_eq!(deployed[EDGE]["live-updates"]["FAIRDROP_LIVE_REDIS_URL"], "rediss://registry.example:6379");
    assert_eq!(deployed[MAIN]["order-intake"]["FAIRDROP_MAIN_REDIS_URL"], "rediss://redis.example:6379");
    let ledger = |region: &str| deployed[region]["checkout-worker"]["FAIRDROP_LEDGER_URL"].clone();
    assert!(ledger(MAIN).contains("@ledger.example:") && ledger(STANDBY).contains("@replica.example:"));

    // The emulator has neither ElastiCache nor RDS: these functions use servers on this machine.
    let redis = Redis::start(folder.path(), "redis").await.unwrap();
    let postgres = Postgres::start(folder.path(), "postgres").await.unwrap();
    let with = [
        ("FAIRDROP_MAIN_REDIS_URL", redis.url()),
        ("FAIRDROP_REDIS_CA_FILE", tls::authority_file().unwrap()),
        ("FAIRDROP_LEDGER_URL", postgres.url()),
        ("FAIRDROP_LEDGER_AUTH", "password".to_owned()),
    ];
    for function in EVERYWHERE.iter().chain(&OF_MAIN) {
        cloud.set(MAIN, function, &with).await.unwrap();
    }
    // The API invokes order-intake's alias, which stands for an immutable version.
    cloud.publish(MAIN, "order-intake").await.unwrap();
    let admin = async |command: Value| cloud.invoke(MAIN, "drop-admin", &command).await.unwrap();
    admin(json!({ "command": "migrate" })).await;
    let mut create = tests::sample("drop-admin.create.json");
    create["item"]["opens_at"] = json!(micros_now() - 60_000_000);
    create["item"]["closes_at"] = json!(micros_now() + 3_600_000_000);
    create["item"]["hold_seconds"] = json!(0);
    admin(create).await;
    let token = identity.token("alice").unwrap();
    let queued =
        cloud.invoke(MAIN, "order-intake", &request("order-intake.post.json", &token)).await.unwrap();
    assert_eq!(queued["statusCode"], 202, "{queued}");
    // The test does not invoke the drain or the worker: their schedules do, once a minute.
    let began = Instant::now();
    let mine = request("order-status.mine.json", &token);
    eventually("the schedules sell the unit", Duration::from_secs(150), async || {
        let answer = cloud.invoke(MAIN, "order-status", &mine).await?;
        let body: Value = serde_json::from_str(answer["body"].as_str().unwrap_or("null"))?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok((body["status"] == "sold").then_some(()))
    })
    .await
    .unwrap();
    println!("sold by the schedules after {:.0} s", began.elapsed().as_secs_f64());

    // The API's routes lead to the functions.
    let token = identity.token("bob").unwrap();
    let call = async |method, path| cloud.http(MAIN, method, path, &token).await.unwrap();
    let (status, body) = call("GET", "/items/sneaker-42").await;
    assert_eq!((status, &body["phase"]), (200, &json!("open")), "{body}");
    let (status, body) = call("POST", "/items/sneaker-42/orders").await;
    assert_eq!((status, &body["status"]), (202, &json!("queued")), "{body}");
    let (status, body) = call("GET", "/items/sneaker-42/orders/me").await;
    assert_eq!(status, 200, "{body}");
    let (status, body) = call("PUT", "/items/sneaker-42/orders").await;
    assert_eq!((status, &body["type"]), (405, &json!("urn:fairdrop:problem:method-not-allowed")), "{body}");

    // A version is immutable: another value of a parameter reaches the alias only with another revision.
    let mut changed = parameters(MAIN, &identity.jwks());
    changed.insert("RedisResponseTimeoutMs", "700".into());
    changed.insert("Revision", "second".into());
    cloud.deploy(&build, MAIN, &changed).unwrap();
    let live = "/fairdrop-order-intake/configuration?Qualifier=live";
    let live = cloud.lambda(MAIN, "GET", live, String::new()).await.unwrap();
    let limit = &live["Environment"]["Variables"]["FAIRDROP_REDIS_RESPONSE_TIMEOUT_MS"];
    assert_eq!(limit, "700", "{live}");
}
