//! What each watcher of an item knows, and who must be told what. It talks to nobody.

use live::connection_id::ConnectionId;
use live::message::{ItemMessage, ItemPage, OrderMessage, Refusal, Status, text};
use live::registry::{Told, Watch};
use shared::item::{Gate, Item, ItemId};
use shared::queue::OrderState;
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// A place in line is told again once it has changed by a fifth, and not more often than this.
const AHEAD_INTERVAL_MICROS: i64 = 1_000_000;
const AHEAD_SHARE: u64 = 5;
/// By whatever it has changed, it is told again after this.
const AHEAD_SETTLED_MICROS: i64 = 10_000_000;
/// Whoever could not be told is left alone for this long.
const AGAIN_MICROS: u64 = 500_000;

/// What all watchers of an item know.
#[derive(Debug)]
pub(crate) struct Board {
    item_id: ItemId,
    watchers: HashMap<ConnectionId, Watcher>,
    of_buyer: HashMap<UserToken, Vec<ConnectionId>>,
    /// Everybody, in the order in which they will be looked at again.
    ring: VecDeque<ConnectionId>,
    /// Buyers who were passed over or could not be told, and from when on they are to be looked at again.
    again: VecDeque<(Stamp, UserToken)>,
    page: Option<Page>,
}

#[derive(Debug)]
struct Watcher {
    watch: Watch,
    /// The version of the item's message that it has.
    item_version: Stamp,
    is_being_told: bool,
    /// It was looked at while it was being told something.
    was_passed_over: bool,
    /// Not to be told anything before.
    rests_until: Option<Stamp>,
}

#[derive(Debug)]
struct Page {
    version: Stamp,
    page: ItemPage,
    text: Arc<str>,
}

/// A message to one connection about its buyer's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ToTell {
    pub(crate) connection: ConnectionId,
    pub(crate) told: Told,
    pub(crate) text: Arc<str>,
}

