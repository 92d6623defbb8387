//! CloudWatch's figures of the two instances and of Redis: evidence, a minute or two old.

use crate::sample::{Figures, Load};
use aws_sdk_cloudwatch::Client;
use aws_sdk_cloudwatch::primitives::DateTime;
use aws_sdk_cloudwatch::types::{Dimension, Metric, MetricDataQuery, MetricStat, ScanBy};
use std::collections::HashMap;

/// A figure that is older says nothing of now, in seconds.
const FRESH_SECONDS: i64 = 240;
/// RDS and ElastiCache write a figure a minute.
const PERIOD_SECONDS: i32 = 60;
/// The most series of Redis's lag: one for each shard or node.
const MAX_REDIS_SERIES: usize = 20;
const RDS: &str = "AWS/RDS";
const ELASTICACHE: &str = "AWS/ElastiCache";
const REDIS_LAG: &str = "GlobalDatastoreReplicationLag";

/// CloudWatch did not answer, or not in a way that counts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("CloudWatch: {0}")]
pub(crate) struct NoFigures(pub(crate) String);

/// The newest value of each query, by its id.
type Newest = HashMap<String, f64>;

/// Where the figures are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sources<'a> {
    /// CloudWatch in the replica's region.
    pub(crate) here: &'a Client,
    /// CloudWatch in main's region.
    pub(crate) main: &'a Client,
    /// The replica's identifier.
    pub(crate) replica_id: &'a str,
    /// Main's identifier.
    pub(crate) main_id: &'a str,
    /// The series of Redis's lag.
    pub(crate) redis: &'a [Metric],
}

/// Reads all figures.
pub(crate) async fn read(sources: Sources<'_>, now_seconds: i64) -> Result<Figures, NoFigures> {
    let load = ["CPUUtilization", "ReadIOPS", "WriteIOPS", "DiskQueueDepth", "DatabaseConnections"];
    let of_replica = ["ReplicaLag"].into_iter().chain(load);
    let of_main = ["OldestReplicationSlotLag", "TransactionLogsDiskUsage", "FreeStorageSpace"];
    let of_main = of_main.into_iter().chain(load);
    let redis =
        sources.redis.iter().enumerate().map(|(n, metric)| query(format!("redis{n}"), metric.clone()));
    let here: Vec<_> = of_replica.map(|name| of_instance(name, sources.replica_id)).chain(redis).collect();
    let main: Vec<_> = of_main.map(|name| of_instance(name, sources.main_id)).collect();
    let (here, main) =
        tokio::join!(newest(sources.here, here, now_seconds), newest(sources.main, main, now_seconds));
    let (here, main) = (here?, main?);
    let redis = (0..sources.redis.len()).filter_map(|n| here.get(&format!("redis{n}")).copied());
    Ok(Figures {
        replica_lag: value(&here, "ReplicaLag"),
        replica: load_of(&here),
        main: load_of(&main),
        slot_lag_bytes: value(&main, "OldestReplicationSlotLag"),
        log_bytes: value(&main, "TransactionLogsDiskUsage"),
        main_free_bytes: value(&main, "FreeStorageSpace"),
        redis_lag: redis.reduce(f64::max),
    })
}

/// Finds the series of Redis's lag that belong to the replication group `group`. Which dimensions
/// they have is not documented alike everywhere, so that they are looked for.
pub(crate) async fn find_redis_lag(client: &Client, group: &str) -> Result<Vec<Metric>, NoFigures> {
    let call = client.list_metrics().namespace(ELASTICACHE).metric_name(REDIS_LAG);
    let found = call.send().await.map_err(|error| no_figures(&error))?;
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

/// An id begins with a small letter.
fn id_of(name: &str) -> String {
    format!("m{name}")
}

async fn newest(
    client: &Client,
    queries: Vec<MetricDataQuery>,
    now_seconds: i64,
) -> Result<Newest, NoFigures> {
    let call = client
        .get_metric_data()
        .start_time(DateTime::from_secs(now_seconds - FRESH_SECONDS))
        .end_time(DateTime::from_secs(now_seconds + i64::from(PERIOD_SECONDS)))
        .scan_by(ScanBy::TimestampDescending)
        .set_metric_data_queries(Some(queries));
    let answer = call.send().await.map_err(|error| no_figures(&error))?;
    let results = answer.metric_data_results().iter().filter_map(|result| {
        let pairs = result.timestamps().iter().zip(result.values());
        let (_, value) = pairs.max_by_key(|(at, _)| at.secs())?;
        Some((result.id()?.to_owned(), *value))
    });
    Ok(results.collect())
}

fn value(newest: &Newest, name: &str) -> Option<f64> {
    newest.get(&id_of(name)).copied()
}

fn load_of(newest: &Newest) -> Load {
    let io = [value(newest, "ReadIOPS"), value(newest, "WriteIOPS")];
    Load {
        cpu: value(newest, "CPUUtilization"),
        io: io.into_iter().flatten().reduce(|one, other| one + other),
        disk_queue: value(newest, "DiskQueueDepth"),
        connections: value(newest, "DatabaseConnections"),
    }
}

fn no_figures<E, R>(error: &aws_sdk_cloudwatch::error::SdkError<E, R>) -> NoFigures
where
    E: aws_sdk_cloudwatch::error::ProvideErrorMetadata,
{
    NoFigures(crate::post::reason(error.as_service_error().and_then(|service| service.code()), error))
}
