//! The watch over one item: who watches, how it stands, who is told.

use crate::Desk;
use crate::board::{Board, ToTell};
use crate::outlet::{Outlet, Round, Sent};
use live::connection_id::ConnectionId;
use live::registry::{Cursor, Watch};
use serde::Serialize;
use shared::item::ItemId;
use shared::item_runs::Ended;
use shared::queue::{ItemError, LinkError, MAX_LOOKED_AT, MAX_NEWS, Reader};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::collections::HashSet;
use std::ops::AddAssign;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Between two looks at an item's tasks, on a replica; on main itself.
const REPLICA_PAUSE: Duration = Duration::from_millis(25);
const MAIN_PAUSE: Duration = Duration::from_millis(100);
/// Between two looks at who watches.
const CHANGES_PAUSE: Duration = Duration::from_millis(100);
/// Between two messages about an item, at least: its stock is told four times a second.
const ITEM_PAUSE: Duration = Duration::from_millis(250);
/// Buyers of an item that are looked at in turn, in a second: on a replica; on main itself.
const REPLICA_LOOKS: usize = 5_000;
const MAIN_LOOKS: usize = 1_000;
/// Everybody's turn does not come more often than this, however few they are.
const TURN: Duration = Duration::from_secs(1);
/// After this without watchers an item is not watched any more.
const REST_AFTER: Duration = Duration::from_secs(60);
/// The pause after a failure, and while it is another publisher's turn.
const FAILURE_PAUSE: Duration = Duration::from_millis(500);
/// A turn ends so long before its run, for what is on its way.
const LAST_WAIT: Duration = Duration::from_millis(500);
/// A turn begins with what has happened since so long ago: whoever had the turn before may have died of it.
const LOOK_BACK: Duration = Duration::from_secs(90);

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Published {
    /// Messages about orders that went out.
    pub orders: u64,
    /// Messages about items that went out.
    pub items: u64,
    /// Connections that had gone.
    pub gone: u64,
    /// Messages that did not go out, and were or will be tried again.
    pub missed: u64,
    /// Rounds that failed and were repeated.
    pub failures: u64,
}

impl AddAssign for Published {
    fn add_assign(&mut self, more: Self) {
        self.orders += more.orders;
        self.items += more.items;
        self.gone += more.gone;
        self.missed += more.missed;
        self.failures += more.failures;
    }
}

/// What comes back of what went out.
enum Outcome {
    Order(ToTell, Sent),
    Item(Stamp, Round),
}

struct ItemWatch<O> {
    desk: Desk<O>,
    item_id: ItemId,
    board: Board,
    cursor: Cursor,
    last_task: String,
    under_way: JoinSet<Outcome>,
    is_telling_item: bool,
    told_item_at: Option<Instant>,
    read_changes_at: Option<Instant>,
    looked_in_turn_at: Instant,
    watched_at: Instant,
    done: Published,
}

/// Watches over `item_id` until `until`, or until nobody watches.
pub(crate) async fn run<O: Outlet>(desk: Desk<O>, item_id: ItemId, until: Instant) -> Ended<Published> {
    let mut done = Published::default();
    let until = until.checked_sub(LAST_WAIT).unwrap_or(until);
    while Instant::now() < until {
        if desk.is_on.load(Ordering::Relaxed) {
            // A board of its own for each turn: another may have told since.
            let mut watch = match ItemWatch::begin(desk.clone(), item_id.clone()).await {
                Ok(watch) => watch,
                Err(error) => {
                    note(&mut done, &item_id, &error);
                    pause(FAILURE_PAUSE, until).await;
                    continue;
                }
            };
            let rests = watch.turn(until).await;
            done += watch.done;
            if rests {
                return Ended { done, look_again: true };
            }
        }
        pause(REPLICA_PAUSE, until).await;
    }
    Ended { done, look_again: false }
}

async fn pause(pause: Duration, until: Instant) {
    tokio::time::sleep(pause.min(until.saturating_duration_since(Instant::now()))).await;
}

fn note(done: &mut Published, item_id: &ItemId, error: &ItemError) {
    done.failures += 1;
    metrics::counter!("publish_failures").increment(1);
    tracing::warn!(%error, %item_id, "an item's watchers are told later");
}

