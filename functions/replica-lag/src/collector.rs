//! Collects a sample: all sources are asked at the same time, each question has a time limit, and a source that does
//! not answer is absent from the sample.

use crate::figures::{self, FiguresError, Sources};
use crate::instances;
use crate::sample::{Figures, InstanceSample, MainSample, ReplicaSample, StandbySample};
use aws_sdk_cloudwatch::types::Metric;
use ledger::{AtRisk, Basis, Ledger};
use shared::clock::Clock;
use shared::stamp::Stamp;
use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// The longest that one question to AWS may take.
const ASK_LIMIT: Duration = Duration::from_secs(7);
/// RDS is asked again after this ...
const INSTANCES_INTERVAL: Duration = Duration::from_secs(20);
/// ... CloudWatch, whose figures change once a minute, after this ...
const FIGURES_INTERVAL: Duration = Duration::from_secs(50);
/// ... and the series of Redis's replication lag are listed again after this.
const REDIS_SERIES_INTERVAL: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(crate) struct Collector {
    pub(crate) replica: Ledger,
    pub(crate) main: Ledger,
    /// In the replica's region, like `cloudwatch`.
    pub(crate) rds: aws_sdk_rds::Client,
    pub(crate) main_rds: aws_sdk_rds::Client,
    pub(crate) cloudwatch: aws_sdk_cloudwatch::Client,
    pub(crate) main_cloudwatch: aws_sdk_cloudwatch::Client,
    /// RDS's identifier of the replica.
    pub(crate) replica_id: String,
    pub(crate) main_id: String,
    /// This region's replication group of Redis, if there is one.
    pub(crate) redis_group: Option<String>,
    pub(crate) recent: RecentAnswers,
}

/// Answers that are still recent enough to be used again.
#[derive(Debug, Default)]
pub(crate) struct RecentAnswers {
    instances: CachedAnswer<(Option<InstanceSample>, Option<InstanceSample>)>,
    figures: CachedAnswer<Option<Figures>>,
    redis_series: CachedAnswer<Vec<Metric>>,
}

#[derive(Debug)]
struct CachedAnswer<T>(Mutex<Option<(Instant, T)>>);

impl<T> Default for CachedAnswer<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone> CachedAnswer<T> {
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

impl Collector {
    pub(crate) async fn collect(&self) -> StandbySample {
        let asked_at = Clock::machine().now();
        let at_ms = ms(asked_at.as_micros());
        let instances = self.recent.instances.within(INSTANCES_INTERVAL, async {
            tokio::join!(
                answer("replica-instance", instances::describe(&self.rds, &self.replica_id)),
                answer("main-instance", instances::describe(&self.main_rds, &self.main_id)),
            )
        });
        let figures = self
            .recent
            .figures
            .within(FIGURES_INTERVAL, async { answer("figures", self.figures(at_ms)).await });
        let ledgers = async {
            let resource_id = self.resource_id();
            let replica = self.replica.replica(asked_at).await;
            let received = replica.as_ref().ok().and_then(|replica| replica.received);
            (replica, self.main.main(received, &resource_id).await)
        };
        // Boxed: an SDK's futures are deep.
        let ((replica, main), (instance, main_instance), figures) =
            tokio::join!(ledgers, Box::pin(instances), Box::pin(figures));
        let (replica, main) = (known("replica-ledger", replica), known("main-ledger", main));
        StandbySample {
            at_ms,
            at_risk: replica.as_ref().and_then(|replica| at_risk(replica, main.as_ref(), asked_at)),
            replica: replica.as_ref().map(replica_sample),
            main: main.as_ref().map(main_sample),
            instance,
            main_instance,
            figures,
        }
    }

    /// The resource id that names main's slot for this replica, once RDS has returned it.
    fn resource_id(&self) -> String {
        let known = self.recent.instances.0.lock().unwrap_or_else(PoisonError::into_inner);
        let instance = known.as_ref().and_then(|(_, (instance, _))| instance.as_ref());
        instance.map(|instance| instance.resource_id.clone()).unwrap_or_default()
    }

    async fn figures(&self, at_ms: i64) -> Result<Figures, FiguresError> {
        let series = self.recent.redis_series.within(REDIS_SERIES_INTERVAL, async {
            let Some(group) = &self.redis_group else { return Vec::new() };
            answer("redis-series", figures::find_redis_lag(&self.cloudwatch, group)).await.unwrap_or_default()
        });
        let redis = series.await;
        let sources = Sources {
            standby: &self.cloudwatch,
            main: &self.main_cloudwatch,
            replica_id: &self.replica_id,
            main_id: &self.main_id,
            redis: &redis,
        };
        figures::read(sources, at_ms / 1_000).await
    }
}

async fn answer<T, E: Display>(input: &'static str, ask: impl Future<Output = Result<T, E>>) -> Option<T> {
    match timeout(ASK_LIMIT, ask).await {
        Ok(answer) => known(input, answer),
        Err(_) => known(input, Err::<T, _>(format!("timed out after {} s", ASK_LIMIT.as_secs()))),
    }
}

fn known<T, E: Display>(input: &'static str, answer: Result<T, E>) -> Option<T> {
    answer
        .inspect_err(|error| {
            tracing::warn!(input, %error, "could not read an input; samples lack it until the next try");
        })
        .ok()
}

/// What a promotion would lose now. Absent if main could not count it and the replica has no heartbeat or does not
/// follow main any more.
fn at_risk(
    replica: &ledger::ReplicaState,
    main: Option<&ledger::MainState>,
    asked_at: Stamp,
) -> Option<AtRisk> {
    let at_risk = ledger::at_risk(replica, main, asked_at);
    let is_known = at_risk.basis == Basis::Main || (replica.follows && at_risk.is_bounded());
    is_known.then_some(at_risk)
}

fn replica_sample(replica: &ledger::ReplicaState) -> ReplicaSample {
    ReplicaSample {
        follows: replica.follows,
        is_paused: replica.is_paused,
        is_streaming: replica.is_streaming,
        heartbeat_age_seconds: replica.beat_age_micros().map(seconds),
        heartbeat_at_ms: replica.beat_at.map(|at| ms(at.as_micros())),
        received_lsn: replica.received,
        replayed_lsn: replica.replayed,
        peak_sales_per_second: replica.peak_sales_per_second,
        units_unsold: replica.units_unsold,
    }
}

fn main_sample(main: &ledger::MainState) -> MainSample {
    let heartbeat_age = main.beat_at.map(|at| main.at.as_micros().saturating_sub(at.as_micros()));
    MainSample {
        heartbeat_age_seconds: heartbeat_age.map(seconds),
        heartbeat_at_ms: main.beat_at.map(|at| ms(at.as_micros())),
        written_lsn: main.written,
        slot_active: main.slot.map(|slot| slot.is_active),
        slot_bytes: main.slot.map(|slot| slot.kept_bytes),
    }
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

fn ms(micros: u64) -> i64 {
    i64::try_from(micros / 1_000).unwrap_or(i64::MAX)
}
