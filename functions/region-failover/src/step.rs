//! The thirteen steps of a failover: what each needs, does, observes, and how long it may take.

use crate::observation::ObservationKind;
use serde::{Deserialize, Serialize};

/// A step. Steps are taken in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailoverStep {
    /// Checks whether the failover can begin.
    Precheck,
    /// Closes the main lease. Main cannot renew it, and stops when it ends.
    StopSales,
    /// Planned: waits until the standby has everything. Forced: checks that the loss is within what was accepted.
    LagGate,
    /// Takes the main lease for the standby, still closed.
    TakeLease,
    /// Makes the standby's Redis take writes. From here on the run cannot be aborted.
    MoveRedis,
    /// Makes the replica's instance big enough.
    ScaleUp,
    /// Makes the replica a primary.
    Promote,
    /// Begins the new epoch in the ledger, which then refuses writes of the old main.
    RaiseEpoch,
    /// Frees a unit only if neither ledger nor Redis has it as sold or reserved.
    Reconcile,
    /// Makes every region send its orders to the new main.
    Repoint,
    /// Lets the new main's functions run, and opens the lease.
    OpenSales,
    /// Sells one real order.
    SmokeTest,
    /// Closes the old main's database to all clients.
    FenceOldMain,
}

impl FailoverStep {
    /// All steps, in order.
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
        Self::Repoint,
        Self::OpenSales,
        Self::SmokeTest,
        Self::FenceOldMain,
    ];

    /// The step after this one.
    pub fn next(self) -> Option<Self> {
        Self::ALL.into_iter().find(|step| *step > self)
    }

    /// The precondition, and what the step does, as `plan` shows them.
    pub fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::Precheck => (
                "no other failover is active, and none ended within the last hour",
                "checks lease, both ledgers, both Redis servers, ElastiCache and RDS",
            ),
            Self::StopSales => (
                "the precheck passed",
                "closes the main lease, so that main cannot renew it; main sells until the lease ends",
            ),
            Self::LagGate => (
                "the lease has ended, so that main sells nothing more",
                "planned: waits until the standby has all of main's data; forced: compares the loss with what was accepted",
            ),
            Self::TakeLease => (
                "nothing is lost, or the loss was accepted",
                "takes the lease under the next epoch; the lease stays closed",
            ),
            Self::MoveRedis => (
                "this region has the lease; from here on the run cannot be aborted",
                "makes this region's Redis the primary; if the Global Datastore takes longer than redis_wait_seconds, also tries to \
                 detach this region's Redis from it",
            ),
            Self::ScaleUp => (
                "this region's Redis takes writes",
                "raises the replica's instance class, only if it is too small",
            ),
            Self::Promote => ("the instance class is big enough, or was skipped", "promotes the replica"),
            Self::RaiseEpoch => (
                "the promoted ledger takes writes",
                "begins the new epoch; the ledger refuses writes under the old one",
            ),
            Self::Reconcile => (
                "the new epoch has begun",
                "frees a unit only if neither ledger nor Redis has it as sold or reserved; withholds units as asked",
            ),
            Self::Repoint => {
                ("every item is reconciled", "repoints the functions of every region to this region's Redis")
            }
            Self::OpenSales => (
                "this region's own functions are repointed",
                "lets drain, worker, confirm and admin run here, waits until Lambda reports all functions as active, and opens the lease",
            ),
            Self::SmokeTest => (
                "this region renews the lease",
                "sells one canary order through queue, drain, worker and ledger",
            ),
            Self::FenceOldMain => (
                "this region sells",
                "puts the old main's database behind a security group without rules; retried every minute until it is confirmed",
            ),
        }
    }

    /// What the step observes.
    pub fn observation_kind(self) -> ObservationKind {
        match self {
            Self::Precheck => ObservationKind::Readiness,
            Self::StopSales | Self::TakeLease => ObservationKind::Lease,
            Self::LagGate => ObservationKind::Lag,
            Self::MoveRedis => ObservationKind::Redis,
            Self::ScaleUp | Self::Promote => ObservationKind::Instance,
            Self::RaiseEpoch => ObservationKind::Ledger,
            Self::Reconcile => ObservationKind::Stock,
            Self::Repoint => ObservationKind::Pointers,
            Self::OpenSales => ObservationKind::Selling,
            Self::SmokeTest => ObservationKind::Canary,
            Self::FenceOldMain => ObservationKind::Fence,
        }
    }

    /// The timeout in milliseconds, after which the run aborts (if it still can) or skips the step (if it may);
    /// `None` for a step without a timeout, for which the run waits.
    pub fn limit_ms(self) -> Option<u64> {
        match self {
            Self::Precheck => Some(60_000),
            Self::StopSales | Self::TakeLease | Self::SmokeTest => Some(3 * 60_000),
            Self::LagGate => Some(5 * 60_000),
            Self::ScaleUp => Some(15 * 60_000),
            Self::Repoint | Self::FenceOldMain => Some(2 * 60_000),
            Self::MoveRedis | Self::Promote | Self::RaiseEpoch | Self::Reconcile | Self::OpenSales => None,
        }
    }
}
