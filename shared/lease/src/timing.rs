//! How long a lease lasts, and how far clocks are trusted.

use shared::config::{self, ConfigError, Source};
use std::time::Duration;

/// The lease's timing. It is the same in every region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTiming {
    /// From a renewal to the lease's end.
    pub lasts: Duration,
    /// How long before the end main stops, and how long after the end another region may take the lease.
    pub tolerance: Duration,
}

impl LeaseTiming {
    /// Reads `FAIRDROP_LEASE_SECONDS` and `FAIRDROP_LEASE_TOLERANCE_MS`.
    pub fn from_config(source: Source<'_>) -> Result<Self, ConfigError> {
        let lasts = config::number(source, "FAIRDROP_LEASE_SECONDS", 12, 4, 120)?;
        let tolerance = config::number(source, "FAIRDROP_LEASE_TOLERANCE_MS", 1_000, 50, 1_500)?;
        Ok(Self { lasts: Duration::from_secs(lasts), tolerance: Duration::from_millis(tolerance) })
    }

    /// The time between two renewals of one process.
    pub fn renewed_every(&self) -> Duration {
        self.lasts / 4
    }

    /// A lease with less time left is to be renewed. A process that is alone finds it so each time; one of several finds
    /// that another has renewed it.
    pub(crate) fn renewed_below(&self) -> Duration {
        self.lasts - self.renewed_every() * 3 / 4
    }
}
