//! Publishing one item: reads its watchers, the item and their orders, and sends the messages that are due.

use crate::PublisherContext;
use crate::order_log_reads::{self, OrderLogReads};
use crate::transport::{BroadcastResult, Delivery, Transport};
use crate::watchers::{OrderUpdate, Watchers};
use live::connection_id::ConnectionId;
use live::registry::{ChangeCursor, Subscription};
use order_log::{LogRecord, OrderLogError};
use serde::Serialize;
use shared::item::{Item, ItemId};
use shared::item_runs::{ItemRunEnd, pause};
use shared::queue::{ItemError, LinkError, MAX_NOTIFICATIONS, MAX_STATUS_BUYERS, ReadFrom};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::collections::HashSet;
use std::ops::AddAssign;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// The pause between two rounds, if the item is read from a replica; from main.
const REPLICA_PAUSE: Duration = Duration::from_millis(25);
const MAIN_PAUSE: Duration = Duration::from_millis(100);
/// The pause between two reads of the item's watchers.
const CHANGES_PAUSE: Duration = Duration::from_millis(100);
/// The least time between two broadcasts of an item: its stock is sent at most four times a second.
const BROADCAST_PAUSE: Duration = Duration::from_millis(250);
/// Orders of an item that the ring reads per second: from a replica; from main.
const REPLICA_RING_READS_PER_SECOND: usize = 5_000;
const MAIN_RING_READS_PER_SECOND: usize = 1_000;
/// The ring reads one watcher's order at most once in this time, even if there are few watchers.
const RING_INTERVAL: Duration = Duration::from_secs(1);
/// An item without watchers is dropped after this time.
const DROP_AFTER: Duration = Duration::from_secs(60);
const FAILURE_PAUSE: Duration = Duration::from_millis(500);
/// The pause between two reads of an item that was archived, while it has watchers.
const ARCHIVED_PAUSE: Duration = Duration::from_secs(5);
/// Publishing stops this long before the run ends, so that messages in flight can finish.
const FINISH_LIMIT: Duration = Duration::from_millis(500);
/// A publisher starts with the tasks of this time, since the previous publisher may have crashed on them.
const TASK_LOOK_BACK: Duration = Duration::from_secs(90);

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Published {
    /// Order messages sent.
    pub orders: u64,
    /// Item messages sent.
    pub items: u64,
    /// Connections that no longer existed.
    pub gone: u64,
    /// Messages that failed, and were or will be tried again.
    pub unsent: u64,
    /// Rounds that failed, and were repeated.
    pub failures: u64,
}

impl AddAssign for Published {
    fn add_assign(&mut self, more: Self) {
        self.orders += more.orders;
        self.items += more.items;
        self.gone += more.gone;
        self.unsent += more.unsent;
        self.failures += more.failures;
    }
}

/// The result of messages in flight.
enum SendOutcome {
    Order(OrderUpdate, Delivery),
    Item(Stamp, BroadcastResult),
    /// A buyer's newest record in the order log.
    Record(UserToken, Result<Option<LogRecord>, OrderLogError>),
}

struct ItemPublisher<O> {
    context: PublisherContext<O>,
    item_id: ItemId,
    watchers: Watchers,
    log_reads: OrderLogReads,
    /// As it was last read.
    item: Option<Item>,
    /// Whether the item had ended when it was last read or sent: if main does not have it, it was archived.
    has_ended: bool,
    cursor: ChangeCursor,
    last_task: String,
    in_flight: JoinSet<SendOutcome>,
    is_broadcasting: bool,
    broadcast_at: Option<Instant>,
    read_changes_at: Option<Instant>,
    ring_read_at: Instant,
    /// When there was a watcher last.
    watched_at: Instant,
    done: Published,
}

