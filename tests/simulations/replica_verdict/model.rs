//! A model of main, its line and its replica, second by second: what a watcher would see of it.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use replica_lag::memory::{Letter, Memory, Settings};
use replica_lag::notice::Notice;
use replica_lag::sample::{Figures, Instance, Load, Main, Replica, Sample};
use replica_lag::verdict::{Assessment, Verdict};
use std::collections::VecDeque;

/// 2026-11-23T00:00:00Z.
const BEGINNING_MS: i64 = 1_795_392_000_000;
/// From here on a lag counts.
pub(crate) const BEHIND_SECONDS: f64 = 10.0;
/// So long an old figure of CloudWatch's is taken for a new one.
const METRIC_SECONDS: i64 = 180;
/// What a heart writes, in bytes a second.
const HEARTBEAT_BYTES: f64 = 500.0;

/// Main and its replica.
pub(crate) struct Model {
    rng: SmallRng,
    second: i64,
    /// What main's buyers make it write, in bytes a second.
    pub(crate) load: f64,
    /// The most that the replica replays a second.
    pub(crate) capacity: f64,
    /// Whether main's log travels.
    pub(crate) line_is_up: bool,
    /// Whether both ends have noticed that it does not.
    pub(crate) is_noticed: bool,
    pub(crate) is_paused: bool,
    pub(crate) heart_beats: bool,
    pub(crate) replica_answers: bool,
    pub(crate) main_answers: bool,
    /// The share of questions to either ledger that come to nothing.
    pub(crate) failing: f64,
    pub(crate) classes: (&'static str, &'static str),
    written: f64,
    received: f64,
    replayed: f64,
    last_load: f64,
    last_replayed: f64,
    /// Beats: main's second, and the end of its log.
    beats: VecDeque<(i64, f64)>,
    memory: Memory,
    settings: Settings,
    /// Every notice, in order.
    pub(crate) notices: Vec<Notice>,
    /// Every change: when, in seconds from the beginning, and to what.
    pub(crate) changes: Vec<(i64, Assessment)>,
    /// CloudWatch's last figure, and when.
    metric: (i64, f64),
    /// How long after the other one sample follows, in seconds.
    pub(crate) every: i64,
}

