//! The WebSocket API of a region: connections as API Gateway keeps them, and `@connections`.
//!
//! It refuses what AWS refuses: the limits of size, time and rate are in [`SocketLimits`].

mod events;
mod management;
mod throttle;

use crate::aws::lambda::{Invoke, Invoked, timeout_of};
use crate::system::clock::micros_now;
use anyhow::Result;
use axum::body::Body;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderValue, Response, StatusCode};
use axum::serve::ListenerExt;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use throttle::Bucket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// The stage's name, which is also the path of the connections.
pub const STAGE: &str = "live";
const FUNCTION: &str = "live-updates";
/// API Gateway's limit for an integration of a WebSocket API.
const ANSWER_LIMIT: Duration = Duration::from_secs(29);
/// Messages for a client that does not read; more are refused (`LimitExceededException`).
const BUFFERED: usize = 64;
/// A client that has read nothing for this long is disconnected.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// Of each socket; the library's default, 128 KiB, would be a gigabyte for 10,000 of them.
const BUFFER_BYTES: usize = 2_048;

/// The limits of API Gateway.
#[derive(Clone, Copy, Debug)]
pub struct SocketLimits {
    /// The longest message in either direction, in bytes.
    pub message_bytes: usize,
    /// The longest frame of a client, in bytes.
    pub frame_bytes: usize,
    /// A connection ends after this long without a message.
    pub idle: Duration,
    /// A connection ends after this.
    pub life: Duration,
    /// New connections a second.
    pub connects_per_second: u32,
    /// Messages of clients and calls of `@connections` a second, together.
    pub requests_per_second: u32,
    /// The burst of these requests.
    pub burst: u32,
}

impl Default for SocketLimits {
    fn default() -> Self {
        Self {
            message_bytes: 128 * 1024,
            frame_bytes: 32 * 1024,
            idle: Duration::from_secs(600),
            life: Duration::from_secs(7_200),
            connects_per_second: 500,
            requests_per_second: 10_000,
            burst: 5_000,
        }
    }
}

/// A running WebSocket API.
#[derive(Debug)]
pub struct Sockets {
    port: u16,
    hub: Arc<ConnectionHub>,
    serving: JoinHandle<()>,
}

#[derive(Debug)]
struct ConnectionHub {
    region: String,
    invoke: Invoke,
    limits: SocketLimits,
    connects: Bucket,
    requests: Bucket,
    held: Mutex<HashMap<String, OpenConnection>>,
}

#[derive(Clone, Debug)]
struct OpenConnection {
    out: mpsc::Sender<Outgoing>,
    connected_at_ms: u64,
    last_active_ms: u64,
}

#[derive(Debug)]
enum Outgoing {
    Text(String),
    Close,
    Cut,
}

impl Sockets {
    /// Opens a region's WebSocket API on a free port.
    pub async fn open(region: &str, invoke: Invoke, limits: SocketLimits) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let listener = listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        let hub = Arc::new(ConnectionHub {
            region: region.to_owned(),
            invoke,
            limits,
            connects: Bucket::new(limits.connects_per_second, limits.connects_per_second),
            requests: Bucket::new(limits.requests_per_second, limits.burst),
            held: Mutex::default(),
        });
        let router = axum::Router::new().fallback(answer).with_state(hub.clone());
        let serving = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { port, hub, serving })
    }

    /// The address for browsers.
    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}/{STAGE}", self.port)
    }

    /// The address of `@connections` for functions.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/{STAGE}", self.port)
    }

    /// The number of open connections.
    pub fn count(&self) -> usize {
        self.hub.held().len()
    }

    /// Breaks every `nth` connection without a close frame, as a broken network does.
    pub fn cut(&self, nth: usize) {
        let some: Vec<OpenConnection> = self.hub.held().values().step_by(nth.max(1)).cloned().collect();
        for held in some {
            tokio::spawn(async move { held.out.send(Outgoing::Cut).await });
        }
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.serving.abort();
        self.cut(1);
    }
}

impl ConnectionHub {
    fn held(&self) -> MutexGuard<'_, HashMap<String, OpenConnection>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self, id: &str) {
        if let Some(held) = self.held().get_mut(id) {
            held.last_active_ms = micros_now() / 1_000;
        }
    }

    async fn call(&self, event: &Value) -> Result<Invoked> {
        let limit = timeout_of(FUNCTION).map_or(ANSWER_LIMIT, |own| own.min(ANSWER_LIMIT));
        self.invoke.call_within(FUNCTION, event.to_string(), limit).await
    }
}

