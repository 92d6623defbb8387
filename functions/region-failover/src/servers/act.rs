//! The acts. Each may be done twice; whether it has worked, the next look says.

use super::{Servers, trouble};
use crate::run::Run;
use crate::seen::{Act, Role, Trouble};

impl Servers {
    /// Does `act` for `run`, and says what there is to say of it.
    pub(crate) async fn act(&self, act: &Act, run: &Run) -> Result<String, Trouble> {
        match act {
            _ if !run.is_drill => self.carry_out(act, run).await,
            Act::Fence => self.throw_away().await.map(|()| "the copy is thrown away".into()),
            _ => {
                let copied = self.of_drill(run).await?;
                match act {
                    Act::PlaceCanary => copied.sell_canary_in_copy(run).await.map(|()| String::new()),
                    Act::WriteLease(_) | Act::RaiseClass | Act::Promote | Act::BeginReign => {
                        copied.carry_out(act, run).await
                    }
                    _ => Err(trouble("a drill moves nothing of main's")),
                }
            }
        }
    }

    async fn carry_out(&self, act: &Act, run: &Run) -> Result<String, Trouble> {
        let done = |()| String::new();
        match act {
            Act::WriteLease(record) => self.lease.change(record).await.map(done).map_err(trouble),
            Act::MoveRedis => self.datastore.failover().await.map(done),
            Act::DetachRedis => self.datastore.detach().await.map(done),
            Act::RaiseClass => self.instances.raise().await.map(done),
            Act::Promote => self.instances.promote().await.map(done),
            Act::BeginReign => {
                let begun = self.standby.ledger.raise_epoch(run.epoch).await;
                begun.map(|_| String::new()).map_err(trouble)
            }
            Act::Reconcile => self.reconcile(run).await,
            Act::Point => {
                // Where this Redis has left the datastore, no other region has a copy of it.
                let (role, _) = self.datastore.look().await?;
                self.functions.point(role != Role::Alone, run.lost()).await.map(done)
            }
            Act::LetRun => self.functions.let_run().await.map(done),
            Act::PlaceCanary => self.place_canary(run).await.map(done),
            Act::Fence => self.instances.fence().await.map(done),
        }
    }
}
