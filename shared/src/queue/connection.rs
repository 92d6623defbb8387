//! Which connection a [`Link`](super::Link) uses: when one is opened, replaced and dropped.
//!
//! A dropped connection is not closed under the commands in flight: each of them keeps it until it has its answer.

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Script};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// A connection that was unused for longer is replaced before use. The network may have dropped it while the function
/// was frozen (AWS drops idle flows after 350 s).
pub const MAX_IDLE: Duration = Duration::from_secs(300);
/// The minimum time between two attempts to connect.
pub const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause after connections that were opened in vain: until DNS has moved, a demoted server accepts each
/// connection and refuses the first write. Each costs a TLS handshake on both sides.
const MAX_RECONNECT_PAUSE: Duration = Duration::from_secs(1);
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
pub(super) type Opening = Shared<BoxFuture<'static, RedisResult<MultiplexedConnection>>>;

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
    /// The number of connections in a row that were opened in vain.
    short_lives: u32,
    last_used: Option<Instant>,
}

impl ConnectionSlot {
    /// The connection to use at `now`, with its generation. `connect` starts an attempt that waits for the given time
    /// first.
    pub(super) fn take(&mut self, now: Instant, connect: impl Fn(Duration) -> Opening) -> (u64, Opening) {
        if self.last_used.is_some_and(|used| now.duration_since(used) > MAX_IDLE) {
            (self.current, self.replacement) = (None, None);
        }
        self.last_used = Some(now);
        // An attempt may have failed long ago, without a caller to discard it.
        self.current.take_if(|current| current.has_failed() || current.ends_at <= now);
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
        taken
    }

    fn begin(&mut self, now: Instant, connect: impl Fn(Duration) -> Opening) -> Attempt {
        let since_last = self.started.map(|started| now.saturating_duration_since(started));
        let pause = since_last.map_or(Duration::ZERO, |since_last| {
            reconnect_pause(self.short_lives).saturating_sub(since_last)
        });
        self.generation += 1;
        let started = now + pause;
        self.started = Some(started);
        Attempt {
            generation: self.generation,
            opening: connect(pause),
            started,
            replace_at: now + REPLACE_AFTER + random_part_of(REPLACE_JITTER),
            ends_at: now + MAX_LIFE,
            is_probed: false,
        }
    }

    /// The connection of `generation`, for a PING, unless it is no longer in use or a PING of it is in flight.
    pub(super) fn start_probe(&mut self, generation: u64) -> Option<MultiplexedConnection> {
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
        if dropped.is_open() {
            let was_short = now.saturating_duration_since(dropped.started) < SHORT_LIFE;
            self.short_lives = if was_short { self.short_lives.saturating_add(1) } else { 0 };
        }
    }

    /// Makes the connection in use as old as if `age` had passed since it was opened.
    #[cfg(test)]
    pub(super) fn make_older(&mut self, age: Duration) {
        let Some(current) = &mut self.current else { return };
        current.replace_at -= age;
        current.ends_at -= age;
    }
}

/// The time from one attempt to connect to the next, after `short_lives` connections that were opened in vain. It is
/// drawn at random, so that the processes of a drop do not all connect at the same moment.
fn reconnect_pause(short_lives: u32) -> Duration {
    let longest = RECONNECT_PAUSE.saturating_mul(1 << short_lives.min(8)).min(MAX_RECONNECT_PAUSE);
    if short_lives == 0 { RECONNECT_PAUSE } else { random_part_of(longest).max(RECONNECT_PAUSE) }
}

/// From nothing to `most`, at random. The standard library's hash keys are random, and cost no generator of its own.
pub fn random_part_of(most: Duration) -> Duration {
    let [low, high, ..] = RandomState::new().build_hasher().finish().to_le_bytes();
    most * u32::from(u16::from_le_bytes([low, high])) / u32::from(u16::MAX)
}

