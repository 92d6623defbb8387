//! The samples that a verdict needs, and the times at which the replica fell behind in the last two weeks.

use crate::sample::{InstanceSample, StandbySample};
use serde::{Deserialize, Serialize};

/// How long a sample is kept: no rule needs an older one.
const SAMPLES_MS: i64 = 2 * 60_000;
/// The most samples.
const MAX_SAMPLES: usize = 120;
/// How long the function remembers that the replica fell behind ...
const LAGS_MS: i64 = 14 * 86_400_000;
/// ... and the most such times. The oldest are dropped first.
const MAX_LAGS: usize = 20;
/// A lag that begins within this time after another one is the same lag.
const APART_MS: i64 = 30 * 60_000;
/// Replay that makes no progress for this long stands still.
const STANDS_STILL_MS: i64 = 1_000;
/// A lag is the replica's if it does not shrink in this number of samples. A query that holds replay is not seen if no two
/// samples fall into that time: then the lag grows in two samples at most.
const GROWS_IN: usize = 3;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Window {
    /// Oldest first.
    samples: Vec<StandbySample>,
    /// Oldest first.
    lags: Vec<PastLag>,
    /// Whether the replica has followed freely since it last had everything of main's. Then a new lag comes from what
    /// main writes, and not from a connection that was cut.
    is_unobstructed: bool,
}

/// A time at which the replica did not keep up, although nothing obstructed replication.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PastLag {
    /// The replica's instance class.
    class: String,
    /// The last sample in which the lag did not shrink, in milliseconds since the Unix epoch.
    until_ms: i64,
}

impl Window {
    /// Adds a sample. A sample that is not newer than all others is ignored. Samples from a clock that was minutes ahead are
    /// dropped.
    pub fn push(&mut self, sample: StandbySample, lag_limit_seconds: f64) {
        let at_ms = sample.at_ms;
        self.samples.retain(|one| (one.at_ms - at_ms).abs() <= SAMPLES_MS);
        let newest = self.samples.last();
        if newest.is_some_and(|newest| newest.at_ms >= at_ms) {
            return;
        }
        // A query holds replay: a lag that begins so does not come from what main writes.
        let stands_still = newest.is_some_and(|newest| newest.has_same_replay(&sample, STANDS_STILL_MS));
        if stands_still || sample.is_obstructed() {
            self.is_unobstructed = false;
        } else if sample.lag_that_counts().is_some_and(|lag| lag < lag_limit_seconds / 2.0) {
            self.is_unobstructed = true;
        }
        self.samples.push(sample);
        let surplus = self.samples.len().saturating_sub(MAX_SAMPLES);
        self.samples.drain(..surplus);
    }

    /// The replica does not keep up with main: unless something obstructs replication, this is remembered. The verdict about
    /// a lag goes on for a while after the lag: what was held up has arrived by then, and says nothing.
    pub fn remember_lag(&mut self, lag_limit_seconds: f64) {
        let (Some(newest), Some(class)) = (self.newest(), self.replica_class()) else { return };
        if !self.is_unobstructed || !self.grows(lag_limit_seconds / 2.0) {
            return;
        }
        let lag = PastLag { class: class.to_owned(), until_ms: newest.at_ms };
        self.lags.retain(|past| {
            let ago_ms = lag.until_ms - past.until_ms;
            (0..LAGS_MS).contains(&ago_ms) && (past.class != lag.class || ago_ms >= APART_MS)
        });
        self.lags.push(lag);
        let surplus = self.lags.len().saturating_sub(MAX_LAGS);
        self.lags.drain(..surplus);
    }

    /// Whether the lag is at least `least` seconds in the newest samples and does not shrink.
    fn grows(&self, least: f64) -> bool {
        let first = self.samples.len().saturating_sub(GROWS_IN);
        let newest = self.samples.get(first..).unwrap_or_default();
        let lags: Option<Vec<f64>> = newest.iter().map(StandbySample::lag_that_counts).collect();
        lags.is_some_and(|lags| {
            lags.len() == GROWS_IN && lags.is_sorted() && lags.iter().all(|lag| *lag >= least)
        })
    }

    /// How often a replica of this class has fallen behind in the last two weeks, before now.
    pub fn earlier_lags(&self) -> usize {
        let (Some(newest), Some(class)) = (self.newest(), self.replica_class()) else { return 0 };
        let ago = |past: &PastLag| (APART_MS..LAGS_MS).contains(&(newest.at_ms - past.until_ms));
        self.lags.iter().filter(|past| past.class == class && ago(past)).count()
    }

    /// Whether a lag comes from what main writes, and not from something that obstructs replication.
    pub fn is_unobstructed(&self) -> bool {
        self.is_unobstructed
    }

    /// The replica's instance class, if RDS has returned it.
    pub fn replica_class(&self) -> Option<&str> {
        newest_class(self.samples.iter().rev().filter_map(|sample| sample.instance.as_ref()))
    }

    /// Main's instance class, if RDS has returned it.
    pub fn main_class(&self) -> Option<&str> {
        newest_class(self.samples.iter().rev().filter_map(|sample| sample.main_instance.as_ref()))
    }

    /// Oldest first.
    pub fn samples(&self) -> &[StandbySample] {
        &self.samples
    }

    pub fn newest(&self) -> Option<&StandbySample> {
        self.samples.last()
    }

    /// The samples of the last `seconds`, oldest first.
    pub fn last(&self, seconds: i64) -> &[StandbySample] {
        let from = self.newest().map_or(0, |newest| newest.at_ms) - seconds * 1_000;
        let first = self.samples.partition_point(|sample| sample.at_ms < from);
        self.samples.get(first..).unwrap_or_default()
    }
}

fn newest_class<'a>(newest_first: impl Iterator<Item = &'a InstanceSample>) -> Option<&'a str> {
    newest_first.map(|instance| instance.class.as_str()).find(|class| !class.is_empty())
}
