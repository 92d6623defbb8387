//! The checkout queue on the main region's Redis.
//!
//! An order is [placed](Queue::place) with its region's stamp, waits for the settle window or longer, and is then
//! [drained](Queue::drain) into a reservation. The drain raises the item's watermark over what it takes, and nothing at or
//! below the watermark can be placed. So reservations are made in exact `(placed_at, user_token)` order, whatever the
//! network does and however long the delay is.
//!
//! The ledger decides about a reservation: the checkout worker [takes](Queue::take_tasks) it from the async task
//! queue, and [writes](Queue::settle) the ledger's decision here.
//!
//! An atomic operation is a script (`*.lua`). It is sent by its hash. A connection loads its process's
//! scripts when it opens, and a call loads its script again if the server has lost it.

mod attempts;
mod breaker;
mod connect;
mod connection;
mod copies;
mod drain;
mod exclude;
mod finish;
mod heartbeat;
mod idle;
mod items;
mod keys;
mod leave;
mod link;
mod order;
mod place;
mod primary;
mod replicas;
mod restore;
mod settle;
mod status;
mod tasks;
mod token_keys;

pub use attempts::MAX_HOLD_GRACE;
pub use connect::Connection;
pub use connection::{
    MAX_IDLE, MAX_LIFE, RECONNECT_PAUSE, REPLACE_AFTER, REPLACE_JITTER, Scripts, random_part_of,
};
pub use copies::{ItemCopy, MAX_REPLICA_LAG};
pub use drain::{DRAIN_SCRIPT, DrainBatch, MAX_BATCH};
pub use finish::FinishStep;
pub use heartbeat::{HEARTBEAT_INTERVAL, Heartbeat, SPARE_HEARTBEAT_INTERVAL};
pub use idle::IdleRules;
pub use items::{ItemError, MAX_ITEMS};
pub use keys::{
    ACTIVATED_ITEMS, FAILOVER_MARKER, FAILOVER_RUN, HEARTBEAT, IDLE_ITEMS, ITEMS, Keys, LEASED_UNTIL,
    REPLICATION_MARKER, TOKEN_KEYS,
};
pub use leave::{LEAVE_SCRIPT, Leave, Withdrawal, Withdrawn};
pub use link::{Link, LinkError, MAX_IN_FLIGHT};
pub use order::{Hold, OrderState};
pub use place::{
    BatchOrder, MAX_PLACED, MAX_WINDOW, Order, PLACE_BATCH_SCRIPT, PLACE_SCRIPT, PlaceError, Placement,
    Placing,
};
pub(crate) use place::{FIRST_PAUSE, MAX_PAUSE};
pub use restore::{
    RESTORE_PAUSE, RESTORE_REPETITIONS, RESTORE_SLOTS, RESTORE_TIMEOUT, RESTORE_WANTED, RestoreBegin,
    RestoreCall, RestoreCause, RestoreEnd, RestoreGivenUp, RestoredBatch,
};
pub use settle::{DueBatch, DueReservation, ReservationOutcome, Settlement};
pub use status::{ItemStatus, MAX_NOTIFICATIONS, MAX_STATUS_BUYERS, Notification, ReadFrom};
pub use tasks::{
    CANCELLED_OFFSET_MICROS, MAX_COUNTED, MAX_DEAD_LETTERS, NO_HOLD_MICROS, Reservation, TASK_HISTORY, Task,
    TaskBody,
};
pub use token_keys::StoredTokenKeys;

use std::time::Duration;

/// The scripts of a region that takes orders: its connection to main loads them when it opens.
pub const ORDER_SCRIPTS: Scripts = &[&place::SCRIPT, &leave::SCRIPT];
/// The scripts of a function that places batches of orders.
pub const BATCH_SCRIPTS: Scripts = &[&place::BATCH_SCRIPT, &leave::SCRIPT];
/// The scripts of the functions in main.
pub const CHECKOUT_SCRIPTS: Scripts = &[
    &drain::SCRIPT,
    &settle::SETTLE,
    &settle::DUE,
    &attempts::ATTEMPT,
    &heartbeat::SCRIPT,
    &idle::ACTIVE_ITEMS,
    &idle::ACTIVATE,
];

/// The checkout queue, over one [`Link`]. Cloning shares the connection.
#[derive(Clone, Debug)]
pub struct Queue {
    link: Link,
    has_order_logs: bool,
}

impl Queue {
    /// The queue on the Redis at the other end of `link`.
    pub fn new(link: Link) -> Self {
        Self { link, has_order_logs: false }
    }

    /// The same queue, whose lost orders can be restored from order logs if `has_order_logs`.
    pub fn with_order_logs(self, has_order_logs: bool) -> Self {
        Self { has_order_logs, ..self }
    }

    /// Whether lost orders can be restored from order logs.
    pub fn has_order_logs(&self) -> bool {
        self.has_order_logs
    }

    /// Starts to connect in the background.
    pub fn open(&self) {
        self.link.open();
    }

    /// The default time limit of a call.
    pub fn call_limit(&self) -> Duration {
        self.link.call_limit()
    }
}
