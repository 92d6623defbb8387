//! What each watcher of an item has received, and which messages are due to whom. Pure functions: no I/O.

use live::connection_id::ConnectionId;
use live::message::{DropReason, ItemMessage, ItemPage, OrderMessage, Status, text};
use live::registry::{SentStatus, Subscription};
use shared::item::{Gate, Item, ItemId};
use shared::queue::OrderState;
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// A position in the queue is sent again after it has changed by a fifth, but not more often than this.
const AHEAD_INTERVAL_MICROS: i64 = 1_000_000;
const AHEAD_SHARE: u64 = 5;
/// Any smaller change of the position is sent after this time.
const AHEAD_SETTLED_MICROS: i64 = 10_000_000;
/// The pause before a failed message is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The watchers of one item.
#[derive(Debug)]
pub(crate) struct Watchers {
    item_id: ItemId,
    by_connection: HashMap<ConnectionId, WatchedConnection>,
    by_buyer: HashMap<UserToken, Vec<ConnectionId>>,
    /// All watchers, in the order in which their orders are read again.
    ring: VecDeque<ConnectionId>,
    /// Buyers to read again, and from when: a message to them failed, or a change came while one was in flight.
    retries: VecDeque<(Stamp, UserToken)>,
    item: Option<PublishedItem>,
    /// Whether the item was finished when it was last read.
    is_finished: bool,
    /// What the order log says about accepted orders, by buyer.
    logged: HashMap<UserToken, Status>,
}

#[derive(Debug)]
struct WatchedConnection {
    subscription: Subscription,
    /// The version of the last item message that it received.
    item_version: Stamp,
    has_message_in_flight: bool,
    /// The order was read again while a message about it was in flight.
    missed_a_change: bool,
    /// Set after a failed message: nothing is sent before.
    paused_until: Option<Stamp>,
}

#[derive(Debug)]
struct PublishedItem {
    version: Stamp,
    page: ItemPage,
    text: Arc<str>,
}

/// An order message for one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OrderUpdate {
    pub(crate) connection: ConnectionId,
    pub(crate) sent: SentStatus,
    pub(crate) text: Arc<str>,
}

