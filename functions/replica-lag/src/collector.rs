//! Collects a sample: all sources are asked at the same time, each question has a time limit, and a source that does
//! not answer is absent from the sample.

use crate::figures;
use crate::instances;
use crate::sample::{Figures, InstanceSample, MainSample, ReplicaSample, StandbySample};
use ledger::{AtRisk, Basis, Ledger};
use shared::clock::Clock;
use shared::stamp::Stamp;
use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// The longest that one question to AWS may take.
const ASK_LIMIT: Duration = Duration::from_secs(7);
/// The part of it for the search of the series of Redis's lag. The replica's own figure, which may show that replication
/// does not run, is read without them.
const SEARCH_LIMIT: Duration = Duration::from_secs(3);
/// RDS and CloudWatch are asked again after this.
const AWS_INTERVAL: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(crate) struct Collector {
    pub(crate) replica: Ledger,
    pub(crate) main: Ledger,
    /// In the replica's region, like `cloudwatch`.
    pub(crate) rds: aws_sdk_rds::Client,
    pub(crate) main_rds: aws_sdk_rds::Client,
    pub(crate) cloudwatch: aws_sdk_cloudwatch::Client,
    /// RDS's identifier of the replica.
    pub(crate) replica_id: String,
    pub(crate) main_id: String,
    /// This region's replication group of Redis, if there is one.
    pub(crate) redis_group: Option<String>,
    /// What AWS answered last, and when.
    pub(crate) recent: Mutex<Option<(Instant, AwsAnswers)>>,
}

#[derive(Clone, Debug)]
pub(crate) struct AwsAnswers {
    instance: Option<InstanceSample>,
    main_instance: Option<InstanceSample>,
    figures: Option<Figures>,
}

impl Collector {
    pub(crate) async fn collect(&self) -> StandbySample {
        let asked_at = Clock::machine().now();
        let at_ms = ms(asked_at.as_micros());
        let ledgers = async {
            let resource_id = self.resource_id();
            let replica = self.replica.replica(asked_at).await;
            let received = replica.as_ref().ok().and_then(|replica| replica.received);
            (replica, self.main.main(received, &resource_id).await)
        };
        // Boxed: an SDK's futures are deep.
        let ((replica, main), aws) = tokio::join!(ledgers, Box::pin(self.aws(at_ms)));
        let (replica, main) = (known("replica-ledger", replica), known("main-ledger", main));
        StandbySample {
            at_ms,
            at_risk: replica.as_ref().and_then(|replica| at_risk(replica, main.as_ref(), asked_at)),
            replica: replica.as_ref().map(replica_sample),
            main: main.as_ref().map(main_sample),
            instance: aws.instance,
            main_instance: aws.main_instance,
            figures: aws.figures,
        }
    }

    fn recent(&self) -> Option<(Instant, AwsAnswers)> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn aws(&self, at_ms: i64) -> AwsAnswers {
        if let Some((at, recent)) = self.recent()
            && at.elapsed() < AWS_INTERVAL
        {
            return recent;
        }
        let (instance, main_instance, figures) = tokio::join!(
            answer("replica-instance", ASK_LIMIT, instances::describe(&self.rds, &self.replica_id)),
            answer("main-instance", ASK_LIMIT, instances::describe(&self.main_rds, &self.main_id)),
            answer("figures", ASK_LIMIT, self.figures(at_ms)),
        );
        let answers = AwsAnswers { instance, main_instance, figures };
        *self.recent.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), answers.clone()));
        answers
    }

    /// The resource id that names main's slot for this replica, once RDS has returned it.
    fn resource_id(&self) -> String {
        let instance = self.recent().and_then(|(_, answers)| answers.instance);
        instance.map(|instance| instance.resource_id).unwrap_or_default()
    }

    async fn figures(&self, at_ms: i64) -> Result<Figures, String> {
        let series = match &self.redis_group {
            Some(group) => {
                answer("redis-series", SEARCH_LIMIT, figures::find_redis_lag(&self.cloudwatch, group)).await
            }
            None => None,
        };
        figures::read(&self.cloudwatch, &self.replica_id, &series.unwrap_or_default(), at_ms / 1_000).await
    }
}

async fn answer<T, E: Display>(
    input: &'static str,
    limit: Duration,
    ask: impl Future<Output = Result<T, E>>,
) -> Option<T> {
    match timeout(limit, ask).await {
        Ok(answer) => known(input, answer),
        Err(_) => known(input, Err::<T, _>(format!("timed out after {} s", limit.as_secs()))),
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
