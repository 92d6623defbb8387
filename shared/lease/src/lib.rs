//! The main lease: who may sell.
//!
//! One [`LeaseRecord`] in a DynamoDB table that is the same in every region says which region is main,
//! under which epoch, and until when. Main's drain and worker renew it; whoever cannot renew it
//! stops by itself before it ends, and nobody takes it before it has ended. It is never given back
//! early: several processes act by it, and not all of them would hear.
//!
//! Clocks differ. Main stops [`LeaseTiming::tolerance`] before the end, by the clock of the server on
//! which it acts ([`Permit`] says how), and another region waits for as long after the end, by its
//! own. As long as no two of these clocks differ by more than twice that, there is never a moment
//! at which two regions may sell.

mod keeper;
mod record;
mod table;

pub use keeper::{Lease, LeaseError, LeaseStatus};
pub use record::LeaseRecord;
pub use table::{LeaseTable, LeaseTableError};

use shared::config::{self, ConfigError, Source};
use std::time::Duration;

#[cfg(doc)]
use shared::permit::Permit;

/// How long a lease lasts, and how far clocks are trusted. The same in every region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTiming {
    /// From a renewal to the lease's end.
    pub lasts: Duration,
    /// How much earlier than its end main stops, and how much later another region may take it.
    pub tolerance: Duration,
}

impl LeaseTiming {
    /// Reads `FAIRDROP_LEASE_SECONDS` and `FAIRDROP_LEASE_TOLERANCE_MS`.
    pub fn from_config(source: Source<'_>) -> Result<Self, ConfigError> {
        let lasts = config::number(source, "FAIRDROP_LEASE_SECONDS", 12, 4, 120)?;
        let tolerance = config::number(source, "FAIRDROP_LEASE_TOLERANCE_MS", 1_000, 50, 1_500)?;
        Ok(Self { lasts: Duration::from_secs(lasts), tolerance: Duration::from_millis(tolerance) })
    }

    /// From one renewal to the next.
    pub fn renewed_every(&self) -> Duration {
        self.lasts / 4
    }
}
