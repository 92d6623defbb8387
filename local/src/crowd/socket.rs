//! A buyer's socket, as a browser holds it: it keeps the latest of what it hears, and drops what is older.

use anyhow::{Result, bail};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
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
    /// What is known from it.
    pub latest: LatestMessages,
    /// The code with which the server has closed it.
    pub closed_with: Option<u16>,
}

/// The latest of what was heard; it may outlive a socket.
#[derive(Clone, Debug, Default)]
pub struct LatestMessages {
    items: HashMap<String, Value>,
    orders: HashMap<String, Value>,
    /// Messages that were older than what was known.
    pub dropped: u64,
}

impl LatestMessages {
    /// Keeps what is newer than what is known.
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

    /// How the buyer's order stands.
    pub fn order(&self, item_id: &str) -> Option<&Value> {
        self.orders.get(item_id)
    }

    /// How the item stands.
    pub fn item(&self, item_id: &str) -> Option<&Value> {
        self.items.get(item_id)
    }

    /// The order's status.
    pub fn status(&self, item_id: &str) -> Option<&str> {
        self.order(item_id).and_then(|order| order["status"].as_str())
    }
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The gateway's answer was not `101`.
    #[error("the handshake is answered {0}")]
    Refused(u16),
    /// There was none.
    #[error("there is no handshake: {0}")]
    Failed(String),
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
            error => HandshakeError::Failed(error.to_string()),
        };
        let mut request = url.into_client_request().map_err(failed)?;
        let protocols = protocols.parse().map_err(|_| HandshakeError::Failed("no header".into()))?;
        request.headers_mut().insert("sec-websocket-protocol", protocols);
        let config = WebSocketConfig::default().read_buffer_size(BUFFER_BYTES).write_buffer_size(0);
        let connecting = tokio_tungstenite::connect_async_with_config(request, Some(config), true);
        let connected = timeout(CONNECT_LIMIT, connecting).await;
        let (stream, _) =
            connected.map_err(|_| HandshakeError::Failed("no answer".into()))?.map_err(failed)?;
        Ok(Self { stream, latest: LatestMessages::default(), closed_with: None })
    }

    /// Says something.
    pub async fn send_message(&mut self, message: &Value) -> Result<()> {
        self.send(Message::text(message.to_string())).await
    }

    /// Sends any frame.
    pub async fn send(&mut self, message: Message) -> Result<()> {
        Ok(self.stream.send(message).await?)
    }

    /// The next message within `limit`; `None` where none comes, or the socket is closed.
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

    /// Says something and waits for an answer of the type `expected`.
    pub async fn ask(&mut self, message: &Value, expected: &str, limit: Duration) -> Result<Value> {
        self.send_message(message).await?;
        let deadline = Instant::now() + limit;
        while let Some(answer) = self.receive(deadline.saturating_duration_since(Instant::now())).await {
            if answer["type"] == expected {
                return Ok(answer);
            }
            if answer["type"] == "problem" || answer["type"].is_null() {
                bail!("{message} is answered {answer}");
            }
        }
        bail!("{message} is not answered within {limit:?}; closed: {:?}", self.closed_with)
    }

    /// Subscribes to an item.
    pub async fn subscribe(&mut self, item_id: &str) -> Result<Value> {
        let wish = json!({ "action": "subscribe", "item_id": item_id });
        self.ask(&wish, "subscribed", CONNECT_LIMIT).await
    }
}
