//! The looks: each asks whoever knows, and says only what was answered.

use super::{Servers, datastore, trouble};
use crate::loss;
use crate::run::{Mode, Run};
use crate::seen::{Look, Seen, Trouble};
use lease::Record;
use ledger::{AtRisk, Basis, Main, Replica};
use redis::AsyncCommands;
use shared::queue::{Link, LinkError};
use std::time::Duration;

/// Written on main's Redis once nothing is sold there any more: what the standby has of it came before.
const MARK: &str = "failover-mark";
/// It is of no use to anybody afterwards, in seconds.
const MARK_LASTS_SECONDS: u64 = 86_400;
/// How often it is looked whether what main has written is here, before it counts as not here yet.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// How the standby stands to main.
pub(crate) struct Standing {
    pub(crate) lease: Record,
    pub(crate) replica: Replica,
    /// Nothing where main's ledger does not answer.
    pub(crate) main: Option<Main>,
    /// Main's Redis answers.
    pub(crate) redis_answers: bool,
    pub(crate) at_risk: AtRisk,
    /// Main does not answer and may be selling: until it is stopped, each second adds one to the loss.
    pub(crate) loss_grows: bool,
}

impl Servers {
    /// Looks for `run`.
    pub(crate) async fn look(&self, look: Look, run: &Run) -> Result<Seen, Trouble> {
        match look {
            // Once it is thrown away, there is nothing else to look at.
            Look::Fence if run.is_drill => self.look_in_drill(look, run).await,
            _ if run.is_drill => Box::pin(self.of_drill(run).await?.look_in_drill(look, run)).await,
            _ => self.look_at(look, run).await,
        }
    }

    pub(super) async fn look_at(&self, look: Look, run: &Run) -> Result<Seen, Trouble> {
        match look {
            Look::Readiness => {
                let instance = self.instances.look();
                let (standing, instance, ()) =
                    futures::try_join!(self.standing(), instance, self.redis_is_ready(run))?;
                let Seen::Instance { follows, is_settled, .. } = instance else {
                    return Err(trouble("another thing was looked at"));
                };
                Ok(Seen::Ready {
                    replica_follows: follows && is_settled && standing.replica.follows,
                    main_answers: standing.main.is_some() && standing.redis_answers,
                    loss: standing.at_risk.into(),
                    lease: standing.lease,
                    last_run_seconds: run.since_last_seconds,
                })
            }
            Look::Lease => self.lease.load().await.map(Seen::Lease).map_err(trouble),
            Look::Lag => self.look_at_lag(run).await,
            Look::Redis => {
                let said = self.datastore.look().await?;
                datastore::seen(said, self.standby.link.takes_writes().await)
            }
            Look::Instance => self.instances.look().await,
            Look::Ledger => {
                let ledger = &self.standby.ledger;
                let follows = ledger.follows().await.map_err(trouble)?;
                let epoch = ledger.epoch().await.map_err(trouble)?;
                let last = ledger.last_signs().await.map_err(trouble)?;
                Ok(Seen::Ledger { follows, epoch, last })
            }
            Look::Stock => Ok(Seen::Stock { left: self.unreconciled(run).await?.len() as u64 }),
            Look::Pointers => Ok(Seen::Pointers { left: self.functions.not_pointed(run.lost()).await }),
            Look::Selling => {
                let lease = self.lease.load().await.map_err(trouble)?;
                Ok(Seen::Selling { lease, may_run: self.functions.may_run().await? })
            }
            Look::Canary => self.look_at_canary(run).await,
            Look::Fence => self.instances.look_at_fence().await,
        }
    }

    /// How the standby stands to main now.
    pub(crate) async fn standing(&self) -> Result<Standing, Trouble> {
        let now = self.clock.now();
        let lease = self.lease.load().await.map_err(trouble)?;
        let replica = self.standby.ledger.replica().await.map_err(trouble)?;
        let (main, redis_answers) = tokio::join!(self.ask_main(&replica), answers(&self.main.link));
        let sells_until = loss::sells_until(&lease, now, self.timing);
        let at_risk = ledger::at_risk(&replica, main.as_ref(), sells_until);
        let loss_grows = at_risk.basis == Basis::Replica && loss::may_be_renewed(&lease, now, self.timing);
        Ok(Standing { lease, replica, main, redis_answers, at_risk, loss_grows })
    }

    async fn ask_main(&self, replica: &Replica) -> Option<Main> {
        let resource_id = self.instances.resource_id().await;
        let asked = self.main.ledger.main(replica.received, &resource_id).await;
        asked.inspect_err(|error| tracing::warn!(%error, "main's ledger does not answer")).ok()
    }

