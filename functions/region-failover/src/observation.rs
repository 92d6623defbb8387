//! What a failover looks at, what it sees, and what it does.

use lease::LeaseRecord;
use ledger::LastSigns;
use serde::{Deserialize, Serialize};

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObservationKind {
    /// The standby, the lease and the last failover, before anything is done.
    Readiness,
    /// The lease's record.
    Lease,
    /// How far the standby's copies are behind main's.
    Lag,
    /// The standby's Redis, as its replication group has it.
    Redis,
    /// The replica's instance.
    Instance,
    /// The ledger on the replica's instance.
    Ledger,
    /// Items that have not been reconciled.
    Stock,
    /// Where each region's functions send their orders.
    Pointers,
    /// The lease, and whether the new main's functions may run.
    Selling,
    /// The order that proves that the new main sells.
    Canary,
    /// Whether the old main's database lets nobody in.
    Fence,
}

/// What would be lost, or is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Of main's time, in milliseconds.
    pub ms: u64,
    /// Sales that may have been made in it and are in neither copy.
    pub sales: u64,
}

impl Loss {
    /// Whether it is no more than `accepted`, in both.
    pub fn is_within(self, accepted: Self) -> bool {
        self.ms <= accepted.ms && self.sales <= accepted.sales
    }
}

/// What the standby's replication group is in its Global Datastore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It takes writes.
    Primary,
    /// It follows main's.
    Secondary,
    /// It has left the datastore, and takes writes.
    Alone,
}

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// Before anything is done.
    Ready {
        /// The lease.
        lease: LeaseRecord,
        /// The replica's instance follows main, and nothing is being done to it.
        replica_follows: bool,
        /// Main's ledger and Redis answer.
        main_answers: bool,
        /// What would be lost if main were gone now.
        loss: Loss,
        /// Seconds since the last failover ended.
        last_run_seconds: Option<u64>,
    },
    /// The lease.
    Lease(LeaseRecord),
    /// How far behind the standby is.
    Lag {
        /// The lease, read before the rest.
        lease: LeaseRecord,
        /// Whether all that main has written is here; nothing where main does not answer.
        ledger_is_here: Option<bool>,
        /// The same of Redis.
        redis_is_here: Option<bool>,
        /// What is not here.
        loss: Loss,
    },
    /// The standby's Redis.
    Redis {
        /// What it is.
        role: Role,
        /// Nothing is being done to it or to its datastore.
        is_settled: bool,
    },
    /// The replica's instance.
    Instance {
        /// It follows a source.
        follows: bool,
        /// It is available, and no change is pending.
        is_settled: bool,
        /// Its class is enough for main's load.
        is_big_enough: bool,
    },
    /// The ledger on it.
    Ledger {
        /// It follows, and takes no writes.
        follows: bool,
        /// Whose word counts in it.
        epoch: u64,
        /// Its newest signs of main's life.
        last: LastSigns,
    },
    /// Items that have not been reconciled.
    Stock {
        /// How many.
        left: u64,
    },
    /// Where functions send their orders.
    Pointers {
        /// Regions that still send them elsewhere.
        left: Vec<String>,
    },
    /// Whether the new main sells.
    Selling {
        /// The lease.
        lease: LeaseRecord,
        /// Its functions may run, and their schedules are on.
        may_run: bool,
    },
    /// The canary's order.
    Canary {
        /// It was placed.
        is_placed: bool,
        /// The ledger has it as sold.
        is_sold: bool,
    },
    /// The old main's database.
    Fence {
        /// It lets nobody in.
        is_up: bool,
        /// Its security groups are not being changed: to change them again would begin that anew.
        is_settled: bool,
    },
}

/// Why nothing was seen: no answer, or one that says to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle(pub String);

/// What is done. Everything here may be done twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailoverAction {
    /// Writes the lease, made of the record that was seen, and of no other.
    WriteLease(LeaseRecord),
    /// Makes the standby's Redis the primary.
    MoveRedis,
    /// Takes the standby's Redis out of the datastore: the last resort where that does not answer.
    DetachRedis,
    /// Gives the replica's instance its bigger class.
    RaiseClass,
    /// Promotes the replica.
    Promote,
    /// Begins the new epoch in the ledger.
    BeginEpoch,
    /// Reconciles items, keeps units back, and puts them under the new epoch.
    Reconcile,
    /// Points functions to the new main.
    Repoint,
    /// Lets the new main's functions run, and puts their schedules on.
    EnableMain,
    /// Places the canary's order.
    PlaceCanary,
    /// Closes the old main's database to everybody.
    Fence,
}
