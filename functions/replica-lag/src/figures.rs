//! CloudWatch's figures of the two instances and of Redis. They are a minute or two old.

use crate::sample::{Figures, InstanceLoad};
use aws_sdk_cloudwatch::Client;
use aws_sdk_cloudwatch::primitives::DateTime;
use aws_sdk_cloudwatch::types::{Dimension, Metric, MetricDataQuery, MetricStat, ScanBy};
use std::collections::HashMap;
use std::error::Error;

/// An older figure is ignored, in seconds.
const FRESH_SECONDS: i64 = 240;
/// RDS and ElastiCache write one value a minute, in seconds.
const PERIOD_SECONDS: i32 = 60;
/// The most series of Redis's lag: one for each shard or node.
const MAX_REDIS_SERIES: usize = 20;
const RDS: &str = "AWS/RDS";
const ELASTICACHE: &str = "AWS/ElastiCache";
const REDIS_LAG: &str = "GlobalDatastoreReplicationLag";

/// CloudWatch did not answer, or refused.
#[derive(Debug, thiserror::Error)]
#[error("CloudWatch: {reason}")]
pub(crate) struct FiguresError {
    /// The code that CloudWatch returned, or what happened to the connection.
    reason: String,
    source: Box<dyn Error + Send + Sync>,
}

/// The newest value of each query, by the query's id.
type NewestValues = HashMap<String, f64>;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Sources<'a> {
    /// CloudWatch in the replica's region.
    pub(crate) standby: &'a Client,
    /// CloudWatch in main's region.
    pub(crate) main: &'a Client,
    pub(crate) replica_id: &'a str,
    pub(crate) main_id: &'a str,
    /// The series of Redis's lag.
    pub(crate) redis: &'a [Metric],
}

pub(crate) async fn read(sources: Sources<'_>, now_seconds: i64) -> Result<Figures, FiguresError> {
    let load = ["CPUUtilization", "ReadIOPS", "WriteIOPS", "DiskQueueDepth", "DatabaseConnections"];
    let of_replica = ["ReplicaLag"].into_iter().chain(load);
    let of_main = ["OldestReplicationSlotLag", "TransactionLogsDiskUsage", "FreeStorageSpace"];
    let of_main = of_main.into_iter().chain(load);
    let redis =
        sources.redis.iter().enumerate().map(|(n, metric)| query(format!("redis{n}"), metric.clone()));
    let standby: Vec<_> = of_replica.map(|name| of_instance(name, sources.replica_id)).chain(redis).collect();
    let main: Vec<_> = of_main.map(|name| of_instance(name, sources.main_id)).collect();
    let (standby, main) =
        tokio::join!(newest(sources.standby, standby, now_seconds), newest(sources.main, main, now_seconds));
    let (standby, main) = (standby?, main?);
    let redis = (0..sources.redis.len()).filter_map(|n| standby.get(&format!("redis{n}")).copied());
    Ok(Figures {
        replica_lag: value(&standby, "ReplicaLag"),
        replica: load_of(&standby),
        main: load_of(&main),
        slot_lag_bytes: value(&main, "OldestReplicationSlotLag"),
        wal_bytes: value(&main, "TransactionLogsDiskUsage"),
        main_free_bytes: value(&main, "FreeStorageSpace"),
        redis_lag: redis.reduce(f64::max),
    })
}

/// Lists the series of Redis's lag that belong to the replication group `group`. AWS's pages disagree about their
/// dimensions, so the group's name is searched for in all of them.
pub(crate) async fn find_redis_lag(client: &Client, group: &str) -> Result<Vec<Metric>, FiguresError> {
    let call = client.list_metrics().namespace(ELASTICACHE).metric_name(REDIS_LAG);
    let found = call.send().await.map_err(figures_error)?;
    let is_of_group = |dimension: &Dimension| {
        let rest = dimension.value().and_then(|value| value.strip_prefix(group));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let own = found.metrics().iter().filter(|metric| metric.dimensions().iter().any(is_of_group));
    Ok(own.take(MAX_REDIS_SERIES).cloned().collect())
}

fn of_instance(name: &str, instance: &str) -> MetricDataQuery {
    let dimension = Dimension::builder().name("DBInstanceIdentifier").value(instance).build();
    query(id_of(name), Metric::builder().namespace(RDS).metric_name(name).dimensions(dimension).build())
}

fn query(id: String, metric: Metric) -> MetricDataQuery {
    let stat = MetricStat::builder().metric(metric).period(PERIOD_SECONDS).stat("Maximum").build();
    MetricDataQuery::builder().id(id).metric_stat(stat).build()
}

/// CloudWatch wants an id to begin with a lower-case letter.
fn id_of(name: &str) -> String {
    format!("m{name}")
}

async fn newest(
    client: &Client,
    queries: Vec<MetricDataQuery>,
    now_seconds: i64,
) -> Result<NewestValues, FiguresError> {
    let call = client
        .get_metric_data()
        .start_time(DateTime::from_secs(now_seconds - FRESH_SECONDS))
        .end_time(DateTime::from_secs(now_seconds + i64::from(PERIOD_SECONDS)))
        .scan_by(ScanBy::TimestampDescending)
        .set_metric_data_queries(Some(queries));
    let answer = call.send().await.map_err(figures_error)?;
    let results = answer.metric_data_results().iter().filter_map(|result| {
        let pairs = result.timestamps().iter().zip(result.values());
        let (_, value) = pairs.max_by_key(|(at, _)| at.secs())?;
        Some((result.id()?.to_owned(), *value))
    });
    Ok(results.collect())
}

fn value(newest: &NewestValues, name: &str) -> Option<f64> {
    newest.get(&id_of(name)).copied()
}

fn load_of(newest: &NewestValues) -> InstanceLoad {
    let io = [value(newest, "ReadIOPS"), value(newest, "WriteIOPS")];
    InstanceLoad {
        cpu: value(newest, "CPUUtilization"),
        io: io.into_iter().flatten().reduce(|one, other| one + other),
        disk_queue: value(newest, "DiskQueueDepth"),
        connections: value(newest, "DatabaseConnections"),
    }
}

fn figures_error<E, R>(error: aws_sdk_cloudwatch::error::SdkError<E, R>) -> FiguresError
where
    E: aws_sdk_cloudwatch::error::ProvideErrorMetadata + Error + Send + Sync + 'static,
    R: std::fmt::Debug + Send + Sync + 'static,
{
    let code = error.as_service_error().and_then(|service| service.code());
    FiguresError { reason: crate::publisher::reason(code, &error), source: error.into() }
}
