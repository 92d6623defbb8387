//! A buyer's WebSocket, as in a browser: it keeps the latest state that it received, and drops what is older.

use anyhow::{Result, bail};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::InvalidHeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// The longest that a handshake may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(35);
/// The library's default, 128 KiB, would be a gigabyte for 10,000 sockets.
const BUFFER_BYTES: usize = 2_048;

/// An open socket.
#[derive(Debug)]
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// The latest state that it received.
    pub latest: LatestMessages,
    /// The code with which the server has closed it.
    pub closed_with: Option<u16>,
}

/// The latest item and order that were received. They may outlive a socket.
#[derive(Clone, Debug, Default)]
pub struct LatestMessages {
    items: HashMap<String, Value>,
    orders: HashMap<String, Value>,
    /// Messages that were older than the state, and were dropped.
    pub dropped: u64,
}

impl LatestMessages {
    /// Keeps a message if it is newer than the state.
    fn take(&mut self, message: &Value) {
        let parts = match message["type"].as_str() {
            Some("subscribed") => vec![&message["item"], &message["order"]],
            Some("item" | "order") => vec![message],
            _ => Vec::new(),
        };
        for part in parts {
            let known = if part["type"] == "item" { &mut self.items } else { &mut self.orders };
            let item_id = part["item_id"].as_str().unwrap_or_default();
            let version = |part: &Value| part["version"].as_u64().unwrap_or_default();
            match known.get(item_id) {
                Some(last) if version(last) > version(part) => self.dropped += 1,
                _ => {
                    known.insert(item_id.to_owned(), part.clone());
                }
            }
        }
    }

    /// The buyer's order.
    pub fn order(&self, item_id: &str) -> Option<&Value> {
        self.orders.get(item_id)
    }

    pub fn item(&self, item_id: &str) -> Option<&Value> {
        self.items.get(item_id)
    }

    /// The order's status.
    pub fn status(&self, item_id: &str) -> Option<&str> {
        self.order(item_id).and_then(|order| order["status"].as_str())
    }
}

/// Why a WebSocket handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The gateway answered with a status other than 101.
    #[error("the gateway answered the WebSocket handshake with status {0}")]
    Refused(u16),
    /// The connection failed.
    #[error("the WebSocket handshake failed")]
    Failed(#[source] Box<Error>),
    /// The subprotocols are not a valid header value.
    #[error("the subprotocols are not a valid header value")]
    Subprotocols(#[source] InvalidHeaderValue),
    /// The gateway did not answer in time.
    #[error("the gateway did not answer the WebSocket handshake within {} s", CONNECT_LIMIT.as_secs())]
    TimedOut,
}

impl Socket {
    /// Connects to `url` with the buyer's token.
    pub async fn connect(url: &str, token: &str) -> Result<Self, HandshakeError> {
        Self::offer(url, &format!("fairdrop.live.v1, bearer.{token}")).await
    }

    /// Connects to `url`, and offers these subprotocols.
    pub async fn offer(url: &str, protocols: &str) -> Result<Self, HandshakeError> {
        let failed = |error: Error| match error {
            Error::Http(response) => HandshakeError::Refused(response.status().as_u16()),
            error => HandshakeError::Failed(Box::new(error)),
        };
        let mut request = url.into_client_request().map_err(failed)?;
        let protocols = HeaderValue::from_str(protocols).map_err(HandshakeError::Subprotocols)?;
        request.headers_mut().insert("sec-websocket-protocol", protocols);
        let config = WebSocketConfig::default().read_buffer_size(BUFFER_BYTES).write_buffer_size(0);
        let connecting = tokio_tungstenite::connect_async_with_config(request, Some(config), true);
        let connected = timeout(CONNECT_LIMIT, connecting).await;
        let (stream, _) = connected.map_err(|_| HandshakeError::TimedOut)?.map_err(failed)?;
        Ok(Self { stream, latest: LatestMessages::default(), closed_with: None })
    }

    /// Sends a message.
    pub async fn send_message(&mut self, message: &Value) -> Result<()> {
        self.send(Message::text(message.to_string())).await
    }

    /// Sends any frame.
    pub async fn send(&mut self, message: Message) -> Result<()> {
        Ok(self.stream.send(message).await?)
    }

    /// The next message within `limit`; `None` if there is none, or the socket is closed.
    pub async fn receive(&mut self, limit: Duration) -> Option<Value> {
        let deadline = Instant::now() + limit;
        while self.closed_with.is_none() {
            match timeout_at(deadline, self.stream.next()).await.ok()? {
                Some(Ok(Message::Text(text))) => {
                    let message: Value = serde_json::from_str(&text).ok()?;
                    self.latest.take(&message);
                    return Some(message);
                }
                Some(Ok(Message::Close(frame))) => {
                    self.closed_with = Some(frame.map_or(1005, |frame| frame.code.into()));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => self.closed_with = Some(1006),
            }
        }
        None
    }

    /// Sends a message and waits for an answer of the type `expected`.
    pub async fn ask(&mut self, message: &Value, expected: &str, limit: Duration) -> Result<Value> {
        self.send_message(message).await?;
        let deadline = Instant::now() + limit;
        while let Some(answer) = self.receive(deadline.saturating_duration_since(Instant::now())).await {
            if answer["type"] == expected {
                return Ok(answer);
            }
            if answer["type"] == "problem" || answer["type"].is_null() {
                bail!("the answer to {message} is {answer}, and {expected} was expected");
            }
        }
        bail!("no answer to {message} within {limit:?}; close code: {:?}", self.closed_with)
    }

    /// Subscribes to an item.
    pub async fn subscribe(&mut self, item_id: &str) -> Result<Value> {
        let message = json!({ "action": "subscribe", "item_id": item_id });
        self.ask(&message, "subscribed", CONNECT_LIMIT).await
    }
}
