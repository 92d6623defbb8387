//! Evidence that replication does not run.

use crate::sample::{HEART_STALE_SECONDS, Sample};
use crate::verdict::{Assessment, EVIDENCE_SECONDS, Verdict};
use crate::window::Window;

/// A line that is closed is opened again by PostgreSQL itself, within seconds.
const CLOSED_SECONDS: i64 = 15;
/// A living main writes a heartbeat a second: where nothing at all arrives for so long, nothing will.
const NOTHING_ARRIVES_SECONDS: i64 = 20;
/// States of an instance in which it replicates, or will go on.
const WORKS: [&str; 9] = [
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

/// Why replication does not run, if that is so.
pub(crate) fn evidence(window: &Window) -> Option<Assessment> {
    let newest = window.newest()?;
    let broken = |cause, why: String| Some(Assessment::of(Verdict::Broken, cause, why));
    if newest.replica.is_some_and(|replica| !replica.follows) {
        return broken("promoted", "it does not follow main any more: it was promoted, or made anew".into());
    }
    if let Some(instance) = &newest.instance {
        if !instance.exists {
            return broken("gone", "RDS has no such instance in this region".into());
        }
        if instance.replica_of.is_none() {
            return broken("promoted", "RDS does not call it a replica any more".into());
        }
        let word = instance.replication.as_deref().unwrap_or_default();
        if instance.replication_is_normal == Some(false)
            || matches!(word, "error" | "terminated" | "stopped")
            || word.starts_with("replication stop")
        {
            return broken("replication-status", format!("RDS says of its replication: {word}"));
        }
        if newest.replica.is_none()
            && !WORKS.contains(&instance.status.as_str())
            && !instance.status.is_empty()
        {
            return broken("instance-status", format!("the instance is {}", instance.status));
        }
    }
    if newest.replica.is_some_and(|replica| replica.is_paused) {
        return broken("paused", "replaying is paused on the replica, by hand".into());
    }
    if is_closed(window) {
        return match newest.main {
            Some(_) => broken("line-closed", "the replica's line to main is closed, and main answers".into()),
            None => {
                broken("main-silent", "the replica's line to main is closed, and main does not answer".into())
            }
        };
    }
    if nothing_arrives(window) {
        return match newest.main {
            Some(_) => {
                broken("nothing-arrives", "main writes its log, and nothing arrives at the replica".into())
            }
            None => broken("main-silent", "nothing arrives from main, and main does not answer".into()),
        };
    }
    let lag_metric = newest.figures.and_then(|figures| figures.replica_lag);
    let is_known = window.last(EVIDENCE_SECONDS).iter().any(|sample| sample.lag_seconds().is_some());
    // The heartbeat is the truth; without it CloudWatch's word counts.
    if !is_known && lag_metric.is_some_and(|lag| lag < 0.0) {
        return broken("lag-metric", "CloudWatch's ReplicaLag is -1, and no heartbeat says otherwise".into());
    }
    let silent = window.last(EVIDENCE_SECONDS);
    let has_asked = silent.len() >= 3 && silent.iter().all(|sample| sample.replica.is_none());
    let has_no_metric =
        silent.iter().all(|sample| sample.figures.is_some_and(|figures| figures.replica_lag.is_none()));
    if has_asked && has_no_metric {
        return broken(
            "no-data",
            "the replica does not answer, and CloudWatch has no ReplicaLag of it".into(),
        );
    }
    None
}

/// Whether the line to main has been seen closed, and never open, for long enough.
fn is_closed(window: &Window) -> bool {
    let state = |sample: &Sample| {
        let own = sample.replica.and_then(|replica| replica.is_streaming);
        let slot = sample.main.and_then(|main| main.slot_active);
        match (own, slot) {
            // Each sees its own end; a cut line is noticed at one of them first.
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

/// Whether main's log has stood still at the replica though main's heart beats, or nobody knows
/// whether it does.
fn nothing_arrives(window: &Window) -> bool {
    let known: Vec<(&Sample, u64)> =
        window.samples().iter().filter_map(|sample| Some((sample, sample.replica?.received?))).collect();
    let Some((newest, received)) = known.last() else { return false };
    let same = known.iter().rev().take_while(|(_, other)| other == received);
    let Some((oldest, _)) = same.last() else { return false };
    let now_ms = window.newest().map_or(0, |newest| newest.at_ms);
    let is_old = now_ms - newest.at_ms > EVIDENCE_SECONDS * 1_000;
    if is_old || newest.at_ms - oldest.at_ms < NOTHING_ARRIVES_SECONDS * 1_000 {
        return false;
    }
    match newest.main {
        // It has it all, and a silent heart writes nothing more.
        Some(main) if main.written <= *received => false,
        Some(main) => main.heart_age_seconds.is_some_and(|age| age <= HEART_STALE_SECONDS),
        None => true,
    }
}
