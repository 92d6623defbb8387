//! The right to sell, and when it expires.
//!
//! If a standby could take over, main sells by a lease. A lease gives a [`Permit`], which every call that sells passes
//! on. The script on Redis and the transaction in the ledger compare its end with *their own* clock and refuse if it
//! has passed. So it does not matter when the caller got the permit, or whether it was frozen in between.
//!
//! The epoch is a fencing token: a number that goes up at each failover, and after the ledger was restored. Ledger and
//! Redis refuse a write under an older epoch.

use crate::stamp::Stamp;

/// The right to sell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// There is no lease: only one region can ever sell.
    Unleased,
    /// This region is main by a lease.
    Leased {
        epoch: u64,
        /// The lease's end minus the clocks' tolerance.
        until: Stamp,
    },
}

impl Permit {
    /// The fence of writes under this permit. Without a lease its epoch is `known`.
    pub fn fence(self, known: u64) -> Fence {
        match self {
            Self::Unleased => Fence { epoch: known, until: None },
            Self::Leased { epoch, until } => Fence { epoch, until: Some(until) },
        }
    }

    /// When the permit expires; `None` if it does not.
    pub fn until(self) -> Option<Stamp> {
        self.fence(0).until
    }
}

/// The conditions under which the ledger accepts a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The ledger refuses a write under another epoch than its current one.
    pub epoch: u64,
    /// The ledger refuses what is not committed before this moment, by its own clock.
    pub until: Option<Stamp>,
}
