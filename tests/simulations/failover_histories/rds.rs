//! RDS: the replica that is promoted, and the old main's database that is fenced.

use crate::failover_histories::draws::Documented::{Accepts, Either, Refuses};
use crate::failover_histories::draws::{Called, Documented, Draws, accepted, not_now};
use crate::failover_histories::world::SECOND;
use ledger::OtherWriters;
use region_failover::Observation;
use region_failover::observation::Answer;

const INVALID_STATE: &str = "InvalidDBInstanceState";

/// A status, whether `ModifyDBInstance` and `PromoteReadReplica` are accepted in it, and the longest time that it
/// lasts, in seconds.
type Status = (&'static str, Documented, Documented, u64);

/// Sources: botocore's service model of RDS (`PromoteReadReplica` names `backing-up`, both calls have
/// `InvalidDBInstanceState` without a list of states) and the RDS user guide, *Viewing DB instance status* and *Working
/// with storage*. An instance in `storage-optimization` is "fully operational", and may stay so for more than a day.
const AVAILABLE: Status = ("available", Accepts, Accepts, 0);
const STORAGE_OPTIMIZATION: Status = ("storage-optimization", Either, Accepts, 30 * 3_600);
const BACKING_UP: Status = ("backing-up", Either, Refuses, 1_200);
const MODIFYING: Status = ("modifying", Refuses, Either, 1_200);
const OTHERS: [Status; 4] = [
    ("configuring-enhanced-monitoring", Either, Either, 600),
    ("configuring-log-exports", Either, Either, 600),
    ("maintenance", Refuses, Either, 900),
    ("rebooting", Refuses, Either, 300),
];

/// The standby's replica.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) follows: bool,
    is_big: bool,
    /// Whether the class that it should have is known also if main's region does not answer.
    knows_class: bool,
    /// Its status until the time, in microseconds; then it is available.
    status: Status,
    until: u64,
    /// Until then its description shows no change, and still a source.
    stale_until: u64,
    promotes_at: Option<u64>,
    grows_at: Option<u64>,
    /// A change that waits for the maintenance window, which begins then.
    pending_from: Option<u64>,
    /// From when on RDS has an instance of the bigger class; while a region is down it may have none.
    capacity_from: u64,
}

impl Replica {
    pub(crate) fn draw(draws: &mut Draws, now: u64) -> Self {
        let status = match draws.within(0, 9) {
            0 | 1 => STORAGE_OPTIMIZATION,
            2 => BACKING_UP,
            3 => draws.one_of(&OTHERS),
            4 => MODIFYING,
            _ => AVAILABLE,
        };
        Self {
            follows: true,
            is_big: draws.chance(0.6),
            knows_class: draws.chance(0.8),
            status,
            until: now + draws.within(0, status.3 * SECOND),
            stale_until: 0,
            promotes_at: None,
            grows_at: None,
            pending_from: draws.chance(0.2).then(|| now + draws.within(0, 1_800 * SECOND)),
            capacity_from: match draws.within(0, 5) {
                0 => u64::MAX,
                1 => now + draws.within(0, 1_800 * SECOND),
                _ => 0,
            },
        }
    }

    fn status(&self, now: u64) -> Status {
        if now < self.until { self.status } else { AVAILABLE }
    }

    /// `DescribeDBInstances`.
    pub(crate) fn observe(&self, now: u64, main_answers: bool) -> Observation {
        let is_stale = self.stale_until > now;
        let status = if is_stale { "available" } else { self.status(now).0 };
        let is_big = (self.knows_class || main_answers).then_some(self.is_big);
        Observation::instance(status, self.follows || is_stale, is_big)
    }

    /// `ModifyDBInstance` with the bigger class and `ApplyImmediately`.
    pub(crate) fn raise_class(&mut self, draws: &mut Draws, now: u64) -> Called {
        if self.is_big || self.grows_at.is_some() {
            return accepted();
        }
        if !draws.allows(self.status(now).1) {
            return not_now(INVALID_STATE);
        }
        if now < self.capacity_from {
            return Ok(Answer::Refused("InsufficientDBInstanceCapacity".into()));
        }
        self.pending_from = None;
        self.begin(draws, now, 60);
        self.grows_at = Some(self.until);
        accepted()
    }

    /// `PromoteReadReplica`. For a while the description does not show that it has begun.
    pub(crate) fn promote(&mut self, draws: &mut Draws, now: u64) -> Called {
        let is_busy = !self.follows || self.promotes_at.is_some();
        if is_busy || !draws.allows(self.status(now).2) {
            return not_now(INVALID_STATE);
        }
        self.begin(draws, now, 20);
        self.promotes_at = Some(self.until);
        self.stale_until = self.until + draws.within(0, 20 * SECOND);
        accepted()
    }

