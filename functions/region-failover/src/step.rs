//! The steps, and what each decides by what is seen.

use crate::run::{Mode, Run};
use crate::seen::{Act, Look, Role, Seen};
use lease::{Record, Timing};
use serde::{Deserialize, Serialize};
use shared::stamp::Stamp;

/// No second failover within this of the last one, in seconds, unless that is overridden.
const CALM_SECONDS: u64 = 3_600;
/// How long a forced failover waits for what a main that answers has not sent over yet, in milliseconds.
const PATIENCE_MS: u64 = 60_000;
/// How long a forced failover waits for the old main's own functions to be pointed elsewhere, in milliseconds,
/// once all others are.
const GONE_LIMIT_MS: u64 = 5_000;
/// How long Global Datastore may take to move, in milliseconds, before the last resort, where a person does not say.
pub const REDIS_WAIT_MS: u64 = 5 * 60_000;

/// A step. They are taken in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Whether it can begin.
    Precheck,
    /// The old main's lease is not renewed any more: it stops by itself.
    StopSales,
    /// Planned: all is here. Forced: no more is lost than was accepted.
    LagGate,
    /// The lease is the standby's, and still closed.
    TakeLease,
    /// The standby's Redis takes writes. From here on there is no way back.
    MoveRedis,
    /// The instance is big enough.
    ScaleUp,
    /// The replica is no replica any more.
    Promote,
    /// The ledger takes no word of the old main's.
    RaiseEpoch,
    /// A unit is free only if both ledger and Redis say so.
    Reconcile,
    /// Every region's orders come here.
    Point,
    /// Drain and worker run, by a lease that they renew.
    OpenSales,
    /// A real order is sold.
    SmokeTest,
    /// The old main's database lets nobody in.
    FenceOldMain,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Self; 13] = [
        Self::Precheck,
        Self::StopSales,
        Self::LagGate,
        Self::TakeLease,
        Self::MoveRedis,
        Self::ScaleUp,
        Self::Promote,
        Self::RaiseEpoch,
        Self::Reconcile,
        Self::Point,
        Self::OpenSales,
        Self::SmokeTest,
        Self::FenceOldMain,
    ];

    /// The one after it.
    pub fn next(self) -> Option<Self> {
        Self::ALL.into_iter().find(|step| *step > self)
    }

    /// What must be so before it, and what it does, in words for a plan.
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Precheck => (
                "no other failover is under way, and none ended within the hour",
                "asks the lease, both ledgers, both Redises and RDS whether it can begin",
            ),
            Self::StopSales => ("the precheck has passed", "closes the main lease: main cannot renew it"),
            Self::LagGate => (
                "the lease has run out, so that nothing more is sold",
                "planned: waits until all is here; forced: holds the loss against what was accepted",
            ),
            Self::TakeLease => {
                ("the loss is none, or accepted", "takes the lease under the next epoch, still closed")
            }
            Self::MoveRedis => (
                "the lease is ours: from here on there is no way back",
                "makes this region's Redis the primary; where that hangs for longer than it is to be waited for and main is gone, detaches it",
            ),
            Self::ScaleUp => {
                ("this region's Redis takes writes", "raises the replica's class, only where it is too small")
            }
            Self::Promote => ("the class is enough, or that was given up for now", "promotes the replica"),
            Self::RaiseEpoch => {
                ("the promoted ledger takes writes", "begins the new epoch: an old main's word is refused")
            }
            Self::Reconcile => (
                "the new epoch has begun",
                "a unit is free only if neither ledger nor Redis has it taken; withholds the units that the run names",
            ),
            Self::Point => {
                ("every item is reconciled", "points every region's functions to this region's Redis")
            }
            Self::OpenSales => (
                "this region's own functions are pointed here",
                "lets drain, worker, confirm and admin run, and opens the lease",
            ),
            Self::SmokeTest => {
                ("the lease is renewed from here", "sells one canary through queue, drain, worker and ledger")
            }
            Self::FenceOldMain => (
                "this region sells",
                "puts the old main's database behind a security group that lets nobody in; tried until it is so",
            ),
        }
    }

    /// What it looks at.
    pub fn look(self) -> Look {
        match self {
            Self::Precheck => Look::Readiness,
            Self::StopSales | Self::TakeLease => Look::Lease,
            Self::LagGate => Look::Lag,
            Self::MoveRedis => Look::Redis,
            Self::ScaleUp | Self::Promote => Look::Instance,
            Self::RaiseEpoch => Look::Ledger,
            Self::Reconcile => Look::Stock,
            Self::Point => Look::Pointers,
            Self::OpenSales => Look::Selling,
            Self::SmokeTest => Look::Canary,
            Self::FenceOldMain => Look::Fence,
        }
    }

    /// How long it may take, in milliseconds, before the run gives up (where it still can) or goes
    /// on without it (where it may); nothing where it can do neither, and is waited for.
    pub fn limit_ms(self) -> Option<u64> {
        match self {
            Self::Precheck => Some(60_000),
            Self::StopSales | Self::TakeLease | Self::SmokeTest => Some(3 * 60_000),
            Self::LagGate => Some(5 * 60_000),
            Self::ScaleUp => Some(15 * 60_000),
            Self::Point | Self::FenceOldMain => Some(2 * 60_000),
            Self::MoveRedis | Self::Promote | Self::RaiseEpoch | Self::Reconcile | Self::OpenSales => None,
        }
    }

    /// The same in a run that has seen so much: a forced failover does not wait long for the region that it
    /// has lost to be pointed to the new main.
    pub fn limit_in(self, run: &Run, seen: Option<&Seen>) -> Option<u64> {
        match (self, run.mode, seen) {
            (Self::Point, Mode::Forced { .. }, Some(Seen::Pointers { left }))
                if left.iter().all(|region| *region == run.from) =>
            {
                Some(GONE_LIMIT_MS)
            }
            _ => self.limit_ms(),
        }
    }

    /// Whether a new main can sell without it. It is then outstanding until it is done.
    pub fn may_be_left(self, run: &Run, seen: Option<&Seen>) -> bool {
        match self {
            Self::ScaleUp | Self::SmokeTest | Self::FenceOldMain => true,
            // The new main itself must send its orders to itself.
            Self::Point => {
                matches!(seen, Some(Seen::Pointers { left }) if !left.contains(&run.to))
            }
            _ => false,
        }
    }
}

