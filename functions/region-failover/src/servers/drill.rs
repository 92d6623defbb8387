//! A drill: the steps on a temporary copy of main's ledger, with a lease of its own. What cannot be copied is observed
//! and not moved, so that main goes on selling.

use super::instance::Copied;
use super::{FailoverServers, obstacle};
use crate::fence::OldDatabase;
use crate::observation::{Answer, FailoverAction, Observation, ObservationKind, Obstacle, Role};
use crate::run::Run;
use crate::steps::FailoverStep;
use lease::LeaseRecord;
use ledger::{Ledger, OtherWriters};
use shared::config::{self, ConfigError, Source};
use shared::permit::Permit;
use shared::queue::{NO_HOLD_MICROS, Reservation};
use std::sync::Mutex;
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct DrillServers {
    servers: FailoverServers,
    replica_url: String,
    /// The database user on the copy; that of the replica's URL by default.
    user: Option<String>,
    /// The copy's endpoint, and the ledger on it.
    copy: Mutex<Option<(String, Ledger)>>,
}

impl DrillServers {
    pub(crate) fn from_config(source: Source<'_>, servers: FailoverServers) -> Result<Self, ConfigError> {
        let replica_url = config::required(source, "FAIRDROP_REPLICA_URL")?;
        let user = config::optional(source, "FAIRDROP_DRILL_USER");
        Ok(Self { servers, replica_url, user, copy: Mutex::default() })
    }

    /// The servers of the steps: the copy in place of the replica, and a lease by which no process sells. Creates the copy
    /// if there is none yet.
    async fn with_copy(&self, run: &Run) -> Result<FailoverServers, Obstacle> {
        let instances = &self.servers.instances;
        let ledger = match instances.copy().await? {
            Copied::Ready { host, port } => self.ledger(&format!("{host}:{port}"))?,
            Copied::Missing if run.step == FailoverStep::Precheck => {
                instances.make_copy().await?;
                return Err(obstacle("RDS is creating the drill's copy"));
            }
            Copied::Missing => return Err(obstacle("the drill's copy was deleted")),
            Copied::Changing if run.step == FailoverStep::Precheck => {
                return Err(obstacle("RDS is creating the drill's copy"));
            }
            // The endpoint stays the same during the promotion.
            Copied::Changing => {
                let known = self.copy.lock().map_err(obstacle)?.clone();
                known.map(|(_, ledger)| ledger).ok_or_else(|| obstacle("RDS is changing the drill's copy"))?
            }
        };
        let mut copied = self.servers.clone();
        copied.lease = copied.lease.named(&format!("drill/{}", run.id));
        copied.lease.write_first(&LeaseRecord::first(&run.from, run.epoch)).await.map_err(obstacle)?;
        copied.standby.ledger = ledger;
        copied.instances = copied.instances.for_copy();
        Ok(copied)
    }

