//! What shows whether a failover could run: this region's Redis, functions, rights and quotas.

use super::{FailoverServers, datastore, obstacle};
use crate::observation::{Observation, Obstacle};
use crate::readiness::{self, Reason};

impl FailoverServers {
    /// What a planned failover needs in addition to the ledgers. An obstacle if it cannot be observed.
    pub(super) async fn redis_and_functions(&self) -> Result<Vec<Reason>, Obstacle> {
        let (redis, not_active, not_readable) =
            tokio::join!(self.redis_reasons(), self.functions.not_active(), self.functions.not_readable());
        let mut reasons = redis?;
        reasons.extend(readiness::of_functions(&not_active?, &not_readable));
        Ok(reasons)
    }

    async fn redis_reasons(&self) -> Result<Vec<Reason>, Obstacle> {
        let observed =
            datastore::observation(self.datastore.observe().await?, self.standby.link.takes_writes().await)?;
        let Observation::Redis { role, .. } = observed else {
            return Err(obstacle("the observation of this region's Redis has another kind"));
        };
        // The copy first: what main writes in between is no lag.
        let here = self.standby.queue.heartbeat().await.map_err(super::observe::standby_redis_obstacle)?;
        let main = self.main.queue.heartbeat().await.ok();
        Ok(readiness::of_redis(role, here.at, main.map(|main| main.at)))
    }

    /// What no failover is refused for, and what the operators should know.
    pub(crate) async fn further_reasons(&self) -> Vec<Reason> {
        let (missing, quota, may_run) = tokio::join!(
            self.functions.missing_rights(),
            self.functions.unreserved(),
            self.functions.may_run()
        );
        let mut reasons: Vec<Reason> = missing
            .into_iter()
            .map(|(region, function, action)| {
                let reason = Reason::noting("region-failover lacks a right that a failover needs");
                reason.with("region", region).with("function", function).with("action", action)
            })
            .collect();
        match quota {
            Ok((unreserved, wanted)) => reasons.extend(readiness::of_quota(unreserved, wanted)),
            Err(why) => reasons.push(Reason::unobserved("Lambda's quota could not be read", why)),
        }
        if let Err(why) = may_run {
            let text = "the concurrency or the schedules of main's functions could not be read";
            reasons.push(Reason::unobserved(text, why));
        }
        if self.instances.fence_group().is_err() {
            reasons
                .push(Reason::noting("FenceSecurityGroup is not set, so that the old main would stay open"));
        }
        reasons
    }
}
