//! The registry of a region's connections and watchers, in the region's own Redis.
//!
//! Every entry expires, so that a connection that disappeared without an event costs nothing after a while. If the
//! registry is lost, clients get an error at their next `ping` and connect again.

mod connections;
mod watchers;

pub use connections::{Connected, Ending, Speaker, Why};
pub use watchers::{ChangeCursor, Changes, SentStatus, Subscription};

use shared::item::ItemId;
use shared::queue::{Link, LinkError};

/// The maximum number of connections of one buyer in a region. A newer one ends the oldest.
pub const MAX_CONNECTIONS: u32 = 5;
/// The maximum number of connects of one buyer in [`CONNECT_WINDOW_SECONDS`], in a region.
pub const MAX_CONNECTS: u32 = 30;
pub const CONNECT_WINDOW_SECONDS: u32 = 60;
/// The maximum number of messages of one connection in [`MESSAGE_WINDOW_SECONDS`]. Further messages are refused.
pub const MAX_MESSAGES: u32 = 30;
pub const MESSAGE_WINDOW_SECONDS: u32 = 10;
/// A connection with this number of messages in a window is ended.
pub const FLOOD: u32 = 4 * MAX_MESSAGES;
/// The maximum number of items that one connection watches.
pub const MAX_SUBSCRIPTIONS: u32 = 8;
/// The maximum lifetime of a connection, which API Gateway sets.
pub const MAX_LIFE_SECONDS: u32 = 7_200;
/// The maximum number of entries that one call reads or writes.
pub const MAX_ENTRIES: usize = 500;
/// How long the registry keeps the end of a subscription, for publishers to read.
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

    /// Starts to connect in the background.
    pub fn open(&self) {
        self.link.open();
    }
}

/// The keys of one item.
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

fn malformed() -> LinkError {
    LinkError::Refused("the registry returned a malformed answer".into())
}