    /// Whether all of main is here. The lease is read first: if it had run out by then, nothing was sold since.
    async fn look_at_lag(&self, run: &Run) -> Result<Seen, Trouble> {
        let now = self.clock.now();
        let standing = self.standing().await?;
        let has_run_out = standing.lease.has_run_out(now, self.timing);
        let (ledger_is_here, redis_is_here) = tokio::join!(
            async {
                match &standing.main {
                    Some(main) => Some(self.has_received(main.written).await),
                    None => None,
                }
            },
            async {
                match (standing.redis_answers, has_run_out) {
                    (true, true) => self.has_mark(run, &standing.lease).await,
                    (true, false) => Ok(Some(false)),
                    (false, _) => Ok(None),
                }
            }
        );
        let redis_is_here = redis_is_here?;
        Ok(Seen::Lag { lease: standing.lease, ledger_is_here, redis_is_here, loss: standing.at_risk.into() })
    }

    async fn has_received(&self, written: u64) -> bool {
        for _ in 0..TRIES {
            let replica = self.standby.ledger.replica().await;
            if replica.is_ok_and(|replica| replica.received.is_some_and(|received| received >= written)) {
                return true;
            }
            tokio::time::sleep(PAUSE).await;
        }
        false
    }

    /// Marks main's Redis, and looks for the mark here. Orders that were stamped before the end of the lease
    /// may be on their way for as long as their settle window: before that no mark is made where nothing
    /// may be lost. Nothing where main's Redis does not answer.
    async fn has_mark(&self, run: &Run, lease: &Record) -> Result<Option<bool>, Trouble> {
        if run.mode == Mode::Planned {
            let window = longest_window(&self.standby.queue).await.map_err(own_redis)?;
            let end = lease.expires_at.as_micros().saturating_add(window);
            if self.clock.now().as_micros() <= end.saturating_add(self.timing.tolerance.as_micros() as u64) {
                return Ok(Some(false));
            }
        }
        let id = run.id.as_str();
        if read_mark(&self.standby.link).await.map_err(own_redis)?.as_deref() == Some(id) {
            return Ok(Some(true));
        }
        let marked = self
            .main
            .link
            .run(self.main.link.call_limit(), async |mut connection| {
                connection.set_ex::<_, _, ()>(MARK, id, MARK_LASTS_SECONDS).await
            })
            .await;
        if marked.is_err() {
            return Ok(None);
        }
        for _ in 0..TRIES {
            tokio::time::sleep(PAUSE).await;
            if read_mark(&self.standby.link).await.map_err(own_redis)?.as_deref() == Some(id) {
                return Ok(Some(true));
            }
        }
        Ok(Some(false))
    }

    /// Whether this region's Redis answers, and ElastiCache knows it: asked before anything is moved, for past the
    /// lease there is no way back. Nothing may be under way with it, where main can be waited for.
    async fn redis_is_ready(&self, run: &Run) -> Result<(), Trouble> {
        let (_, is_settled) = self.datastore.look().await?;
        self.standby.queue.item_ids().await.map_err(own_redis)?;
        match is_settled || run.mode != Mode::Planned {
            true => Ok(()),
            false => Err(trouble("the Global Datastore is being changed")),
        }
    }
}

/// The longest settle window of all items, in microseconds.
async fn longest_window(queue: &shared::queue::Queue) -> Result<u64, LinkError> {
    let mut longest = 0;
    for item_id in queue.item_ids().await? {
        match queue.item(&item_id).await {
            Ok(item) => longest = longest.max(u64::from(item.settle_window_ms) * 1_000),
            Err(shared::queue::ItemError::Link(error)) => return Err(error),
            // What is no item takes no orders.
            Err(_) => {}
        }
    }
    Ok(longest)
}

async fn read_mark(link: &Link) -> Result<Option<String>, LinkError> {
    link.run(link.call_limit(), async |mut connection| connection.get(MARK).await).await
}

/// What stands in the way where this region's own Redis does not answer.
fn own_redis(error: LinkError) -> Trouble {
    Trouble(format!("this region's Redis, StandbyRedisEndpoint, does not answer: {error}"))
}

async fn answers(link: &Link) -> bool {
    let ping = link.run(link.call_limit(), async |mut connection| {
        redis::cmd("PING").query_async::<String>(&mut connection).await
    });
    ping.await.is_ok()
}
