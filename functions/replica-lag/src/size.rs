//! Tells a lag that comes from the replica's size from one that comes from a burst of writes. Only a bigger instance
//! ends the first.

use crate::sample::StandbySample;
use crate::verdict::{Assessment, Recommendation, ReplicaVerdict};
use crate::window::{LoadPeriod, Window};

/// Main is busy in a period if it writes at least this share of its peak.
const BUSY: f64 = 0.5;
/// A main that writes less is never busy, in bytes a second: heartbeats and a few orders.
const IDLE_BYTES: f64 = 64.0 * 1024.0;
/// The number of busy times with a lag from which on the replica counts as too small.
const MIN_BUSY_TIMES_BEHIND: usize = 2;
/// From here on a processor is saturated, in percent.
const SATURATED: f64 = 80.0;
/// A load is projected to main's peak from at least this share of the peak.
const PROJECTED_FROM: f64 = 0.1;
/// The headroom of a recommended class.
const HEADROOM: f64 = 1.25;

/// Whether the replica falls behind whenever main is busy, or would fall behind at main's peak.
pub(crate) fn falls_behind(window: &Window) -> Option<Assessment> {
    let class = replica_class(window)?;
    let of_class = |period: &&LoadPeriod| period.class == class;
    let all = || window.periods().iter();
    let peak = all().map(|period| period.written).fold(0.0, f64::max);
    let capacity = all().filter(of_class).filter_map(|period| period.replayed).fold(0.0, f64::max);
    let busy: Vec<Vec<&LoadPeriod>> = times(all().filter(of_class).filter(|period| {
        period.fell_behind || (period.followed && period.written >= (BUSY * peak).max(IDLE_BYTES))
    }));
    let fell_behind = busy.iter().filter(|time| time.iter().any(|period| period.fell_behind)).count();
    if fell_behind >= MIN_BUSY_TIMES_BEHIND && 2 * fell_behind >= busy.len() {
        let of = busy.len();
        let why = format!("the replica fell behind in {fell_behind} of the {of} times that main was busy");
        return Some(undersized("falls-behind-when-busy", why, window, times_needed(peak, capacity)));
    }
    // What main wrote while the replica had another class or did not follow.
    let elsewhere = all().filter(|period| period.class != class || !period.followed);
    let peak = elsewhere.map(|period| period.written).fold(0.0, f64::max);
    if peak < IDLE_BYTES {
        return None;
    }
    if capacity > 0.0 && peak > capacity * HEADROOM && fell_behind > 0 {
        let why = format!(
            "main has written up to {} a second, and the replica replays at most {}",
            megabytes(peak),
            megabytes(capacity)
        );
        return Some(undersized("would-fall-behind-at-peak", why, window, times_needed(peak, capacity)));
    }
    let most = all().filter(of_class).max_by(|one, other| one.written.total_cmp(&other.written))?;
    let projected = most.cpu? * peak / most.written.max(1.0);
    if most.written < peak && most.written >= PROJECTED_FROM * peak && projected > 100.0 {
        let why = format!(
            "at {} a second the replica's processor was at {:.0} %, and main has written up to {} a second",
            megabytes(most.written),
            most.cpu?,
            megabytes(peak)
        );
        return Some(undersized("would-fall-behind-at-peak", why, window, projected / 100.0));
    }
    None
}

/// Whether the replica's processor is saturated while the processor of a bigger main is not.
pub(crate) fn saturated(recent: &[StandbySample], window: &Window) -> Option<Assessment> {
    let figures = recent.iter().rev().find_map(|sample| sample.figures)?;
    let (of_replica, of_main) = (figures.replica.cpu?, figures.main.cpu?);
    let main = main_class(window)?;
    if of_replica < SATURATED || of_main >= SATURATED {
        return None;
    }
    let replica = replica_class(window)?;
    rds::is_smaller(&replica, &main).filter(|is_smaller| *is_smaller)?;
    let why = format!(
        "the replica is smaller than main, and its processor is at {of_replica:.0} % while main's is at {of_main:.0} %"
    );
    Some(undersized("saturated", why, window, 1.0))
}

fn undersized(cause: &'static str, why: String, window: &Window, times: f64) -> Assessment {
    let main = main_class(window);
    let class = replica_class(window).and_then(|own| rds::recommended(&own, main.as_deref(), times));
    let why_class = match &main {
        Some(main) => format!("{why}; main is a {main}"),
        None => why.clone(),
    };
    Assessment {
        recommendation: class.map(|class| Recommendation { class, why: why_class }),
        ..Assessment::of(ReplicaVerdict::Undersized, cause, why)
    }
}

/// How many times as fast as now the replica must be.
fn times_needed(peak: f64, capacity: f64) -> f64 {
    if capacity > 0.0 { peak / capacity * HEADROOM } else { f64::MAX }
}

/// Consecutive periods are one time.
fn times<'a>(periods: impl Iterator<Item = &'a LoadPeriod>) -> Vec<Vec<&'a LoadPeriod>> {
    let mut times: Vec<Vec<&LoadPeriod>> = Vec::new();
    for period in periods {
        match times.last_mut() {
            Some(time) if time.last().is_some_and(|last| period.number - last.number <= 1) => {
                time.push(period)
            }
            _ => times.push(vec![period]),
        }
    }
    times
}

fn replica_class(window: &Window) -> Option<String> {
    let mut newest_first = window.periods().iter().rev().map(|period| &period.class);
    newest_first.find(|class| !class.is_empty()).cloned()
}

fn main_class(window: &Window) -> Option<String> {
    let newest_first = window.samples().iter().rev();
    let mut classes = newest_first.filter_map(|sample| sample.main_instance.as_ref()).map(|main| &main.class);
    classes.find(|class| !class.is_empty()).cloned()
}

fn megabytes(bytes: f64) -> String {
    format!("{:.1} MB", bytes / 1e6)
}
