//! Whether the standby could take over and, if not, why: a pure function of the samples.

use crate::broken;
use crate::sample::StandbySample;
use crate::size;
use crate::verdict::{Assessment, CurrentVerdict, EVIDENCE_SECONDS, ReplicaVerdict};
use crate::window::Window;

/// A lag counts once it has lasted for this long ...
const BEHIND_AFTER_SECONDS: i64 = 15;
/// ... and is over once it has been below half of the limit for this long.
const OVER_AFTER_SECONDS: i64 = 60;
/// The samples of this time decide whether a lag grows ...
const TREND_SECONDS: i64 = 45;
/// ... if they cover at least this time.
const MIN_TREND_MS: i64 = 4_000;
/// The replica catches up if its backlog shrinks by at least this share of what it replays.
const LEAST_GAIN: f64 = 0.05;
/// The kind of a lag changes if this number of the newest samples agree on it ...
const AGREE: usize = 3;
/// ... and the kind before it has lasted for this long.
const MIN_KIND_MS: i64 = 60_000;

/// Judges the samples in `window`. `current` is the verdict before. From a lag of `lag_limit_seconds` on the replica
/// counts as behind.
pub fn judge(current: Option<CurrentVerdict>, window: &Window, lag_limit_seconds: f64) -> Assessment {
    let Some(newest) = window.newest() else {
        return Assessment::of(ReplicaVerdict::Unknown, "no-sample", "no sample has been collected yet");
    };
    let mut assessment = match (broken::evidence(window), known_lag(window, StandbySample::lag_that_counts)) {
        (Some(broken), _) => broken,
        (None, None) => Assessment::of(ReplicaVerdict::Unknown, "no-evidence", missing_evidence(newest)),
        (None, Some(lag)) => judge_lag(current, window, lag_limit_seconds, lag),
    };
    assessment.lag_seconds = known_lag(window, StandbySample::lag_seconds);
    assessment
}

/// The newest lag that is known and not too old.
fn known_lag(window: &Window, lag: impl Fn(&StandbySample) -> Option<f64>) -> Option<f64> {
    window.last(EVIDENCE_SECONDS).iter().rev().find_map(lag)
}

fn missing_evidence(newest: &StandbySample) -> String {
    let unknown = newest.unknown().join(", ");
    match unknown.as_str() {
        "" => "the replica's ledger has no heartbeat to measure the lag by".into(),
        _ => format!("these inputs could not be read: {unknown}"),
    }
}

/// Replication runs: whether the replica keeps up.
fn judge_lag(
    current: Option<CurrentVerdict>,
    window: &Window,
    lag_limit_seconds: f64,
    lag: f64,
) -> Assessment {
    let before = current.map(|current| current.verdict);
    let is_behind = match before {
        Some(ReplicaVerdict::Healthy) => stays(window, BEHIND_AFTER_SECONDS, |lag| lag >= lag_limit_seconds),
        None | Some(ReplicaVerdict::Unknown) => lag >= lag_limit_seconds,
        Some(_) => !stays(window, OVER_AFTER_SECONDS, |lag| lag < lag_limit_seconds / 2.0),
    };
    if !is_behind && window.newest().is_some_and(StandbySample::is_replay_held) {
        let why = "a query on the replica holds replay, and next to nothing is unreplayed: a promotion would lose nothing";
        return Assessment::of(ReplicaVerdict::Healthy, "replay-held", why);
    }
    if !is_behind {
        return Assessment::of(
            ReplicaVerdict::Healthy,
            "in-sync",
            "the replica has everything that main has",
        );
    }
    let samples = window.samples();
    let (now, agree) = if lag < lag_limit_seconds / 2.0 {
        let why = "the replica has caught up; it is healthy again after a minute without a lag";
        (Some(Assessment { caught_up_in_seconds: Some(0), ..catching_up(why.into()) }), true)
    } else {
        let newest = (0..AGREE).filter_map(|back| samples.get(..samples.len().checked_sub(back)?));
        let mut kinds = newest.map(|samples| kind(samples, window));
        let verdict_of = |kind: &Option<Assessment>| kind.as_ref().map(|kind| kind.verdict);
        let now = kinds.next().flatten();
        let agree = kinds.all(|other| verdict_of(&other) == verdict_of(&now));
        (now, agree)
    };
    match (current, now) {
        // The backlog of the interruption arrives now. Later samples show whether main writes too much.
        (Some(CurrentVerdict { verdict: ReplicaVerdict::Broken, .. }), now) => now
            .filter(|now| now.verdict == ReplicaVerdict::CatchingUp)
            .unwrap_or_else(|| catching_up("replication runs again, and the replica is behind".into())),
        (Some(CurrentVerdict { verdict, since_ms }), now) if verdict.is_behind() => {
            let lasted_ms = samples.last().map_or(0, |newest| newest.at_ms) - since_ms;
            match now {
                Some(now) if now.verdict == verdict || (agree && lasted_ms >= MIN_KIND_MS) => now,
                _ => Assessment::of(verdict, cause_of(verdict), "the replica is still behind"),
            }
        }
        (_, Some(now)) => now,
        (_, None) => {
            let why = "the replica is behind; more samples are needed to know whether the lag shrinks";
            Assessment::of(ReplicaVerdict::Unknown, "no-trend", why)
        }
    }
}