/// Publishes `item_id` until `until`, or until it has no watchers.
pub(crate) async fn run<O: Transport>(
    context: PublisherContext<O>,
    item_id: ItemId,
    until: Instant,
) -> ItemRunEnd<Published> {
    let mut done = Published::default();
    let until = until.checked_sub(FINISH_LIMIT).unwrap_or(until);
    while Instant::now() < until {
        if context.is_publisher.load(Ordering::Relaxed) {
            // Start afresh for each lease: another publisher may have sent messages in between.
            let mut publisher = match ItemPublisher::begin(context.clone(), item_id.clone()).await {
                Ok(publisher) => publisher,
                Err(error) => {
                    record_failure(&mut done, &item_id, &error);
                    pause(FAILURE_PAUSE, until).await;
                    continue;
                }
            };
            let has_no_watchers = publisher.publish(until).await;
            done += publisher.done;
            if has_no_watchers {
                return ItemRunEnd { done, restart: true };
            }
        }
        pause(REPLICA_PAUSE, until).await;
    }
    ItemRunEnd { done, restart: false }
}

fn record_failure(done: &mut Published, item_id: &ItemId, error: &ItemError) {
    done.failures += 1;
    metrics::counter!("publish_failures").increment(1);
    tracing::warn!(%error, %item_id, "could not read an item or its watchers; the next round tries again");
}

impl<O: Transport> ItemPublisher<O> {
    async fn begin(context: PublisherContext<O>, item_id: ItemId) -> Result<Self, ItemError> {
        let last_task = context.queue.task_before(&item_id, TASK_LOOK_BACK).await?;
        let mut watchers = Watchers::new(item_id.clone());
        let mut has_ended = false;
        if let Some((version, page)) = context.registry.last_page(&item_id).await? {
            has_ended = page.is_closed();
            watchers.restore_item(version, page);
        }
        let mut publisher = Self {
            context,
            item_id,
            watchers,
            log_reads: OrderLogReads::default(),
            item: None,
            has_ended,
            cursor: ChangeCursor::default(),
            last_task,
            in_flight: JoinSet::new(),
            is_broadcasting: false,
            broadcast_at: None,
            read_changes_at: None,
            ring_read_at: Instant::now(),
            watched_at: Instant::now(),
            done: Published::default(),
        };
        publisher.read_changes(true).await?;
        Ok(publisher)
    }

    /// Publishes until `until`, or until this process is no longer the publisher. Returns whether the item was
    /// dropped, since it has no watchers.
    async fn publish(&mut self, until: Instant) -> bool {
        let step = match self.context.read_from {
            ReadFrom::Replica => REPLICA_PAUSE,
            ReadFrom::Main => MAIN_PAUSE,
        };
        let mut has_no_watchers = false;
        while Instant::now() < until && self.context.is_publisher.load(Ordering::Relaxed) {
            let began = Instant::now();
            let wait = match self.round().await {
                Ok(()) => step,
                Err(ItemError::NoSuchItem(_)) if self.has_ended => ARCHIVED_PAUSE,
                Err(error) => {
                    record_failure(&mut self.done, &self.item_id, &error);
                    FAILURE_PAUSE
                }
            };
            if self.watchers.len() > 0 {
                self.watched_at = Instant::now();
            } else if self.watched_at.elapsed() > DROP_AFTER
                && self.context.registry.unlist(&self.item_id).await.is_ok()
            {
                has_no_watchers = true;
                break;
            }
            let wait = if self.watchers.len() == 0 { CHANGES_PAUSE } else { wait };
            pause(wait.saturating_sub(began.elapsed()), until).await;
        }
        let last = Instant::now() + FINISH_LIMIT;
        while !self.in_flight.is_empty() {
            let Ok(Some(outcome)) = tokio::time::timeout_at(last.into(), self.in_flight.join_next()).await
            else {
                break;
            };
            self.settle(outcome.ok().into_iter().collect()).await;
        }
        has_no_watchers
    }

