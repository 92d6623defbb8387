//! The pages in a real browser, against the real system. `tests/browser/` drives the browser; this program does what a
//! browser cannot: it cuts connections and changes the item. The decisions of the pages have unit tests there.

use anyhow::{Context, Result, bail, ensure};
use local::aws::metrics::Metrics;
use local::aws::sockets::SocketLimits;
use local::system::clock::micros_now;
use local::system::folder::WorkFolder;
use local::system::pages::{PageRegion, PagesAddress, PagesContext, operator_token};
use local::system::process::workspace;
use local::system::shop::ShopServices;
use local::system::wan::{ConnectionState, WanConnection};
use local::system::{Options, System};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tests::announce;
use tests::live::options;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long the browsers may take for the whole test.
const LIMIT: Duration = Duration::from_secs(240);
/// The opening is far away until the script moves it.
const OPENS_IN: Duration = Duration::from_secs(3_600);

fn folder() -> PathBuf {
    workspace().join("tests/browser")
}

fn node() -> Command {
    let mut node = Command::new("node");
    node.current_dir(folder()).kill_on_drop(true);
    node
}

/// A region's HTTP and WebSocket API behind proxies that can be cut, as a buyer's own connection can.
struct RegionConnections([WanConnection; 2]);

impl RegionConnections {
    async fn before(region: &mut PageRegion) -> Result<Self> {
        let open = async |url: &mut String| -> Result<WanConnection> {
            let authority = url.split('/').nth(2).context("an address has a host")?.to_owned();
            let target: SocketAddr = authority.parse()?;
            let connection = WanConnection::open(target, Duration::ZERO).await?;
            *url = url.replace(&authority, &format!("127.0.0.1:{}", connection.port()));
            Ok(connection)
        };
        Ok(Self([open(&mut region.api).await?, open(&mut region.live).await?]))
    }

    fn set(&self, state: ConnectionState) {
        self.0.iter().for_each(|connection| connection.set(state));
    }
}

