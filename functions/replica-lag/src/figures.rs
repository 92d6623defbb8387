//! CloudWatch's figures of the replica and of Redis. They are a minute or two old.

use crate::publisher::reason;
use crate::sample::Figures;
use aws_sdk_cloudwatch::Client;
use aws_sdk_cloudwatch::primitives::DateTime;
use aws_sdk_cloudwatch::types::{Dimension, Metric, MetricDataQuery, MetricStat, ScanBy};

/// An older figure is ignored, in seconds.
const FRESH_SECONDS: i64 = 240;
/// RDS and ElastiCache write one value a minute, in seconds.
const PERIOD_SECONDS: i32 = 60;
/// The most series of Redis's lag: one for each shard or node.
const MAX_REDIS_SERIES: usize = 20;
/// The id of the query for `ReplicaLag`; the others are of Redis's series.
const REPLICA_LAG: &str = "replica";
const RDS: &str = "AWS/RDS";
const ELASTICACHE: &str = "AWS/ElastiCache";
const REDIS_LAG: &str = "GlobalDatastoreReplicationLag";

/// Reads the newest figures of the replica `replica_id` and of the `series` of Redis's lag.
pub(crate) async fn read(
    client: &Client,
    replica_id: &str,
    series: &[Metric],
    now_seconds: i64,
) -> Result<Figures, String> {
    let replica = Dimension::builder().name("DBInstanceIdentifier").value(replica_id).build();
    let replica_lag = Metric::builder().namespace(RDS).metric_name("ReplicaLag").dimensions(replica).build();
    let redis = series.iter().enumerate().map(|(n, metric)| query(&format!("redis{n}"), metric.clone()));
    let call = client
        .get_metric_data()
        .start_time(DateTime::from_secs(now_seconds - FRESH_SECONDS))
        .end_time(DateTime::from_secs(now_seconds + i64::from(PERIOD_SECONDS)))
        .scan_by(ScanBy::TimestampDescending)
        .set_metric_data_queries(Some([query(REPLICA_LAG, replica_lag)].into_iter().chain(redis).collect()));
    let answer = call.send().await.map_err(reason)?;
    let mut figures = Figures::default();
    for result in answer.metric_data_results() {
        let pairs = result.timestamps().iter().zip(result.values());
        let Some((_, newest)) = pairs.max_by_key(|(at, _)| at.secs()) else { continue };
        if result.id() == Some(REPLICA_LAG) {
            figures.replica_lag = Some(*newest);
        } else {
            figures.redis_lag = Some(figures.redis_lag.map_or(*newest, |other: f64| other.max(*newest)));
        }
    }
    Ok(figures)
}

/// Lists the series of Redis's lag that belong to the replication group `group`. AWS's pages disagree about their
/// dimensions, so the group's name is searched for in all of them.
pub(crate) async fn find_redis_lag(client: &Client, group: &str) -> Result<Vec<Metric>, String> {
    let call = client.list_metrics().namespace(ELASTICACHE).metric_name(REDIS_LAG);
    let found = call.send().await.map_err(reason)?;
    let is_of_group = |dimension: &Dimension| {
        let rest = dimension.value().and_then(|value| value.strip_prefix(group));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let own = found.metrics().iter().filter(|metric| metric.dimensions().iter().any(is_of_group));
    Ok(own.take(MAX_REDIS_SERIES).cloned().collect())
}

fn query(id: &str, metric: Metric) -> MetricDataQuery {
    let stat = MetricStat::builder().metric(metric).period(PERIOD_SECONDS).stat("Maximum").build();
    MetricDataQuery::builder().id(id).metric_stat(stat).build()
}