impl<O: Outlet> ItemWatch<O> {
    async fn begin(desk: Desk<O>, item_id: ItemId) -> Result<Self, ItemError> {
        let last_task = desk.queue.task_before(&item_id, LOOK_BACK).await?;
        let mut board = Board::new(item_id.clone());
        if let Some((version, page)) = desk.registry.last_page(&item_id).await? {
            board.recall(version, page);
        }
        let mut watch = Self {
            desk,
            item_id,
            board,
            cursor: Cursor::default(),
            last_task,
            under_way: JoinSet::new(),
            is_telling_item: false,
            told_item_at: None,
            read_changes_at: None,
            looked_in_turn_at: Instant::now(),
            watched_at: Instant::now(),
            done: Published::default(),
        };
        watch.read_changes(true).await?;
        Ok(watch)
    }

    /// Until `until`, or until the turn is another's; says whether the item rests, since nobody watches.
    async fn turn(&mut self, until: Instant) -> bool {
        let step = match self.desk.reader {
            Reader::Replica => REPLICA_PAUSE,
            Reader::Main => MAIN_PAUSE,
        };
        let mut rests = false;
        while Instant::now() < until && self.desk.is_on.load(Ordering::Relaxed) {
            let began = Instant::now();
            let wait = match self.round().await {
                Ok(()) => step,
                Err(error) => {
                    note(&mut self.done, &self.item_id, &error);
                    FAILURE_PAUSE
                }
            };
            if self.board.len() > 0 {
                self.watched_at = Instant::now();
            } else if self.watched_at.elapsed() > REST_AFTER
                && self.desk.registry.rest(&self.item_id).await.is_ok()
            {
                rests = true;
                break;
            }
            let wait = if self.board.len() == 0 { CHANGES_PAUSE } else { wait };
            pause(wait.saturating_sub(began.elapsed()), until).await;
        }
        let last = Instant::now() + LAST_WAIT;
        while !self.under_way.is_empty() {
            let Ok(Some(outcome)) = tokio::time::timeout_at(last.into(), self.under_way.join_next()).await
            else {
                break;
            };
            self.settle(outcome.ok().into_iter().collect()).await;
        }
        rests
    }

    async fn round(&mut self) -> Result<(), ItemError> {
        let outcomes = std::iter::from_fn(|| self.under_way.try_join_next()).filter_map(Result::ok).collect();
        self.settle(outcomes).await;
        let mut to_look_at = self.board.again(self.desk.clock.now());
        if self.read_changes_at.is_none_or(|at| at.elapsed() >= CHANGES_PAUSE) {
            to_look_at.extend(self.read_changes(false).await?);
        }
        if self.board.len() == 0 {
            return Ok(());
        }
        to_look_at.extend(self.read_tasks().await?);
        let in_turn = self.due_in_turn();
        to_look_at.extend(self.board.next_in_turn(in_turn, self.desk.clock.now()));
        let mut seen = HashSet::new();
        to_look_at.retain(|buyer| seen.insert(buyer.clone()));
        // The item itself is in every look, and looked at where nobody else is.
        let mut chunks: Vec<&[UserToken]> = to_look_at.chunks(MAX_LOOKED_AT).collect();
        if chunks.is_empty() {
            chunks.push(&[]);
        }
        for buyers in chunks {
            self.look(buyers).await?;
        }
        self.tell_item();
        Ok(())
    }

    /// How many are due to be looked at in turn.
    fn due_in_turn(&mut self) -> usize {
        let since = self.looked_in_turn_at.elapsed();
        let per_second = match self.desk.reader {
            Reader::Replica => REPLICA_LOOKS,
            Reader::Main => MAIN_LOOKS,
        };
        let by_rate = since.as_secs_f64() * per_second as f64;
        let by_turn = since.as_secs_f64() / TURN.as_secs_f64() * self.board.len() as f64;
        let due = by_rate.min(by_turn) as usize;
        if due > 0 {
            self.looked_in_turn_at = Instant::now();
        }
        due.min(per_second)
    }

    /// Who has come and gone; returns who is to be looked at for having come.
    async fn read_changes(&mut self, at_the_beginning: bool) -> Result<Vec<UserToken>, LinkError> {
        let mut buyers = Vec::new();
        loop {
            let changes = self.desk.registry.changes(&self.item_id, &mut self.cursor).await?;
            for connection in &changes.stopped {
                self.board.forget(connection);
            }
            let now = self.desk.clock.now();
            for (connection, watch) in changes.began {
                if watch.ends_at > now {
                    buyers.push(watch.buyer.clone());
                    self.board.begin(connection, watch, at_the_beginning);
                }
            }
            if !changes.more {
                break;
            }
        }
        self.read_changes_at = Some(Instant::now());
        metrics::gauge!("live_watchers", "Item" => self.item_id.to_string()).set(self.board.len() as f64);
        Ok(buyers)
    }