impl Board {
    pub(crate) fn new(item_id: ItemId) -> Self {
        Self {
            item_id,
            watchers: HashMap::new(),
            of_buyer: HashMap::new(),
            ring: VecDeque::new(),
            again: VecDeque::new(),
            page: None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.watchers.len()
    }

    /// What all watchers had been told when this publisher's turn came.
    pub(crate) fn recall(&mut self, version: Stamp, page: ItemPage) {
        let message = ItemMessage::again(&self.item_id, version, page.clone(), version);
        self.page = Some(Page { version, page, text: text(&message).into() });
    }

    /// A connection watches, or has asked again: it knows what `watch` says, and the item as of then. Where
    /// it was `found` at the beginning of a turn, it knows what all know.
    pub(crate) fn begin(&mut self, connection: ConnectionId, watch: Watch, was_found: bool) {
        let common = self.page.as_ref().filter(|_| was_found).map(|page| page.version);
        let item_version = common.map_or(watch.told.version, |version| version.max(watch.told.version));
        if let Some(known) = self.watchers.get_mut(&connection) {
            known.item_version = known.item_version.max(item_version);
            if watch.told.version > known.watch.told.version {
                known.watch = watch;
            }
            return;
        }
        self.of_buyer.entry(watch.buyer.clone()).or_default().push(connection.clone());
        self.ring.push_back(connection.clone());
        let watcher =
            Watcher { watch, item_version, is_being_told: false, was_passed_over: false, rests_until: None };
        self.watchers.insert(connection, watcher);
    }

    /// A connection watches no more.
    pub(crate) fn forget(&mut self, connection: &ConnectionId) {
        let Some(watcher) = self.watchers.remove(connection) else { return };
        if let Some(others) = self.of_buyer.get_mut(&watcher.watch.buyer) {
            others.retain(|other| other != connection);
            if others.is_empty() {
                self.of_buyer.remove(&watcher.watch.buyer);
            }
        }
    }

    pub(crate) fn watches(&self, buyer: &UserToken) -> bool {
        self.of_buyer.contains_key(buyer)
    }

    /// The next `most` buyers to be looked at again, those that have bought left out: nothing more comes.
    /// Connections whose time is over are forgotten on the way.
    pub(crate) fn next_in_turn(&mut self, most: usize, now: Stamp) -> Vec<UserToken> {
        let mut buyers = Vec::new();
        for _ in 0..self.ring.len() {
            if buyers.len() >= most {
                break;
            }
            let Some(connection) = self.ring.pop_front() else { break };
            let Some(watcher) = self.watchers.get(&connection) else { continue };
            if watcher.watch.ends_at <= now {
                self.forget(&connection);
                continue;
            }
            if watcher.watch.told.status != Status::Sold {
                buyers.push(watcher.watch.buyer.clone());
            }
            self.ring.push_back(connection);
        }
        buyers
    }

    /// Buyers who are to be looked at again: while they were being told something, something newer was seen,
    /// or they could not be told.
    pub(crate) fn again(&mut self, now: Stamp) -> Vec<UserToken> {
        let due = self.again.iter().take_while(|(from, _)| *from <= now).count();
        self.again.drain(..due).map(|(_, buyer)| buyer).collect()
    }

    /// The item stands so.
    pub(crate) fn see_item(&mut self, item: &Item, as_of: Stamp, now: Stamp) {
        let message = ItemMessage::new(item, as_of, now);
        let is_news =
            self.page.as_ref().is_none_or(|last| message.version > last.version && message.page != last.page);
        if is_news {
            let text = text(&message).into();
            self.page = Some(Page { version: message.version, page: message.page, text });
        }
    }

    /// A buyer's order stands so: who of their connections must be told.
    pub(crate) fn see_order(
        &mut self,
        buyer: &UserToken,
        state: OrderState,
        item: &Item,
        as_of: Stamp,
        now: Stamp,
    ) -> Vec<ToTell> {
        let mut to_tell = Vec::new();
        for connection in self.of_buyer.get(buyer).into_iter().flatten() {
            let Some(watcher) = self.watchers.get_mut(connection) else { continue };
            let rests = watcher.rests_until.is_some_and(|until| now < until);
            watcher.was_passed_over |= watcher.is_being_told;
            if watcher.is_being_told || rests || watcher.watch.ends_at <= now {
                continue;
            }
            let last = watcher.watch.told;
            let told = Told { version: as_of, status: status(state, last.status, item) };
            if must_be_told(last, told) {
                watcher.is_being_told = true;
                let message = OrderMessage::new(&self.item_id, told.status, as_of, now);
                to_tell.push(ToTell { connection: connection.clone(), told, text: text(&message).into() });
            }
        }
        to_tell
    }

    /// A connection has been told, or not: then it is tried again. Returns what is now known of it.
    pub(crate) fn told(
        &mut self,
        connection: &ConnectionId,
        told: Option<Told>,
        now: Stamp,
    ) -> Option<Watch> {
        let watcher = self.watchers.get_mut(connection)?;
        watcher.is_being_told = false;
        let was_passed_over = std::mem::take(&mut watcher.was_passed_over);
        if told.is_none() {
            watcher.rests_until = later(now);
        }
        if told.is_none() || was_passed_over {
            self.again.push_back((watcher.rests_until.unwrap_or(now), watcher.watch.buyer.clone()));
        }
        match told {
            Some(told) if told.version > watcher.watch.told.version => {
                watcher.watch.told = told;
                Some(watcher.watch.clone())
            }
            _ => None,
        }
    }

    /// Who has not got the item's newest message, and the message.
    pub(crate) fn round(&self, now: Stamp) -> Option<(Stamp, Arc<str>, Vec<ConnectionId>)> {
        let page = self.page.as_ref()?;
        let behind = self.watchers.iter().filter(|(_, watcher)| {
            watcher.item_version < page.version
                && watcher.watch.ends_at > now
                && watcher.rests_until.is_none_or(|until| until <= now)
        });
        let behind: Vec<ConnectionId> = behind.map(|(connection, _)| connection.clone()).collect();
        (!behind.is_empty()).then(|| (page.version, page.text.clone(), behind))
    }

    /// These have got the item's message of this version.
    pub(crate) fn has_page(&mut self, connections: &[ConnectionId], version: Stamp) {
        for connection in connections {
            if let Some(watcher) = self.watchers.get_mut(connection) {
                watcher.item_version = watcher.item_version.max(version);
            }
        }
    }

    /// These could not be told, and are left alone for a while.
    pub(crate) fn missed(&mut self, connections: &[ConnectionId], now: Stamp) {
        for connection in connections {
            if let Some(watcher) = self.watchers.get_mut(connection) {
                watcher.rests_until = later(now);
            }
        }
    }

    /// The item's newest message, for the next publisher.
    pub(crate) fn page(&self) -> Option<(Stamp, ItemPage)> {
        self.page.as_ref().map(|page| (page.version, page.page.clone()))
    }
}

/// When whoever could not be told is tried again.
fn later(now: Stamp) -> Option<Stamp> {
    Stamp::from_micros(now.as_micros() + AGAIN_MICROS).ok()
}

/// What a watcher who was told `last` is told of `state`. An order that has left the queue without a trace,
/// and whose stamp the gates forbid, was refused by the drain.
fn status(state: OrderState, last: Status, item: &Item) -> Status {
    match (state, last) {
        (OrderState::None, Status::Refused { .. }) => last,
        (OrderState::None, Status::Queued { placed_at, .. }) => match item.gate(placed_at) {
            Gate::NotOpenYet => Status::Refused { placed_at, reason: Refusal::NotOpenYet },
            Gate::Closed => Status::Refused { placed_at, reason: Refusal::Closed },
            Gate::Open => Status::None,
        },
        _ => state.into(),
    }
}

/// Whether `new` is newer than `last`, and says something else.
fn must_be_told(last: Told, new: Told) -> bool {
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
#[path = "board_tests.rs"]
mod tests;