impl Watchers {
    pub(crate) fn new(item_id: ItemId) -> Self {
        Self {
            item_id,
            by_connection: HashMap::new(),
            by_buyer: HashMap::new(),
            ring: VecDeque::new(),
            retries: VecDeque::new(),
            item: None,
            is_finished: false,
            logged: HashMap::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_connection.len()
    }

    /// Restores the last item message that the previous publisher sent to all watchers.
    pub(crate) fn restore_item(&mut self, version: Stamp, page: ItemPage) {
        let message = ItemMessage::again(&self.item_id, version, page.clone(), version);
        self.item = Some(PublishedItem { version, page, text: text(&message).into() });
    }

    /// Adds a connection that has subscribed, or subscribed again. It has received the state in `subscription`, and the
    /// item as of that version. A connection from an earlier publisher (`is_inherited`) has also received the
    /// restored item message.
    pub(crate) fn add(&mut self, connection: ConnectionId, subscription: Subscription, is_inherited: bool) {
        let common = self.item.as_ref().filter(|_| is_inherited).map(|item| item.version);
        let item_version =
            common.map_or(subscription.sent.version, |version| version.max(subscription.sent.version));
        if let Some(known) = self.by_connection.get_mut(&connection) {
            known.item_version = known.item_version.max(item_version);
            if subscription.sent.version > known.subscription.sent.version {
                self.logged.remove(&subscription.buyer);
                known.subscription = subscription;
            }
            return;
        }
        self.by_buyer.entry(subscription.buyer.clone()).or_default().push(connection.clone());
        self.ring.push_back(connection.clone());
        let watcher = WatchedConnection {
            subscription,
            item_version,
            has_message_in_flight: false,
            missed_a_change: false,
            paused_until: None,
        };
        self.by_connection.insert(connection, watcher);
    }

    pub(crate) fn remove(&mut self, connection: &ConnectionId) {
        let Some(watcher) = self.by_connection.remove(connection) else { return };
        if let Some(others) = self.by_buyer.get_mut(&watcher.subscription.buyer) {
            others.retain(|other| other != connection);
            if others.is_empty() {
                self.by_buyer.remove(&watcher.subscription.buyer);
                self.logged.remove(&watcher.subscription.buyer);
            }
        }
    }

    pub(crate) fn watches(&self, buyer: &UserToken) -> bool {
        self.by_buyer.contains_key(buyer)
    }

    /// The accepted order that a connection of `buyer` was last sent, if there is one.
    pub(crate) fn accepted(&self, buyer: &UserToken) -> Option<Status> {
        let connections = self.by_buyer.get(buyer)?.iter();
        let sent = connections.filter_map(|connection| self.by_connection.get(connection));
        sent.map(|watcher| watcher.subscription.sent.status)
            .find(|status| matches!(status, Status::Accepted { .. }))
    }

    /// What main has of `buyer`'s order: a unit that was released before the accepted order was made says nothing about it.
    pub(crate) fn main_has(
        &self,
        buyer: &UserToken,
        state: OrderState,
        released_at: Option<Stamp>,
    ) -> OrderState {
        match (state, self.accepted(buyer)) {
            (OrderState::Released | OrderState::Voided, Some(Status::Accepted { placed_at, .. }))
                if released_at.is_some_and(|at| placed_at > at) =>
            {
                OrderState::None
            }
            _ => state,
        }
    }

    /// Takes what the record stamped `stamp`, the newest of `buyer`, says about the accepted order; it is shown at the next
    /// read, which is due. The buyer may have ordered again since the record was read.
    pub(crate) fn observe_log(&mut self, buyer: UserToken, stamp: Stamp, status: Status, now: Stamp) {
        let is_about = |last| matches!(last, Status::Accepted { placed_at, .. } if placed_at <= stamp);
        if self.accepted(&buyer).is_some_and(is_about)
            && self.logged.insert(buyer.clone(), status) != Some(status)
        {
            self.retries.push_front((now, buyer));
        }
    }

    /// The next buyers of the ring whose orders are to be read, at most `limit`. Buyers who have bought are left
    /// out: only a void changes their order, and it is a task. So are, after the end of the item, those who know it. Expired
    /// connections are removed.
    pub(crate) fn next_in_ring(&mut self, limit: usize, now: Stamp) -> Vec<UserToken> {
        let mut buyers = Vec::new();
        for _ in 0..self.ring.len() {
            if buyers.len() >= limit {
                break;
            }
            let Some(connection) = self.ring.pop_front() else { break };
            let Some(watcher) = self.by_connection.get(&connection) else { continue };
            if watcher.subscription.ends_at <= now {
                self.remove(&connection);
                continue;
            }
            let may_change = match watcher.subscription.sent.status {
                Status::Sold => false,
                Status::Over => !self.is_finished,
                _ => true,
            };
            if may_change {
                buyers.push(watcher.subscription.buyer.clone());
            }
            self.ring.push_back(connection);
        }
        buyers
    }

    /// Buyers to read again now: a message to them failed, or their order changed while one was in flight.
    pub(crate) fn due_retries(&mut self, now: Stamp) -> Vec<UserToken> {
        let due = self.retries.iter().take_while(|(from, _)| *from <= now).count();
        self.retries.drain(..due).map(|(_, buyer)| buyer).collect()
    }

    /// Takes the item as read at `as_of`; prepares a message if a buyer would see a difference.
    pub(crate) fn observe_item(&mut self, item: &Item, as_of: Stamp, now: Stamp) {
        self.is_finished = item.is_finished();
        let message = ItemMessage::new(item, as_of, now);
        let has_changed =
            self.item.as_ref().is_none_or(|last| message.version > last.version && message.page != last.page);
        if has_changed {
            let text = text(&message).into();
            self.item = Some(PublishedItem { version: message.version, page: message.page, text });
        }
    }

    /// Takes a buyer's order as read at `as_of`; returns the messages that are due to the buyer's connections.
    pub(crate) fn observe_order(
        &mut self,
        buyer: &UserToken,
        state: OrderState,
        item: &Item,
        as_of: Stamp,
        now: Stamp,
    ) -> Vec<OrderUpdate> {
        let mut updates = Vec::new();
        if state != OrderState::None {
            self.logged.remove(buyer);
        }
        let logged = self.logged.get(buyer).copied();
        for connection in self.by_buyer.get(buyer).into_iter().flatten() {
            let Some(watcher) = self.by_connection.get_mut(connection) else { continue };
            let is_paused = watcher.paused_until.is_some_and(|until| now < until);
            watcher.missed_a_change |= watcher.has_message_in_flight;
            if watcher.has_message_in_flight || is_paused || watcher.subscription.ends_at <= now {
                continue;
            }
            let last = watcher.subscription.sent;
            let sent = SentStatus { version: as_of, status: status(state, last.status, logged, item) };
            if must_be_sent(last, sent) {
                watcher.has_message_in_flight = true;
                let message = OrderMessage::new(&self.item_id, sent.status, as_of, now);
                updates.push(OrderUpdate {
                    connection: connection.clone(),
                    sent,
                    text: text(&message).into(),
                });
            }
        }
        updates
    }

    /// Takes the result of an order message: what was delivered, or `None` if it failed and is to be tried again.
    /// Returns what the registry must store for the connection.
    pub(crate) fn record_delivery(
        &mut self,
        connection: &ConnectionId,
        delivered: Option<SentStatus>,
        now: Stamp,
    ) -> Option<Subscription> {
        let watcher = self.by_connection.get_mut(connection)?;
        watcher.has_message_in_flight = false;
        let missed_a_change = std::mem::take(&mut watcher.missed_a_change);
        if delivered.is_none() {
            watcher.paused_until = retry_at(now);
        }
        if delivered.is_none() || missed_a_change {
            self.retries.push_back((watcher.paused_until.unwrap_or(now), watcher.subscription.buyer.clone()));
        }
        match delivered {
            Some(sent) if sent.version > watcher.subscription.sent.version => {
                watcher.subscription.sent = sent;
                Some(watcher.subscription.clone())
            }
            _ => None,
        }
    }

    /// The newest item message, and the connections that have not received it.
    pub(crate) fn due_broadcast(&self, now: Stamp) -> Option<(Stamp, Arc<str>, Vec<ConnectionId>)> {
        let item = self.item.as_ref()?;
        let behind = self.by_connection.iter().filter(|(_, watcher)| {
            watcher.item_version < item.version
                && watcher.subscription.ends_at > now
                && watcher.paused_until.is_none_or(|until| until <= now)
        });
        let behind: Vec<ConnectionId> = behind.map(|(connection, _)| connection.clone()).collect();
        (!behind.is_empty()).then(|| (item.version, item.text.clone(), behind))
    }

    /// Records that `connections` have received the item message of this version.
    pub(crate) fn record_broadcast(&mut self, connections: &[ConnectionId], version: Stamp) {
        for connection in connections {
            if let Some(watcher) = self.by_connection.get_mut(connection) {
                watcher.item_version = watcher.item_version.max(version);
            }
        }
    }

    /// Sends nothing to `connections` for a while, since a message to them failed.
    pub(crate) fn pause(&mut self, connections: &[ConnectionId], now: Stamp) {
        for connection in connections {
            if let Some(watcher) = self.by_connection.get_mut(connection) {
                watcher.paused_until = retry_at(now);
            }
        }
    }

    /// The newest item message, for the next publisher.
    pub(crate) fn published_item(&self) -> Option<(Stamp, ItemPage)> {
        self.item.as_ref().map(|item| (item.version, item.page.clone()))
    }
}

/// When a failed message is tried again.
fn retry_at(now: Stamp) -> Option<Stamp> {
    Some(now.saturating_add(RETRY_PAUSE))
}

/// The status to send for `state` to a watcher that has received `last`. If an order has left the queue without
/// a trace and its stamp lies outside the gates, the drain refused it. An accepted order stays accepted until main has it,
/// or the order log says something else.
fn status(state: OrderState, last: Status, logged: Option<Status>, item: &Item) -> Status {
    if item.is_finished() {
        return Status::of(state, item);
    }
    match (state, last) {
        (OrderState::None, Status::Refused { .. }) => last,
        (OrderState::None, Status::Accepted { .. }) => logged.unwrap_or(last),
        (OrderState::None, Status::Queued { placed_at, .. }) => match item.gate(placed_at) {
            Gate::NotOpenYet => Status::Refused { placed_at, reason: DropReason::NotOpenYet },
            Gate::Closed => Status::Refused { placed_at, reason: DropReason::Closed },
            Gate::Open => Status::None,
        },
        _ => state.into(),
    }
}

/// Whether `new` is newer than `last`, and differs enough.
fn must_be_sent(last: SentStatus, new: SentStatus) -> bool {
    if new.version <= last.version || new.status == last.status {
        return false;
    }
    match (last.status, new.status) {
        (
            Status::Queued { placed_at: before, ahead: was },
            Status::Queued { placed_at: after, ahead: is },
        ) if before == after => {
            let age = new.version.micros_since(last.version);
            let moved = was.abs_diff(is).saturating_mul(AHEAD_SHARE) >= was;
            age >= AHEAD_SETTLED_MICROS || age >= AHEAD_INTERVAL_MICROS && moved
        }
        _ => true,
    }
}

#[cfg(test)]
#[path = "watchers_tests.rs"]
mod tests;
