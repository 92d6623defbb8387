//! Waits for what happens during a run.

use anyhow::{Result, ensure};
use std::future::Future;
use std::time::{Duration, Instant};

/// Waits until `is_so` returns true, and at most for `limit`. An error of `is_so` counts as false.
pub(super) async fn until<F: Future<Output = Result<bool>>>(
    what: &str,
    limit: Duration,
    mut is_so: impl FnMut() -> F,
) -> Result<()> {
    let started = Instant::now();
    while !is_so().await.unwrap_or(false) {
        ensure!(started.elapsed() < limit, "timed out after {limit:?} while waiting for: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
