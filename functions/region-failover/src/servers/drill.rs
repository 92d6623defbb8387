//! A drill: the plan against a throw-away copy of main's ledger, with a lease of its own. What cannot be copied
//! is looked at and not moved: main sells on meanwhile.

use super::instance::Copied;
use super::{Servers, trouble};
use crate::run::Run;
use crate::seen::{Look, Role, Seen, Trouble};
use lease::Record;
use ledger::Ledger;
use shared::config::Source;
use shared::item::NewItem;
use shared::permit::Permit;
use shared::queue::{NO_HOLD_MICROS, Reservation};
use shared::stamp::Stamp;

impl Servers {
    /// The servers that a drill's steps work on: the copy in the replica's place, and a lease that nobody sells by.
    /// Where there is no copy yet, it is made.
    pub(super) async fn of_drill(&self, run: &Run) -> Result<Self, Trouble> {
        let endpoint = match self.instances.copy().await? {
            Copied::Ready { host, port } => format!("{host}:{port}"),
            Copied::Missing if run.step == crate::Step::Precheck => {
                self.instances.make_copy().await?;
                return Err(trouble("the copy is being made"));
            }
            Copied::Missing => return Err(trouble("the copy is gone")),
            Copied::Changing if run.step == crate::Step::Precheck => {
                return Err(trouble("the copy is being made"));
            }
            // Its name stays while it is promoted.
            Copied::Changing => self.copy_endpoint()?,
        };
        self.copy_endpoint.lock().map_err(trouble)?.replace(endpoint.clone());
        let mut copied = self.clone();
        copied.lease = self.lease.named(&format!("drill/{}", run.id));
        copied.lease.write_first(&Record::first(&run.from, run.epoch)).await.map_err(trouble)?;
        copied.standby.ledger = self.copy_ledger(&endpoint)?;
        copied.instances = self.instances.of_copy();
        Ok(copied)
    }

    fn copy_endpoint(&self) -> Result<String, Trouble> {
        let known = self.copy_endpoint.lock().map_err(trouble)?.clone();
        known.ok_or_else(|| trouble("the copy is being changed"))
    }

    fn copy_ledger(&self, endpoint: &str) -> Result<Ledger, Trouble> {
        let mut known = self.copy_ledger.lock().map_err(trouble)?;
        match &*known {
            Some((of, ledger)) if of == endpoint => Ok(ledger.clone()),
            _ => {
                let source: Source<'_> = &|name: &str| match name {
                    "FAIRDROP_REPLICA_URL" => at(&self.replica_url, endpoint),
                    _ => shared::config::process_environment(name),
                };
                let ledger = Ledger::of_replica(source).map_err(trouble)?;
                *known = Some((endpoint.into(), ledger.clone()));
                Ok(ledger)
            }
        }
    }

    /// Looks for a drill, on what [`Servers::of_drill`] has put in place.
    pub(super) async fn look_in_drill(&self, look: Look, run: &Run) -> Result<Seen, Trouble> {
        match look {
            // It is fit to be moved, and stays where it is.
            Look::Redis => match self.datastore.look().await? {
                (Role::Secondary, true) => Ok(Seen::Redis { role: Role::Primary, is_settled: true }),
                (role, is_settled) => {
                    Err(Trouble(format!("Redis could not be moved now: {role:?}, {is_settled}")))
                }
            },
            Look::Stock => Ok(Seen::Stock { left: self.lost_items().await? }),
            Look::Pointers => Ok(Seen::Pointers { left: self.functions.not_readable().await }),
            Look::Selling => {
                self.functions.may_run().await?;
                let (now, timing) = (self.clock.now(), self.timing);
                let lease = self.lease.renew(&run.to, now, timing).await.map_err(trouble)?;
                Ok(Seen::Selling { lease, may_run: true })
            }
            Look::Canary => {
                let (item_id, _) = super::canary::canary(run)?;
                let sales = self.standby.ledger.sales(&item_id, None, 1).await.map_err(trouble)?;
                Ok(Seen::Canary { is_placed: false, is_sold: !sales.is_empty() })
            }
            // What must not be left of a drill is the copy.
            Look::Fence => {
                self.instances.fence_group()?;
                let copy = self.instances.copy().await?;
                let is_settled = !matches!(copy, Copied::Changing);
                Ok(Seen::Fence { is_up: matches!(copy, Copied::Missing), is_settled })
            }
            _ => self.look_at(look, run).await,
        }
    }

    /// Items of the copy that the standby's Redis has not.
    async fn lost_items(&self) -> Result<u64, Trouble> {
        let there = self.standby.queue.item_ids().await.map_err(trouble)?;
        let here = self.standby.ledger.item_ids().await.map_err(trouble)?;
        let lost: Vec<String> =
            here.iter().filter(|id| !there.contains(id)).map(ToString::to_string).collect();
        if lost.is_empty() { Ok(0) } else { Err(Trouble(format!("Redis has not {}", lost.join(", ")))) }
    }

    /// Sells the canary in the copy, under the new epoch and by the drill's lease.
    pub(super) async fn sell_canary_in_copy(&self, run: &Run) -> Result<(), Trouble> {
        let (item_id, buyer) = super::canary::canary(run)?;
        let ledger = &self.standby.ledger;
        let now = self.clock.now();
        let moment = |micros: u64| Stamp::from_micros(micros).map_err(trouble);
        let new = NewItem {
            item_id: item_id.clone(),
            name: "Canary of a drill".into(),
            stock_total: 1,
            opens_at: now,
            closes_at: None,
            hold_seconds: 0,
            settle_window_ms: 500,
        };
        ledger.create_item(&new).await.map_err(trouble)?;
        let lease = self.lease.load().await.map_err(trouble)?;
        let permit = lease.permit(&run.to, now, self.timing).unwrap_or(Permit::Unleased);
        let sale = Reservation {
            user_token: buyer,
            placed_at: now,
            reserved_at: now,
            hold_until: moment(now.as_micros() + NO_HOLD_MICROS)?,
            epoch: run.new_epoch(),
        };
        ledger.record(&item_id, &[sale], permit).await.map(drop).map_err(trouble)
    }

    /// Deletes what a drill has made.
    pub(crate) async fn throw_away(&self) -> Result<(), Trouble> {
        match self.instances.copy().await? {
            Copied::Missing => Ok(()),
            Copied::Ready { .. } | Copied::Changing => self.instances.delete_copy().await,
        }
    }
}

/// A ledger's address, at another host and port.
fn at(url: &str, endpoint: &str) -> Option<String> {
    let (user, rest) = url.split_once('@')?;
    let (_, database) = rest.split_once('/')?;
    Some(format!("{user}@{endpoint}/{database}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_host_and_port_are_exchanged() {
        let url = "postgres://app@replica.example:5432/fairdrop?sslmode=verify-full";
        let expected = "postgres://app@copy.example:6000/fairdrop?sslmode=verify-full";
        assert_eq!(at(url, "copy.example:6000").as_deref(), Some(expected));
        assert_eq!(at("postgres://replica.example/x", "copy:1"), None);
    }
}
