//! One multiplexed connection to a Redis, opened early and replaced when it fails.
//!
//! All commands of a process share it, so that thousands of commands can wait for a distant main at once. An error
//! must say whether the command was sent: an order that was not sent is not queued, while an unanswered one may be.
//! redis-rs's own `ConnectionManager` does not distinguish the two; hence this module.

use crate::config::RedisConfig;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisError, RedisResult};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// The maximum number of commands in flight on one connection; further commands wait in this process.
pub const MAX_IN_FLIGHT: usize = 1_000;
/// A connection that was unused for longer is replaced before use. The network may have dropped it while the function
/// was frozen (AWS drops idle flows after 350 s).
pub const MAX_IDLE: Duration = Duration::from_secs(300);
/// The minimum time between two attempts to connect.
pub const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

type Opening = Shared<BoxFuture<'static, RedisResult<MultiplexedConnection>>>;

/// Why a command has no result. The texts never contain an argument of a command.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LinkError {
    /// There was no connection in time; the server has not received the command.
    #[error("the command was not sent to Redis: {0}")]
    NotSent(String),
    /// The command was sent, but no answer came; the server may have executed it.
    #[error("Redis did not answer the command, which it may have executed: {0}")]
    Unanswered(String),
    /// The server answered with an error and changed nothing.
    #[error("Redis refused the command: {0}")]
    Refused(String),
}

/// A shared connection to one Redis. Cloning shares it.
#[derive(Clone)]
pub struct Link(Arc<LinkState>);

struct LinkState {
    config: RedisConfig,
    slot: Mutex<ConnectionSlot>,
}

#[derive(Default)]
struct ConnectionSlot {
    generation: u64,
    opening: Option<Opening>,
    started: Option<Instant>,
    last_used: Option<Instant>,
    /// Whether a PING of the connection is in flight.
    is_probed: bool,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("config", &self.0.config).finish_non_exhaustive()
    }
}

impl Link {
    /// Nothing is connected yet.
    pub fn new(config: RedisConfig) -> Self {
        Self(Arc::new(LinkState { config, slot: Mutex::default() }))
    }

    /// Starts to connect in the background, for the initialisation of a function.
    pub fn open(&self) {
        let _ = self.opening();
    }

