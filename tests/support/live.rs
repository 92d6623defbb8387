//! Shared parts of the suites of live updates.

use crate::{Client, announce, eventually, quick};
use anyhow::{Context, Result, ensure};
use local::aws::identity::{AUDIENCE, ISSUER};
use local::aws::sockets::SocketLimits;
use local::crowd::socket::Socket;
use local::crowd::watcher::Watcher;
use local::system::clock::seconds_now;
use local::system::regions;
use local::system::{Live, Options, System};
use serde_json::{Value, json};
use sqlx::Connection;
use std::collections::HashMap;
use std::time::Duration;

/// Within this time after any failure every socket shows the ledger's state.
pub const CONVERGENCE: Duration = Duration::from_secs(60);
/// The longest wait for one message.
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(20);

/// Options for `count` regions with the socket limits `limits`.
pub fn options(count: u8, limits: SocketLimits) -> Options {
    Options { live: Some(limits), run_every: Duration::from_secs(2), ..quick(regions::first(count.into())) }
}

/// A system of `count` regions with sockets, and an item `drop` on sale.
pub async fn system(count: u8, item: Value) -> Result<System> {
    system_with(&options(count, SocketLimits::default()), item).await
}

/// The same with other options.
pub async fn system_with(options: &Options, item: Value) -> Result<System> {
    let system = System::start(options).await?;
    announce(&system, "drop", item).await?;
    Ok(system)
}

/// The live updates of region `index`.
pub fn live(system: &System, index: usize) -> Result<&Live> {
    system.regions.get(index).and_then(|region| region.live.as_ref()).context("there are no live updates")
}

/// A socket of `subject` in region `index`.
pub async fn socket(system: &System, index: usize, subject: &str) -> Result<Socket> {
    Ok(Socket::connect(&live(system, index)?.sockets.url(), &system.identity.token(subject)?).await?)
}

/// A token that names `subject` and is good for `seconds`; the verifier adds its leeway.
pub fn short_token(system: &System, subject: &str, seconds: i64) -> Result<String> {
    let now = i64::try_from(seconds_now())?;
    system.identity.sign(&json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": subject, "iat": now, "nbf": now - 60, "exp": now + seconds,
    }))
}

/// `count` connected buyers, called `buyer-N`, alternating between the regions.
pub fn watchers(system: &System, count: usize) -> Result<Vec<Watcher>> {
    (0..count)
        .map(|number| {
            let url = live(system, number % system.regions.len())?.sockets.url();
            let token = system.identity.token(&format!("buyer-{number}"))?;
            Ok(Watcher::start(url, token, "drop".into()))
        })
        .collect()
}

/// Waits until all are subscribed.
pub async fn all_subscribed(watchers: &[Watcher]) -> Result<()> {
    eventually("all watchers are subscribed", CONVERGENCE, async || {
        let subscribed = watchers.iter().filter(|watcher| watcher.is_subscribed()).count();
        ensure!(subscribed == watchers.len(), "{subscribed} of {} are subscribed", watchers.len());
        Ok(Some(()))
    })
    .await
}

/// The ledger's state of each buyer of `drop`.
pub async fn ledger_states(system: &System) -> Result<HashMap<String, String>> {
    let mut connection = sqlx::PgConnection::connect(&system.postgres.url()).await?;
    let rows: Vec<(String, String)> =
        sqlx::query_as("SELECT user_token, state FROM fairdrop.sales WHERE item_id = 'drop'")
            .fetch_all(&mut connection)
            .await?;
    Ok(rows.into_iter().collect())
}

/// Waits until every watcher shows the ledger's state of its buyer. A buyer without a row there has a waiting order
/// or none, as `GET .../orders/me` returns. No watcher may ever have gone back from `sold`.
pub async fn all_show_the_truth(system: &System, watchers: &[Watcher]) -> Result<HashMap<String, usize>> {
    let client = Client::of(system, 0)?;
    eventually("all watchers show the ledger's state", CONVERGENCE, async || {
        let states = ledger_states(system).await?;
        let mut counts: HashMap<String, usize> = HashMap::new();
        for (number, watcher) in watchers.iter().enumerate() {
            let subject = format!("buyer-{number}");
            let shown = watcher.status();
            let truth = match states.get(&subject) {
                Some(state) if state != "released" => state.clone(),
                // Released buyers may have ordered again, and the others have no row.
                _ => {
                    let answer = client.mine("drop", &system.identity.token(&subject)?).await?;
                    answer.body["status"].as_str().context("no status")?.to_owned()
                }
            };
            ensure!(shown == truth, "{subject} is shown {shown:?} instead of {truth:?}");
            *counts.entry(shown).or_default() += 1;
        }
        Ok(Some(counts))
    })
    .await
    .inspect(|_| no_watcher_went_back(watchers))
}

/// A sold order stays sold, and a reserved one does not go back to the queue without a release.
pub fn no_watcher_went_back(watchers: &[Watcher]) {
    for (number, watcher) in watchers.iter().enumerate() {
        let shown: Vec<String> = watcher.state().shown.into_iter().map(|(status, _)| status).collect();
        for pair in shown.windows(2) {
            let is_back = pair[0] == "sold" || pair[0] == "reserved" && pair[1] == "queued";
            assert!(!is_back, "buyer-{number} was shown {shown:?}");
        }
    }
}