/// Whether `is_so` holds for every known lag of the last `seconds`, and the lag is known at both ends of that time.
fn stays(window: &Window, seconds: i64, is_so: impl Fn(f64) -> bool) -> bool {
    // A slightly older sample counts for the beginning.
    let known: Vec<(i64, f64)> = window
        .last(seconds + seconds / 2)
        .iter()
        .filter_map(|sample| Some((sample.at_ms, sample.lag_that_counts()?)))
        .collect();
    let Some((newest, _)) = known.last() else { return false };
    let begins = known.iter().rposition(|(at_ms, _)| newest - at_ms >= seconds * 1_000);
    begins.is_some_and(|begins| known.iter().skip(begins).all(|(_, lag)| is_so(*lag)))
}

/// The kind of the lag, by `samples`. Absent while they do not suffice.
fn kind(samples: &[StandbySample], window: &Window) -> Option<Assessment> {
    let from = samples.last().map_or(0, |last| last.at_ms) - TREND_SECONDS * 1_000;
    let recent = samples.get(samples.partition_point(|sample| sample.at_ms < from)..).unwrap_or_default();
    Some(match trend(recent)? {
        Some(seconds) => Assessment {
            caught_up_in_seconds: Some(seconds),
            ..catching_up(format!("the replica is behind and catches up: about {seconds} s are left"))
        },
        None => size::undersized(window).unwrap_or_else(|| {
            let why = if window.earlier_lags() == 0 {
                "main writes faster than the replica replays, and has not done so before in the last two weeks"
            } else {
                "main writes faster than the replica replays"
            };
            Assessment::of(ReplicaVerdict::Overloaded, cause_of(ReplicaVerdict::Overloaded), why)
        }),
    })
}

fn catching_up(why: String) -> Assessment {
    Assessment::of(ReplicaVerdict::CatchingUp, cause_of(ReplicaVerdict::CatchingUp), why)
}

fn cause_of(verdict: ReplicaVerdict) -> &'static str {
    match verdict {
        ReplicaVerdict::CatchingUp => "catches-up",
        ReplicaVerdict::Undersized => "falls-behind-repeatedly",
        _ => "burst",
    }
}

/// In how many seconds the replica will have caught up: `Some(None)` if the lag does not shrink, and `None` while too
/// little is known. The missing WAL decides or, if main does not answer, the lag. The lag alone would not suffice: it
/// still grows while the replica replays the WAL of a burst.
fn trend(recent: &[StandbySample]) -> Option<Option<u64>> {
    // What is missing, and the most by which it could have shrunk.
    let by_wal = |one: &StandbySample| {
        Some((one.at_ms, one.backlog_bytes()? as f64, one.replica?.replayed_lsn? as f64))
    };
    let by_lag = |one: &StandbySample| Some((one.at_ms, one.lag_seconds()?, one.at_ms as f64 / 1_000.0));
    type Progress = (i64, f64, f64);
    let ends = |known: &dyn Fn(&StandbySample) -> Option<Progress>| {
        let (first, last) = (recent.iter().find_map(known)?, recent.iter().rev().find_map(known)?);
        (last.0 - first.0 >= MIN_TREND_MS).then_some((first, last))
    };
    let (first, last) = ends(&by_wal).or_else(|| ends(&by_lag))?;
    let gained = first.1 - last.1;
    let is_catching_up = gained > (last.2 - first.2) * LEAST_GAIN;
    Some(is_catching_up.then(|| (last.1 * (last.0 - first.0) as f64 / 1_000.0 / gained).ceil() as u64))
}
