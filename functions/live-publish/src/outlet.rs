//! Where messages go out.
//!
//! [`ApiGateway`](crate::api_gateway::ApiGateway) sends each message to each connection. A service that fans
//! out by itself sends an item's message *once*, to all who are subscribed there: it implements this trait,
//! and nothing else changes. `docs/ARCHITECTURE.md` says from how many watchers on that is the better way.

use live::connection_id::ConnectionId;
use shared::item::ItemId;
use std::future::Future;
use std::sync::Arc;

/// What came of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way.
    Delivered,
    /// The connection is there no more.
    Gone,
    /// Not now: it is to be tried again.
    NotNow,
}

/// What came of a message to many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Who was told.
    pub delivered: Vec<ConnectionId>,
    /// Who is there no more.
    pub gone: Vec<ConnectionId>,
    /// Who is to be tried again.
    pub missed: Vec<ConnectionId>,
}

/// Sends messages to connections. Cloning shares its limits.
pub trait Outlet: Clone + Send + Sync + 'static {
    /// Tells one connection, at once.
    fn tell(&self, to: &ConnectionId, text: Arc<str>) -> impl Future<Output = Sent> + Send;

    /// Tells all who watch `item_id` and are not up to date, `to`. It may take a while, and never holds up
    /// [`tell`](Self::tell).
    fn tell_all(
        &self,
        item_id: &ItemId,
        to: Vec<ConnectionId>,
        text: Arc<str>,
    ) -> impl Future<Output = Round> + Send;

    /// Ends a connection.
    fn end(&self, connection: &ConnectionId) -> impl Future<Output = Sent> + Send;
}
