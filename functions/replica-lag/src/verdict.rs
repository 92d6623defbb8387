//! Whether the standby could take over, and why not: a pure function of what has been seen.

use crate::broken;
use crate::sample::Sample;
use crate::size;
use crate::window::Window;
use serde::{Deserialize, Serialize};

/// A lag that is known is not older than this, in seconds: some questions may fail in a row.
pub const EVIDENCE_SECONDS: i64 = 45;
/// A lag counts when it has lasted for this long ...
const BEHIND_AFTER_SECONDS: i64 = 15;
/// ... and is over when it has been under half of the threshold for this long.
const OVER_AFTER_SECONDS: i64 = 60;
/// Whether it grows is told by so many seconds.
const TREND_SECONDS: i64 = 45;
/// It is told by no less than this.
const MIN_TREND_MS: i64 = 4_000;
/// The replica comes nearer if this share of what it replays makes good what it lacks.
const LEAST_GAIN: f64 = 0.05;
/// The kind of a lag changes when the newest samples agree on it, so many of them ...
const AGREE: usize = 3;
/// ... and the kind before it has stood for this long.
const KIND_STANDS_MS: i64 = 60_000;

/// Whether the standby could take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It could: it has what main has, up to a few seconds.
    Healthy,
    /// It is behind, and comes nearer.
    CatchingUp,
    /// It is behind, and main writes more than usual.
    Overloaded,
    /// It falls behind whenever main is busy, or would at main's peak.
    Undersized,
    /// Replication does not run.
    Broken,
    /// Nobody can say.
    Unknown,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Healthy, Self::CatchingUp, Self::Overloaded, Self::Undersized, Self::Broken, Self::Unknown];

    /// Its name, everywhere.
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::CatchingUp => "catching-up",
            Self::Overloaded => "overloaded",
            Self::Undersized => "undersized",
            Self::Broken => "broken",
            Self::Unknown => "unknown",
        }
    }

    fn is_behind(self) -> bool {
        matches!(self, Self::CatchingUp | Self::Overloaded | Self::Undersized)
    }
}

/// A verdict, and since when it stands.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// The verdict.
    pub verdict: Verdict,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: i64,
}

/// Which class a replica should have, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recommendation {
    /// The class.
    pub class: String,
    /// Why.
    pub why: String,
}

/// A verdict with its reasons.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Assessment {
    /// The verdict.
    pub verdict: Verdict,
    /// A stable name for why.
    pub cause: &'static str,
    /// Why, for a person.
    pub why: String,
    /// How far behind the replica was when that was last known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<f64>,
    /// When it will have caught up, if it goes on as it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caught_up_in_seconds: Option<u64>,
    /// Which class it should have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recommendation: Option<Recommendation>,
}

impl Assessment {
    pub(crate) fn of(verdict: Verdict, cause: &'static str, why: impl Into<String>) -> Self {
        Self {
            verdict,
            cause,
            why: why.into(),
            lag_seconds: None,
            caught_up_in_seconds: None,
            recommendation: None,
        }
    }
}

/// Judges by what is in `window`, after `standing` was the verdict before. `behind_seconds` is
/// the lag from which on the replica counts as behind.
pub fn judge(standing: Option<Standing>, window: &Window, behind_seconds: f64) -> Assessment {
    let Some(newest) = window.newest() else {
        return Assessment::of(Verdict::Unknown, "no-sample", "nothing has been looked at yet");
    };
    let mut assessment = match (broken::evidence(window), known_lag(window)) {
        (Some(broken), _) => broken,
        (None, None) => Assessment::of(Verdict::Unknown, "no-evidence", nobody_says(newest)),
        (None, Some(lag)) => following(standing, window, behind_seconds, lag),
    };
    assessment.lag_seconds = known_lag(window);
    assessment
}

/// The newest lag that is known and not too old.
fn known_lag(window: &Window) -> Option<f64> {
    window.last(EVIDENCE_SECONDS).iter().rev().find_map(Sample::lag_seconds)
}

fn nobody_says(newest: &Sample) -> String {
    let unknown = newest.unknown().join(", ");
    match unknown.as_str() {
        "" => "the replica's ledger has no heartbeat that says how far it is".into(),
        _ => format!("these inputs do not answer: {unknown}"),
    }
}

