//! A buyer who watches an item, and comes back whenever the line breaks, as docs/LIVE.md asks for.

use crate::crowd::socket::{Newest, NotConnected, Socket};
use crate::system::clock::micros_now;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// From the first to the longest pause before connecting again; shorter than a browser's, to spare the tests
/// the time.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));
/// How often it asks whether the line stands, and for how long it waits for the answer.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PONG_LIMIT: Duration = Duration::from_secs(10);

/// A buyer at their page.
#[derive(Debug)]
pub struct Watcher {
    known: Arc<Mutex<Known>>,
    watching: JoinHandle<()>,
}

/// What they know.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Of item and order.
    pub newest: Newest,
    /// Whether they are subscribed at the moment.
    pub is_subscribed: bool,
    /// How often they have subscribed.
    pub subscribed: u64,
    /// Messages heard.
    pub heard: u64,
    /// Handshakes that failed.
    pub refused: u64,
    /// Each status that was shown, and when (µs).
    pub shown: Vec<(String, u64)>,
}

impl Watcher {
    /// Watches `item_id` until it is dropped.
    pub fn sit_down(url: String, token: String, item_id: String) -> Self {
        let known = Arc::new(Mutex::new(Known::default()));
        let watching = tokio::spawn(watch(known.clone(), url, token, item_id));
        Self { known, watching }
    }

    /// What they know now.
    pub fn known(&self) -> Known {
        lock(&self.known).clone()
    }

    /// The order's status as it is shown; empty where nothing is known.
    pub fn status(&self) -> String {
        lock(&self.known).shown.last().map(|(status, _)| status.clone()).unwrap_or_default()
    }

    /// Whether they are subscribed at the moment.
    pub fn is_subscribed(&self) -> bool {
        lock(&self.known).is_subscribed
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn watch(known: Arc<Mutex<Known>>, url: String, token: String, item_id: String) {
    let mut pause = PAUSES.0;
    loop {
        match Socket::connect(&url, &token).await {
            Ok(socket) => {
                if sit(&known, socket, &item_id).await {
                    pause = PAUSES.0;
                }
            }
            Err(NotConnected::Refused(_) | NotConnected::Failed(_)) => lock(&known).refused += 1,
        }
        lock(&known).is_subscribed = false;
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.5))).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Until the line breaks; says whether anything was heard.
async fn sit(known: &Mutex<Known>, mut socket: Socket, item_id: &str) -> bool {
    socket.newest = lock(known).newest.clone();
    let subscribe = json!({ "action": "subscribe", "item_id": item_id });
    if socket.say(&subscribe).await.is_err() {
        return false;
    }
    let mut was_heard = false;
    let mut is_waiting_for_pong = false;
    loop {
        let limit = if is_waiting_for_pong { PONG_LIMIT } else { PING_INTERVAL };
        match socket.hear(limit).await {
            Some(message) => {
                was_heard = true;
                note(known, &socket, &message, item_id);
                let ends = message["ends"] == true || message["message"].is_string();
                let is_forgotten = message["type"] == "pong"
                    && !message["items"]
                        .as_array()
                        .is_some_and(|items| items.iter().any(|item| item == item_id));
                // A refused subscription is asked for again, on a new line.
                if ends || is_forgotten || message["type"] == "problem" {
                    return was_heard;
                }
                is_waiting_for_pong &= message["type"] != "pong";
            }
            None if socket.closed_with.is_some() || is_waiting_for_pong => return was_heard,
            None => {
                if socket.say(&json!({ "action": "ping" })).await.is_err() {
                    return was_heard;
                }
                is_waiting_for_pong = true;
            }
        }
    }
}

fn note(known: &Mutex<Known>, socket: &Socket, message: &Value, item_id: &str) {
    let mut known = lock(known);
    known.heard += 1;
    if message["type"] == "subscribed" {
        known.is_subscribed = true;
        known.subscribed += 1;
    }
    known.newest = socket.newest.clone();
    let Some(status) = socket.newest.status(item_id) else { return };
    if known.shown.last().is_none_or(|(last, _)| last != status) {
        known.shown.push((status.to_owned(), micros_now()));
    }
}