impl Model {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let written = 1e9;
        let second = rng.random_range(0..10);
        Self {
            rng,
            second,
            load: 0.0,
            capacity: 2e6,
            line_is_up: true,
            is_noticed: false,
            is_paused: false,
            heart_beats: true,
            replica_answers: true,
            main_answers: true,
            failing: 0.0,
            classes: ("db.r6g.large", "db.r6g.large"),
            written,
            received: written,
            replayed: written,
            last_load: 0.0,
            last_replayed: 0.0,
            beats: VecDeque::from([(0, written)]),
            memory: Memory::default(),
            settings: Settings {
                replica: "standby".into(),
                region: "eu-west-1".into(),
                behind_seconds: BEHIND_SECONDS,
                repeat_ms: 900_000,
                runbook: "runbook".into(),
                has_topic: true,
            },
            notices: Vec::new(),
            changes: Vec::new(),
            metric: (0, 0.0),
            every: 10,
        }
    }

    /// Seconds since the beginning.
    pub(crate) fn now(&self) -> i64 {
        self.second
    }

    /// What the watcher remembers.
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The verdict that stands.
    pub(crate) fn verdict(&self) -> Verdict {
        self.memory.standing.map_or(Verdict::Unknown, |standing| standing.verdict)
    }

    /// The verdicts in the order in which they came.
    pub(crate) fn verdicts(&self) -> Vec<Verdict> {
        self.changes.iter().map(|(_, assessment)| assessment.verdict).collect()
    }

    /// Lets `seconds` pass; calls `each` after every sample.
    pub(crate) fn pass(&mut self, seconds: i64, mut each: impl FnMut(&mut Self, &Assessment)) {
        for _ in 0..seconds {
            self.second += 1;
            self.tick();
            if self.second % self.every == 0 {
                let assessment = self.look();
                each(self, &assessment);
            }
        }
    }

    fn tick(&mut self) {
        self.last_load = self.load * self.rng.random_range(0.8..1.2);
        self.written += self.last_load;
        if self.heart_beats {
            self.beats.push_back((self.second, self.written));
            self.written += HEARTBEAT_BYTES;
        }
        if self.line_is_up {
            self.received = self.written;
        }
        self.last_replayed = if self.is_paused || !self.replica_answers {
            0.0
        } else {
            (self.received - self.replayed).min(self.capacity * self.rng.random_range(0.9..1.0))
        };
        self.replayed += self.last_replayed;
        while self.beats.get(1).is_some_and(|(_, end)| *end < self.replayed) {
            self.beats.pop_front();
        }
    }

    /// The truth: how old the newest beat is that the replica has replayed.
    pub(crate) fn lag(&self) -> f64 {
        let newest = self.beats.iter().take_while(|(_, end)| *end < self.replayed).last();
        newest.map_or(0.0, |(second, _)| (self.second - second) as f64)
    }

    fn sample(&mut self) -> Sample {
        let at_ms = BEGINNING_MS + self.second * 1_000 + self.rng.random_range(0..400);
        let newest_beat = self.beats.back().map_or(0, |(second, _)| *second);
        let beat_ms = |second: i64| BEGINNING_MS + second * 1_000;
        let lag = self.lag();
        let asks = |rng: &mut SmallRng, failing: f64| !rng.random_bool(failing);
        let replica = (self.replica_answers && asks(&mut self.rng, self.failing)).then(|| Replica {
            follows: true,
            is_paused: self.is_paused,
            is_streaming: Some(self.line_is_up || !self.is_noticed),
            beat_age_seconds: Some(lag + 0.5),
            beat_at_ms: Some(beat_ms(self.second - lag as i64)),
            received: Some(self.received as u64),
            replayed: Some(self.replayed as u64),
            peak_sales_per_second: 10,
            units_unsold: 1_000,
        });
        let main = (self.main_answers && asks(&mut self.rng, self.failing)).then(|| Main {
            heart_age_seconds: Some((self.second - newest_beat) as f64 + 0.5),
            beat_at_ms: Some(beat_ms(newest_beat)),
            written: self.written as u64,
            slot_active: Some(self.line_is_up && self.replica_answers || !self.is_noticed),
            slot_bytes: Some((self.written - self.received) as u64),
        });
        let instance = |class: &str| Instance {
            exists: true,
            status: "available".into(),
            class: class.to_owned(),
            ..Instance::default()
        };
        let replica_of = Instance { replica_of: Some("main".into()), ..instance(self.classes.0) };
        let cpu = |share: f64| Load { cpu: Some((5.0 + 95.0 * share).min(100.0)), ..Load::default() };
        if self.line_is_up && self.replica_answers && self.main_answers {
            self.metric = (self.second, lag);
        }
        let is_fresh = self.second - self.metric.0 < METRIC_SECONDS;
        let main_capacity = 8e6;
        let figures = Figures {
            replica: cpu(self.last_replayed / self.capacity),
            main: cpu(self.last_load / main_capacity),
            replica_lag: is_fresh.then_some(self.metric.1),
            ..Figures::default()
        };
        Sample {
            at_ms,
            replica,
            main,
            instance: Some(replica_of),
            main_instance: Some(instance(self.classes.1)),
            figures: Some(figures),
            at_risk: None,
        }
    }

    fn look(&mut self) -> Assessment {
        let before = self.memory.standing;
        let sample = self.sample();
        let assessment = self.memory.look(&sample, None, &self.settings);
        if before.is_none_or(|standing| standing.verdict != assessment.verdict) {
            self.changes.push((self.second, assessment.clone()));
        }
        let letters = self.memory.claim(sample.at_ms);
        self.notices.extend(letters.iter().map(|letter| letter.notice.clone()));
        let sent: Vec<_> =
            letters.into_iter().map(|letter| Letter { to_topic: false, to_bus: false, ..letter }).collect();
        self.memory.sent(&sent);
        assessment
    }
}