    fn ledger(&self, endpoint: &str) -> Result<Ledger, Obstacle> {
        let mut known = self.copy.lock().map_err(obstacle)?;
        match &*known {
            Some((of, ledger)) if of == endpoint => Ok(ledger.clone()),
            _ => {
                let source: Source<'_> = &|name: &str| match name {
                    "FAIRDROP_REPLICA_URL" => at(&self.replica_url, self.user.as_deref(), endpoint),
                    _ => config::process_environment(name),
                };
                let ledger = Ledger::of_replica(source).map_err(obstacle)?;
                *known = Some((endpoint.into(), ledger.clone()));
                Ok(ledger)
            }
        }
    }

    pub(crate) async fn observe(&self, kind: ObservationKind, run: &Run) -> Result<Observation, Obstacle> {
        if kind == ObservationKind::Fence {
            return self.observe_deletion().await;
        }
        let copied = self.with_copy(run).await?;
        match kind {
            // A drill checks that Redis could be moved, and does not move it.
            ObservationKind::Redis => match copied.datastore.observe().await? {
                (Role::Secondary, true) => Ok(Observation::Redis { role: Role::Primary, is_settled: true }),
                (role, is_settled) => Err(Obstacle(format!(
                    "Redis could not be moved now: its role is {role:?}, no change in progress: {is_settled}"
                ))),
            },
            ObservationKind::Stock => {
                copied.check_items().await?;
                Ok(Observation::Stock { left: Vec::new() })
            }
            // No item of the standby is restored.
            ObservationKind::Restoring => Ok(Observation::Restoring { left: Vec::new() }),
            ObservationKind::Pointers => {
                Ok(Observation::Pointers { left: copied.functions.not_readable().await })
            }
            ObservationKind::Selling => {
                copied.functions.may_run().await?;
                let (now, timing) = (copied.clock.now(), copied.timing);
                let lease = copied.lease.renew(&run.to, now, timing).await.map_err(obstacle)?;
                Ok(Observation::Selling { lease, may_run: true, not_active: Vec::new() })
            }
            ObservationKind::Canary => {
                let (item_id, _) = super::canary::canary(run)?;
                let sales = copied.standby.ledger.sales(&item_id, None, 1).await.map_err(obstacle)?;
                Ok(Observation::Canary { is_placed: false, is_sold: !sales.is_empty() })
            }
            _ => copied.observe(kind, run).await,
        }
    }

    pub(crate) async fn perform(&self, action: &FailoverAction, run: &Run) -> Result<Answer, Obstacle> {
        match action {
            FailoverAction::Fence => {
                self.delete_copy().await?;
                Ok(Answer::Done("RDS deletes the drill's copy".into()))
            }
            FailoverAction::PlaceCanary => {
                self.with_copy(run).await?.sell_canary_in_copy(run).await?;
                Ok(Answer::Done(String::new()))
            }
            FailoverAction::WriteLease(_)
            | FailoverAction::RaiseClass
            | FailoverAction::Promote
            | FailoverAction::BeginEpoch => self.with_copy(run).await?.perform(action, run).await,
            _ => Err(obstacle("a drill does not change main")),
        }
    }

    /// In place of the fence: the copy must be deleted. After that there is nothing else to observe.
    async fn observe_deletion(&self) -> Result<Observation, Obstacle> {
        self.servers.instances.fence_group()?;
        let copy = self.servers.instances.copy().await?;
        Ok(Observation::Fence(OldDatabase {
            is_closed: matches!(copy, Copied::Missing),
            is_settled: !matches!(copy, Copied::Changing),
            is_rebooting: false,
            writers: Some(OtherWriters { open: 0, own: 0 }),
            ended: 0,
        }))
    }

    /// Deletes the copy.
    pub(crate) async fn delete_copy(&self) -> Result<(), Obstacle> {
        match self.servers.instances.copy().await? {
            Copied::Missing => Ok(()),
            Copied::Ready { .. } | Copied::Changing => self.servers.instances.delete_copy().await,
        }
    }
}

impl FailoverServers {
    /// Fails if the standby's Redis lacks items of the copy.
    async fn check_items(&self) -> Result<(), Obstacle> {
        let there = self.standby.queue.item_ids().await.map_err(obstacle)?;
        let here = self.standby.ledger.item_ids().await.map_err(obstacle)?;
        let lost: Vec<String> =
            here.iter().filter(|id| !there.contains(id)).map(ToString::to_string).collect();
        if lost.is_empty() {
            Ok(())
        } else {
            Err(Obstacle(format!("the standby's Redis lacks the items {}", lost.join(", "))))
        }
    }

    /// Sells the canary in the copy, under the new epoch and by the drill's lease.
    async fn sell_canary_in_copy(&self, run: &Run) -> Result<(), Obstacle> {
        let (item_id, buyer) = super::canary::canary(run)?;
        let ledger = &self.standby.ledger;
        let now = self.clock.now();
        ledger.create_item(&super::canary::canary_item(&item_id, now)).await.map_err(obstacle)?;
        let lease = self.lease.load().await.map_err(obstacle)?;
        let permit = lease.permit(&run.to, now, self.timing).unwrap_or(Permit::Unleased);
        let sale = Reservation {
            user_token: buyer,
            placed_at: now,
            reserved_at: now,
            hold_until: now.saturating_add(Duration::from_micros(NO_HOLD_MICROS)),
            epoch: run.new_epoch(),
        };
        ledger.record(&item_id, &[sale], permit).await.map(drop).map_err(obstacle)
    }
}

/// A ledger's URL with another host and port, and with `user` if there is one.
fn at(url: &str, user: Option<&str>, endpoint: &str) -> Option<String> {
    let (of_url, rest) = url.split_once('@')?;
    let (_, database) = rest.split_once('/')?;
    let user = user.map_or_else(|| of_url.to_owned(), |user| format!("postgres://{user}"));
    Some(format!("{user}@{endpoint}/{database}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_host_port_and_user_are_replaced() {
        let url = "postgres://app@replica.example:5432/fairdrop?sslmode=verify-full";
        let expected = "postgres://app@copy.example:6000/fairdrop?sslmode=verify-full";
        assert_eq!(at(url, None, "copy.example:6000").as_deref(), Some(expected));
        let of_drill = expected.replace("app", "drill");
        assert_eq!(at(url, Some("drill"), "copy.example:6000"), Some(of_drill));
        assert_eq!(at("postgres://replica.example/x", None, "copy:1"), None);
    }
}
