//! The names of keys in Redis. No other module builds one.

use crate::item::ItemId;

/// The set of all item ids.
pub const ITEMS: &str = "items";
/// Sorted set: idle items → the end of their idle time (µs). Its hash tag puts it into one slot with [`ITEMS`].
pub const IDLE_ITEMS: &str = "idle:{items}";
/// Sorted set: items → when a change was last announced (µs), for a while.
pub const ACTIVATED_ITEMS: &str = "activated:{items}";
/// Main's clock at the latest heartbeat, for readers of a replica.
pub const HEARTBEAT: &str = "heartbeat";
/// Until when main may sell (µs), for the edges. Written together with [`HEARTBEAT`], whose hash tag it has.
pub const LEASED_UNTIL: &str = "{heartbeat}:leased_until";

/// The replication marker: written only for replicas to acknowledge it.
pub const REPLICATION_MARKER: &str = "replication_marker";

/// Written on main's Redis in a failover after the lease has ended: a standby that has it has all earlier writes.
pub const FAILOVER_MARKER: &str = "failover_marker";

/// The id of the failover that uses a Redis which an operator has named. So the run may name it again after it has written
/// items into it.
pub const FAILOVER_RUN: &str = "failover_run";

/// Hash `document`, `fetched_at`: the identity provider's public keys, as the newest fetch found them.
pub const TOKEN_KEYS: &str = "token_keys";

/// The keys of one item. Each has the hash tag `{item_id}`, so that a script with several of them runs on Redis or
/// Valkey Cluster.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Hash: the item itself.
    pub item: String,
    /// Sorted set `user_token` → `placed_at`: the checkout queue.
    pub orders: String,
    /// Sorted set `user_token` → when the hold ends (µs), `+inf` once sold.
    pub reservations: String,
    /// Sorted set `user_token` → the end of the hold (µs) before which a payment was reported.
    pub attempts: String,
    /// Stream: the async task queue.
    pub tasks: String,
    /// Sorted set `user_token` → the stamp of the buyer's latest withdrawal that came through an order log; expires.
    pub left: String,
    /// Sorted set `user_token` → the stamp of the order for which the unit is reserved; expires.
    pub served: String,
    /// Stream: tasks that could not be processed, with the reason.
    pub dead_letters: String,
    /// Hash slot → the latest call of the [restore](super::RestoreCall) in progress, and its answer; expires.
    pub restored: String,
}

impl Keys {
    /// All of them.
    pub fn all(&self) -> [&str; 9] {
        let Self { item, orders, reservations, attempts, tasks, left, served, dead_letters, restored } = self;
        [item, orders, reservations, attempts, tasks, left, served, dead_letters, restored]
            .map(String::as_str)
    }

    pub fn of(item_id: &ItemId) -> Self {
        Self {
            item: format!("item:{{{item_id}}}"),
            orders: format!("orders:{{{item_id}}}"),
            reservations: format!("reservations:{{{item_id}}}"),
            attempts: format!("attempts:{{{item_id}}}"),
            tasks: format!("tasks:{{{item_id}}}"),
            left: format!("left:{{{item_id}}}"),
            served: format!("served:{{{item_id}}}"),
            dead_letters: format!("dead_letters:{{{item_id}}}"),
            restored: format!("restored:{{{item_id}}}"),
        }
    }

    /// Sorted set: reservations that the rebuild `token` reads from the ledger. Rebuilds of one item may overlap, so that
    /// each has a key of its own.
    pub fn rebuild(item_id: &ItemId, token: &str) -> String {
        format!("rebuild:{token}:{{{item_id}}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys_of_an_item_share_a_hash_tag() {
        let item_id = "sneaker-42".parse().unwrap();
        let (keys, rebuild) = (Keys::of(&item_id), Keys::rebuild(&item_id, "token"));
        for key in keys.all().into_iter().chain([rebuild.as_str()]) {
            assert!(key.ends_with(":{sneaker-42}"), "{key}");
        }
    }
}
