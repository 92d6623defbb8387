//! The sockets of a region's buyers: who they are, and what they watch.
//!
//! The token is verified once, at `$connect`; from then on the connection stands for its buyer until the
//! token expires. Answers go back as the route's response. Nothing is sent from here unasked, and nothing is
//! closed: that is `live-publish`'s, which alone may do so.

mod connect;
mod event;
mod request;
mod speak;

pub use event::{Answer, SocketEvent};
pub use request::{MAX_MESSAGE_BYTES, Request};

use event::Kind;
use live::connection_id::ConnectionId;
use live::registry::Registry;
use shared::config::{ConfigError, RedisConfig, Source};
use shared::edge::Edge;
use shared::problem::Problem;
use shared::queue::Link;

/// What one process of the function keeps between events.
#[derive(Debug)]
pub struct App {
    edge: Edge,
    registry: Registry,
}

impl App {
    /// Reads the configuration. Nothing is connected yet.
    pub fn from_config(source: Source) -> Result<Self, ConfigError> {
        Ok(Self {
            edge: Edge::from_config(source)?,
            registry: Registry::new(Link::new(RedisConfig::live(source)?)),
        })
    }

    /// Starts connecting in the background.
    pub fn open(&self) {
        self.edge.open();
        self.registry.open();
    }
}

/// Answers one event of a socket.
pub async fn handle(app: &App, event: SocketEvent) -> Answer {
    let connection: ConnectionId = match event.context.connection_id.parse() {
        Ok(connection) => connection,
        Err(error) => {
            tracing::error!(%error, "an event names no connection");
            return Answer::refusal(&Problem::Internal);
        }
    };
    match event.context.event_type {
        Kind::Connect => connect::connect(app, &connection, &event).await,
        Kind::Message => speak::answer(app, &connection, &event).await,
        Kind::Disconnect => {
            // Where it does not come, or is not heard, the registry's expiry does the same.
            if let Err(error) = app.registry.forget(&connection).await {
                tracing::warn!(%error, "a connection that has gone is not forgotten yet");
            }
            Answer::ok()
        }
    }
}
