//! A process of main, and the lease it acts by.

use crate::{LeaseRecord, LeaseTable, LeaseTableError, LeaseTiming};
use shared::clock::Clock;
use shared::config::{self, ConfigError, Source};
use shared::permit::Permit;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A permit that lasts no longer than this is not begun with: an act takes a while.
const MIN_REMAINING: Duration = Duration::from_millis(500);

/// What a process knows of the lease. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Lease(Option<Arc<CachedLease>>);

#[derive(Debug)]
struct CachedLease {
    table: LeaseTable,
    region: String,
    timing: LeaseTiming,
    clock: Clock,
    /// As it was last read or renewed.
    record: Mutex<Option<LeaseRecord>>,
}

/// A lease as it is shown to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseStatus {
    /// The record.
    pub record: LeaseRecord,
    /// What is left of it, in milliseconds; negative once it has run out.
    pub remaining_ms: i64,
}

/// This process may not sell at the moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// The table has not been heard of yet, or for too long.
    #[error("this region's lease has run out, and was not renewed")]
    RunOut,
    /// A failover is under way, or over.
    #[error("main is {region}, under epoch {epoch}, and the lease is not to be renewed from here")]
    Elsewhere {
        /// Where main is.
        region: String,
        /// Under which epoch.
        epoch: u64,
    },
    /// It could not be asked.
    #[error(transparent)]
    Table(#[from] LeaseTableError),
}

impl Lease {
    /// Reads `FAIRDROP_LEASE_TABLE`; where it is not set no lease is kept. Nothing is connected yet.
    pub async fn from_config(source: Source<'_>) -> Result<Self, ConfigError> {
        let Some(name) = config::optional(source, "FAIRDROP_LEASE_TABLE") else { return Ok(Self(None)) };
        let (region, timing) = (config::region(source)?, LeaseTiming::from_config(source)?);
        Ok(Self::over(LeaseTable::new(sdk::defaults(), &region, &name).await, &region, timing))
    }

    /// The lease in `table`, for a process of `region`.
    pub fn over(table: LeaseTable, region: &str, timing: LeaseTiming) -> Self {
        let (region, clock) = (region.to_owned(), Clock::machine());
        Self(Some(Arc::new(CachedLease { table, region, timing, clock, record: Mutex::default() })))
    }

    /// What this process may do now, by what it knows. Nobody is asked.
    pub fn permit(&self) -> Result<Permit, LeaseError> {
        let Some(cached) = &self.0 else { return Ok(Permit::Unleased) };
        let record = cached.record.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let record = record.ok_or(LeaseError::RunOut)?;
        let now = cached.clock.now().saturating_add(MIN_REMAINING);
        record.permit(&cached.region, now, cached.timing).ok_or({
            if record.region == cached.region && record.is_open {
                LeaseError::RunOut
            } else {
                LeaseError::Elsewhere { region: record.region, epoch: record.epoch }
            }
        })
    }

    /// What this process may do now; the lease is renewed first where it is about to end.
    pub async fn permit_now(&self) -> Result<Permit, LeaseError> {
        match self.permit() {
            Ok(permit) => Ok(permit),
            Err(_) => {
                self.renew().await?;
                self.permit()
            }
        }
    }

    /// Renews the lease, if this region still may.
    pub async fn renew(&self) -> Result<(), LeaseError> {
        let Some(cached) = &self.0 else { return Ok(()) };
        let renewed = cached.table.renew(&cached.region, cached.clock.now(), cached.timing).await?;
        let mut known = cached.record.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_none_or(|known| known.version < renewed.version) {
            *known = Some(renewed);
        }
        Ok(())
    }

    /// Renews the lease before the work begins, so that the first round of a new process does not
    /// find it without one. Where that fails, the rounds say so.
    pub async fn begin(&self) {
        if self.permit().is_err()
            && let Err(error) = self.renew().await
        {
            tracing::warn!(%error, "the lease was not renewed");
        }
    }

    /// Renews the lease again and again until `until`, whatever becomes of a single renewal.
    pub async fn keep_until(&self, until: Instant) {
        let Some(cached) = &self.0 else { return };
        let mut was_missed = false;
        loop {
            let began = Instant::now();
            if began >= until {
                return;
            }
            let Ok(renewed) = tokio::time::timeout_at(until.into(), self.renew()).await else { return };
            let permit = self.permit();
            if let Err(error) = renewed.and(permit.clone()) {
                metrics::counter!("lease_renewals_failed").increment(1);
                if !was_missed {
                    tracing::error!(%error, "the lease is not renewed; nothing is sold after its end");
                }
                was_missed = true;
            } else {
                was_missed = false;
            }
            let end = permit.ok().and_then(|permit| permit.until());
            let remaining_ms = end.map_or(0, |end| end.micros_since(cached.clock.now()) / 1_000);
            metrics::gauge!("lease_remaining_ms").set(remaining_ms as f64);
            let next = (began + cached.timing.renewed_every()).min(until);
            tokio::time::sleep_until(next.into()).await;
        }
    }

    /// The region of this process; nothing where no lease is kept.
    pub fn region(&self) -> Option<&str> {
        self.0.as_ref().map(|cached| cached.region.as_str())
    }

    /// The lease as it is now, for people; nothing where none is kept.
    pub async fn status(&self) -> Result<Option<LeaseStatus>, LeaseTableError> {
        let Some(cached) = &self.0 else { return Ok(None) };
        let record = cached.table.load().await?;
        let remaining_ms = record.expires_at.micros_since(cached.clock.now()) / 1_000;
        Ok(Some(LeaseStatus { record, remaining_ms }))
    }

    /// Makes the first record for this region, under `epoch`, where there is none yet, and the table is fit for it.
    pub async fn create(&self, epoch: u64) -> Result<Option<LeaseRecord>, LeaseTableError> {
        let Some(cached) = &self.0 else { return Ok(None) };
        cached.table.must_be_consistent().await?;
        cached.table.write_first(&LeaseRecord::first(&cached.region, epoch)).await.map(Some)
    }
}
