//! Observations. Each reports only what a server has answered.

use super::{FailoverServers, datastore, obstacle, order_logs, unreconciled};
use crate::loss;
use crate::observation::{Observation, ObservationKind, Obstacle, Role};
use crate::readiness::{self, Reason};
use crate::run::{Mode, Run};
use lease::LeaseRecord;
use ledger::{AtRisk, Basis, MainState, ReplicaState};
use redis::AsyncCommands;
use shared::queue::{FAILOVER_MARKER, Link, LinkError, MAX_WINDOW};
use std::time::Duration;

/// The marker has no use after the failover. In seconds.
const MARKER_TTL_SECONDS: u64 = 86_400;
/// Checks for main's newest write before it counts as not replicated yet.
const CHECKS: u32 = 5;
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// How far the standby is behind main.
pub(crate) struct StandbyStatus {
    pub(crate) lease: LeaseRecord,
    pub(crate) replica: ReplicaState,
    /// `None` if main's ledger does not answer.
    pub(crate) main: Option<MainState>,
    /// Whether main's Redis answers.
    pub(crate) redis_answers: bool,
    pub(crate) at_risk: AtRisk,
    /// Main does not answer and may be selling: until it is stopped, each second adds one to the loss.
    pub(crate) loss_grows: bool,
}

impl FailoverServers {
    /// Observes `kind` for `run`.
    pub(crate) async fn observe(&self, kind: ObservationKind, run: &Run) -> Result<Observation, Obstacle> {
        match kind {
            ObservationKind::Readiness => {
                let instance = self.instances.observe(run.main_class.as_deref());
                let logs = async { Ok(self.logs.unreadable().await) };
                let (status, instance, mut reasons, unreadable_logs) =
                    futures::try_join!(self.status(), instance, self.redis_reasons_of(run), logs)?;
                if run.mode == Mode::Planned {
                    reasons.extend(readiness::of_ledger(&status.replica, status.main.as_ref()));
                    reasons.extend(readiness::of_logs(&unreadable_logs));
                }
                let Observation::Instance { follows, .. } = instance else {
                    return Err(obstacle("the observation of the replica's instance has another kind"));
                };
                Ok(Observation::Ready {
                    replica_follows: follows && status.replica.follows,
                    main_answers: status.main.is_some() && status.redis_answers,
                    loss: status.at_risk.into(),
                    lease: status.lease,
                    last_run_seconds: run.since_last_seconds,
                    reasons,
                    unreadable_logs,
                })
            }
            ObservationKind::Lease => self.lease.load().await.map(Observation::Lease).map_err(obstacle),
            ObservationKind::Lag => self.observe_lag(run).await,
            ObservationKind::Redis if run.redis_endpoint.is_some() => {
                let takes_writes = self.standby.link.takes_writes().await.map_err(standby_redis_obstacle)?;
                let role = if takes_writes { Role::Alone } else { Role::Secondary };
                datastore::observation((role, true), Ok(takes_writes))
            }
            ObservationKind::Redis => {
                let role = self.datastore.observe().await?;
                datastore::observation(role, self.standby.link.takes_writes().await)
            }
            ObservationKind::Instance => self.instances.observe(run.main_class.as_deref()).await,
            ObservationKind::Ledger => {
                let ledger = &self.standby.ledger;
                let follows = ledger.follows().await.map_err(obstacle)?;
                let epoch = ledger.epoch().await.map_err(obstacle)?;
                let last = ledger.last_signs().await.map_err(obstacle)?;
                Ok(Observation::Ledger { follows, epoch, last })
            }
            ObservationKind::Stock => {
                Ok(Observation::Stock { left: unreconciled(&self.standby, run).await? })
            }
            ObservationKind::Restoring => {
                Ok(Observation::Restoring { left: order_logs::unrestored(&self.standby, run).await? })
            }
            ObservationKind::Pointers => {
                Ok(Observation::Pointers { left: self.functions.not_repointed(run.lost_region()).await })
            }
            ObservationKind::Selling => {
                let lease = self.lease.load().await.map_err(obstacle)?;
                let (may_run, not_active) =
                    tokio::try_join!(self.functions.may_run(), self.functions.not_active())?;
                Ok(Observation::Selling { lease, may_run, not_active })
            }
            ObservationKind::Canary => self.observe_canary(run).await,
            ObservationKind::Fence => self.observe_fence().await,
        }
    }

