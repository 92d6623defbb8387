//! What a run observes and acts on: a failover on main's and the standby's servers, a drill on temporary copies.

use crate::observation::{Answer, FailoverAction, Observation, ObservationKind, Obstacle};
use crate::run::Run;
use crate::servers::FailoverServers;
use crate::servers::drill::DrillServers;

#[derive(Debug)]
pub(crate) enum World {
    Main(Box<FailoverServers>),
    Copy(Box<DrillServers>),
}

impl World {
    /// Observes `kind` for `run`.
    pub(crate) async fn observe(&self, kind: ObservationKind, run: &Run) -> Result<Observation, Obstacle> {
        match self {
            Self::Main(servers) => servers.for_run(run)?.observe(kind, run).await,
            Self::Copy(servers) => Box::pin(servers.observe(kind, run)).await,
        }
    }

    /// Does `action` for `run`. Every action may be repeated. The next observation shows whether it worked.
    pub(crate) async fn perform(&self, action: &FailoverAction, run: &Run) -> Result<Answer, Obstacle> {
        match self {
            Self::Main(servers) => servers.for_run(run)?.perform(action, run).await,
            Self::Copy(servers) => Box::pin(servers.perform(action, run)).await,
        }
    }

    /// Deletes what an aborted run has left.
    pub(crate) async fn clean_up(&self) -> Result<(), Obstacle> {
        match self {
            Self::Main(_) => Ok(()),
            Self::Copy(servers) => servers.delete_copy().await,
        }
    }
}
