//! How messages leave.
//!
//! [`ApiGateway`](crate::api_gateway::ApiGateway) sends each message to each connection. A fan-out service
//! sends an item's message *once*, to all its subscribers: it implements this trait, and nothing else changes.
//! `docs/ARCHITECTURE.md` gives the number of watchers from which a fan-out service is better.

use live::connection_id::ConnectionId;
use shared::item::ItemId;
use std::future::Future;
use std::sync::Arc;

/// The result of sending one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The service took the message. This does not prove that the client received it.
    Delivered,
    /// The connection no longer exists.
    Gone,
    /// The service throttled or failed the call: it must be tried again.
    Failed,
}

/// The result of sending one message to many connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BroadcastResult {
    pub delivered: Vec<ConnectionId>,
    /// Connections that no longer exist.
    pub gone: Vec<ConnectionId>,
    /// Connections to try again.
    pub failed: Vec<ConnectionId>,
}

/// Sends messages to connections. Clones share their limits.
pub trait Transport: Clone + Send + Sync + 'static {
    /// Sends a message to one connection, immediately.
    fn deliver(&self, to: &ConnectionId, text: Arc<str>) -> impl Future<Output = Delivery> + Send;

    /// Sends an item's message to the connections `to`: the watchers of `item_id` that lack it.
    /// A broadcast may take long, and never delays [`deliver`](Self::deliver).
    fn broadcast(
        &self,
        item_id: &ItemId,
        to: Vec<ConnectionId>,
        text: Arc<str>,
    ) -> impl Future<Output = BroadcastResult> + Send;

    /// Closes a connection.
    fn disconnect(&self, connection: &ConnectionId) -> impl Future<Output = Delivery> + Send;
}