    /// How far the standby is behind main now.
    pub(crate) async fn status(&self) -> Result<StandbyStatus, Obstacle> {
        let now = self.clock.now();
        let lease = self.lease.load().await.map_err(obstacle)?;
        let sells_until = loss::sells_until(&lease, now, self.timing);
        let replica = self.standby.ledger.replica(sells_until).await.map_err(obstacle)?;
        let (main, of_redis) = tokio::join!(self.main_status(&replica), self.main.link.takes_writes());
        let at_risk = ledger::at_risk(&replica, main.as_ref(), sells_until);
        let loss_grows = at_risk.basis == Basis::Replica && loss::may_be_renewed(&lease, now, self.timing);
        let redis_answers = of_redis.is_ok();
        Ok(StandbyStatus { lease, replica, main, redis_answers, at_risk, loss_grows })
    }

    async fn main_status(&self, replica: &ReplicaState) -> Option<MainState> {
        let resource_id = self.instances.resource_id().await;
        let asked = self.main.ledger.main(replica.received, &resource_id).await;
        asked.inspect_err(|error| tracing::warn!(%error, "could not read main's ledger; the loss is estimated from the replica")).ok()
    }

    /// Whether the standby has everything. The lease is read first: if it had ended by then, main has sold nothing since.
    async fn observe_lag(&self, run: &Run) -> Result<Observation, Obstacle> {
        let now = self.clock.now();
        let status = self.status().await?;
        let has_run_out = status.lease.has_run_out(now, self.timing);
        let (ledger_is_here, redis_is_here) = tokio::join!(
            async {
                match &status.main {
                    Some(main) => Some(self.has_received(main.written).await),
                    None => None,
                }
            },
            async {
                match (status.redis_answers, has_run_out) {
                    // Nothing of main's Redis comes to another one.
                    _ if run.redis_endpoint.is_some() => Ok(Some(true)),
                    (true, true) => self.has_marker(run, &status.lease).await,
                    (true, false) => Ok(Some(false)),
                    (false, _) => Ok(None),
                }
            }
        );
        let redis_is_here = redis_is_here?;
        Ok(Observation::Lag {
            lease: status.lease,
            ledger_is_here,
            redis_is_here,
            loss: status.at_risk.into(),
        })
    }

    async fn has_received(&self, written: u64) -> bool {
        for _ in 0..CHECKS {
            let replica = self.standby.ledger.replica(self.clock.now()).await;
            if replica.is_ok_and(|replica| replica.received.is_some_and(|received| received >= written)) {
                return true;
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
        false
    }

    /// Writes the replication marker on main's Redis, and checks whether it has arrived here. `None` if main's Redis does not
    /// answer. Orders stamped before the end of the lease may be in transit for the longest window. A planned failover
    /// must not lose them, so that it writes no marker before.
    async fn has_marker(&self, run: &Run, lease: &LeaseRecord) -> Result<Option<bool>, Obstacle> {
        if !run.mode.is_forced() {
            let end = lease.expires_at.saturating_add(MAX_WINDOW);
            if self.clock.now() <= end.saturating_add(self.timing.tolerance) {
                return Ok(Some(false));
            }
        }
        let id = run.id.as_str();
        if read_marker(&self.standby.link).await.map_err(standby_redis_obstacle)?.as_deref() == Some(id) {
            return Ok(Some(true));
        }
        let written = self
            .main
            .link
            .run(self.main.link.call_limit(), async |mut connection| {
                connection.set_ex::<_, _, ()>(FAILOVER_MARKER, id, MARKER_TTL_SECONDS).await
            })
            .await;
        if written.is_err() {
            return Ok(None);
        }
        for _ in 0..CHECKS {
            tokio::time::sleep(CHECK_INTERVAL).await;
            if read_marker(&self.standby.link).await.map_err(standby_redis_obstacle)?.as_deref() == Some(id) {
                return Ok(Some(true));
            }
        }
        Ok(Some(false))
    }

    /// What this region's Redis and functions show. A forced failover, or a drill, is refused only if they do not answer.
    async fn redis_reasons_of(&self, run: &Run) -> Result<Vec<Reason>, Obstacle> {
        match run.mode == Mode::Planned {
            true => self.redis_and_functions().await,
            false => self.redis_is_ready(run).await.map(|()| Vec::new()),
        }
    }

    /// Checks before anything is moved that this region's Redis answers and that ElastiCache knows it. Another Redis is in no
    /// datastore.
    async fn redis_is_ready(&self, run: &Run) -> Result<(), Obstacle> {
        if run.redis_endpoint.is_none() {
            self.datastore.observe().await?;
        }
        self.standby.queue.item_ids().await.map_err(standby_redis_obstacle).map(drop)
    }
}

async fn read_marker(link: &Link) -> Result<Option<String>, LinkError> {
    link.run(link.call_limit(), async |mut connection| connection.get(FAILOVER_MARKER).await).await
}

pub(super) fn standby_redis_obstacle(error: LinkError) -> Obstacle {
    Obstacle(format!("this region's Redis at StandbyRedisEndpoint does not answer: {error}"))
}
