//! Two real PostgreSQL servers in streaming replication: what the heartbeat says would be lost,
//! against what a promotion does lose.

use anyhow::{Context, Result};
use ledger::{AtRisk, Ledger};
use local::buyer::micros_now;
use local::postgres::Postgres;
use local::wan::{Line, LineState};
use shared::item::{ItemId, NewItem};
use shared::queue::{NO_HOLD_MICROS, Reservation};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use sqlx::{Connection, Executor, PgConnection};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tests::{LedgerServer, eventually};
use tokio::task::JoinHandle;

/// Main with its heartbeat and its buyers, and a replica behind a line.
struct Pair {
    main: LedgerServer,
    line: Line,
    replica: Postgres,
    copy: Ledger,
    item_id: ItemId,
    /// When each sale was acknowledged, by its buyer.
    acknowledged: Arc<Mutex<Vec<(String, u64)>>>,
    tasks: Vec<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Pair {
    /// `sales` a second are sold on main.
    async fn start(sales: u32) -> Result<Self> {
        let main = LedgerServer::start().await?;
        let line =
            Line::lay(([127, 0, 0, 1], main.postgres.port()).into(), Duration::from_millis(20)).await?;
        let folder = tempfile::tempdir()?;
        let item_id: ItemId = "a".parse()?;
        let new = NewItem {
            item_id: item_id.clone(),
            name: "A".into(),
            stock_total: 1_000_000,
            opens_at: Stamp::from_micros(micros_now() - 3_600_000_000)?,
            closes_at: None,
            hold_seconds: 0,
            settle_window_ms: 500,
        };
        main.ledger.create_item(&new).await?;
        main.ledger.beat().await?;
        let replica = Postgres::start_replica(folder.path(), "replica", line.port()).await?;
        let url = replica.url();
        let copy = Ledger::from_config(&|name: &str| (name == "FAIRDROP_LEDGER_URL").then(|| url.clone()))?;
        let mut pair = Self {
            main,
            line,
            replica,
            copy,
            item_id,
            acknowledged: Arc::default(),
            tasks: Vec::new(),
            _folder: folder,
        };
        pair.begin(sales);
        eventually("the replica follows", Duration::from_secs(10), async || {
            let seen = pair.copy.replica().await?;
            Ok((seen.lag_micros().is_some_and(|lag| lag < 1_500_000)).then_some(()))
        })
        .await?;
        Ok(pair)
    }

    fn begin(&mut self, sales: u32) {
        let ledger = self.main.ledger.clone();
        self.tasks.push(tokio::spawn(async move {
            loop {
                let _ = ledger.beat().await;
                tokio::time::sleep(ledger::BEAT_INTERVAL).await;
            }
        }));
        if sales == 0 {
            return;
        }
        let (ledger, item_id, acknowledged) =
            (self.main.ledger.clone(), self.item_id.clone(), self.acknowledged.clone());
        self.tasks.push(tokio::spawn(async move {
            for number in 0.. {
                let buyer = format!("buyer-{number}");
                if let Ok(sale) = sale(&buyer)
                    && ledger.record(&item_id, &[sale]).await.is_ok()
                {
                    acknowledged.lock().unwrap().push((buyer, micros_now()));
                }
                tokio::time::sleep(Duration::from_secs(1) / sales).await;
            }
        }));
    }

    /// What would be lost, as a watcher asks for it: the copy first, then main.
    async fn estimate(&self) -> Result<AtRisk> {
        let seen = self.copy.replica().await?;
        let received = seen.received.context("the replica has received nothing")?;
        self.main.ledger.at_risk(&received).await?.context("no heartbeat is that old")
    }

    /// Kills main, promotes the replica, and returns how much of main's time is lost, in
    /// microseconds, and how many acknowledged sales.
    async fn promote(&mut self) -> Result<(u64, u64)> {
        for task in self.tasks.drain(..) {
            task.abort();
        }
        self.main.postgres.kill();
        let killed_at = micros_now();
        let mut connection = PgConnection::connect(&self.replica.url()).await?;
        // Not waited for in the call: its own snapshot could hold up what is replayed first.
        connection.execute("SELECT pg_promote(false)").await?;
        eventually("the replica is main", Duration::from_secs(20), async || {
            Ok((!self.copy.replica().await?.follows).then_some(()))
        })
        .await?;
        let mut kept = Vec::new();
        let mut last = None;
        loop {
            let page = self.copy.sales(&self.item_id, last.as_ref(), 5_000).await?;
            let Some(end) = page.last().cloned() else { break };
            kept.extend(page.into_iter().map(|sale| sale.user_token.as_str().to_owned()));
            last = Some(end);
        }
        let kept: std::collections::HashSet<String> = kept.into_iter().collect();
        let acknowledged = self.acknowledged.lock().unwrap();
        let lost: Vec<&(String, u64)> =
            acknowledged.iter().filter(|(buyer, _)| !kept.contains(buyer)).collect();
        let oldest = lost.iter().map(|(_, at)| *at).min().unwrap_or(killed_at);
        Ok((killed_at - oldest, lost.len() as u64))
    }

    async fn on_replica(&self, sql: &'static str) -> Result<()> {
        let mut connection = PgConnection::connect(&self.replica.url()).await?;
        connection.execute(sql).await?;
        Ok(())
    }

    /// The estimate is never below the truth, and within two seconds of it.
    async fn compare(mut self, what: &str, least_lost: u64) {
        let estimate = self.estimate().await.unwrap();
        let (lost_micros, lost_sales) = self.promote().await.unwrap();
        println!(
            "{what}: {:.2} s and {} sales at risk; {:.2} s and {lost_sales} sales lost",
            estimate.micros() as f64 / 1e6,
            estimate.sales,
            lost_micros as f64 / 1e6
        );
        // Between the estimate and the end of main some more may have been sold.
        let since = 150_000;
        assert!(lost_micros <= estimate.micros() + since, "{what}: more was lost than was said");
        assert!(estimate.micros() <= lost_micros + 2_000_000, "{what}: much less was lost than was said");
        assert!(lost_sales <= estimate.sales + 20, "{what}: more sales were lost than was said");
        assert!(lost_micros >= least_lost, "{what}: nothing to compare with");
    }
}

fn sale(buyer: &str) -> Result<Reservation> {
    let now = micros_now();
    Ok(Reservation {
        user_token: UserToken::parse(buyer)?,
        placed_at: Stamp::from_micros(now - 1_000_000)?,
        reserved_at: Stamp::from_micros(now)?,
        hold_until: Stamp::from_micros(now + NO_HOLD_MICROS)?,
        epoch: 1,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_keeps_up_loses_next_to_nothing() {
    let pair = Pair::start(100).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    pair.compare("load", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_line_loses_what_was_sold_since() {
    let pair = Pair::start(50).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    pair.line.set(LineState::Silent);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let alone = pair.copy.replica().await.unwrap();
    assert!(alone.lag_micros().unwrap() > 4_500_000, "{alone:?}");
    pair.compare("cut line", 4_500_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_replay_looks_behind_and_loses_nothing_that_was_received() {
    let pair = Pair::start(50).await.unwrap();
    pair.on_replica("SELECT pg_wal_replay_pause()").await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let seen = pair.copy.replica().await.unwrap();
    assert!(seen.is_paused && seen.unreplayed_bytes.unwrap() > 0, "{seen:?}");
    assert!(seen.lag_micros().unwrap() > 4_000_000, "{seen:?}");
    pair.compare("paused replay", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_main_is_not_behind() {
    let pair = Pair::start(0).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let seen = pair.copy.replica().await.unwrap();
    assert!(seen.lag_micros().unwrap() < 2_000_000, "{seen:?}");
    pair.compare("idle main", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_stopped_says_nothing_and_catches_up() {
    let mut pair = Pair::start(50).await.unwrap();
    pair.replica.kill();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(pair.copy.replica().await.is_err());
    pair.replica.restart().await.unwrap();
    eventually("it has caught up", Duration::from_secs(20), async || {
        Ok((pair.copy.replica().await?.lag_micros().is_some_and(|lag| lag < 1_500_000)).then_some(()))
    })
    .await
    .unwrap();
    pair.compare("stopped replica", 0).await;
}