    async fn round(&mut self) -> Result<(), ItemError> {
        let outcomes = std::iter::from_fn(|| self.in_flight.try_join_next()).filter_map(Result::ok).collect();
        self.settle(outcomes).await;
        let mut to_read = self.watchers.due_retries(self.context.clock.now());
        if self.read_changes_at.is_none_or(|at| at.elapsed() >= CHANGES_PAUSE) {
            to_read.extend(self.read_changes(false).await?);
        }
        if self.watchers.len() == 0 {
            return Ok(());
        }
        to_read.extend(self.read_tasks().await?);
        let limit = self.due_in_ring();
        to_read.extend(self.watchers.next_in_ring(limit, self.context.clock.now()));
        let mut distinct = HashSet::new();
        to_read.retain(|buyer| distinct.insert(buyer.clone()));
        // Every read includes the item, so that there is always at least one.
        let mut chunks: Vec<&[UserToken]> = to_read.chunks(MAX_STATUS_BUYERS).collect();
        if chunks.is_empty() {
            chunks.push(&[]);
        }
        for buyers in chunks {
            self.observe(buyers).await?;
        }
        self.broadcast_item();
        Ok(())
    }

    /// How many orders the ring is due to read.
    fn due_in_ring(&mut self) -> usize {
        let since = self.ring_read_at.elapsed();
        let per_second = match self.context.read_from {
            ReadFrom::Replica => REPLICA_RING_READS_PER_SECOND,
            ReadFrom::Main => MAIN_RING_READS_PER_SECOND,
        };
        let by_rate = since.as_secs_f64() * per_second as f64;
        let by_interval = since.as_secs_f64() / RING_INTERVAL.as_secs_f64() * self.watchers.len() as f64;
        let due = by_rate.min(by_interval) as usize;
        if due > 0 {
            self.ring_read_at = Instant::now();
        }
        due.min(per_second)
    }

    /// Reads which connections began and stopped to watch; returns the buyers of the new ones, whose orders are
    /// to be read.
    async fn read_changes(&mut self, is_first: bool) -> Result<Vec<UserToken>, LinkError> {
        let mut buyers = Vec::new();
        loop {
            let changes = self.context.registry.changes(&self.item_id, &mut self.cursor).await?;
            for connection in &changes.stopped {
                self.watchers.remove(connection);
            }
            let now = self.context.clock.now();
            for (connection, watch) in changes.began {
                if watch.ends_at > now {
                    buyers.push(watch.buyer.clone());
                    self.watchers.add(connection, watch, is_first);
                }
            }
            if !changes.more {
                break;
            }
        }
        self.read_changes_at = Some(Instant::now());
        metrics::gauge!("live_watchers", "Item" => self.item_id.to_string()).set(self.watchers.len() as f64);
        Ok(buyers)
    }

    /// The watching buyers whose orders have new tasks.
    async fn read_tasks(&mut self) -> Result<Vec<UserToken>, LinkError> {
        let mut buyers = Vec::new();
        loop {
            let notifications = self.context.queue.notifications(&self.item_id, &self.last_task).await?;
            let Some(last) = notifications.last() else { break };
            self.last_task.clone_from(&last.id);
            let is_all = notifications.len() < MAX_NOTIFICATIONS as usize;
            let watching = notifications.into_iter().filter_map(|notification| notification.buyer);
            buyers.extend(watching.filter(|buyer| self.watchers.watches(buyer)));
            if is_all {
                break;
            }
        }
        Ok(buyers)
    }

