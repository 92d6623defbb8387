//! A buyer who watches an item, and connects again when the connection breaks, as docs/LIVE.md asks for.

use crate::crowd::socket::{LatestMessages, Socket};
use crate::system::clock::micros_now;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// The first and the longest pause before connecting again; shorter than a browser's, to save time in tests.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));
/// Interval of pings, and how long the watcher waits for a pong.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PONG_LIMIT: Duration = Duration::from_secs(10);

/// A buyer with the item's page open.
#[derive(Debug)]
pub struct Watcher {
    state: Arc<Mutex<ReceivedState>>,
    watching: JoinHandle<()>,
}

/// What a watcher has received.
#[derive(Clone, Debug, Default)]
pub struct ReceivedState {
    pub latest: LatestMessages,
    pub is_subscribed: bool,
    /// Number of subscriptions so far.
    pub subscribed: u64,
    /// Messages received.
    pub received: u64,
    /// Handshakes that failed.
    pub refused: u64,
    /// Each status that was shown, and when (µs).
    pub shown: Vec<(String, u64)>,
}

impl Watcher {
    /// Watches `item_id` until it is dropped.
    pub fn start(url: String, token: String, item_id: String) -> Self {
        let state = Arc::new(Mutex::new(ReceivedState::default()));
        let watching = tokio::spawn(watch(state.clone(), url, token, item_id));
        Self { state, watching }
    }

    /// The state now.
    pub fn state(&self) -> ReceivedState {
        lock(&self.state).clone()
    }

    /// The order's status as it is shown; empty if none is known.
    pub fn status(&self) -> String {
        lock(&self.state).shown.last().map(|(status, _)| status.clone()).unwrap_or_default()
    }

    /// Whether the watcher is subscribed now.
    pub fn is_subscribed(&self) -> bool {
        lock(&self.state).is_subscribed
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

fn lock(state: &Mutex<ReceivedState>) -> MutexGuard<'_, ReceivedState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn watch(state: Arc<Mutex<ReceivedState>>, url: String, token: String, item_id: String) {
    let mut pause = PAUSES.0;
    loop {
        match Socket::connect(&url, &token).await {
            Ok(socket) => {
                if watch_connection(&state, socket, &item_id).await {
                    pause = PAUSES.0;
                }
            }
            Err(_) => lock(&state).refused += 1,
        }
        lock(&state).is_subscribed = false;
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.5))).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Watches until the connection ends. Returns whether any message was received.
async fn watch_connection(state: &Mutex<ReceivedState>, mut socket: Socket, item_id: &str) -> bool {
    socket.latest = lock(state).latest.clone();
    let subscribe = json!({ "action": "subscribe", "item_id": item_id });
    if socket.send_message(&subscribe).await.is_err() {
        return false;
    }
    let mut has_received = false;
    let mut is_waiting_for_pong = false;
    loop {
        let limit = if is_waiting_for_pong { PONG_LIMIT } else { PING_INTERVAL };
        match socket.receive(limit).await {
            Some(message) => {
                has_received = true;
                note(state, &socket, &message, item_id);
                let ends = message["ends"] == true || message["message"].is_string();
                let is_forgotten = message["type"] == "pong"
                    && !message["items"]
                        .as_array()
                        .is_some_and(|items| items.iter().any(|item| item == item_id));
                // A refused subscription is requested again, over a new connection.
                if ends || is_forgotten || message["type"] == "problem" {
                    return has_received;
                }
                is_waiting_for_pong &= message["type"] != "pong";
            }
            None if socket.closed_with.is_some() || is_waiting_for_pong => return has_received,
            None => {
                if socket.send_message(&json!({ "action": "ping" })).await.is_err() {
                    return has_received;
                }
                is_waiting_for_pong = true;
            }
        }
    }
}

fn note(state: &Mutex<ReceivedState>, socket: &Socket, message: &Value, item_id: &str) {
    let mut state = lock(state);
    state.received += 1;
    if message["type"] == "subscribed" {
        state.is_subscribed = true;
        state.subscribed += 1;
    }
    state.latest = socket.latest.clone();
    let Some(status) = socket.latest.status(item_id) else { return };
    if state.shown.last().is_none_or(|(last, _)| last != status) {
        state.shown.push((status.to_owned(), micros_now()));
    }
}