/// What a step says of what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is so: on to the next one.
    Done,
    /// This is to be done, and then looked at again.
    Act(Act),
    /// It will be so by itself.
    Wait(String),
    /// It will never be so, and there is a way back.
    Halt(String),
}

use Verdict::{Done, Halt};

fn wait(why: &str) -> Verdict {
    Verdict::Wait(why.into())
}

/// What `step` says of `seen`, by a look that began at `now`, by the clock of who runs it. What was seen belongs to
/// another look than the step's own counts as nothing seen.
pub fn decide(step: Step, run: &Run, seen: &Seen, now: Stamp, timing: Timing) -> Verdict {
    match (step, seen) {
        (Step::Precheck, Seen::Ready { .. }) => precheck(run, seen),
        (Step::StopSales, Seen::Lease(lease)) => stop_sales(run, lease),
        (Step::LagGate, Seen::Lag { .. }) => lag_gate(run, seen, now, timing),
        (Step::TakeLease, Seen::Lease(lease)) => take_lease(run, lease, now, timing),
        (Step::MoveRedis, Seen::Redis { role, is_settled }) => move_redis(run, *role, *is_settled, now),
        (Step::ScaleUp, Seen::Instance { is_settled, is_big_enough, .. }) => {
            match (is_big_enough, is_settled) {
                (true, true) => Done,
                (_, false) => wait("the instance is being changed"),
                (false, true) => Verdict::Act(Act::RaiseClass),
            }
        }
        (Step::Promote, Seen::Instance { follows, is_settled, .. }) => match (follows, is_settled) {
            (false, true) => Done,
            (_, false) => wait("the instance is being changed"),
            (true, true) => Verdict::Act(Act::Promote),
        },
        (Step::RaiseEpoch, Seen::Ledger { follows, epoch, .. }) => match (follows, *epoch) {
            (true, _) => wait("the ledger still follows"),
            (false, epoch) if epoch == run.new_epoch() => Done,
            (false, _) => Verdict::Act(Act::BeginReign),
        },
        (Step::Reconcile, Seen::Stock { left: 0 }) => Done,
        (Step::Reconcile, Seen::Stock { .. }) => Verdict::Act(Act::Reconcile),
        (Step::Point, Seen::Pointers { left }) if left.is_empty() => Done,
        (Step::Point, Seen::Pointers { .. }) => Verdict::Act(Act::Point),
        (Step::OpenSales, Seen::Selling { lease, may_run }) => open_sales(run, lease, *may_run, now),
        (Step::SmokeTest, Seen::Canary { is_sold: true, .. }) => Done,
        (Step::SmokeTest, Seen::Canary { is_placed: true, .. }) => wait("the canary's order is on its way"),
        (Step::SmokeTest, Seen::Canary { .. }) => Verdict::Act(Act::PlaceCanary),
        (Step::FenceOldMain, Seen::Fence { is_up: true, .. }) => Done,
        (Step::FenceOldMain, Seen::Fence { is_settled: false, .. }) => wait("the fence is being put up"),
        (Step::FenceOldMain, Seen::Fence { .. }) => Verdict::Act(Act::Fence),
        _ => wait("another thing was looked at"),
    }
}

