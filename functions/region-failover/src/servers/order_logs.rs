//! The order logs of all regions: whether they can be read, and the replay of their orders into this region's Redis.

use super::stock::is_of_data;
use super::{FailoverServers, obstacle, unreconciled};
use crate::error::FailoverError;
use crate::observation::{Answer, Obstacle};
use crate::run::Run;
use crate::steps::log_needed;
use futures::future::join_all;
use futures::stream::{self, StreamExt};
use order_log::{RETENTION, RegionLog};
use reconcile::Stores;
use replay::{AGAIN_AFTER, RecordSource, ReplayError, ReplayOptions, by_urgency};
use shared::config::{ConfigError, Source};
use shared::item::Item;
use shared::item::ItemId;
use shared::queue::{ItemError, RESTORE_TIMEOUT, RESTORE_WANTED, RestoreCause};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// How long a region may take to show that its log can be read.
const PROBE_LIMIT: Duration = Duration::from_secs(6);
/// An item that opens within this time may open before the new main sells.
const OPENS_SOON: Duration = Duration::from_secs(3_600);
/// Items that are restored at the same time. Each reads 16 buckets of all logs at a time.
const PARALLEL_ITEMS: usize = 8;
/// The limit of the replay of one item.
const REPLAY_LIMIT: Duration = Duration::from_secs(600);
/// No item has this id, and no buyer this name: the probe reads nothing, and needs the right to read.
const PROBE: (&str, &str) = ("failover-probe", "failover-probe");

#[derive(Clone, Debug)]
pub(super) struct OrderLogs(Vec<RegionLog>);

impl OrderLogs {
    /// Reads the configuration. Nothing is connected yet.
    pub(super) fn from_config(source: Source<'_>) -> Result<Self, ConfigError> {
        RegionLog::all_from_config(source).map(Self)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Regions whose log cannot be read now, with the reasons.
    pub(super) async fn unreadable(&self) -> BTreeMap<String, String> {
        let probed = self.0.iter().map(async |log| match timeout(PROBE_LIMIT, probe(log)).await {
            Ok(Ok(())) => None,
            Ok(Err(Obstacle(why))) => Some((log.region.clone(), why)),
            Err(_) => {
                let why = format!("no answer within {} s", PROBE_LIMIT.as_secs());
                Some((log.region.clone(), why))
            }
        });
        join_all(probed).await.into_iter().flatten().collect()
    }
}

async fn probe(log: &RegionLog) -> Result<(), Obstacle> {
    let (item_id, buyer) = PROBE;
    let buyer = UserToken::parse(buyer).map_err(obstacle)?;
    log.log.latest_of(&item_id.parse().map_err(obstacle)?, &buyer).await.map(drop).map_err(obstacle)
}

impl FailoverServers {
    /// Regions with an order log.
    pub(crate) fn log_regions(&self) -> BTreeSet<String> {
        self.logs.0.iter().map(|log| log.region.clone()).collect()
    }

    /// The region, which must have an order log.
    pub(crate) fn logged(&self, region: String) -> Result<String, FailoverError> {
        match self.logs.0.iter().any(|log| log.region == region) {
            true => Ok(region),
            false => Err(FailoverError::NoSuchLog(region)),
        }
    }