async fn answer(State(hub): State<Arc<ConnectionHub>>, request: Request) -> Response<Body> {
    let path = request.uri().path().to_owned();
    match path.strip_prefix('/').and_then(|path| path.strip_prefix(STAGE)) {
        Some("" | "/") => connect(hub, request).await,
        Some(rest) => match rest.strip_prefix("/@connections/") {
            Some(id) => management::answer(&hub, id, request).await,
            None => plain(StatusCode::FORBIDDEN, "Forbidden"),
        },
        None => plain(StatusCode::FORBIDDEN, "Forbidden"),
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(json!({ "message": text }).to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    response
}

async fn connect(hub: Arc<ConnectionHub>, request: Request) -> Response<Body> {
    let (mut parts, _) = request.into_parts();
    let Ok(upgrade) = WebSocketUpgrade::from_request_parts(&mut parts, &()).await else {
        return plain(StatusCode::BAD_REQUEST, "Bad Request");
    };
    if !hub.connects.take() || !hub.requests.take() {
        return plain(StatusCode::TOO_MANY_REQUESTS, "Too Many Requests");
    }
    let id = URL_SAFE.encode(rand::random::<[u8; 11]>());
    let connected_at_ms = micros_now() / 1_000;
    let event = events::connect(&hub.region, &id, connected_at_ms, &parts.headers);
    let answer = match hub.call(&event).await {
        Ok(Invoked::Answer(answer)) => answer,
        _ => return plain(StatusCode::BAD_GATEWAY, "Internal server error"),
    };
    let status =
        answer["statusCode"].as_u64().and_then(|status| StatusCode::from_u16(status.try_into().ok()?).ok());
    let Some(status) = status else { return plain(StatusCode::BAD_GATEWAY, "Internal server error") };
    if !status.is_success() {
        let mut refusal = Response::new(Body::from(answer["body"].as_str().unwrap_or_default().to_owned()));
        *refusal.status_mut() = status;
        return refusal;
    }
    let headers = answer["headers"].as_object();
    let protocol =
        headers.into_iter().flatten().find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-protocol"));
    let protocol = protocol.and_then(|(_, value)| value.as_str()).unwrap_or_default().to_owned();
    upgrade
        .protocols([protocol])
        .max_message_size(hub.limits.message_bytes)
        .max_frame_size(hub.limits.frame_bytes)
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(0)
        .on_upgrade(move |socket| async move {
            let (out, outgoing) = mpsc::channel(BUFFERED);
            let held = OpenConnection { out, connected_at_ms, last_active_ms: connected_at_ms };
            hub.held().insert(id.clone(), held);
            let (code, reason) = carry(&hub, &id, connected_at_ms, socket, outgoing).await;
            hub.held().remove(&id);
            let _ = hub.call(&events::disconnect(&hub.region, &id, connected_at_ms, code, &reason)).await;
        })
}

/// Carries messages both ways until the client, the function or a limit ends the connection. Returns close code and
/// reason.
async fn carry(
    hub: &Arc<ConnectionHub>,
    id: &str,
    connected_at_ms: u64,
    socket: WebSocket,
    mut outgoing: mpsc::Receiver<Outgoing>,
) -> (u16, String) {
    let (mut sink, mut stream) = socket.split();
    let life = Instant::now() + hub.limits.life;
    let mut idle = Instant::now() + hub.limits.idle;
    let closed = |code: u16, reason: &str| (code, reason.to_owned());
    let (code, reason) = loop {
        tokio::select! {
            incoming = stream.next() => match incoming {
                Some(Ok(Message::Text(text))) => {
                    idle = Instant::now() + hub.limits.idle;
                    hub.touch(id);
                    tokio::spawn(message(hub.clone(), id.to_owned(), connected_at_ms, text.as_str().to_owned()));
                }
                Some(Ok(Message::Binary(_))) => break closed(1003, "Binary frames are not supported"),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(frame))) => {
                    let (code, reason) = frame.map_or((1005, String::new()), |frame| (frame.code, frame.reason.to_string()));
                    return (code, reason);
                }
                // Only a message or a frame that is too long is the client's fault.
                Some(Err(error)) if error.to_string().contains("too long") => break closed(1009, "Message too long"),
                Some(Err(_)) | None => return closed(1006, "Connection closed abnormally"),
            },
            message = outgoing.recv() => match message {
                Some(Outgoing::Text(text)) => {
                    idle = Instant::now() + hub.limits.idle;
                    match timeout(WRITE_LIMIT, sink.send(Message::Text(text.into()))).await {
                        Ok(Ok(())) => hub.touch(id),
                        _ => return closed(1006, "Connection closed abnormally"),
                    }
                }
                Some(Outgoing::Close) => break closed(1000, "Connection Closed Normally"),
                Some(Outgoing::Cut) | None => return closed(1006, "Connection closed abnormally"),
            },
            () = tokio::time::sleep_until(idle.min(life)) => break closed(1001, "Going away"),
        }
    };
    let frame = CloseFrame { code, reason: reason.as_str().into() };
    let _ = timeout(WRITE_LIMIT, sink.send(Message::Close(Some(frame)))).await;
    (code, reason)
}

/// Invokes the function for a message and sends its answer as the route's response.
async fn message(hub: Arc<ConnectionHub>, id: String, connected_at_ms: u64, text: String) {
    let out = hub.held().get(&id).map(|held| held.out.clone());
    let Some(out) = out else { return };
    let event = events::message(&hub.region, &id, connected_at_ms, &text);
    let failed = |what: &str| {
        let request_id = &event["requestContext"]["requestId"];
        json!({ "message": what, "connectionId": id, "requestId": request_id }).to_string()
    };
    let answer = if hub.requests.take() {
        match hub.call(&event).await {
            Ok(Invoked::Answer(answer)) => match answer["body"].as_str() {
                Some(body) => body.to_owned(),
                None => return,
            },
            _ => failed("Internal server error"),
        }
    } else {
        failed("Too Many Requests")
    };
    let _ = out.send(Outgoing::Text(answer)).await;
}