/// Sends `scripts` ahead of every other command of a new connection, and does not wait for the answer. So the first
/// call of a script is one round trip. If the server does not load them, that call loads its script as before.
pub(super) fn load_scripts(connection: &MultiplexedConnection, scripts: Scripts) {
    if scripts.is_empty() {
        return;
    }
    let mut connection = connection.clone();
    let mut loading = async move {
        let mut pipe = redis::pipe();
        for script in scripts.iter().take(MAX_LOADED_SCRIPTS) {
            pipe.load_script(script).ignore();
        }
        if let Err(error) = pipe.query_async::<()>(&mut connection).await {
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
mod tests {
    use super::*;
    use redis::{ErrorKind, RedisError};
    use std::future::{pending, ready};

    fn failed() -> Opening {
        let opening = ready(Err(RedisError::from((ErrorKind::Io, "refused")))).boxed().shared();
        assert!(opening.clone().now_or_never().is_some());
        opening
    }

    fn in_progress(_: Duration) -> Opening {
        pending().boxed().shared()
    }

    #[test]
    fn a_replacement_that_is_not_open_yet_changes_nothing_until_the_longest_life_ends() {
        let mut slot = ConnectionSlot::default();
        let mut now = Instant::now();
        let began = now;
        let (first, _) = slot.take(now, in_progress);
        while now < began + REPLACE_AFTER - MAX_IDLE / 10 {
            now += MAX_IDLE / 10;
            assert_eq!(slot.take(now, in_progress).0, first);
            assert!(slot.replacement.is_none());
        }
        now = began + REPLACE_AFTER + REPLACE_JITTER;
        assert_eq!(slot.take(now, in_progress).0, first);
        assert_eq!(slot.replacement.as_ref().unwrap().generation, first + 1);
        // It is one attempt, and the next one after the longest life.
        assert_eq!(slot.take(began + MAX_LIFE - Duration::from_secs(1), in_progress).0, first);
        assert_eq!(slot.take(began + MAX_LIFE, in_progress).0, first + 1);
        assert!(slot.replacement.is_none());
    }

    #[test]
    fn a_replacement_that_fails_is_tried_again_after_a_pause() {
        let mut slot = ConnectionSlot::default();
        let began = Instant::now();
        let (first, _) = slot.take(began, in_progress);
        let due = began + REPLACE_AFTER + REPLACE_JITTER;
        assert_eq!(slot.take(due - Duration::from_secs(200), in_progress).0, first);
        assert_eq!(slot.take(due, |_| failed()).0, first);
        assert_eq!(slot.take(due, |_| failed()).0, first);
        assert!(slot.replacement.is_none());
        assert_eq!(slot.take(due + REPLACE_PAUSE, in_progress).0, first);
        assert_eq!(slot.replacement.as_ref().unwrap().generation, first + 2);
        // If the connection in use fails, its replacement takes over.
        slot.discard(due, first);
        assert_eq!(slot.take(due + REPLACE_PAUSE, in_progress).0, first + 2);
    }

    #[test]
    fn the_pause_after_connections_in_vain_grows_and_is_spread() {
        assert_eq!(reconnect_pause(0), RECONNECT_PAUSE);
        for (short_lives, longest_ms) in [(1, 200), (2, 400), (3, 800), (4, 1_000), (u32::MAX, 1_000)] {
            let pauses: Vec<Duration> = (0..100).map(|_| reconnect_pause(short_lives)).collect();
            let (shortest, longest) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
            assert!(*shortest >= RECONNECT_PAUSE && longest.as_millis() <= longest_ms, "{pauses:?}");
            assert!(longest.as_millis() > longest_ms * 3 / 4, "{pauses:?}");
        }
    }

    #[test]
    fn the_moments_of_replacement_are_spread() {
        let moments: Vec<Duration> = (0..100).map(|_| random_part_of(REPLACE_JITTER)).collect();
        assert!(moments.iter().all(|moment| *moment <= REPLACE_JITTER));
        let earliest = moments.iter().min().unwrap();
        let latest = moments.iter().max().unwrap();
        assert!(*latest - *earliest > REPLACE_JITTER / 2, "{earliest:?} {latest:?}");
    }
}
