//! Two real PostgreSQL servers in streaming replication: main with its heartbeat and its buyers, and a replica behind a
//! slow connection.

use anyhow::Result;
use ledger::Ledger;
use local::system::clock::micros_now;
use local::system::folder::WorkFolder;
use local::system::postgres::Postgres;
use local::system::wan::WanConnection;
use shared::item::{ItemId, NewItem};
use shared::permit::Permit;
use shared::queue::{NO_HOLD_MICROS, Reservation};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use sqlx::{Connection, Executor, PgConnection};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tests::{LedgerServer, eventually};
use tokio::task::JoinHandle;

pub(crate) struct ReplicaPair {
    pub(crate) main: LedgerServer,
    pub(crate) connection: WanConnection,
    pub(crate) replica: Postgres,
    copy: Ledger,
    item_id: ItemId,
    /// When each sale was acknowledged, by its buyer.
    acknowledged: Arc<Mutex<Vec<(String, u64)>>>,
    tasks: Vec<JoinHandle<()>>,
    slowed: Option<JoinHandle<()>>,
    _folder: WorkFolder,
}

impl ReplicaPair {
    /// Main sells `sales` units a second.
    pub(crate) async fn start(sales: u32) -> Result<Self> {
        let main = LedgerServer::start().await?;
        let connection =
            WanConnection::open(([127, 0, 0, 1], main.postgres.port()).into(), Duration::from_millis(20))
                .await?;
        let folder = WorkFolder::new()?;
        let item_id: ItemId = "a".parse()?;
        let new = NewItem {
            item_id: item_id.clone(),
            name: "A".into(),
            stock_total: 1_000_000,
            opens_at: Stamp::from_micros(micros_now() - 3_600_000_000)?,
            closes_at: None,
            hold_seconds: 0,
            max_hold_seconds: 0,
            settle_window_ms: 500,
        };
        main.ledger.create_item(&new).await?;
        main.ledger.write_heartbeat().await?;
        let replica = Postgres::start_replica(folder.path(), "replica", connection.port()).await?;
        let url = replica.url();
        let copy = Ledger::from_config(&|name: &str| (name == "FAIRDROP_LEDGER_URL").then(|| url.clone()))?;
        let mut pair = Self {
            main,
            connection,
            replica,
            copy,
            item_id,
            acknowledged: Arc::default(),
            tasks: Vec::new(),
            slowed: None,
            _folder: folder,
        };
        pair.begin(sales);
        eventually("the replica follows", Duration::from_secs(10), async || {
            let replica = pair.copy.replica(now()).await?;
            Ok((replica.beat_age_micros().is_some_and(|lag| lag < 1_500_000)).then_some(()))
        })
        .await?;
        Ok(pair)
    }

    fn begin(&mut self, sales: u32) {
        let ledger = self.main.ledger.clone();
        self.tasks.push(tokio::spawn(async move {
            loop {
                let _ = ledger.write_heartbeat().await;
                tokio::time::sleep(ledger::HEARTBEAT_INTERVAL).await;
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
                if let Ok(sale) = sale(&buyer, micros_now())
                    && ledger.record(&item_id, &[sale], Permit::Unleased).await.is_ok()
                {
                    acknowledged.lock().unwrap().push((buyer, micros_now()));
                }
                tokio::time::sleep(Duration::from_secs(1) / sales).await;
            }
        }));
    }

    /// Main sells `sales` units in one second, more than in any second before: half of them in one second of the clock, and
    /// half in the next. Waits until the replica has them.
    pub(crate) async fn burst(&self, sales: u64) -> Result<()> {
        let half_past = micros_now() / 1_000_000 * 1_000_000 - 500_000;
        let buyers: Vec<String> = (0..sales).map(|number| format!("in-a-burst-{number}")).collect();
        let burst =
            buyers.iter().zip(0..).map(|(buyer, number)| sale(buyer, half_past + number * 999_999 / sales));
        self.main.ledger.record(&self.item_id, &burst.collect::<Result<Vec<_>>>()?, Permit::Unleased).await?;
        let acknowledged_at = micros_now();
        self.acknowledged.lock().unwrap().extend(buyers.into_iter().map(|buyer| (buyer, acknowledged_at)));
        eventually("the replica has the burst", Duration::from_secs(10), async || {
            Ok((self.copy.replica(now()).await?.peak_sales_per_second >= sales).then_some(()))
        })
        .await
    }

    /// Main's address through `port`.
    pub(crate) fn main_url(&self, port: u16) -> String {
        self.main.postgres.url().replace(&self.main.postgres.port().to_string(), &port.to_string())
    }

    /// Kills main, promotes the replica, and returns how much of main's time is lost, in
    /// microseconds, and how many acknowledged sales.
    pub(crate) async fn promote(&mut self) -> Result<(u64, u64)> {
        for task in self.tasks.drain(..) {
            task.abort();
        }
        self.speed_up()?;
        self.main.postgres.kill();
        let killed_at = micros_now();
        let mut connection = PgConnection::connect(&self.replica.url()).await?;
        // The call does not wait: its own snapshot could block the WAL that is replayed first.
        connection.execute("SELECT pg_promote(false)").await?;
        eventually("the replica is promoted", Duration::from_secs(20), async || {
            Ok((!self.copy.replica(now()).await?.follows).then_some(()))
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

    pub(crate) async fn on_replica(&self, sql: &'static str) -> Result<()> {
        let mut connection = PgConnection::connect(&self.replica.url()).await?;
        connection.execute(sql).await?;
        Ok(())
    }

    /// Lets the replica replay for `share` of the time only, like an instance that is too small.
    pub(crate) fn slow_down(&mut self, share: f64) -> Result<()> {
        let replaying = self.replica.child("startup")?;
        let signal = move |name: &str| Command::new("kill").args([name, &replaying.to_string()]).status();
        let round = Duration::from_millis(500);
        self.slowed = Some(tokio::spawn(async move {
            loop {
                let _ = signal("-STOP");
                tokio::time::sleep(round.mul_f64(1.0 - share)).await;
                let _ = signal("-CONT");
                tokio::time::sleep(round.mul_f64(share)).await;
            }
        }));
        Ok(())
    }

    fn speed_up(&mut self) -> Result<()> {
        if let Some(slowed) = self.slowed.take() {
            slowed.abort();
        }
        Command::new("kill").args(["-CONT", &self.replica.child("startup")?.to_string()]).status()?;
        Ok(())
    }

    /// Writes as many other rows as main can.
    pub(crate) async fn burden(&mut self) -> Result<()> {
        let mut main = PgConnection::connect(&self.main.postgres.url()).await?;
        main.execute("CREATE TABLE burden (number bigint PRIMARY KEY)").await?;
        self.tasks.push(tokio::spawn(async move {
            let rows = "INSERT INTO burden SELECT (random() * 1e15)::bigint FROM generate_series(1, 20000)
                        ON CONFLICT DO NOTHING";
            loop {
                let _ = main.execute(rows).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }));
        Ok(())
    }
}

fn now() -> Stamp {
    Stamp::saturating_from_micros(micros_now())
}

fn sale(buyer: &str, reserved_at: u64) -> Result<Reservation> {
    Ok(Reservation {
        user_token: UserToken::parse(buyer)?,
        placed_at: Stamp::from_micros(reserved_at - 1_000_000)?,
        reserved_at: Stamp::from_micros(reserved_at)?,
        hold_until: Stamp::from_micros(reserved_at + NO_HOLD_MICROS)?,
        epoch: 1,
    })
}
