//! Restoring a queue of 1,000,000 orders from the logs of five regions into an empty Redis, with TLS and a real ledger. The
//! logs are in memory: a read takes as long as a page of DynamoDB at the region's distance.

use crate::figure::{Figure, median, range};
use ::replay::{RecordSource, ReplayOptions, replay};
use anyhow::{Result, ensure};
use local::system::clock::micros_now;
use local::system::folder::WorkFolder;
use local::system::postgres::Postgres;
use local::system::redis_server::{self, Redis};
use local::system::regions;
use order_log::{Bucket, LogRecord, OrderLogError, RecordKind};
use shared::config::RedisConfig;
use shared::item::{ItemId, NewItem};
use shared::queue::{Link, Queue};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::time::{Duration, Instant};

const REGIONS: usize = 5;
/// Orders of one region in one bucket: 1,000,960 in all.
const OF_BUCKET: u64 = 782;
const ORDERS: u64 = REGIONS as u64 * 256 * OF_BUCKET;
const ROUNDS: usize = 3;
/// What a page of some hundred records takes DynamoDB.
const PAGE: Duration = Duration::from_millis(15);

/// The log of a region.
struct GeneratedLog {
    name: &'static str,
    number: usize,
    round_trip: Duration,
    began: u64,
}

impl RecordSource for GeneratedLog {
    fn region(&self) -> &str {
        self.name
    }

    async fn bucket(&self, item_id: &ItemId, bucket: u8, since: Stamp) -> Result<Bucket, OrderLogError> {
        tokio::time::sleep(self.round_trip + PAGE).await;
        if since > Stamp::EPOCH {
            return Ok(Bucket::default());
        }
        let record = |number: u64| {
            let buyer = UserToken::parse(format!("buyer-{}-{bucket}-{number:024}", self.number)).ok()?;
            let stamp = Stamp::saturating_from_micros(self.began + number * 2_560 + u64::from(bucket) * 10);
            Some(LogRecord::new(RecordKind::Order, item_id.clone(), buyer, stamp))
        };
        Ok(Bucket { records: (0..OF_BUCKET).filter_map(record).collect(), malformed: 0 })
    }
}

pub(crate) async fn measure() -> Result<Vec<Figure>> {
    let folder = WorkFolder::new()?;
    let redis = Redis::start(folder.path(), "redis").await?;
    let postgres = Postgres::start(folder.path(), "postgres").await?;
    let (redis_url, ledger_url) = (redis.url(), postgres.url());
    let queue =
        Queue::new(Link::new(RedisConfig::main(&|name: &str| redis_server::setting(name, &redis_url))?));
    let ledger = ::ledger::Ledger::from_config(&|name: &str| {
        (name == "FAIRDROP_LEDGER_URL").then(|| ledger_url.clone())
    })?;
    ledger.migrate().await?;
    let mut seconds = Vec::new();
    for round in 0..ROUNDS {
        let item_id: ItemId = format!("replay-{round}").parse()?;
        let new = NewItem {
            item_id: item_id.clone(),
            name: item_id.to_string(),
            stock_total: 500,
            opens_at: Stamp::from_micros(micros_now() - 3_600_000_000)?,
            closes_at: None,
            hold_seconds: 0,
            max_hold_seconds: 0,
            settle_window_ms: 2_000,
        };
        ledger.create_item(&new).await?;
        queue.create_item(&new, 1).await?;
        let began = micros_now() - 60_000_000;
        let log = |(number, region): (usize, regions::WorldRegion)| GeneratedLog {
            name: region.name,
            number,
            round_trip: Duration::from_secs_f64(region.round_trip_ms / 1_000.0),
            began,
        };
        let logs: Vec<GeneratedLog> = regions::first(REGIONS).into_iter().enumerate().map(log).collect();
        let started = Instant::now();
        let report = replay(&item_id, &queue, &ledger, &logs, &ReplayOptions::default()).await?;
        seconds.push(started.elapsed().as_secs_f64());
        ensure!(report.placed() == ORDERS, "{} of {ORDERS} orders are in the queue", report.placed());
    }
    let against = format!(
        "{ORDERS} orders in the logs of {REGIONS} regions, in memory at the regions' distances, into an empty Redis with TLS; {ROUNDS} \
         rounds (range {})",
        range(&seconds)
    );
    Ok(vec![Figure::measured("replay_of_1000000_orders", median(seconds), "s", against).at_most(30.0)])
}
