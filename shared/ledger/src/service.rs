//! When holds could be paid and released, so that an outage does not end them.

use crate::items::{moment, stamp};
use crate::{Ledger, LedgerError};
use shared::stamp::Stamp;
use std::time::Duration;

impl Ledger {
    /// Records that a worker serves at `now` (main's clock): it has the lease, and reaches Redis and the ledger. After
    /// more than 5 s without this, holds get a grace from `now` on: as long as the outage, at least 180 s, at most
    /// `most_grace`. Returns the moment before which no hold ends by itself; it may be in the past.
    pub async fn serve(&self, now: Stamp, most_grace: Duration) -> Result<Stamp, LedgerError> {
        let most_grace_micros = i64::try_from(most_grace.as_micros()).unwrap_or(i64::MAX / 2);
        self.within_limit(async {
            let grace_until: i64 = sqlx::query_scalar("SELECT fairdrop.serve($1, $2)")
                .bind(moment(now))
                .bind(most_grace_micros)
                .fetch_one(&self.pool)
                .await?;
            stamp(grace_until)
        })
        .await
    }
}
