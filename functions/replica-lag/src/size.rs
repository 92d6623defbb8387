//! A lag that comes from the replica's size, told from one that comes from a burst of writes:
//! the first is cured by a bigger machine, and by nothing else.

use crate::sample::Sample;
use crate::verdict::{Assessment, Recommendation, Verdict};
use crate::window::{Period, Window};

/// Main is busy in a period if it writes this share of the most that it has written.
const BUSY: f64 = 0.5;
/// Less than this is never busy, in bytes a second: a heart that beats, and some orders.
const IDLE_BYTES: f64 = 64.0 * 1024.0;
/// So many busy times in which it fell behind are a habit.
const HABIT: usize = 2;
/// A processor is at its end from here on, in percent.
const SATURATED: f64 = 80.0;
/// A load is projected to main's peak from no less than this share of it.
const PROJECTED_FROM: f64 = 0.1;
/// What is recommended has so much room.
const ROOM: f64 = 1.25;

/// Whether the replica falls behind whenever main is busy, or would at its peak.
pub(crate) fn falls_behind(window: &Window) -> Option<Assessment> {
    let class = replica_class(window)?;
    let of_class = |period: &&Period| period.class == class;
    let all = || window.periods().iter();
    let peak = all().map(|period| period.written).fold(0.0, f64::max);
    let capacity = all().filter(of_class).filter_map(|period| period.replayed).fold(0.0, f64::max);
    let busy: Vec<Vec<&Period>> = times(all().filter(of_class).filter(|period| {
        period.fell_behind || (period.followed && period.written >= (BUSY * peak).max(IDLE_BYTES))
    }));
    let fell_behind = busy.iter().filter(|time| time.iter().any(|period| period.fell_behind)).count();
    if fell_behind >= HABIT && 2 * fell_behind >= busy.len() {
        let of = busy.len();
        let why = format!("it fell behind in {fell_behind} of the {of} times that main was busy");
        return Some(undersized("falls-behind-when-busy", why, window, times_needed(peak, capacity)));
    }
    // What main once wrote while the replica was another, or did not follow.
    let elsewhere = all().filter(|period| period.class != class || !period.followed);
    let peak = elsewhere.map(|period| period.written).fold(0.0, f64::max);
    if peak < IDLE_BYTES {
        return None;
    }
    if capacity > 0.0 && peak > capacity * ROOM && fell_behind > 0 {
        let why = format!(
            "main has written {} a second, and the replica replays no more than {}",
            megabytes(peak),
            megabytes(capacity)
        );
        return Some(undersized("would-fall-behind-at-peak", why, window, times_needed(peak, capacity)));
    }
    let most = all().filter(of_class).max_by(|one, other| one.written.total_cmp(&other.written))?;
    let projected = most.cpu? * peak / most.written.max(1.0);
    if most.written < peak && most.written >= PROJECTED_FROM * peak && projected > 100.0 {
        let why = format!(
            "at {} a second its processor was at {:.0} %, and main has written {}",
            megabytes(most.written),
            most.cpu?,
            megabytes(peak)
        );
        return Some(undersized("would-fall-behind-at-peak", why, window, projected / 100.0));
    }
    None
}

/// Whether the replica is at the end of its processor while a bigger main is not.
pub(crate) fn saturated(recent: &[Sample], window: &Window) -> Option<Assessment> {
    let figures = recent.iter().rev().find_map(|sample| sample.figures)?;
    let (of_replica, of_main) = (figures.replica.cpu?, figures.main.cpu?);
    let main = main_class(window)?;
    if of_replica < SATURATED || of_main >= SATURATED {
        return None;
    }
    let replica = replica_class(window)?;
    rds::is_smaller(&replica, &main).filter(|is_smaller| *is_smaller)?;
    let why = format!(
        "it is smaller than main, and its processor is at {of_replica:.0} % where main's is at {of_main:.0} %"
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
        ..Assessment::of(Verdict::Undersized, cause, why)
    }
}

/// How many times as fast the replica must be.
fn times_needed(peak: f64, capacity: f64) -> f64 {
    if capacity > 0.0 { peak / capacity * ROOM } else { f64::MAX }
}

/// Periods that follow each other are one time.
fn times<'a>(periods: impl Iterator<Item = &'a Period>) -> Vec<Vec<&'a Period>> {
    let mut times: Vec<Vec<&Period>> = Vec::new();
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
