//! Which connection a [`Link`](super::Link) uses: when one is opened, replaced and dropped.
//!
//! A dropped connection is not closed under the commands in flight: each of them keeps it until it has its answer.

use super::breaker::Breaker;
use super::connect::Connection;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use redis::{RedisResult, Script};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// A connection that was unused for longer must answer a PING before it is used, and another one opens beside it if it
/// does not soon. The network may have dropped it while the function was frozen (AWS drops idle flows after 350 s); but
/// at an opening, most of the connections that Lambda kept ready are as old, and alive.
pub const MAX_IDLE: Duration = Duration::from_secs(300);
/// The minimum time between two attempts to connect.
pub const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause after attempts in vain. Until DNS has moved, a demoted server accepts each connection and refuses the
/// first write; an overloaded one answers no handshake in time. Each costs a TLS handshake on both sides.
const MAX_RECONNECT_PAUSE: Duration = Duration::from_secs(2);
/// A connection that is dropped earlier after its start was opened in vain.
const SHORT_LIFE: Duration = Duration::from_secs(2);
/// A connection in use is replaced after this time, plus up to [`REPLACE_JITTER`]. It could otherwise stay with a
/// demoted or fenced server for as long as the process lives. Its replacement opens beside it.
pub const REPLACE_AFTER: Duration = Duration::from_secs(240);
/// Spreads the replacements: the processes of a drop connect at the same moment, and each TLS handshake costs main's
/// one thread milliseconds.
pub const REPLACE_JITTER: Duration = Duration::from_secs(120);
/// No command is sent on an older connection, even if its replacement cannot be opened.
pub const MAX_LIFE: Duration = Duration::from_secs(420);
/// The minimum time between two attempts to open a replacement.
const REPLACE_PAUSE: Duration = Duration::from_secs(5);
/// The maximum number of scripts that a connection loads when it opens.
const MAX_LOADED_SCRIPTS: usize = 8;

/// The scripts that a connection loads when it opens.
pub type Scripts = &'static [&'static LazyLock<Script>];
pub(super) type Opening = Shared<BoxFuture<'static, RedisResult<Connection>>>;

/// How an attempt begins.
pub(super) enum Start {
    /// It connects after this pause.
    After(Duration),
    /// It tries a connection that was unused for long, and connects beside it. The first that answers is used.
    Beside(Connection),
}

/// A connection, or an attempt to open one.
struct Attempt {
    generation: u64,
    opening: Opening,
    started: Instant,
    replace_at: Instant,
    ends_at: Instant,
    /// Whether a PING of the connection is in flight.
    is_probed: bool,
}

impl Attempt {
    fn has_failed(&self) -> bool {
        matches!(self.opening.peek(), Some(Err(_)))
    }

    fn is_open(&self) -> bool {
        matches!(self.opening.peek(), Some(Ok(_)))
    }
}

/// The connection in use, and the one that will replace it.
#[derive(Default)]
pub(super) struct ConnectionSlot {
    generation: u64,
    current: Option<Attempt>,
    replacement: Option<Attempt>,
    started: Option<Instant>,
    /// The number of attempts in a row that opened no connection, or one with a short life.
    in_vain: u32,
    /// The number of attempts in a row that opened no connection, for the breaker.
    breaker: Breaker,
    last_used: Option<Instant>,
}

impl ConnectionSlot {
    /// The connection to use at `now`, with its generation. `connect` starts an attempt. `None`: the last attempts have
    /// failed, and the next one is due later; only a slot that `breaks` returns it.
    pub(super) fn take(
        &mut self,
        now: Instant,
        breaks: bool,
        connect: impl Fn(Start) -> Opening,
    ) -> Option<(u64, Opening)> {
        if self.last_used.is_some_and(|used| now.duration_since(used) > MAX_IDLE) {
            self.replacement = None;
            self.current = self.current.take().and_then(|old| self.doubt(now, &old, &connect));
        }
        self.last_used = Some(now);
        // An attempt may have failed long ago, without a caller to discard it.
        if let Some(failed) = self.current.take_if(|current| current.has_failed()) {
            self.record_end(now, &failed);
        }
        self.current.take_if(|current| current.ends_at <= now);
        match &self.current {
            Some(current) if current.is_open() => self.breaker.reset(),
            _ if breaks && self.breaker.refuses(now) => return None,
            _ => {}
        }
        if self.replacement.take_if(|replacement| replacement.has_failed()).is_some()
            && let Some(current) = &mut self.current
        {
            current.replace_at = now + REPLACE_PAUSE;
        }
        let opened = self.replacement.take_if(|replacement| replacement.is_open());
        let next = opened.or_else(|| self.current.take()).or_else(|| self.replacement.take());
        let current = next.unwrap_or_else(|| self.begin(now, &connect));
        if current.replace_at <= now && self.replacement.is_none() {
            self.replacement = Some(self.begin(now, &connect));
        }
        let taken = (current.generation, current.opening.clone());
        self.current = Some(current);
        Some(taken)
    }

