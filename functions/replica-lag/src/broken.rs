//! Evidence that replication does not run.

use crate::sample::{HEARTBEAT_STALE_SECONDS, StandbySample};
use crate::verdict::{Assessment, EVIDENCE_SECONDS, ReplicaVerdict};
use crate::window::Window;

/// PostgreSQL reopens a closed connection by itself within seconds.
const CLOSED_SECONDS: i64 = 15;
/// A running main writes a heartbeat every second. If nothing arrives for this long, replication does not run.
const NOTHING_ARRIVES_SECONDS: i64 = 20;
/// Statuses of an instance that replicates, or will again without an operator.
const REPLICATING_STATUSES: [&str; 9] = [
    "available",
    "backing-up",
    "configuring-enhanced-monitoring",
    "configuring-log-exports",
    "maintenance",
    "modifying",
    "renaming",
    "storage-config-upgrade",
    "storage-optimization",
];

/// Why replication does not run, if it does not.
pub(crate) fn evidence(window: &Window) -> Option<Assessment> {
    let newest = window.newest()?;
    let broken = |cause, why: String| Some(Assessment::of(ReplicaVerdict::Broken, cause, why));
    if newest.replica.is_some_and(|replica| !replica.follows) {
        return broken(
            "promoted",
            "the replica does not follow main any more: it was promoted or recreated".into(),
        );
    }
    if let Some(instance) = &newest.instance {
        if !instance.exists {
            return broken("gone", "RDS has no such instance in this region".into());
        }
        if instance.replica_of.is_none() {
            return broken("promoted", "RDS does not list the instance as a replica any more".into());
        }
        let status = instance.replication.as_deref().unwrap_or_default();
        if instance.replication_is_normal == Some(false)
            || matches!(status, "error" | "terminated" | "stopped")
            || status.starts_with("replication stop")
        {
            return broken(
                "replication-status",
                format!("RDS reports the status of its replication as {status}"),
            );
        }
        if newest.replica.is_none()
            && !REPLICATING_STATUSES.contains(&instance.status.as_str())
            && !instance.status.is_empty()
        {
            return broken("instance-status", format!("RDS reports the instance as {}", instance.status));
        }
    }
    if newest.replica.is_some_and(|replica| replica.is_paused) {
        return broken("paused", "an operator has paused WAL replay on the replica".into());
    }
    let stopped = if is_closed(window) {
        Some(("connection-closed", "the replica's connection to main is closed"))
    } else if nothing_arrives(window) {
        Some(("nothing-arrives", "no WAL of main arrives at the replica"))
    } else {
        None
    };
    match (stopped, newest.main) {
        (Some((cause, what)), Some(_)) => return broken(cause, format!("{what}, and main answers")),
        (Some((_, what)), None) => return broken("main-silent", format!("{what}, and main does not answer")),
        (None, _) => {}
    }
    let lag_metric = newest.figures.and_then(|figures| figures.replica_lag);
    let is_known = window.last(EVIDENCE_SECONDS).iter().any(|sample| sample.lag_seconds().is_some());
    // The heartbeat is better evidence than CloudWatch's metric, which decides only without a heartbeat.
    if !is_known && lag_metric.is_some_and(|lag| lag < 0.0) {
        return broken("lag-metric", "CloudWatch's ReplicaLag is -1, and no heartbeat contradicts it".into());
    }
    let recent = window.last(EVIDENCE_SECONDS);
    let has_asked = recent.len() >= 3 && recent.iter().all(|sample| sample.replica.is_none());
    let has_no_metric =
        recent.iter().all(|sample| sample.figures.is_some_and(|figures| figures.replica_lag.is_none()));
    if has_asked && has_no_metric {
        return broken(
            "no-data",
            "the replica does not answer, and CloudWatch has no ReplicaLag for it".into(),
        );
    }
    None
}

/// Whether every sample for long enough has shown the connection to main as closed.
fn is_closed(window: &Window) -> bool {
    let state = |sample: &StandbySample| {
        let own = sample.replica.and_then(|replica| replica.is_streaming);
        let slot = sample.main.and_then(|main| main.slot_active);
        match (own, slot) {
            // Each side sees its own end; one of them notices a broken connection first.
            (Some(false), _) | (_, Some(false)) => Some(false),
            (None, None) => None,
            _ => Some(true),
        }
    };
    let known: Vec<(i64, bool)> =
        window.samples().iter().filter_map(|sample| Some((sample.at_ms, state(sample)?))).collect();
    let closed = known.iter().rev().take_while(|(_, is_open)| !is_open);
    let (newest, oldest) = (known.last(), closed.last());
    let now_ms = window.newest().map_or(0, |newest| newest.at_ms);
    matches!((newest, oldest), (Some((newest, _)), Some((oldest, _)))
        if now_ms - newest < EVIDENCE_SECONDS * 1_000 && newest - oldest >= CLOSED_SECONDS * 1_000)
}

/// Whether the replica has received no WAL for long enough, although main writes heartbeats or cannot be asked whether
/// it does.
fn nothing_arrives(window: &Window) -> bool {
    let known: Vec<(&StandbySample, u64)> =
        window.samples().iter().filter_map(|sample| Some((sample, sample.replica?.received_lsn?))).collect();
    let Some((newest, received)) = known.last() else { return false };
    let same = known.iter().rev().take_while(|(_, other)| other == received);
    let Some((oldest, _)) = same.last() else { return false };
    let now_ms = window.newest().map_or(0, |newest| newest.at_ms);
    let is_old = now_ms - newest.at_ms > EVIDENCE_SECONDS * 1_000;
    if is_old || newest.at_ms - oldest.at_ms < NOTHING_ARRIVES_SECONDS * 1_000 {
        return false;
    }
    match newest.main {
        // The replica has everything, and main writes nothing more without heartbeats.
        Some(main) if main.written_lsn <= *received => false,
        Some(main) => main.heartbeat_age_seconds.is_some_and(|age| age <= HEARTBEAT_STALE_SECONDS),
        None => true,
    }
}
