//! Ten thousand watchers in a process of their own: both ends of each socket would be more open files
//! than one process may have.

use crate::live::buyer_line;
use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use local::crowd::socket::Socket;
use local::system::System;
use local::system::clock::micros_now;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Concurrent handshakes; API Gateway accepts 500 a second.
const AT_ONCE: usize = 40;
const PING_INTERVAL: Duration = Duration::from_secs(240);

/// The order on a buyer's page, and the time of its last change (µs).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ShownOrder {
    pub(crate) status: String,
    pub(crate) since: u64,
    name: String,
    named_at: u64,
}

/// The orders on one buyer's page, by item.
type BuyerPage = Arc<Mutex<HashMap<String, ShownOrder>>>;

/// The process of the watchers.
pub(crate) struct WatcherProcess {
    _child: Child,
    ask: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    _seats: tempfile::NamedTempFile,
}

impl WatcherProcess {
    /// Starts the process: `count` buyers, each of whom watches all of `items`.
    pub(crate) async fn start(system: &System, url: &str, count: usize, items: &[String]) -> Result<Self> {
        let buyers_file = tempfile::NamedTempFile::new()?;
        let mut lines = vec![json!([url, items]).to_string()];
        for number in 0..count {
            let buyer = format!("buyer-{number}");
            lines.push(buyer_line(&buyer, &system.identity.token(&buyer)?).to_string());
        }
        std::fs::write(buyers_file.path(), lines.join("\n"))?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--watch")
            .arg(buyers_file.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let ask = child.stdin.take().context("the watcher process has no standard input")?;
        let answers =
            BufReader::new(child.stdout.take().context("the watcher process has no standard output")?)
                .lines();
        let mut watchers = Self { _child: child, ask, answers, _seats: buyers_file };
        let ready = watchers.answer().await?;
        ensure!(ready == count.to_string(), "only {ready} of {count} watchers could connect");
        Ok(watchers)
    }

    async fn answer(&mut self) -> Result<String> {
        let answer = tokio::time::timeout(Duration::from_secs(300), self.answers.next_line()).await;
        answer
            .context("the watcher process did not answer within 300 s")??
            .context("the watcher process has ended")
    }

    /// The order of `item_id` on every page, by buyer.
    pub(crate) async fn report(&mut self, item_id: &str) -> Result<HashMap<String, ShownOrder>> {
        self.ask.write_all(format!("{item_id}\n").as_bytes()).await?;
        Ok(serde_json::from_str(&self.answer().await?)?)
    }

    /// Waits until every page shows `name` as the name of `item_id`. Returns when the last one did (µs).
    pub(crate) async fn all_read(&mut self, item_id: &str, name: &str, limit: Duration) -> Result<u64> {
        let began = std::time::Instant::now();
        while began.elapsed() < limit {
            let shown = self.report(item_id).await?;
            if shown.values().all(|one| one.name == name) {
                return Ok(shown.values().map(|one| one.named_at).max().unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        bail!("not every watcher of {item_id} received the name {name:?} within {limit:?}")
    }
}

/// The watcher process itself: connects all watchers, prints their number, and answers each line with an item's id with
/// the orders on their pages.
pub(crate) async fn watch_from_file(buyers_file: &Path) -> Result<()> {
    let text = std::fs::read_to_string(buyers_file)?;
    let mut lines = text.lines();
    let (url, items): (String, Vec<String>) =
        serde_json::from_str(lines.next().context("the file of buyers is empty")?)?;
    let connected = lines.map(|line| {
        let (url, items) = (url.clone(), items.clone());
        async move {
            let (buyer, token): (String, String) = serde_json::from_str(line)?;
            let page = BuyerPage::default();
            let socket = connect_one(&url, &token, &items, &page).await?;
            tokio::spawn(watch(socket, page.clone()));
            anyhow::Ok((buyer, page))
        }
    });
    let connected: Vec<Result<(String, BuyerPage)>> =
        futures::stream::iter(connected).buffer_unordered(AT_ONCE).collect().await;
    let mut pages = HashMap::new();
    for one in connected {
        match one {
            Ok((buyer, page)) => drop(pages.insert(buyer, page)),
            Err(error) => eprintln!("a watcher could not connect: {error:#}"),
        }
    }
    println!("{}", pages.len());
    tokio::task::spawn_blocking(move || answer_questions(&pages)).await?
}

fn answer_questions(pages: &HashMap<String, BuyerPage>) -> Result<()> {
    for item_id in std::io::stdin().lines() {
        let item_id = item_id?;
        let shown: HashMap<&String, ShownOrder> = pages
            .iter()
            .filter_map(|(buyer, page)| {
                let page = page.lock().unwrap_or_else(PoisonError::into_inner);
                Some((buyer, page.get(&item_id)?.clone()))
            })
            .collect();
        println!("{}", serde_json::to_string(&shown)?);
    }
    Ok(())
}

async fn connect_one(url: &str, token: &str, items: &[String], page: &BuyerPage) -> Result<Socket> {
    for _ in 0..20 {
        match Socket::connect(url, token).await {
            Ok(mut socket) => {
                for item_id in items {
                    socket.subscribe(item_id).await?;
                    note(&socket, item_id, page);
                }
                return Ok(socket);
            }
            // There were more than 500 handshakes in this second.
            Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
    bail!("20 handshakes with {url} failed")
}

async fn watch(mut socket: Socket, page: BuyerPage) {
    while socket.closed_with.is_none() {
        match socket.receive(PING_INTERVAL).await {
            Some(message) => {
                if let Some(item_id) = message["item_id"].as_str() {
                    note(&socket, item_id, &page);
                }
            }
            None => drop(socket.send_message(&json!({ "action": "ping" })).await),
        }
    }
}

fn note(socket: &Socket, item_id: &str, page: &BuyerPage) {
    let mut page = page.lock().unwrap_or_else(PoisonError::into_inner);
    let shown = page.entry(item_id.to_owned()).or_default();
    let status = socket.latest.status(item_id).unwrap_or_default();
    if shown.status != status {
        (shown.status, shown.since) = (status.to_owned(), micros_now());
    }
    let name = socket.latest.item(item_id).and_then(|item| item["name"].as_str()).unwrap_or_default();
    if shown.name != name {
        (shown.name, shown.named_at) = (name.to_owned(), micros_now());
    }
}
