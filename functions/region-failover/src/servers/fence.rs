//! The fence of the old main's database. A connection that was open before the security group goes on after it: it is
//! kept, and ends the others.

use super::{FailoverServers, obstacle};
use crate::fence::OldDatabase;
use crate::observation::{Observation, Obstacle};
use ledger::{Ledger, LedgerError, LedgerSession, OtherWriters};
use std::sync::Arc;
use tokio::sync::Mutex;

/// The kept connection to the old main's ledger.
#[derive(Clone, Debug, Default)]
pub(super) struct KeptSession(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    session: Option<LedgerSession>,
    /// Sessions that this process has ended.
    ended: u64,
}

impl Kept {
    async fn session(&mut self, ledger: &Ledger) -> Result<&mut LedgerSession, LedgerError> {
        let session = match self.session.take() {
            Some(session) => session,
            None => ledger.session().await?,
        };
        Ok(self.session.insert(session))
    }
}

impl KeptSession {
    /// The sessions that could write, and how many were ended; `None` if no connection can be had.
    async fn writers(&self, ledger: &Ledger) -> (Option<OtherWriters>, u64) {
        let mut kept = self.0.lock().await;
        let counted = match kept.session(ledger).await {
            Ok(session) => session.other_writers().await,
            Err(error) => Err(error),
        };
        if counted.is_err() {
            kept.session = None;
        }
        let counted = counted.inspect_err(|error| {
            tracing::warn!(%error, "could not count the sessions of the old main's database; its instance is rebooted, which ends them");
        });
        (counted.ok(), kept.ended)
    }

    async fn end_writers(&self, ledger: &Ledger) -> Result<u64, LedgerError> {
        let mut kept = self.0.lock().await;
        let ended = kept.session(ledger).await?.end_other_writers().await?;
        kept.ended += ended;
        Ok(ended)
    }
}

impl FailoverServers {
    /// Whether the old main's database is closed to all clients, and the sessions that it still has.
    pub(super) async fn observe_fence(&self) -> Result<Observation, Obstacle> {
        let found = self.instances.observe_old_main().await?;
        let (writers, ended) = match found.is_closed {
            true => self.kept.writers(&self.main.ledger).await,
            false => (None, 0),
        };
        Ok(Observation::Fence(OldDatabase { writers, ended, ..found }))
    }

    /// Keeps a connection, and closes the old main's database to new ones.
    pub(super) async fn fence(&self) -> Result<(), Obstacle> {
        if let Err(error) = self.kept.0.lock().await.session(&self.main.ledger).await {
            tracing::warn!(%error, "no connection to the old main's ledger before it is fenced; its instance is rebooted afterwards");
        }
        self.instances.fence().await
    }

    /// Ends the sessions that outlive the security group.
    pub(super) async fn end_sessions(&self) -> Result<String, Obstacle> {
        let ended = self.kept.end_writers(&self.main.ledger).await;
        let ended = ended.map_err(|error| {
            obstacle(format!("could not end the sessions of the old main's database: {error}"))
        })?;
        Ok(format!("{ended} sessions of the old main's database ended"))
    }
}
