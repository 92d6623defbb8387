//! Who watches what in a region, in the region's own Redis.
//!
//! Everything in it expires: a connection that vanished without a word costs nothing after a while.
//! If it is lost, those connected are told so at their next `ping`, and connect again.

mod connections;
mod watchers;

pub use connections::{Connected, Ending, Speaker, Why};
pub use watchers::{ChangeCursor, Changes, SentStatus, Subscription};

use shared::item::ItemId;
use shared::queue::{Link, LinkError};

/// The most connections of one buyer in a region; a newer one ends the oldest.
pub const MAX_CONNECTIONS: u32 = 5;
/// The most connects of one buyer in [`CONNECT_WINDOW_SECONDS`], in a region.
pub const MAX_CONNECTS: u32 = 30;
/// In which connects are counted.
pub const CONNECT_WINDOW_SECONDS: u32 = 60;
/// The most messages of one connection in [`MESSAGE_WINDOW_SECONDS`]; more are not answered.
pub const MAX_MESSAGES: u32 = 30;
/// In which messages are counted.
pub const MESSAGE_WINDOW_SECONDS: u32 = 10;
/// A connection with so many messages in a window is ended.
pub const FLOOD: u32 = 4 * MAX_MESSAGES;
/// The most items that one connection watches.
pub const MAX_SUBSCRIPTIONS: u32 = 8;
/// The longest life of a connection: API Gateway's.
pub const MAX_LIFE_SECONDS: u32 = 7_200;
/// The most entries that one call reads or writes.
pub const MAX_ENTRIES: usize = 500;
/// How long it is remembered that somebody has stopped watching.
pub const UNWATCHED_SECONDS: u32 = 120;

/// The registry, over one [`Link`]. Cloning shares the connection.
#[derive(Clone, Debug)]
pub struct Registry {
    link: Link,
}

impl Registry {
    /// The registry on the Redis at the other end of `link`.
    pub fn new(link: Link) -> Self {
        Self { link }
    }

    /// Starts connecting in the background.
    pub fn open(&self) {
        self.link.open();
    }
}

/// Those of an item.
struct ItemKeys {
    watchers: String,
    changes: String,
    unwatched: String,
}

impl ItemKeys {
    fn of(item_id: &ItemId) -> Self {
        Self {
            watchers: format!("watchers:{{{item_id}}}"),
            changes: format!("watch_changes:{{{item_id}}}"),
            unwatched: format!("unwatched:{{{item_id}}}"),
        }
    }
}

fn senseless() -> LinkError {
    LinkError::Refused("the registry's answer makes no sense".into())
}