    /// An attempt that tries the connection `old` and a new one.
    fn doubt(&mut self, now: Instant, old: &Attempt, connect: impl Fn(Start) -> Opening) -> Option<Attempt> {
        let connection = old.opening.peek()?.as_ref().ok()?.clone();
        self.generation += 1;
        // That it answers does not show that it still leads to main: it is replaced soon, though not by all processes of
        // an opening at once.
        let replace_at = now + random_part_of(REPLACE_JITTER);
        Some(Attempt {
            generation: self.generation,
            opening: connect(Start::Beside(connection)),
            started: now,
            replace_at,
            ends_at: now + MAX_LIFE - REPLACE_AFTER,
            is_probed: false,
        })
    }

    fn begin(&mut self, now: Instant, connect: impl Fn(Start) -> Opening) -> Attempt {
        let since_last = self.started.map(|started| now.saturating_duration_since(started));
        let pause = since_last.map_or(Duration::ZERO, |since_last| {
            let least = RECONNECT_PAUSE.saturating_sub(since_last);
            random_part_of(longest_pause(self.in_vain)).max(least)
        });
        self.generation += 1;
        let started = now + pause;
        self.started = Some(started);
        Attempt {
            generation: self.generation,
            opening: connect(Start::After(pause)),
            started,
            replace_at: now + REPLACE_AFTER + random_part_of(REPLACE_JITTER),
            ends_at: now + MAX_LIFE,
            is_probed: false,
        }
    }

    /// The connection of `generation`, for a PING, unless it is no longer in use or a PING of it is in flight.
    pub(super) fn start_probe(&mut self, generation: u64) -> Option<Connection> {
        let current = self.current.as_mut().filter(|current| current.generation == generation)?;
        if current.is_probed {
            return None;
        }
        let connection = current.opening.peek()?.as_ref().ok()?.clone();
        current.is_probed = true;
        Some(connection)
    }

    /// Ends the probe of the connection of `generation`.
    pub(super) fn end_probe(&mut self, generation: u64) {
        if let Some(current) = self.current.as_mut().filter(|current| current.generation == generation) {
            current.is_probed = false;
        }
    }

    /// Drops the connection of `generation`, unless another one has replaced it.
    pub(super) fn discard(&mut self, now: Instant, generation: u64) {
        let Some(dropped) = self.current.take_if(|current| current.generation == generation) else { return };
        self.record_end(now, &dropped);
    }

    fn record_end(&mut self, now: Instant, ended: &Attempt) {
        if ended.has_failed() {
            self.breaker.failed(now);
        }
        let was_in_vain = ended.has_failed() || now.saturating_duration_since(ended.started) < SHORT_LIFE;
        self.in_vain = if was_in_vain { self.in_vain.saturating_add(1) } else { 0 };
    }

    /// Makes the link as idle as if `time` had passed since its last use.
    #[cfg(test)]
    pub(super) fn make_idle(&mut self, time: Duration) {
        self.make_older(time);
        self.last_used = self.last_used.map(|used| used - time);
    }

    /// Makes the connection in use as old as if `age` had passed since it was opened.
    #[cfg(test)]
    pub(super) fn make_older(&mut self, age: Duration) {
        let Some(current) = &mut self.current else { return };
        current.replace_at -= age;
        current.ends_at -= age;
    }
}

/// The longest pause before an attempt, after `in_vain` attempts in vain. The pause is a random part of it ("full
/// jitter"), so that processes whose connections broke at the same moment do not all connect at the next.
fn longest_pause(in_vain: u32) -> Duration {
    RECONNECT_PAUSE.saturating_mul(1 << in_vain.min(8)).min(MAX_RECONNECT_PAUSE)
}

/// From nothing to `most`, at random. The standard library's hash keys are random, and cost no generator of its own.
pub fn random_part_of(most: Duration) -> Duration {
    let [low, high, ..] = RandomState::new().build_hasher().finish().to_le_bytes();
    most * u32::from(u16::from_le_bytes([low, high])) / u32::from(u16::MAX)
}

/// Sends `scripts` ahead of every other command of a new connection, and does not wait for the answer. So the first
/// call of a script is one round trip. If the server does not load them, that call loads its script as before.
pub(super) fn load_scripts(connection: &Connection, scripts: Scripts) {
    if scripts.is_empty() {
        return;
    }
    let connection = connection.clone();
    let mut loading = async move {
        let mut pipe = redis::pipe();
        for script in scripts.iter().take(MAX_LOADED_SCRIPTS) {
            pipe.load_script(script).ignore();
        }
        if let Err(error) = pipe.query_async::<()>(&mut connection.commands.clone()).await {
            let error = error.category();
            tracing::warn!(%error, "could not load the scripts on a new connection to Redis; the first call of each script loads it");
        }
    }
    .boxed();
    // The first poll puts the commands into the connection's queue, before the caller has the connection.
    if (&mut loading).now_or_never().is_none() {
        tokio::spawn(loading);
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
