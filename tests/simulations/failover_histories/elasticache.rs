//! ElastiCache: the Global Datastore, as the standby's region meets it.

use crate::failover_histories::draws::{Called, Draws, accepted, not_now};
use crate::failover_histories::world::SECOND;
use region_failover::servers::{redis_observation, redis_role};
use region_failover::{Observation, Obstacle, Role};
use shared::queue::LinkError;

/// How the replication group's own description may look once it has left the datastore. botocore's service model has
/// the member `GlobalReplicationGroupInfo`, and does not say whether or when it is emptied.
const LEFT: [Option<&str>; 3] = [None, Some(""), Some("SECONDARY")];
/// The share of failovers that ElastiCache accepts while the datastore is `modifying`. The user guide: promotion "is
/// allowed anytime"; the service model: `InvalidGlobalReplicationGroupState` if it is not available.
const ACCEPTED_IN_MODIFYING: [f64; 3] = [0.0, 0.2, 1.0];

/// By then ElastiCache is asked, in whatever state the datastore is. Microseconds.
const LEFT_ALONE: u64 = 600 * SECOND;

/// The datastore with the standby's replication group.
#[derive(Debug)]
pub(crate) struct Datastore {
    /// The true role of the standby's group.
    pub(crate) role: Role,
    /// Until then the datastore is `modifying`. Then it is `available`, or `primary-only` if the group has left.
    settles_at: u64,
    /// When the group takes the role that it is about to get.
    becomes: Option<(u64, Role)>,
    /// A failover hangs while main's region does not answer.
    hangs: bool,
    accepted_in_modifying: f64,
    left: Option<&'static str>,
    /// When it was observed first, and whether it was asked to fail over.
    observed_at: Option<u64>,
    was_asked: bool,
    /// Until then the description has the role from before the change.
    stale_until: u64,
}

impl Datastore {
    pub(crate) fn draw(draws: &mut Draws, now: u64) -> Self {
        // An operator changes it while the run begins.
        let settles_at = if draws.chance(0.1) { now + draws.within(0, 1_200 * SECOND) } else { 0 };
        Self {
            role: Role::Secondary,
            settles_at,
            becomes: None,
            hangs: draws.chance(0.2),
            accepted_in_modifying: draws.one_of(&ACCEPTED_IN_MODIFYING),
            left: draws.one_of(&LEFT),
            observed_at: None,
            was_asked: false,
            stale_until: 0,
        }
    }

    pub(crate) fn takes_writes(&self) -> bool {
        self.role != Role::Secondary
    }

    /// `FailoverGlobalReplicationGroup`.
    pub(crate) fn fail_over(&mut self, draws: &mut Draws, now: u64, main_answers: bool) -> Called {
        self.was_asked = true;
        if self.role != Role::Secondary {
            return not_now("InvalidParameterValue: it is not a secondary");
        }
        if self.settles_at > now && !draws.chance(self.accepted_in_modifying) {
            return not_now("InvalidGlobalReplicationGroupState: it is modifying");
        }
        if self.hangs && !main_answers {
            // It is given up in the end, and nothing has changed.
            self.settles_at = self.settles_at.max(now + draws.within(60 * SECOND, 1_200 * SECOND));
            return accepted();
        }
        let most = if draws.chance(0.05) { 1_200 } else { 60 };
        self.change(now, draws.within(SECOND, most * SECOND), Role::Primary);
        self.stale_until = self.settles_at + draws.within(0, 20 * SECOND);
        accepted()
    }

    /// `DisassociateGlobalReplicationGroup`: the user guide and the service model refuse it while the datastore is
    /// `modifying`.
    pub(crate) fn disassociate(&mut self, draws: &mut Draws, now: u64) -> Called {
        if self.role != Role::Secondary {
            return not_now("InvalidParameterValue: it is not a secondary");
        }
        if self.settles_at > now {
            return not_now("InvalidGlobalReplicationGroupState: it is modifying");
        }
        self.change(now, draws.within(SECOND, 60 * SECOND), Role::Alone);
        accepted()
    }

    fn change(&mut self, now: u64, takes: u64, role: Role) {
        self.settles_at = now + takes;
        self.becomes = Some((self.settles_at, role));
    }

    /// Whether an execution has observed it for long, and ElastiCache was not asked to move anything.
    pub(crate) fn is_left_alone(&self, now: u64) -> bool {
        self.observed_at.is_some_and(|at| now > at + LEFT_ALONE) && !self.was_asked
    }

    /// Finishes a change that is due.
    pub(crate) fn settle(&mut self, now: u64) {
        if let Some((_, role)) = self.becomes.take_if(|(at, _)| *at <= now) {
            self.role = role;
        }
    }

    /// `DescribeReplicationGroups` of the standby's own group, and the server itself.
    pub(crate) fn observe(&mut self, draws: &mut Draws, now: u64) -> Result<Observation, Obstacle> {
        self.observed_at.get_or_insert(now);
        let described = match self.role {
            Role::Secondary => Some("SECONDARY"),
            Role::Primary if self.stale_until > now => Some("SECONDARY"),
            Role::Primary => Some("PRIMARY"),
            Role::Alone => self.left,
        };
        let takes_writes = match draws.chance(0.03) {
            true => Err(LinkError::NotSent("no connection in time".into())),
            false => Ok(self.takes_writes()),
        };
        redis_observation((redis_role(described), self.settles_at <= now), takes_writes)
    }
}
