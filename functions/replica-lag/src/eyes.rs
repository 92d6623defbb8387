//! One look: everything is asked at once, each question has a limit, and what is not answered is
//! absent in the sample.

use crate::figures::{self, NoFigures, Sources};
use crate::instances;
use crate::sample::{Figures, Instance, Main, Replica, Sample};
use aws_sdk_cloudwatch::types::Metric;
use ledger::{AtRisk, Basis, Ledger};
use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::time::timeout;

/// The longest that one question to AWS may take.
const ASK_LIMIT: Duration = Duration::from_secs(7);
/// RDS's word is asked for again after this ...
const INSTANCES_EVERY: Duration = Duration::from_secs(20);
/// ... CloudWatch's, which changes once a minute, after this ...
const FIGURES_EVERY: Duration = Duration::from_secs(50);
/// ... and the series of Redis's lag are looked for again after this.
const REDIS_SERIES_EVERY: Duration = Duration::from_secs(600);

/// Who is asked.
#[derive(Debug)]
pub(crate) struct Eyes {
    /// The replica's ledger.
    pub(crate) replica: Ledger,
    /// Main's.
    pub(crate) main: Ledger,
    /// RDS in the replica's region.
    pub(crate) rds: aws_sdk_rds::Client,
    /// RDS in main's region.
    pub(crate) main_rds: aws_sdk_rds::Client,
    /// CloudWatch in the replica's region.
    pub(crate) cloudwatch: aws_sdk_cloudwatch::Client,
    /// CloudWatch in main's region.
    pub(crate) main_cloudwatch: aws_sdk_cloudwatch::Client,
    /// The replica's identifier.
    pub(crate) replica_id: String,
    /// Main's identifier.
    pub(crate) main_id: String,
    /// This region's replication group of Redis, where there is one.
    pub(crate) redis_group: Option<String>,
    /// What was asked a moment ago.
    pub(crate) recent: Recent,
}

/// Answers that are still good.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    instances: Kept<(Option<Instance>, Option<Instance>)>,
    figures: Kept<Option<Figures>>,
    redis_series: Kept<Vec<Metric>>,
}

#[derive(Debug)]
struct Kept<T>(Mutex<Option<(Instant, T)>>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone> Kept<T> {
    async fn within(&self, age: Duration, ask: impl Future<Output = T>) -> T {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, answer)) = known
            && at.elapsed() < age
        {
            return answer;
        }
        let answer = ask.await;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), answer.clone()));
        answer
    }
}

impl Eyes {
    /// Looks, now.
    pub(crate) async fn look(&self) -> Sample {
        let at_ms = now_ms();
        let instances = self.recent.instances.within(INSTANCES_EVERY, async {
            tokio::join!(
                answer("replica-instance", instances::describe(&self.rds, &self.replica_id)),
                answer("main-instance", instances::describe(&self.main_rds, &self.main_id)),
            )
        });
        let figures =
            self.recent.figures.within(FIGURES_EVERY, async { answer("figures", self.figures(at_ms)).await });
        let ledgers = async {
            let resource_id = self.resource_id();
            let replica = self.replica.replica().await;
            let received = replica.as_ref().ok().and_then(|replica| replica.received);
            (replica, self.main.main(received, &resource_id).await)
        };
        // Boxed: an SDK's futures are deep.
        let ((replica, main), (instance, main_instance), figures) =
            tokio::join!(ledgers, Box::pin(instances), Box::pin(figures));
        let (replica, main) = (told("replica-ledger", replica), told("main-ledger", main));
        Sample {
            at_ms,
            at_risk: replica.as_ref().and_then(|replica| at_risk(replica, main.as_ref())),
            replica: replica.as_ref().map(replica_of),
            main: main.as_ref().map(main_of),
            instance,
            main_instance,
            figures,
        }
    }

    /// By which main's slot for this replica is known, once RDS has said so.
    fn resource_id(&self) -> String {
        let known = self.recent.instances.0.lock().unwrap_or_else(PoisonError::into_inner);
        let instance = known.as_ref().and_then(|(_, (instance, _))| instance.as_ref());
        instance.map(|instance| instance.resource_id.clone()).unwrap_or_default()
    }

    async fn figures(&self, at_ms: i64) -> Result<Figures, NoFigures> {
        let series = self.recent.redis_series.within(REDIS_SERIES_EVERY, async {
            let Some(group) = &self.redis_group else { return Vec::new() };
            answer("redis-series", figures::find_redis_lag(&self.cloudwatch, group)).await.unwrap_or_default()
        });
        let redis = series.await;
        let sources = Sources {
            here: &self.cloudwatch,
            main: &self.main_cloudwatch,
            replica_id: &self.replica_id,
            main_id: &self.main_id,
            redis: &redis,
        };
        figures::read(sources, at_ms / 1_000).await
    }
}

async fn answer<T, E: Display>(what: &'static str, ask: impl Future<Output = Result<T, E>>) -> Option<T> {
    match timeout(ASK_LIMIT, ask).await {
        Ok(answer) => told(what, answer),
        Err(_) => told(what, Err::<T, _>("no answer in time")),
    }
}

fn told<T, E: Display>(what: &'static str, answer: Result<T, E>) -> Option<T> {
    answer.inspect_err(|error| tracing::warn!(what, %error, "an input is unknown")).ok()
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// What a promotion would lose now. Absent if main could not count and the replica is no replica any more, or has no
/// heartbeat.
fn at_risk(replica: &ledger::Replica, main: Option<&ledger::Main>) -> Option<AtRisk> {
    let at_risk = ledger::at_risk(replica, main, replica.at);
    (at_risk.basis == Basis::Main || replica.follows && at_risk.is_bounded()).then_some(at_risk)
}

fn replica_of(seen: &ledger::Replica) -> Replica {
    Replica {
        follows: seen.follows,
        is_paused: seen.is_paused,
        is_streaming: seen.is_streaming,
        beat_age_seconds: seen.beat_age_micros().map(seconds),
        beat_at_ms: seen.beat_at.map(|at| ms(at.as_micros())),
        received: seen.received,
        replayed: seen.replayed,
        peak_sales_per_second: seen.peak_sales_per_second,
        units_unsold: seen.units_unsold,
    }
}

fn main_of(seen: &ledger::Main) -> Main {
    let heart_age = seen.beat_at.map(|at| seen.at.as_micros().saturating_sub(at.as_micros()));
    Main {
        heart_age_seconds: heart_age.map(seconds),
        beat_at_ms: seen.beat_at.map(|at| ms(at.as_micros())),
        written: seen.written,
        slot_active: seen.slot.map(|slot| slot.is_active),
        slot_bytes: seen.slot.map(|slot| slot.kept_bytes),
    }
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

fn ms(micros: u64) -> i64 {
    i64::try_from(micros / 1_000).unwrap_or(i64::MAX)
}
