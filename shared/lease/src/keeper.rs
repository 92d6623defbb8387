//! A process's copy of the lease, by which it acts, and its renewal.

use crate::record::LeaseRecord;
use crate::table::{LeaseTable, LeaseTableError};
use crate::timing::LeaseTiming;
use shared::clock::Clock;
use shared::config::{self, ConfigError, Source};
use shared::permit::Permit;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A permit that ends within this time is not used: a transaction takes time.
const MIN_REMAINING: Duration = Duration::from_millis(500);

/// How often the epoch is written while other processes renew the lease at the same moments.
const RAISE_TRIES: usize = 20;

/// The lease as a process knows it. Cloning shares it. It is empty in a deployment without a lease.
#[derive(Clone, Debug)]
pub struct Lease(Option<Arc<CachedLease>>);

#[derive(Debug)]
struct CachedLease {
    table: LeaseTable,
    region: String,
    timing: LeaseTiming,
    clock: Clock,
    /// As last read or renewed.
    record: Mutex<Option<LeaseRecord>>,
}

/// The lease as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseStatus {
    pub record: LeaseRecord,
    /// Time until the lease ends; negative after its end.
    pub remaining_ms: i64,
}

/// Why this process may not sell at the moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// The lease was not read yet, or was not renewed in time.
    #[error(
        "the main lease has ended in this region and was not renewed; nothing is sold until it is renewed"
    )]
    RunOut,
    /// A failover has closed or taken the lease.
    #[error(
        "this region cannot renew the main lease: it belongs to {region} under epoch {epoch}, or a failover has closed it"
    )]
    Elsewhere { region: String, epoch: u64 },
    #[error(transparent)]
    Table(#[from] LeaseTableError),
}

impl CachedLease {
    fn keep_newest(&self, record: LeaseRecord) {
        let mut known = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_none_or(|known| known.version < record.version) {
            *known = Some(record);
        }
    }
}

impl Lease {
    /// Reads `FAIRDROP_LEASE_TABLE`. If it is not set, there is no lease. Nothing is connected yet.
    pub async fn from_config(source: Source<'_>) -> Result<Self, ConfigError> {
        let Some(name) = config::optional(source, "FAIRDROP_LEASE_TABLE") else { return Ok(Self(None)) };
        let (region, timing) = (config::region(source)?, LeaseTiming::from_config(source)?);
        Ok(Self::over(LeaseTable::new(sdk::defaults(), &region, &name), &region, timing))
    }

    /// The lease in `table`, for a process of `region`.
    pub fn over(table: LeaseTable, region: &str, timing: LeaseTiming) -> Self {
        let (region, clock) = (region.to_owned(), Clock::machine());
        Self(Some(Arc::new(CachedLease { table, region, timing, clock, record: Mutex::default() })))
    }

    /// What this process may do now, by its copy of the lease. Does not call the table.
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

    /// Renews the lease if this region still may.
    pub async fn renew(&self) -> Result<(), LeaseError> {
        let Some(cached) = &self.0 else { return Ok(()) };
        let renewed = cached.table.renew(&cached.region, cached.clock.now(), cached.timing).await?;
        cached.keep_newest(renewed);
        Ok(())
    }

    /// What this process may do now, by the table. It does not renew the lease: for a function that acts seldom, while the
    /// worker keeps the lease.
    pub async fn permit_by_table(&self) -> Result<Permit, LeaseError> {
        let Some(cached) = &self.0 else { return Ok(Permit::Unleased) };
        cached.keep_newest(cached.table.load().await?);
        self.permit()
    }

    /// Reads the lease, and renews it unless another process of the region has just done so. Drain and worker have
    /// several runs at a time, and a read costs a tenth of a write in two regions.
    async fn refresh(&self) -> Result<(), LeaseError> {
        let Some(cached) = &self.0 else { return Ok(()) };
        let record = cached.table.load().await?;
        let is_due = record.renewal_is_due(&cached.region, cached.clock.now(), cached.timing);
        cached.keep_newest(record);
        if is_due { self.renew().await } else { Ok(()) }
    }

    /// Renews the lease before the work begins, so that a new process has it in its first round. If that fails, the
    /// rounds report it.
    pub async fn begin(&self) {
        if self.permit().is_err()
            && let Err(error) = self.refresh().await
        {
            tracing::warn!(%error, "could not renew the main lease before the first round; each round tries again");
        }
    }

    /// Keeps the lease renewed until `until`; goes on after a failed renewal.
    pub async fn keep_until(&self, until: Instant) {
        let Some(cached) = &self.0 else { return };
        let mut has_failed = false;
        loop {
            let began = Instant::now();
            if began >= until {
                return;
            }
            let Ok(renewed) = tokio::time::timeout_at(until.into(), self.refresh()).await else { return };
            let permit = self.permit();
            if let Err(error) = renewed.and(permit.clone()) {
                metrics::counter!("lease_renewals_failed").increment(1);
                if !has_failed {
                    tracing::error!(%error, "could not renew the main lease; this process sells nothing after its end");
                }
                has_failed = true;
            } else {
                has_failed = false;
            }
            let end = permit.ok().and_then(|permit| permit.until());
            let remaining_ms = end.map_or(0, |end| end.micros_since(cached.clock.now()) / 1_000);
            metrics::gauge!("lease_remaining_ms").set(remaining_ms as f64);
            let next = (began + cached.timing.renewed_every()).min(until);
            tokio::time::sleep_until(next.into()).await;
        }
    }

    /// The region of this process; `None` if there is no lease.
    pub fn region(&self) -> Option<&str> {
        self.0.as_ref().map(|cached| cached.region.as_str())
    }

    /// The lease as the table has it now; `None` if there is no lease.
    pub async fn status(&self) -> Result<Option<LeaseStatus>, LeaseTableError> {
        let Some(cached) = &self.0 else { return Ok(None) };
        let record = cached.table.load().await?;
        let remaining_ms = record.expires_at.micros_since(cached.clock.now()) / 1_000;
        Ok(Some(LeaseStatus { record, remaining_ms }))
    }

    /// Raises the epoch of this region's open lease to `epoch`. Other processes learn it with their next renewal, and until
    /// then act under the old epoch.
    pub async fn raise_epoch(&self, epoch: u64) -> Result<(), LeaseError> {
        let Some(cached) = &self.0 else { return Ok(()) };
        for _ in 0..RAISE_TRIES {
            let record = cached.table.load().await?;
            // By this call: its answer was lost.
            if record.epoch == epoch && record.region == cached.region && record.is_open {
                return Ok(());
            }
            let Some(raised) = record.raised(&cached.region, epoch) else {
                return Err(LeaseError::Elsewhere { region: record.region, epoch: record.epoch });
            };
            match cached.table.change(&raised).await {
                Err(LeaseTableError::Conflict) => {}
                written => return written.map_err(LeaseError::from),
            }
        }
        Err(LeaseTableError::Conflict.into())
    }

    /// Creates the first record for this region under `epoch`, if there is none yet. Refuses a table that is not strongly
    /// consistent.
    pub async fn create(&self, epoch: u64) -> Result<Option<LeaseRecord>, LeaseTableError> {
        let Some(cached) = &self.0 else { return Ok(None) };
        cached.table.must_be_consistent().await?;
        cached.table.write_first(&LeaseRecord::first(&cached.region, epoch)).await.map(Some)
    }
}
