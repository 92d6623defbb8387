//! A model of main, its replica and the connection between them, second by second, and the samples that replica-lag
//! would collect.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use replica_lag::notice::ReplicaNotice;
use replica_lag::notified::Destination;
use replica_lag::sample::{Figures, InstanceSample, MainSample, ReplicaSample, StandbySample};
use replica_lag::state::{LagSettings, LagState};
use replica_lag::verdict::{Assessment, ReplicaVerdict};
use std::collections::VecDeque;

/// 2026-11-23T00:00:00Z.
const BEGINNING_MS: i64 = 1_795_392_000_000;
pub(crate) const LAG_LIMIT_SECONDS: f64 = 10.0;
/// For this long an old figure of CloudWatch's counts as the newest.
const METRIC_SECONDS: i64 = 180;
/// The WAL of the heartbeats, in bytes a second.
const HEARTBEAT_BYTES: f64 = 500.0;

pub(crate) struct Model {
    rng: SmallRng,
    second: i64,
    /// The WAL of main's orders, in bytes a second.
    pub(crate) load: f64,
    /// The most WAL that the replica replays, in bytes a second.
    pub(crate) capacity: f64,
    /// Whether WAL reaches the replica.
    pub(crate) is_connected: bool,
    /// Whether both sides have noticed that it does not.
    pub(crate) is_noticed: bool,
    pub(crate) is_paused: bool,
    /// Whether a query on the replica holds replay.
    pub(crate) is_held: bool,
    pub(crate) writes_heartbeats: bool,
    pub(crate) replica_answers: bool,
    pub(crate) main_answers: bool,
    pub(crate) topic_accepts: bool,
    /// The share of questions to either ledger that fail.
    pub(crate) failing: f64,
    pub(crate) classes: (&'static str, &'static str),
    written: f64,
    received: f64,
    replayed: f64,
    /// Main's second and WAL position of each.
    heartbeats: VecDeque<(i64, f64)>,
    state: LagState,
    settings: LagSettings,
    /// Every notice that the topic has got, in order.
    pub(crate) notices: Vec<ReplicaNotice>,
    /// Every change of the verdict, with its second.
    pub(crate) changes: Vec<(i64, Assessment)>,
    /// CloudWatch's last figure, with its second.
    metric: (i64, f64),
    /// The time between two samples, in seconds.
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
            is_connected: true,
            is_noticed: false,
            is_paused: false,
            is_held: false,
            writes_heartbeats: true,
            replica_answers: true,
            main_answers: true,
            topic_accepts: true,
            failing: 0.0,
            classes: ("db.r6g.large", "db.r6g.large"),
            written,
            received: written,
            replayed: written,
            heartbeats: VecDeque::from([(0, written)]),
            state: LagState::default(),
            settings: LagSettings {
                replica: "standby".into(),
                region: "eu-west-1".into(),
                lag_limit_seconds: LAG_LIMIT_SECONDS,
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

    pub(crate) fn state(&self) -> &LagState {
        &self.state
    }

    pub(crate) fn verdict(&self) -> ReplicaVerdict {
        self.state.verdict.map_or(ReplicaVerdict::Unknown, |current| current.verdict)
    }

    /// The verdicts in the order in which they came.
    pub(crate) fn verdicts(&self) -> Vec<ReplicaVerdict> {
        self.changes.iter().map(|(_, assessment)| assessment.verdict).collect()
    }

    /// Lets `seconds` pass; calls `each` after every sample.
    pub(crate) fn pass(&mut self, seconds: i64, mut each: impl FnMut(&mut Self, &Assessment)) {
        for _ in 0..seconds {
            self.second += 1;
            self.tick();
            if self.second % self.every == 0 {
                let assessment = self.observe();
                each(self, &assessment);
            }
        }
    }

    fn tick(&mut self) {
        self.written += self.load * self.rng.random_range(0.8..1.2);
        if self.writes_heartbeats {
            self.heartbeats.push_back((self.second, self.written));
            self.written += HEARTBEAT_BYTES;
        }
        if self.is_connected {
            self.received = self.written;
        }
        let replayed = if self.is_paused || self.is_held || !self.replica_answers {
            0.0
        } else {
            (self.received - self.replayed).min(self.capacity * self.rng.random_range(0.9..1.0))
        };
        self.replayed += replayed;
        while self.heartbeats.get(1).is_some_and(|(_, end)| *end < self.replayed) {
            self.heartbeats.pop_front();
        }
    }

    /// The real lag: the age of the newest heartbeat that the replica has replayed, in seconds.
    pub(crate) fn lag(&self) -> f64 {
        let newest = self.heartbeats.iter().take_while(|(_, end)| *end < self.replayed).last();
        newest.map_or(0.0, |(second, _)| (self.second - second) as f64)
    }

    fn sample(&mut self) -> StandbySample {
        let at_ms = BEGINNING_MS + self.second * 1_000 + self.rng.random_range(0..400);
        let newest_heartbeat = self.heartbeats.back().map_or(0, |(second, _)| *second);
        let heartbeat_ms = |second: i64| BEGINNING_MS + second * 1_000;
        let lag = self.lag();
        let asks = |rng: &mut SmallRng, failing: f64| !rng.random_bool(failing);
        let replica = (self.replica_answers && asks(&mut self.rng, self.failing)).then(|| ReplicaSample {
            follows: true,
            is_paused: self.is_paused,
            is_streaming: Some(self.is_connected || !self.is_noticed),
            heartbeat_age_seconds: Some(lag + 0.5),
            heartbeat_at_ms: Some(heartbeat_ms(self.second - lag as i64)),
            received_lsn: Some(self.received as u64),
            replayed_lsn: Some(self.replayed as u64),
        });
        let main = (self.main_answers && asks(&mut self.rng, self.failing)).then(|| MainSample {
            heartbeat_age_seconds: Some((self.second - newest_heartbeat) as f64 + 0.5),
            heartbeat_at_ms: Some(heartbeat_ms(newest_heartbeat)),
            written_lsn: self.written as u64,
            slot_active: Some(self.is_connected && self.replica_answers || !self.is_noticed),
            slot_bytes: Some((self.written - self.received) as u64),
        });
        let instance = |class: &str| InstanceSample {
            exists: true,
            status: "available".into(),
            class: class.to_owned(),
            ..InstanceSample::default()
        };
        let replica_of = InstanceSample { replica_of: Some("main".into()), ..instance(self.classes.0) };
        if self.is_connected && self.replica_answers && self.main_answers {
            self.metric = (self.second, lag);
        }
        let is_fresh = self.second - self.metric.0 < METRIC_SECONDS;
        let figures = Figures { replica_lag: is_fresh.then_some(self.metric.1), ..Figures::default() };
        StandbySample {
            at_ms,
            replica,
            main,
            instance: Some(replica_of),
            main_instance: Some(instance(self.classes.1)),
            figures: Some(figures),
            at_risk: None,
        }
    }

    fn observe(&mut self) -> Assessment {
        let before = self.state.verdict;
        let sample = self.sample();
        let assessment = self.state.observe(&sample, &self.settings);
        if before.is_none_or(|current| current.verdict != assessment.verdict) {
            self.changes.push((self.second, assessment.clone()));
        }
        let due = self.state.claim_notices(assessment.verdict, sample.at_ms, &self.settings);
        let mut sent = Vec::new();
        for (destination, occasion) in due {
            if destination == Destination::Bus || self.topic_accepts {
                sent.push(destination);
            }
            if destination == Destination::Topic && self.topic_accepts {
                let last = self.state.notified(destination);
                let notice =
                    ReplicaNotice::write(occasion, &assessment, &sample, last, &self.state, &self.settings);
                self.notices.push(notice);
            }
        }
        self.state.record_sends(&sent, assessment.verdict, sample.at_ms);
        assessment
    }
}
