//! Actions. Each may be repeated. The next observation shows whether it worked.

use super::functions::StillNewest;
use super::order_logs::replay_again;
use super::{FailoverServers, obstacle, reconcile_items};
use crate::observation::{Answer, FailoverAction, Obstacle, Role};
use crate::run::Run;

impl FailoverServers {
    /// Does `action` for `run`.
    pub(crate) async fn perform(&self, action: &FailoverAction, run: &Run) -> Result<Answer, Obstacle> {
        let done = |()| String::new();
        let text = match action {
            FailoverAction::WriteLease(record) => self.lease.change(record).await.map(done).map_err(obstacle),
            // Lambda takes up to minutes to restore an idle function, so that it begins early.
            FailoverAction::MoveRedis => {
                let (moved, ()) = tokio::join!(self.datastore.failover(), self.wake_early());
                moved.map(done)
            }
            FailoverAction::DetachRedis => self.datastore.detach().await.map(done),
            FailoverAction::RaiseClass => return self.instances.raise(run.main_class.as_deref()).await,
            FailoverAction::Promote => self.instances.promote().await.map(done),
            FailoverAction::BeginEpoch => {
                let begun = self.standby.ledger.raise_epoch(run.epoch).await;
                begun.map(|_| String::new()).map_err(obstacle)
            }
            FailoverAction::Reconcile => return reconcile_items(&self.standby, run).await,
            FailoverAction::Replay => return self.replay(run).await,
            FailoverAction::ReplayAgain { regions } => return replay_again(&self.standby, regions).await,
            FailoverAction::Repoint => {
                // If this Redis is not in the datastore, no other region has a copy of it.
                let has_copies =
                    run.redis_endpoint.is_none() && self.datastore.observe().await?.0 != Role::Alone;
                let still_newest: &StillNewest<'_> = &|| Box::pin(self.check_is_newest(run));
                self.functions.repoint(has_copies, run.lost_region(), still_newest).await.map(done)
            }
            FailoverAction::EnableMain => self.functions.enable_main().await.map(done),
            FailoverAction::WakeFunctions => self.functions.wake_here().await,
            FailoverAction::PlaceCanary => self.place_canary(run).await.map(done),
            FailoverAction::Fence => self.fence().await.map(done),
            FailoverAction::EndSessions => self.end_sessions().await,
            FailoverAction::RebootOldMain => self.instances.reboot_old_main().await.map(done),
        };
        text.map(Answer::Done)
    }

    /// Fails if another run is the newest, or if this run goes on with another Redis: the execution was overtaken, and would
    /// send orders back to a Redis from before.
    async fn check_is_newest(&self, run: &Run) -> Result<(), Obstacle> {
        let newest = self.runs.load().await.map_err(obstacle)?.record.map(|record| record.run);
        match newest {
            Some(newest) if newest.id == run.id && newest.redis_endpoint == run.redis_endpoint => Ok(()),
            _ => Err(obstacle("another execution goes on with another Redis; this one repoints nothing")),
        }
    }

    /// Wakes this region's functions. A failure is not retried here: steps that need the functions wake them, too.
    async fn wake_early(&self) {
        if let Err(Obstacle(why)) = self.functions.wake_here().await {
            tracing::warn!(why, "could not wake this region's functions; a later step tries again");
        }
    }
}
