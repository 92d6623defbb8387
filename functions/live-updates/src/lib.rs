//! The WebSocket connections of a region's buyers: authentication and subscriptions.
//!
//! The token is verified once, at `$connect`; the connection then represents its buyer until the token expires.
//! Answers are returned as the route's response. Only `live-publish` sends unrequested messages and closes
//! connections.

mod client_message;
mod connect;
mod event;
mod messages;

pub use client_message::{ClientMessage, MAX_MESSAGE_BYTES};
pub use event::{SocketEvent, SocketResponse};

use event::SocketEventType;
use live::connection_id::ConnectionId;
use live::registry::Registry;
use order_log::OrderLog;
use shared::config::{ConfigError, RedisConfig, Source};
use shared::edge::Edge;
use shared::main_use::MainUse;
use shared::problem::Problem;
use shared::queue::Link;

/// State that one process of the function keeps between events.
#[derive(Debug)]
pub struct App {
    edge: Edge,
    registry: Registry,
    /// The region's order log, if orders go through it.
    log: Option<OrderLog>,
}

impl App {
    /// Reads the configuration. Opens no connection.
    pub fn from_config(source: Source) -> Result<Self, ConfigError> {
        Ok(Self {
            edge: Edge::from_config(source, MainUse::Always)?,
            registry: Registry::new(Link::new(RedisConfig::live(source)?)),
            log: OrderLog::from_config(source)?,
        })
    }

    /// Starts connecting in the background.
    pub fn open(&self) {
        self.edge.open();
        self.registry.open();
    }
}

/// Handles one event of a connection.
pub async fn handle(app: &App, event: SocketEvent) -> SocketResponse {
    let connection: ConnectionId = match event.context.connection_id.parse() {
        Ok(connection) => connection,
        Err(error) => {
            tracing::error!(%error, "could not read the connection ID of a WebSocket event; refusing the event");
            return SocketResponse::refusal(&Problem::Internal);
        }
    };
    match event.context.event_type {
        SocketEventType::Connect => connect::connect(app, &connection, &event).await,
        SocketEventType::Message => messages::answer(app, &connection, &event).await,
        SocketEventType::Disconnect => {
            // If this event is lost or this call fails, the registry entry expires by itself.
            if let Err(error) = app.registry.forget(&connection).await {
                tracing::warn!(
                    %error,
                    %connection,
                    "could not remove a disconnected connection from the registry; its entry will expire"
                );
            }
            SocketResponse::ok()
        }
    }
}