    async fn observe(&mut self, buyers: &[UserToken]) -> Result<(), ItemError> {
        let named: Vec<&UserToken> = buyers.iter().collect();
        let observed = self.context.queue.status(self.context.read_from, &self.item_id, &named).await?;
        let now = self.context.clock.now();
        self.watchers.observe_item(&observed.item, observed.as_of, now);
        for ((buyer, state), released_at) in buyers.iter().zip(observed.orders).zip(observed.releases) {
            let state = self.watchers.main_has(buyer, state, released_at);
            if let (Some(log), Some(last)) = (&self.context.log, self.watchers.accepted(buyer))
                && !observed.item.is_finished()
                && self.log_reads.begin(buyer, state, last, now)
            {
                let reading = order_log_reads::read(log.clone(), self.item_id.clone(), buyer.clone());
                self.in_flight.spawn(async move {
                    let (buyer, outcome) = reading.await;
                    SendOutcome::Record(buyer, outcome)
                });
            }
            for update in self.watchers.observe_order(buyer, state, &observed.item, observed.as_of, now) {
                let transport = self.context.transport.clone();
                self.in_flight.spawn(async move {
                    let delivery = transport.deliver(&update.connection, update.text.clone()).await;
                    SendOutcome::Order(update, delivery)
                });
            }
        }
        self.has_ended = observed.item.is_finished();
        self.item = Some(observed.item);
        Ok(())
    }

    /// Sends the item message to the watchers that lack it, unless a broadcast is running or has just begun.
    fn broadcast_item(&mut self) {
        if self.is_broadcasting || self.broadcast_at.is_some_and(|at| at.elapsed() < BROADCAST_PAUSE) {
            return;
        }
        let Some((version, text, to)) = self.watchers.due_broadcast(self.context.clock.now()) else { return };
        self.is_broadcasting = true;
        self.broadcast_at = Some(Instant::now());
        let (transport, item_id) = (self.context.transport.clone(), self.item_id.clone());
        self.in_flight
            .spawn(async move { SendOutcome::Item(version, transport.broadcast(&item_id, to, text).await) });
    }

    /// Records the results of messages.
    async fn settle(&mut self, outcomes: Vec<SendOutcome>) {
        let now = self.context.clock.now();
        let mut delivered_to: Vec<(ConnectionId, Subscription)> = Vec::new();
        let mut gone: Vec<ConnectionId> = Vec::new();
        let mut sent_page = None;
        for outcome in outcomes {
            match outcome {
                SendOutcome::Record(buyer, outcome) => {
                    let read = self.item.as_ref().and_then(|item| self.log_reads.end(outcome, item, now));
                    if let Some((stamp, status)) = read {
                        self.watchers.observe_log(buyer, stamp, status, now);
                    }
                }
                SendOutcome::Order(update, delivery) => {
                    let delivered = (delivery == Delivery::Delivered).then_some(update.sent);
                    if let Some(watch) = self.watchers.record_delivery(&update.connection, delivered, now) {
                        delivered_to.push((update.connection.clone(), watch));
                    }
                    match delivery {
                        Delivery::Delivered => self.done.orders += 1,
                        Delivery::Gone => gone.push(update.connection),
                        Delivery::Failed => self.done.unsent += 1,
                    }
                }
                SendOutcome::Item(version, result) => {
                    self.is_broadcasting = false;
                    self.watchers.record_broadcast(&result.delivered, version);
                    self.watchers.pause(&result.failed, now);
                    self.done.items += result.delivered.len() as u64;
                    self.done.unsent += result.failed.len() as u64;
                    gone.extend(result.gone);
                    sent_page = self.watchers.published_item().filter(|(newest, _)| *newest == version);
                }
            }
        }
        self.done.gone += gone.len() as u64;
        for connection in &gone {
            self.watchers.remove(connection);
        }
        if let Err(error) = self.save(&delivered_to, &gone, sent_page).await {
            tracing::warn!(
                %error,
                item_id = %self.item_id,
                "could not save which messages were delivered; the next publisher may send them again"
            );
        }
    }

    async fn save(
        &self,
        delivered: &[(ConnectionId, Subscription)],
        gone: &[ConnectionId],
        page: Option<(Stamp, live::message::ItemPage)>,
    ) -> Result<(), LinkError> {
        let registry = &self.context.registry;
        if !delivered.is_empty() {
            registry.record_sent(&self.item_id, delivered).await?;
        }
        for connection in gone {
            registry.forget(connection).await?;
        }
        if let Some((version, page)) = page {
            registry.save_page(&self.item_id, version, &page).await?;
        }
        Ok(())
    }
}