/// Does what the browser script requests, until it ends.
async fn serve(child: &mut Child, system: &System, connections: &[RegionConnections]) -> Result<()> {
    let mut answers = child.stdin.take().context("there is a pipe")?;
    let mut asked = BufReader::new(child.stdout.take().context("there is a pipe")?).lines();
    while let Some(line) = asked.next_line().await? {
        let Some(request) = line.strip_prefix("@ ") else {
            println!("{line}");
            continue;
        };
        let (what, of_what) = request.split_once(' ').unwrap_or((request, ""));
        match what {
            "cut" => connections
                .get(of_what.parse::<usize>()?)
                .context("no such connection")?
                .set(ConnectionState::Refusing),
            "restore" => connections
                .get(of_what.parse::<usize>()?)
                .context("no such connection")?
                .set(ConnectionState::Up),
            "change" => {
                let changes: Value = serde_json::from_str(of_what)?;
                let update = json!({ "command": "update", "item_id": "drop", "changes": changes });
                system.admin(&update).await.map(drop)?;
            }
            "pause" | "resume" => {
                system.admin(&json!({ "command": what, "item_id": "drop" })).await.map(drop)?;
            }
            _ => bail!("the browser script sent the unknown request {request:?}"),
        }
        answers.write_all(b"done\n").await?;
    }
    let status = child.wait().await?;
    ensure!(status.success(), "the browser script failed; its output is above");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_buyers_in_two_regions_and_one_unit() {
    assert!(
        folder().join("node_modules").is_dir(),
        "tests/browser/node_modules does not exist; run `make setup-deploy`"
    );
    let address = PagesAddress::reserve().await.unwrap();
    let services = ShopServices::start(1).await.unwrap();
    let options = Options {
        origins: vec![address.origin()],
        event_bus: Some(services.bus.url()),
        ..options(2, SocketLimits::default())
    };
    let system = System::start(&options).await.unwrap();
    let shop = services.open(&system).await.unwrap();
    let mut regions: Vec<PageRegion> = system.regions.iter().filter_map(PageRegion::of).collect();
    let mut connections = Vec::new();
    for region in &mut regions {
        connections.push(RegionConnections::before(region).await.unwrap());
    }
    let operator_token = operator_token();
    let names: Vec<String> = regions.iter().map(|region| region.name.clone()).collect();
    let pages = address.open(PagesContext {
        item_id: "drop".to_owned(),
        regions,
        identity: system.identity.clone(),
        metrics: Metrics::watch(system.logs()),
        operator_token: operator_token.clone(),
        shop: Some(shop.url()),
    });
    let opens_at = micros_now() + u64::try_from(OPENS_IN.as_micros()).unwrap();
    let item = json!({ "stock_total": 1, "hold_seconds": 120, "opens_at": opens_at });
    announce(&system, "drop", item).await.unwrap();
    let brief = json!({
        "buyers": names.iter().map(|name| pages.buyer(name)).collect::<Vec<_>>(),
        "operator": pages.operator(),
        "operatorToken": operator_token,
    });
    let mut child = node()
        .arg("drop.mjs")
        .env("FAIRDROP_PAGES", brief.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node is installed by `make setup-deploy`");
    timeout(LIMIT, serve(&mut child, &system, &connections))
        .await
        .expect("the browser script ends in time")
        .unwrap();
}

#[tokio::test]
async fn decisions_of_the_pages() {
    let tests = std::fs::read_dir(folder().join("unit")).unwrap();
    let tests: Vec<PathBuf> = tests.map(|entry| entry.unwrap().path()).collect();
    assert!(tests.len() >= 4);
    let output =
        node().arg("--test").args(tests).output().await.expect("node is installed by `make setup-deploy`");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_server_refuses_foreign_hosts_paths_and_tokens() {
    let folder = WorkFolder::new().unwrap();
    let address = PagesAddress::reserve().await.unwrap();
    let origin = address.origin();
    let pages = address.open(PagesContext {
        item_id: "drop".to_owned(),
        regions: Vec::new(),
        identity: local::aws::identity::IdentityProvider::new().unwrap(),
        metrics: Metrics::watch(folder.path()),
        operator_token: "secret".to_owned(),
        // A port on which nothing listens.
        shop: Some("http://127.0.0.1:1".to_owned()),
    });
    let client = reqwest::Client::new();
    let get = |path: &str| client.get(format!("{origin}{path}"));
    for (request, status) in [
        (get("/buyer/"), 200),
        (get("/buyer/page.js"), 200),
        (get("/look.css"), 200),
        (get("/operator/"), 200),
        (get("/shop/?item=drop"), 502),
        (get("/shop/api/items/drop"), 502),
        (get("/Cargo.toml"), 404),
        (get("/buyer/..%2f..%2fCargo.toml"), 404),
        (get("/buyer/").header("host", "rebound.example"), 421),
        (get("/operator/figures.json"), 401),
        (get("/operator/figures.json").bearer_auth("secre"), 401),
        (get("/operator/figures.json").bearer_auth("secrets"), 401),
        (get("/operator/figures.json?token=secret"), 401),
        (get("/operator/figures.json").bearer_auth("secret"), 200),
        (client.post(format!("{origin}/local/token")).body(r#"{"buyer":"alice"}"#), 400),
        (login(&client, &origin, r#"{"buyer":"alice"}"#), 200),
        (login(&client, &origin, r#"{"buyer":""}"#), 400),
        (login(&client, &origin, r#"{"buyer":"a b"}"#), 400),
        (login(&client, &origin, r#"{"buyer":"a","admin":true}"#), 400),
        (login(&client, &origin, &format!(r#"{{"buyer":"{}"}}"#, "a".repeat(2_000))), 400),
        (login(&client, &origin, "["), 400),
    ] {
        let request = request.build().unwrap();
        let what = format!("{} {}", request.method(), request.url());
        let answer = client.execute(request).await.unwrap();
        assert_eq!(answer.status(), status, "{what}");
        let policy = answer.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        assert!(answer.headers().get("access-control-allow-origin").is_none());
    }
    drop(pages);
}

fn login(client: &reqwest::Client, origin: &str, body: &str) -> reqwest::RequestBuilder {
    client
        .post(format!("{origin}/local/token"))
        .header("content-type", "application/json")
        .body(body.to_owned())
}
