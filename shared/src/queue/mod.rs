//! The checkout queue on the main region's Redis.
//!
//! An order is [placed](Queue::place) with its region's stamp, waits until the
//! settle window has passed, and is then [drained](Queue::drain) into a
//! reservation. Between the two, nothing that could still come in is older than
//! anything that goes out: reservations leave in exact `(placed_at, user_token)`
//! order whatever the network does.
//!
//! What becomes of a reservation is the ledger's to decide: the checkout worker
//! [takes](Queue::take_tasks) it from the async task queue, and what the ledger said
//! is [settled](Queue::settle) here.
//!
//! What must be atomic is a script (`*.lua`), sent by its hash and loaded again
//! where the server has forgotten it.

mod drain;
mod items;
mod keys;
mod link;
mod order;
mod place;
mod replicas;
mod settle;
mod status;
mod tasks;

pub use drain::{DrainBatch, MAX_BATCH};
pub use items::{ItemError, MAX_ITEMS};
pub use keys::{HEARTBEAT, ITEMS, Keys, REPLICATION_MARK};
pub use link::{Link, LinkError, MAX_IDLE, MAX_IN_FLIGHT, RECONNECT_PAUSE};
pub use order::{Hold, Leave, OrderState};
pub(crate) use place::{FIRST_PAUSE, MAX_PAUSE};
pub use place::{Order, PLACE_SCRIPT, PlaceError, Placement, Placing};
pub use settle::{DueBatch, DueReservation, ReservationOutcome, Settlement};
pub use status::{
    HEARTBEAT_INTERVAL, ItemStatus, MAX_NOTIFICATIONS, MAX_STATUS_BUYERS, Notification, ReadFrom,
};
pub use tasks::{
    CANCELLED_OFFSET_MICROS, MAX_COUNTED, MAX_DEAD_LETTERS, NO_HOLD_MICROS, Reservation, TASK_HISTORY, Task,
    TaskBody,
};

use std::time::Duration;

/// The checkout queue, over one [`Link`]. Cloning shares the connection.
#[derive(Clone, Debug)]
pub struct Queue {
    link: Link,
}

impl Queue {
    /// The queue on the Redis at the other end of `link`.
    pub fn new(link: Link) -> Self {
        Self { link }
    }

    /// Starts connecting in the background.
    pub fn open(&self) {
        self.link.open();
    }

    /// The longest that a call takes which has no tighter limit of its own.
    pub fn call_limit(&self) -> Duration {
        self.link.call_limit()
    }
}