    /// Watching buyers of whose orders something has become.
    async fn read_tasks(&mut self) -> Result<Vec<UserToken>, LinkError> {
        let mut buyers = Vec::new();
        loop {
            let news = self.desk.queue.news(&self.item_id, &self.last_task).await?;
            let Some(last) = news.last() else { break };
            self.last_task.clone_from(&last.id);
            let is_all = news.len() < MAX_NEWS as usize;
            let watching = news.into_iter().filter_map(|news| news.buyer);
            buyers.extend(watching.filter(|buyer| self.board.watches(buyer)));
            if is_all {
                break;
            }
        }
        Ok(buyers)
    }

    async fn look(&mut self, buyers: &[UserToken]) -> Result<(), ItemError> {
        let named: Vec<&UserToken> = buyers.iter().collect();
        let look = self.desk.queue.look(self.desk.reader, &self.item_id, &named).await?;
        let now = self.desk.clock.now();
        self.board.see_item(&look.item, look.as_of, now);
        for (buyer, state) in buyers.iter().zip(look.orders) {
            for to_tell in self.board.see_order(buyer, state, &look.item, look.as_of, now) {
                let outlet = self.desk.outlet.clone();
                self.under_way.spawn(async move {
                    let sent = outlet.tell(&to_tell.connection, to_tell.text.clone()).await;
                    Outcome::Order(to_tell, sent)
                });
            }
        }
        Ok(())
    }

    /// Tells all who are behind how the item stands, unless that is under way or was a moment ago.
    fn tell_item(&mut self) {
        if self.is_telling_item || self.told_item_at.is_some_and(|at| at.elapsed() < ITEM_PAUSE) {
            return;
        }
        let Some((version, text, to)) = self.board.round(self.desk.clock.now()) else { return };
        self.is_telling_item = true;
        self.told_item_at = Some(Instant::now());
        let (outlet, item_id) = (self.desk.outlet.clone(), self.item_id.clone());
        self.under_way
            .spawn(async move { Outcome::Item(version, outlet.tell_all(&item_id, to, text).await) });
    }

    /// Takes note of what came of messages.
    async fn settle(&mut self, outcomes: Vec<Outcome>) {
        let now = self.desk.clock.now();
        let mut known: Vec<(ConnectionId, Watch)> = Vec::new();
        let mut gone: Vec<ConnectionId> = Vec::new();
        let mut page_told = None;
        for outcome in outcomes {
            match outcome {
                Outcome::Order(to_tell, sent) => {
                    let told = (sent == Sent::Delivered).then_some(to_tell.told);
                    if let Some(watch) = self.board.told(&to_tell.connection, told, now) {
                        known.push((to_tell.connection.clone(), watch));
                    }
                    match sent {
                        Sent::Delivered => self.done.orders += 1,
                        Sent::Gone => gone.push(to_tell.connection),
                        Sent::NotNow => self.done.missed += 1,
                    }
                }
                Outcome::Item(version, round) => {
                    self.is_telling_item = false;
                    self.board.has_page(&round.delivered, version);
                    self.board.missed(&round.missed, now);
                    self.done.items += round.delivered.len() as u64;
                    self.done.missed += round.missed.len() as u64;
                    gone.extend(round.gone);
                    page_told = self.board.page().filter(|(newest, _)| *newest == version);
                }
            }
        }
        self.done.gone += gone.len() as u64;
        for connection in &gone {
            self.board.forget(connection);
        }
        if let Err(error) = self.keep(&known, &gone, page_told).await {
            // The next publisher will say again what was said.
            tracing::warn!(%error, "what was told is not kept");
        }
    }

    async fn keep(
        &self,
        known: &[(ConnectionId, Watch)],
        gone: &[ConnectionId],
        page: Option<(Stamp, live::message::ItemPage)>,
    ) -> Result<(), LinkError> {
        let registry = &self.desk.registry;
        if !known.is_empty() {
            registry.told(&self.item_id, known).await?;
        }
        for connection in gone {
            registry.forget(connection).await?;
        }
        if let Some((version, page)) = page {
            registry.keep_page(&self.item_id, version, &page).await?;
        }
        Ok(())
    }
}