fn precheck(run: &Run, seen: &Seen) -> Verdict {
    let Seen::Ready { lease, replica_follows, main_answers, loss, last_run_seconds } = seen else {
        return wait("another thing was looked at");
    };
    if lease.region != run.from || lease.epoch != run.epoch {
        return Halt(format!("main is {} under epoch {}", lease.region, lease.epoch));
    }
    // One that was left in the middle is gone on with, not overtaken.
    if !lease.is_open && lease.run.as_deref() != Some(&run.id) {
        return Halt("another failover has closed the lease; resume or abort that one".into());
    }
    if !run.may_hurry && last_run_seconds.is_some_and(|seconds| seconds < CALM_SECONDS) {
        return Halt("the last failover ended less than an hour ago".into());
    }
    if !replica_follows {
        return Halt("the replica does not follow main, or is being changed".into());
    }
    match run.mode {
        Mode::Planned if !main_answers => {
            Halt("main does not answer: a planned failover would lose sales".into())
        }
        Mode::Forced { accepted } if !loss.is_within(accepted) => Halt(format!(
            "up to {} sales in {} ms would be lost, and that was not accepted",
            loss.sales, loss.ms
        )),
        Mode::Planned | Mode::Forced { .. } => Done,
    }
}

fn stop_sales(run: &Run, lease: &Record) -> Verdict {
    let is_ours = lease.run.as_deref() == Some(&run.id);
    if is_ours && !lease.is_open {
        Done
    } else if lease.region == run.from && lease.epoch == run.epoch && lease.is_open {
        Verdict::Act(Act::WriteLease(lease.closed(&run.id)))
    } else {
        Halt("another failover has the lease".into())
    }
}

fn lag_gate(run: &Run, seen: &Seen, now: Stamp, timing: Timing) -> Verdict {
    let Seen::Lag { lease, ledger_is_here, redis_is_here, loss } = seen else {
        return wait("another thing was looked at");
    };
    // Until then the old main could sell more: what is here now would say nothing.
    if !lease.has_run_out(now, timing) {
        return wait("the old main's lease has not run out");
    }
    match (run.mode, ledger_is_here, redis_is_here) {
        (_, Some(true), Some(true)) => Done,
        // Main answers and its word does not come over: it is waited for, and then counts as lost.
        (Mode::Forced { accepted }, Some(_), Some(_))
            if run.in_step_ms(now) > PATIENCE_MS && loss.is_within(accepted) =>
        {
            Done
        }
        (_, Some(_), Some(_)) => wait("the standby has not all of main yet"),
        (Mode::Planned, ..) => wait("main does not answer"),
        (Mode::Forced { accepted }, ..) if loss.is_within(accepted) => Done,
        (Mode::Forced { .. }, ..) => Halt(format!(
            "up to {} sales in {} ms would be lost, and that was not accepted",
            loss.sales, loss.ms
        )),
    }
}

fn take_lease(run: &Run, lease: &Record, now: Stamp, timing: Timing) -> Verdict {
    if lease.run.as_deref() != Some(&run.id) {
        return Halt("another failover has the lease".into());
    }
    if lease.region == run.to && lease.epoch == run.new_epoch() {
        return Done;
    }
    match lease.taken(&run.to, &run.id, now, timing) {
        Some(taken) => Verdict::Act(Act::WriteLease(taken)),
        None => wait("the old main's lease has not run out"),
    }
}

fn move_redis(run: &Run, role: Role, is_settled: bool, now: Stamp) -> Verdict {
    let hangs = run.in_step_ms(now) > run.redis_wait_ms && matches!(run.mode, Mode::Forced { .. });
    match (role, is_settled) {
        (Role::Primary | Role::Alone, true) => Done,
        (Role::Secondary, _) if hangs => Verdict::Act(Act::DetachRedis),
        (_, false) => wait("the datastore is being changed"),
        (Role::Secondary, true) => Verdict::Act(Act::MoveRedis),
    }
}

fn open_sales(run: &Run, lease: &Record, may_run: bool, now: Stamp) -> Verdict {
    if !may_run {
        return Verdict::Act(Act::LetRun);
    }
    match lease.opened(&run.to, run.new_epoch(), &run.id) {
        Some(opened) => Verdict::Act(Act::WriteLease(opened)),
        None if lease.region == run.to && lease.is_open && lease.expires_at > now => Done,
        None => wait("nobody has renewed the lease yet"),
    }
}
