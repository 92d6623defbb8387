//! One process of order-intake: its start time and size, how long an order keeps it busy, and the orders that it keeps
//! in flight to a far main.

use crate::figure::{Figure, median, range};
use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use local::system::intake::Intake;
use local::system::process::free_port;
use local::system::regions::WorldRegion;
use local::system::{Options, System};
use serde_json::json;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

const IN_FLIGHT: usize = 64;
const STARTS: usize = 25;

/// All figures of the function.
pub(crate) async fn measure(release: &Path) -> Result<Vec<Figure>> {
    let program = std::path::absolute(release)?.join("order-intake");
    ensure!(program.is_file(), "{} does not exist; run `make release`", program.display());
    let mut figures = vec![start(&program).await?, zipped(&program)?];
    figures.extend(far_main(&program).await?);
    figures.push(busy(&program).await?);
    Ok(figures)
}

/// From the start of the process to its first request for work.
async fn start(program: &Path) -> Result<Figure> {
    let jwks = local::aws::identity::IdentityProvider::new()?.jwks().to_string();
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let started = Instant::now();
        let mut child = Command::new(program)
            .env_clear()
            .env("AWS_LAMBDA_RUNTIME_API", listener.local_addr()?.to_string())
            .env("AWS_LAMBDA_FUNCTION_NAME", "order-intake")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
            .env("FAIRDROP_REGION", "us-east-1")
            .env("FAIRDROP_MAIN_REDIS_URL", format!("rediss://127.0.0.1:{}", free_port()?))
            .env("FAIRDROP_ORDER_LOG_TABLE", "order-log")
            .env("AWS_REGION", "us-east-1")
            .env("FAIRDROP_TOKEN_JWKS", &jwks)
            .env("FAIRDROP_TOKEN_ISSUER", local::aws::identity::ISSUER)
            .env("FAIRDROP_TOKEN_AUDIENCE", local::aws::identity::AUDIENCE)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let (mut stream, _) = tokio::time::timeout(Duration::from_secs(10), listener.accept()).await??;
        let asked = stream.read(&mut [0; 1024]).await?;
        times.push(started.elapsed().as_secs_f64() * 1_000.0);
        child.kill()?;
        child.wait()?;
        ensure!(asked > 0, "order-intake closed its connection to the Runtime API without a request");
    }
    let against = format!(
        "{STARTS} starts of the release build (range {}), with an order log and main over TLS",
        range(&times)
    );
    Ok(Figure::measured("intake_start_ms", median(times), "ms", against).at_most(10.0))
}

/// The deployment package.
fn zipped(program: &Path) -> Result<Figure> {
    let folder = tempfile::tempdir()?;
    std::fs::copy(program, folder.path().join("bootstrap"))?;
    let zip = folder.path().join("bootstrap.zip");
    let status = Command::new("python3")
        .args(["-m", "zipfile", "-c", "bootstrap.zip", "bootstrap"])
        .current_dir(folder.path())
        .status()?;
    ensure!(status.success(), "python3 could not zip {}", program.display());
    let megabytes = zip.metadata()?.len() as f64 / 1e6;
    Ok(Figure::measured("intake_zipped_mb", megabytes, "MB", "the release binary, deflated").at_most(5.0))
}

/// A region that is `round_trip_ms` from main, in which order-intake is one process.
async fn far_system(program: &Path, round_trip_ms: f64, intake: Intake) -> Result<System> {
    let far = WorldRegion { name: "far", round_trip_ms };
    let main = WorldRegion { name: "us-east-1", round_trip_ms: 1.0 };
    let mut options = Options::for_regions(vec![main, far]);
    options.binaries = program.parent().map(Path::to_owned);
    options.intake_concurrency = u32::try_from(IN_FLIGHT)?;
    options.intake = intake;
    let system = System::start(&options).await?;
    let item = json!({ "item_id": "bench", "name": "bench", "stock_total": 1,
        "opens_at": local::system::clock::micros_now(), "hold_seconds": 3_600 });
    system.admin(&json!({ "command": "create", "item": item })).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    Ok(system)
}

/// How long an order keeps a process busy that serves one at a time: through the log, over direct.
async fn busy(program: &Path) -> Result<Figure> {
    let mut each_ms = [0.0; 2];
    for (ms, intake) in each_ms.iter_mut().zip([Intake::Log, Intake::Direct]) {
        let system = far_system(program, 230.0, intake).await?;
        *ms = 1_000.0 / orders_per_second(&system, "one", 1, 40).await?;
    }
    let [log, direct] = each_ms;
    let against = format!(
        "an order in a region with a round trip of 230 ms: {direct:.0} ms direct, {log:.1} ms through the log, whose table \
         answers after 1 to 10 ms"
    );
    Ok(Figure::measured("intake_busy_log_over_direct", log / direct, "ratio", against).at_most(0.1))
}

/// Orders a second with main 150 ms away, and the memory of the process after them.
async fn far_main(program: &Path) -> Result<Vec<Figure>> {
    let system = far_system(program, 150.0, Intake::Direct).await?;
    let one = orders_per_second(&system, "one", 1, 30).await?;
    let many = orders_per_second(&system, "many", IN_FLIGHT, 60).await?;
    let intake = system.regions.get(1).context("the system has fewer than two regions")?.intake.process_id();
    let status = std::fs::read_to_string(format!("/proc/{intake}/status"));
    let against = format!(
        "the same process, main 150 ms away: {one:.1} orders/s with 1 in flight, {many:.1} with {IN_FLIGHT}"
    );
    let mut figures =
        vec![Figure::measured("intake_64_in_flight_over_1", many / one, "ratio", against).at_least(50.0)];
    if let Ok(status) = status {
        let kilobytes =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
        let megabytes =
            kilobytes.with_context(|| format!("/proc/{intake}/status has no VmRSS"))?.parse::<f64>()?
                / 1024.0;
        let against = "VmRSS after these orders, Linux";
        figures.push(Figure::measured("intake_resident_mb", megabytes, "MB", against).at_most(16.0));
    }
    Ok(figures)
}

async fn orders_per_second(system: &System, name: &str, in_flight: usize, each: usize) -> Result<f64> {
    let url = format!(
        "{}/items/bench/orders",
        system.regions.get(1).context("the system has fewer than two regions")?.gateway.url()
    );
    let client = reqwest::Client::new();
    let tokens: Vec<Vec<String>> = (0..in_flight)
        .map(|lane| (0..each).map(|n| system.identity.token(&format!("{name}-{lane}-{n}"))).collect())
        .collect::<Result<_>>()?;
    // The first order of each lane opens connections and is not counted.
    let lane = |tokens: Vec<String>| {
        let (client, url) = (client.clone(), url.clone());
        async move {
            for token in tokens {
                let response = client.post(&url).bearer_auth(token).send().await?;
                ensure!(
                    response.status() == 202,
                    "an order was answered with status {}, not 202",
                    response.status()
                );
            }
            anyhow::Ok(())
        }
    };
    let (first, rest): (Vec<_>, Vec<_>) =
        tokens.into_iter().map(|mut tokens| (tokens.split_off(each - 1), tokens)).unzip();
    try_join_all(first.into_iter().map(lane)).await?;
    let started = Instant::now();
    try_join_all(rest.into_iter().map(lane)).await?;
    Ok((in_flight * (each - 1)) as f64 / started.elapsed().as_secs_f64())
}