    /// Runs `command` on the connection. Waits at most `limit` in total, and at most the response timeout for the
    /// answer.
    pub async fn run<T, Fut>(
        &self,
        limit: Duration,
        command: impl FnOnce(MultiplexedConnection) -> Fut,
    ) -> Result<T, LinkError>
    where
        Fut: Future<Output = RedisResult<T>>,
    {
        let deadline = Instant::now() + limit;
        let (generation, opening) = self.opening();
        let connection = match timeout(limit, opening).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                self.discard(generation);
                return Err(LinkError::NotSent(describe(&error)));
            }
            Err(_) => return Err(LinkError::NotSent("no connection in time".into())),
        };
        let answer_limit =
            deadline.saturating_duration_since(Instant::now()).min(self.0.config.response_timeout);
        match timeout(answer_limit, command(connection)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) if is_connection_error(&error) => {
                self.discard(generation);
                Err(LinkError::Unanswered(describe(&error)))
            }
            Ok(Err(error)) => {
                // For example READONLY after a failover: connect again.
                if error.is_unrecoverable_error() || error.code() == Some("READONLY") {
                    self.discard(generation);
                }
                Err(LinkError::Refused(describe(&error)))
            }
            Err(_) => {
                // If the caller had less time than the response timeout, the shared connection may still work.
                if answer_limit < self.0.config.response_timeout {
                    self.probe(generation);
                } else {
                    self.discard(generation);
                }
                Err(LinkError::Unanswered("no answer in time".into()))
            }
        }
    }

    /// [Runs](Self::run) `command` within the default limit, [`call_limit`](Self::call_limit).
    // Not async itself: one more nested future would exceed the compiler's recursion limit.
    pub fn call<T, Fut>(
        &self,
        command: impl FnOnce(MultiplexedConnection) -> Fut,
    ) -> impl Future<Output = Result<T, LinkError>>
    where
        Fut: Future<Output = RedisResult<T>>,
    {
        self.run(self.call_limit(), command)
    }

    /// Whether the server accepts writes, according to its own `ROLE`.
    pub async fn takes_writes(&self) -> Result<bool, LinkError> {
        let role = self.call(async |mut connection| {
            redis::cmd("ROLE").query_async::<Vec<redis::Value>>(&mut connection).await
        });
        let is_primary =
            |role: &redis::Value| matches!(role, redis::Value::BulkString(name) if name == b"master");
        Ok(role.await?.first().is_some_and(is_primary))
    }

    /// The default time limit: to connect and to get an answer.
    pub fn call_limit(&self) -> Duration {
        self.0.config.connect_timeout + self.0.config.response_timeout
    }

    fn opening(&self) -> (u64, Opening) {
        let mut slot = self.slot();
        let now = Instant::now();
        let is_idle = slot.last_used.is_some_and(|used| now.duration_since(used) > MAX_IDLE);
        // It may have failed long ago, without a caller to discard it.
        let has_failed = slot.opening.as_ref().is_some_and(|opening| matches!(opening.peek(), Some(Err(_))));
        if is_idle || has_failed {
            slot.opening = None;
        }
        slot.last_used = Some(now);
        if let Some(opening) = &slot.opening {
            return (slot.generation, opening.clone());
        }
        let pause = slot
            .started
            .map_or(Duration::ZERO, |started| RECONNECT_PAUSE.saturating_sub(now.duration_since(started)));
        let opening = connect(self.0.config.clone(), pause).boxed().shared();
        // Driven by its own task: a caller that times out must not stop it.
        tokio::spawn(opening.clone().map(drop));
        slot.generation += 1;
        slot.is_probed = false;
        slot.started = Some(now + pause);
        slot.opening = Some(opening.clone());
        (slot.generation, opening)
    }

    /// Sends a PING on a connection after a caller has stopped waiting for its answer. One PING is in flight at a time,
    /// with the response timeout as its limit.
    fn probe(&self, generation: u64) {
        let mut slot = self.slot();
        if slot.generation != generation || slot.is_probed {
            return;
        }
        let Some(Ok(connection)) = slot.opening.as_ref().and_then(|opening| opening.peek()) else { return };
        let mut connection = connection.clone();
        slot.is_probed = true;
        let link = self.clone();
        tokio::spawn(async move {
            let ping = redis::cmd("PING");
            let answer = ping.query_async::<redis::Value>(&mut connection);
            let lives = match timeout(link.0.config.response_timeout, answer).await {
                Ok(answer) => !answer.is_err_and(|error| is_connection_error(&error)),
                Err(_) => false,
            };
            let mut slot = link.slot();
            if slot.generation == generation {
                slot.is_probed = false;
                if !lives {
                    slot.opening = None;
                }
            }
        });
    }

    /// Drops a failed connection, unless a newer one has replaced it.
    fn discard(&self, generation: u64) {
        let mut slot = self.slot();
        if slot.generation == generation {
            slot.opening = None;
        }
    }

    fn slot(&self) -> MutexGuard<'_, ConnectionSlot> {
        self.0.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn connect(config: RedisConfig, pause: Duration) -> RedisResult<MultiplexedConnection> {
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
    let options = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(config.connect_timeout))
        .set_response_timeout(Some(config.response_timeout))
        .set_concurrency_limit(MAX_IN_FLIGHT);
    config.client.get_multiplexed_async_connection_with_config(&options).await
}

/// Whether the connection failed, and not the command.
fn is_connection_error(error: &RedisError) -> bool {
    error.is_timeout() || error.is_io_error() || error.is_connection_dropped()
}

/// The error without any argument that the server may have echoed.
fn describe(error: &RedisError) -> String {
    match error.code() {
        Some(code) => code.to_owned(),
        None => error.category().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failed_connection_attempt_is_replaced() {
        // Nothing listens there any more.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let source = |name: &str| (name == "FAIRDROP_MAIN_REDIS_URL").then(|| format!("redis://{address}"));
        let link = Link::new(RedisConfig::main(&source).unwrap());
        let (first, opening) = link.opening();
        // While the attempt is in progress, all callers share it.
        assert_eq!(link.opening().0, first);
        assert!(opening.await.is_err());
        assert_eq!(link.opening().0, first + 1);
    }
}