/// Replication runs: does the replica keep up?
fn following(standing: Option<Standing>, window: &Window, behind_seconds: f64, lag: f64) -> Assessment {
    if let Some(undersized) = size::falls_behind(window) {
        return Assessment {
            caught_up_in_seconds: trend(window.last(TREND_SECONDS)).flatten(),
            ..undersized
        };
    }
    let was = standing.map(|standing| standing.verdict);
    let is_behind = match was {
        Some(Verdict::Healthy) => stays(window, BEHIND_AFTER_SECONDS, |lag| lag >= behind_seconds),
        None | Some(Verdict::Unknown) => lag >= behind_seconds,
        Some(_) => !stays(window, OVER_AFTER_SECONDS, |lag| lag < behind_seconds / 2.0),
    };
    if !is_behind {
        return Assessment::of(Verdict::Healthy, "in-step", "it has what main has");
    }
    let samples = window.samples();
    let (now, agree) = if lag < behind_seconds / 2.0 {
        let why = "it has caught up; a minute of that, and it is in step";
        (Some(Assessment { caught_up_in_seconds: Some(0), ..catching_up(why.into()) }), true)
    } else {
        let newest = (0..AGREE).filter_map(|back| samples.get(..samples.len().checked_sub(back)?));
        let mut kinds = newest.map(|samples| kind(samples, window));
        let verdict_of = |kind: &Option<Assessment>| kind.as_ref().map(|kind| kind.verdict);
        let now = kinds.next().flatten();
        let agree = kinds.all(|other| verdict_of(&other) == verdict_of(&now));
        (now, agree)
    };
    match (standing, now) {
        // What was held up comes now; whether main writes too much is seen later.
        (Some(Standing { verdict: Verdict::Broken, .. }), now) => now
            .filter(|now| now.verdict == Verdict::CatchingUp)
            .unwrap_or_else(|| catching_up("replication runs again, and the replica is behind".into())),
        (Some(Standing { verdict, since_ms }), now) if verdict.is_behind() => {
            let stands_ms = samples.last().map_or(0, |newest| newest.at_ms) - since_ms;
            match now {
                Some(now) if now.verdict == verdict || (agree && stands_ms >= KIND_STANDS_MS) => now,
                _ => Assessment::of(verdict, cause_of(verdict), "it is behind, as before"),
            }
        }
        (_, Some(now)) => now,
        (_, None) => {
            let why = "it is behind; whether it comes nearer is not known yet";
            Assessment::of(Verdict::Unknown, "no-trend", why)
        }
    }
}

/// Whether all that is known of the last `seconds` is so, and it is known of both ends.
fn stays(window: &Window, seconds: i64, is_so: impl Fn(f64) -> bool) -> bool {
    // A sample a little older tells of the beginning.
    let known: Vec<(i64, f64)> = window
        .last(seconds + seconds / 2)
        .iter()
        .filter_map(|sample| Some((sample.at_ms, sample.lag_seconds()?)))
        .collect();
    let Some((newest, _)) = known.last() else { return false };
    let begins = known.iter().rposition(|(at_ms, _)| newest - at_ms >= seconds * 1_000);
    begins.is_some_and(|begins| known.iter().skip(begins).all(|(_, lag)| is_so(*lag)))
}

/// What kind of a lag it is, by the samples up to one of them; nothing while that cannot be told.
fn kind(samples: &[Sample], window: &Window) -> Option<Assessment> {
    let from = samples.last().map_or(0, |last| last.at_ms) - TREND_SECONDS * 1_000;
    let recent = samples.get(samples.partition_point(|sample| sample.at_ms < from)..).unwrap_or_default();
    Some(match trend(recent)? {
        Some(seconds) => Assessment {
            caught_up_in_seconds: Some(seconds),
            ..catching_up(format!("it is behind and comes nearer: about {seconds} s are left"))
        },
        None => size::saturated(recent, window).unwrap_or_else(|| {
            let why = "main writes faster than the replica replays, and it is not known to do so often";
            Assessment::of(Verdict::Overloaded, cause_of(Verdict::Overloaded), why)
        }),
    })
}

fn catching_up(why: String) -> Assessment {
    Assessment::of(Verdict::CatchingUp, cause_of(Verdict::CatchingUp), why)
}

fn cause_of(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::CatchingUp => "catches-up",
        Verdict::Undersized => "saturated",
        _ => "burst",
    }
}

/// Whether the replica comes nearer, and then in how many seconds it has caught up: by what it
/// lacks of main's log, and where main does not say, by its lag. The lag alone would not do: it
/// still grows while the replica works off what was written in a burst. Nothing while too little
/// is known.
fn trend(recent: &[Sample]) -> Option<Option<u64>> {
    // What is lacking, and what could have been gained at most.
    let by_log = |one: &Sample| Some((one.at_ms, one.backlog_bytes()? as f64, one.replica?.replayed? as f64));
    let by_lag = |one: &Sample| Some((one.at_ms, one.lag_seconds()?, one.at_ms as f64 / 1_000.0));
    type Known = (i64, f64, f64);
    let ends = |known: &dyn Fn(&Sample) -> Option<Known>| {
        let (first, last) = (recent.iter().find_map(known)?, recent.iter().rev().find_map(known)?);
        (last.0 - first.0 >= MIN_TREND_MS).then_some((first, last))
    };
    let (first, last) = ends(&by_log).or_else(|| ends(&by_lag))?;
    let gained = first.1 - last.1;
    let comes_nearer = gained > (last.2 - first.2) * LEAST_GAIN;
    Some(comes_nearer.then(|| (last.1 * (last.0 - first.0) as f64 / 1_000.0 / gained).ceil() as u64))
}