    /// Restores the items that are left from all logs that can be read.
    pub(super) async fn replay(&self, run: &Run) -> Result<Answer, Obstacle> {
        // The steps that follow do not wait for longer. A log that does not answer the probe in time counts, too.
        let limit = run.left_ms(self.clock.now().as_millis()).map(Duration::from_millis);
        let until = limit.map(|limit| Instant::now() + limit);
        replay_items(&self.standby, &self.logs.0, self.logs.unreadable().await, run, until).await
    }
}

/// Restores the items that are left from `logs`, several at the same time and those on sale first. An `unreadable` log stops
/// this, unless the operator has decided to go on without it. An item that cannot be restored because of its own data is set
/// aside. What is not restored at `until` is given up, and goes on waiting.
pub async fn replay_items<S: RecordSource>(
    stores: &Stores,
    logs: &[S],
    mut unreadable: BTreeMap<String, String>,
    run: &Run,
    until: Option<Instant>,
) -> Result<Answer, Obstacle> {
    if let Some((region, why)) = unreadable.iter().find(|(region, _)| !run.may_leave_log(region)) {
        return Err(Obstacle(without_log_hint(region, why)));
    }
    let not_reconciled = unreconciled(stores, run).await?;
    let (mut restored, mut orders, mut failed, mut set_aside) = (0, 0, None, BTreeMap::new());
    let mut due = Vec::new();
    for item_id in unrestored(stores, run).await? {
        if run.set_aside.contains_key(&item_id) {
            continue;
        }
        match not_reconciled.contains(&item_id) {
            true => drop(set_aside.insert(item_id, "it is not reconciled".to_owned())),
            false => due.push(item_id),
        }
    }
    let known = &unreadable.clone();
    let replays = by_urgency(&stores.queue, due).await.map_err(obstacle)?.into_iter().map(async |item_id| {
        let mut unreadable = known.clone();
        let answer = replay_item(stores, logs, &mut unreadable, (run, until), &item_id).await;
        (item_id, answer, unreadable)
    });
    let mut replays = stream::iter(replays).buffer_unordered(PARALLEL_ITEMS);
    while let Some((item_id, answer, found)) = replays.next().await {
        unreadable.extend(found);
        match answer {
            // The worker has restored it meanwhile.
            Err(ReplayError::NotDue) => {}
            Ok(placed) => (restored, orders) = (restored + 1, orders + placed),
            Err(ReplayError::Item(error)) if is_of_data(&error) => {
                set_aside.insert(item_id, error.to_string());
            }
            // One failed item does not delay the others.
            Err(error) => failed = failed.or(Some(format!("could not restore item {item_id}: {error}"))),
        }
    }
    let without =
        unreadable.iter().map(|(region, why)| format!("; without the order log of {region}: {why}"));
    let text =
        format!("restored {restored} items: {orders} orders were put back{}", without.collect::<String>());
    Ok(Answer::Items { text, set_aside, failed })
}

/// Restores one item. A log that fails meanwhile becomes one of the `unreadable` if the run may go on without it.
async fn replay_item<S: RecordSource>(
    stores: &Stores,
    logs: &[S],
    unreadable: &mut BTreeMap<String, String>,
    (run, until): (&Run, Option<Instant>),
    item_id: &ItemId,
) -> Result<u64, ReplayError> {
    loop {
        let limit = until.map_or(REPLAY_LIMIT, |until| until.saturating_duration_since(Instant::now()));
        if limit.is_zero() {
            return Err(ReplayError::TooLong(limit));
        }
        let options = ReplayOptions {
            cause: Some(RestoreCause::Wanted),
            limit,
            // A batch of order-place may still be in transit to the old Redis.
            again_after: Some(AGAIN_AFTER),
            without: unreadable.keys().cloned().collect(),
            // A worker of this region may be at the item, which it goes on with. It can leave no log out.
            take_over_after: if unreadable.is_empty() { RESTORE_TIMEOUT } else { Duration::ZERO },
        };
        match replay::replay(item_id, &stores.queue, &stores.ledger, logs, &options).await {
            Err(ReplayError::RegionUnreadable { region, error }) if run.may_leave_log(&region) => {
                unreadable.insert(region, error.to_string());
            }
            answer => return answer.map(|report| report.placed()),
        }
    }
}

/// What an operator can do about an unreadable log while its items are not sold.
fn without_log_hint(region: &str, why: &str) -> String {
    format!("{}; `fairdrop failover without-log {region}` goes on without it", log_needed(region, why))
}

/// Items of the ledger that no drain serves before they are restored: those that wait for it, and those that are not
/// reconciled yet. None without order logs.
pub async fn unrestored(stores: &Stores, run: &Run) -> Result<Vec<ItemId>, Obstacle> {
    if run.order_logs.is_empty() {
        return Ok(Vec::new());
    }
    let mut left = unreconciled(stores, run).await?;
    let items = stores.ledger.item_ids().await.map_err(obstacle)?;
    let waiting = stores.queue.restoring_among(&items).await.map_err(obstacle)?;
    let is_new = |item_id: &ItemId| !left.contains(item_id);
    let waiting: Vec<ItemId> = waiting.into_iter().filter(is_new).collect();
    left.extend(waiting);
    Ok(left)
}

/// Lets the item wait for a replay: until then no drain serves it, and no order is refused for its age. Before the item
/// gets the new epoch. An item whose orders have all expired in the logs, or that opens much later, needs none.
pub(super) async fn await_replay(stores: &Stores, item_id: &ItemId) -> Result<(), ItemError> {
    let (item, now) = (stores.queue.item(item_id).await?, stores.queue.main_time().await?);
    if may_have_orders(&item, now) {
        stores.queue.restore_begin(item_id, RESTORE_WANTED, Duration::ZERO).await?;
    }
    Ok(())
}

fn may_have_orders(item: &Item, now: Stamp) -> bool {
    !item.is_finished()
        && item.opens_at <= now.saturating_add(OPENS_SOON)
        && item.closes_at.is_none_or(|closes_at| closes_at.saturating_add(RETENTION) > now)
}

/// Lets the worker replay all items again that may have orders in the logs of `regions`, which were repointed after items had
/// been replayed. Sales go on until then. A process of order-place may still write to the old Redis for a moment.
pub async fn replay_again(stores: &Stores, regions: &[String]) -> Result<Answer, Obstacle> {
    let (queue, now) = (&stores.queue, stores.queue.main_time().await.map_err(obstacle)?);
    let mut due = 0;
    for item_id in stores.ledger.item_ids().await.map_err(obstacle)? {
        let marked = async {
            match may_have_orders(&queue.item(&item_id).await?, now) {
                true => queue.restore_later(&item_id, AGAIN_AFTER).await,
                false => Ok(false),
            }
        };
        match marked.await {
            Ok(is_due) => due += u64::from(is_due),
            // It is not sold, and waits for its orders when it is reconciled.
            Err(error) if is_of_data(&error) => {}
            Err(error) => return Err(obstacle(error)),
        }
    }
    let (regions, seconds) = (regions.join(", "), AGAIN_AFTER.as_secs());
    Ok(Answer::Done(format!("{due} items are replayed again in {seconds} s: {regions} was repointed late")))
}
