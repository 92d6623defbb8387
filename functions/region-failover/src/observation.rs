//! What a failover observes, and what it does.

use crate::fence::OldDatabase;
use crate::readiness::Reason;
use lease::LeaseRecord;
use ledger::LastSigns;
use serde::{Deserialize, Serialize};
use shared::item::ItemId;
use std::collections::BTreeMap;

/// What to observe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObservationKind {
    /// The standby, the lease and the last failover, before anything is done.
    Readiness,
    Lease,
    /// How far the standby's copies are behind main.
    Lag,
    /// The standby's Redis, as its replication group has it.
    Redis,
    /// The replica's instance.
    Instance,
    /// The ledger on the replica's instance.
    Ledger,
    /// Items that are not reconciled yet.
    Stock,
    /// Items that wait to be restored from the order logs.
    Restoring,
    /// The Redis to which each region's functions send their orders.
    Pointers,
    /// The lease, and whether the new main's functions may run.
    Selling,
    /// The order that proves that the new main sells.
    Canary,
    /// Whether the old main's database is closed to all clients.
    Fence,
}

/// What would be lost, or is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Of main's time, in milliseconds.
    pub ms: u64,
    /// Sales that main may have made in this time and that neither copy has.
    pub sales: u64,
}

impl Loss {
    /// Whether time and sales are both no more than `accepted`.
    pub fn is_within(self, accepted: Self) -> bool {
        self.ms <= accepted.ms && self.sales <= accepted.sales
    }
}

/// The role of the standby's replication group in its Global Datastore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It takes writes.
    Primary,
    /// It follows main's group.
    Secondary,
    /// It has left the datastore, and takes writes.
    Alone,
}

/// A function that Lambda cannot invoke now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionState {
    pub function: String,
    /// The function, its state and Lambda's reason.
    pub text: String,
    /// It was idle for too long: an invocation wakes it.
    pub is_inactive: bool,
}

/// What was observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// Before anything is done.
    Ready {
        lease: LeaseRecord,
        /// The replica follows main, by RDS and by the ledger itself.
        replica_follows: bool,
        /// Main's ledger and Redis answer.
        main_answers: bool,
        /// What would be lost if main were lost now.
        loss: Loss,
        /// Seconds since the last failover ended.
        last_run_seconds: Option<u64>,
        /// Why a planned failover could not run.
        reasons: Vec<Reason>,
        /// Regions whose order log cannot be read, with the reasons.
        unreadable_logs: BTreeMap<String, String>,
    },
    Lease(LeaseRecord),
    /// How far behind the standby is.
    Lag {
        /// Read before everything else.
        lease: LeaseRecord,
        /// Whether the standby has received all of main's WAL; `None` if main's ledger does not answer.
        ledger_is_here: Option<bool>,
        /// Whether the standby's Redis has all of main's writes; `None` if main's Redis does not answer.
        redis_is_here: Option<bool>,
        /// What the standby lacks.
        loss: Loss,
    },
    Redis {
        role: Role,
        /// ElastiCache is not changing the group.
        is_settled: bool,
    },
    Instance {
        /// It has a replication source.
        follows: bool,
        /// RDS is not changing it now. A change that waits for the maintenance window may be pending for a week.
        is_settled: bool,
        /// Its class is big enough for main's load; `None` if the class that it should have is unknown.
        is_big_enough: Option<bool>,
    },
    Ledger {
        /// It follows a source, and takes no writes.
        follows: bool,
        epoch: u64,
        /// Main's newest heartbeat and sale in it.
        last: LastSigns,
    },
    Stock {
        /// Items that are not reconciled.
        left: Vec<ItemId>,
    },
    Restoring {
        /// Items that are being restored, or wait for it.
        left: Vec<ItemId>,
    },
    Pointers {
        /// Regions that still send their orders elsewhere.
        left: Vec<String>,
    },
    Selling {
        lease: LeaseRecord,
        /// The new main's functions may run, and their schedules are enabled.
        may_run: bool,
        /// Functions of the new main that Lambda cannot invoke yet.
        not_active: Vec<FunctionState>,
    },
    Canary {
        is_placed: bool,
        /// The ledger has it as sold.
        is_sold: bool,
    },
    Fence(OldDatabase),
}

impl Observation {
    /// An instance in `status`. While RDS optimises storage, which can take more than a day, the instance can be used
    /// and changed.
    pub fn instance(status: &str, follows: bool, is_big_enough: impl Into<Option<bool>>) -> Self {
        let is_settled = matches!(status, "available" | "storage-optimization");
        Self::Instance { follows, is_settled, is_big_enough: is_big_enough.into() }
    }
}

/// Why an observation or an action failed: no answer, or an answer that asks to try again later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle(pub String);

/// The result of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done, or AWS goes on with it. The text is for the step's log.
    Done(String),
    /// AWS has refused it in a way that another try does not change.
    Refused(String),
    /// Items are done. The text is for the step's log.
    Items {
        text: String,
        /// Items that cannot be done because of their own data, with the reasons.
        set_aside: BTreeMap<ItemId, String>,
        /// Why another item was not done. The next action tries it again.
        failed: Option<String>,
    },
}

/// What is done. Every action may be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailoverAction {
    /// Writes the lease, based on the record that was observed.
    WriteLease(LeaseRecord),
    /// Makes the standby's Redis the primary.
    MoveRedis,
    /// Takes the standby's Redis out of the datastore: the last resort if the datastore hangs.
    DetachRedis,
    /// Gives the replica's instance its bigger class.
    RaiseClass,
    /// Promotes the replica.
    Promote,
    /// Begins the new epoch in the ledger.
    BeginEpoch,
    /// Reconciles items, withholds units, and puts the items under the new epoch.
    Reconcile,
    /// Repoints functions to the new main.
    Repoint,
    /// Puts the orders of the order logs back into the queues of the items that wait for it.
    Replay,
    /// Lets the new main's worker replay all items again: these regions were repointed after items had been replayed.
    ReplayAgain {
        regions: Vec<String>,
    },
    /// Lets the new main's functions run, and enables their schedules.
    EnableMain,
    /// Invokes the new main's inactive functions, so that Lambda restores them.
    WakeFunctions,
    PlaceCanary,
    /// Closes the old main's database to new connections.
    Fence,
    /// Ends the open sessions of the old main's database.
    EndSessions,
    /// Reboots the old main's instance, which ends them, too.
    RebootOldMain,
}

impl FailoverAction {
    /// Whether AWS goes on with it after it has accepted the call.
    pub(crate) fn begins_a_change(&self) -> bool {
        matches!(
            self,
            Self::MoveRedis | Self::DetachRedis | Self::RaiseClass | Self::Promote | Self::RebootOldMain
        )
    }
}