    fn begin(&mut self, draws: &mut Draws, now: u64, least: u64) {
        let most = if draws.chance(0.1) { MODIFYING.3 } else { 300 };
        (self.status, self.until) = (MODIFYING, now + draws.within(least, most) * SECOND);
    }

    /// Finishes changes that are due, and begins a pending one. Returns whether the replica was promoted just now.
    pub(crate) fn settle(&mut self, draws: &mut Draws, now: u64) -> bool {
        if self.pending_from.take_if(|at| *at <= now).is_some() {
            self.begin(draws, now, 60);
        }
        self.is_big |= self.grows_at.take_if(|at| *at <= now).is_some();
        let is_promoted = self.promotes_at.take_if(|at| *at <= now).is_some();
        self.follows &= !is_promoted;
        is_promoted
    }
}

/// The old main's database, and the security group without rules that closes it.
#[derive(Debug)]
pub(crate) struct OldDatabase {
    status: Status,
    until: u64,
    /// When the new security group is active.
    fenced_at: Option<u64>,
    /// Connections that were open before: a security group does not cut tracked ones (EC2 user guide, *Security group
    /// connection tracking*).
    connections: u64,
    /// Whether region-failover's user may end them.
    are_own: bool,
    /// Whether region-failover has a connection that outlives the security group, and how many sessions it has ended.
    is_kept: bool,
    ended: u64,
    /// When the instance is shown as rebooting, from and to. No document says how long after the call that is.
    reboot: Option<(u64, u64)>,
}

impl OldDatabase {
    pub(crate) fn draw(draws: &mut Draws, now: u64) -> Self {
        let status = if draws.chance(0.2) { draws.one_of(&[BACKING_UP, MODIFYING]) } else { AVAILABLE };
        Self {
            status,
            until: now + draws.within(0, status.3 * SECOND),
            fenced_at: None,
            connections: if draws.chance(0.5) { draws.within(1, 5) } else { 0 },
            are_own: draws.chance(0.8),
            is_kept: false,
            ended: 0,
            reboot: None,
        }
    }

    fn refuses_changes(&self, draws: &mut Draws, now: u64) -> bool {
        let status = if now < self.until { self.status } else { AVAILABLE };
        !draws.allows(status.1)
    }

    /// `ModifyDBInstance` with the fence as the only security group. Each call starts the change over.
    pub(crate) fn fence(&mut self, draws: &mut Draws, now: u64) -> Called {
        self.is_kept |= draws.chance(0.5);
        if self.refuses_changes(draws, now) {
            return not_now(INVALID_STATE);
        }
        self.fenced_at = Some(now + draws.within(SECOND / 4, 20 * SECOND));
        accepted()
    }

    /// `pg_terminate_backend` over the kept connection.
    pub(crate) fn end_sessions(&mut self, now: u64) -> Called {
        if !self.has_connection(now) {
            return not_now("no connection");
        }
        if self.are_own {
            self.ended += self.connections;
            self.connections = 0;
        }
        accepted()
    }

    /// `RebootDBInstance`.
    pub(crate) fn reboot(&mut self, draws: &mut Draws, now: u64) -> Called {
        if self.refuses_changes(draws, now) || self.reboot.is_some_and(|(_, until)| now < until) {
            return not_now(INVALID_STATE);
        }
        if self.has_rebooted(now) {
            // What the earlier reboot has ended stays ended.
            (self.connections, self.is_kept) = (0, false);
        }
        let from = now + draws.within(0, 20 * SECOND);
        self.reboot = Some((from, from + draws.within(SECOND, 120 * SECOND)));
        accepted()
    }

    /// The process that holds the connection may be replaced at any time.
    pub(crate) fn observe(&mut self, draws: &mut Draws, now: u64) -> Observation {
        self.is_kept &= !draws.chance(0.05);
        let is_closed = self.fenced_at.is_some_and(|at| at <= now);
        let own = if self.are_own { self.connections } else { 0 };
        let writers = OtherWriters { open: self.connections, own };
        Observation::Fence(region_failover::fence::OldDatabase {
            is_closed,
            is_settled: self.fenced_at.is_none_or(|at| at <= now),
            is_rebooting: self.reboot.is_some_and(|(from, until)| from <= now && now < until),
            writers: (is_closed && self.has_connection(now)).then_some(writers),
            ended: self.ended,
        })
    }

    fn has_connection(&self, now: u64) -> bool {
        self.is_kept && !self.has_rebooted(now)
    }

    fn has_rebooted(&self, now: u64) -> bool {
        self.reboot.is_some_and(|(from, _)| from <= now)
    }

    pub(crate) fn has_open_connections(&self, now: u64) -> bool {
        self.connections > 0 && !self.has_rebooted(now)
    }

    /// Whether a process of main, which has been connected since before the failover, still reaches it.
    pub(crate) fn is_reached(&self, now: u64) -> bool {
        let is_open = self.fenced_at.is_none_or(|at| at > now);
        is_open || self.has_open_connections(now)
    }
}
