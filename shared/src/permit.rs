//! The right to sell, and until when.
//!
//! Where a standby could take over, main sells by a lease. What a lease allows is a [`Permit`], and
//! it goes along with every act that sells: the script on Redis and the transaction in the ledger
//! look at *their own* clock at the moment of the act, and refuse when it is over. So it does not
//! matter how long ago the caller asked, or whether it was frozen in between.

use crate::stamp::Stamp;

/// The right to sell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// No lease is kept: there is one region that can ever sell.
    Unleased,
    /// As main, by a lease.
    Leased {
        /// Under this epoch, and no other.
        epoch: u64,
        /// Before this moment, the clocks' tolerance taken off.
        until: Stamp,
    },
}

impl Permit {
    /// What is written under this permit; `known` is the epoch where none is leased.
    pub fn fence(self, known: u64) -> Fence {
        match self {
            Self::Unleased => Fence { epoch: known, until: None },
            Self::Leased { epoch, until } => Fence { epoch, until: Some(until) },
        }
    }

    /// Until when; nothing where it does not end.
    pub fn until(self) -> Option<Stamp> {
        self.fence(0).until
    }
}

/// Under whose word the ledger is written, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The epoch.
    pub epoch: u64,
    /// What is not committed before this moment by the ledger's clock is refused.
    pub until: Option<Stamp>,
}
