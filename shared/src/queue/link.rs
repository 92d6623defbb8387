//! One multiplexed connection to a Redis, opened early and replaced when it fails.
//!
//! All commands of a process share it, so that thousands of commands can wait for a distant main at once. An error
//! must say whether the command was sent: an order that was not sent is not queued, while an unanswered one may be.
//! redis-rs's own `ConnectionManager` does not distinguish the two; hence this module.

use super::connect::Connection;
use super::connection::{
    ConnectionSlot, Opening, RECONNECT_PAUSE, Scripts, Start, load_scripts, random_part_of,
};
use crate::config::RedisConfig;
use futures::FutureExt;
use futures::future::{Either, select};
use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult};
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// The maximum number of commands in flight on one connection; further commands wait in this process.
pub const MAX_IN_FLIGHT: usize = 1_000;
/// How long a connection that was unused for long may take to answer, before another one opens beside it: a little more
/// than the longest round trip between regions.
const HEDGE_AFTER: Duration = Duration::from_millis(300);
/// The codes of errors that only a replica returns.
const REPLICA_CODES: [&str; 2] = ["READONLY", "MASTERDOWN"];

/// The codes of errors about the keys of a command. An error that a script raises without a code is an `ERR`.
const KEY_CODES: [&str; 2] = ["WRONGTYPE", "ERR"];

/// Why a command has no result. The texts never contain an argument of a command.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LinkError {
    /// There was no connection in time; the server has not received the command.
    #[error("the command was not sent to Redis: {0}")]
    NotSent(String),
    /// The process could not connect several times in a row, and tries again later; nothing was sent, and waiting is of no
    /// use.
    #[error(
        "the command was not sent to Redis: this process could not connect, and tries again in some seconds"
    )]
    BreakerOpen,
    /// The command was sent, but no answer came; the server may have executed it.
    #[error("Redis did not answer the command, which it may have executed: {0}")]
    Unanswered(String),
    /// The server answered with an error and changed nothing.
    #[error("Redis refused the command: {0}")]
    Refused(String),
}

impl LinkError {
    /// Whether the command failed because of the keys that it reads: one has a wrong type, or a script found a malformed
    /// value. A repetition does not help, and commands on other keys succeed.
    pub fn is_of_the_keys(&self) -> bool {
        matches!(self, Self::Refused(code) if KEY_CODES.contains(&code.as_str()))
    }
}

/// A shared connection to one Redis. Cloning shares it.
#[derive(Clone)]
pub struct Link(Arc<LinkState>);

struct LinkState {
    config: RedisConfig,
    scripts: Scripts,
    /// Whether calls fail at once while no connection can be opened.
    breaks: bool,
    slot: Mutex<ConnectionSlot>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("config", &self.0.config).finish_non_exhaustive()
    }
}

impl Link {
    /// Nothing is connected yet.
    pub fn new(config: RedisConfig) -> Self {
        Self::with_scripts(config, &[])
    }

    /// A link whose connections load `scripts` when they open.
    pub fn with_scripts(config: RedisConfig, scripts: Scripts) -> Self {
        Self(Arc::new(LinkState { config, scripts, breaks: false, slot: Mutex::default() }))
    }

    /// The same, for a process that answers buyers: while no connection can be opened, calls fail at once with
    /// [`BreakerOpen`](LinkError::BreakerOpen), except for one that tries every few seconds.
    pub fn with_breaker(config: RedisConfig, scripts: Scripts) -> Self {
        Self(Arc::new(LinkState { config, scripts, breaks: true, slot: Mutex::default() }))
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
        let Some((generation, opening)) = self.opening() else { return Err(LinkError::BreakerOpen) };
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
        match timeout(answer_limit, command(connection.commands.clone())).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) if is_connection_error(&error) => {
                self.discard(generation);
                Err(LinkError::Unanswered(describe(&error)))
            }
            Ok(Err(error)) => {
                // After a failover, the address leads to another server: connect again.
                if error.is_unrecoverable_error() || replica_code(&error).is_some() {
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

    fn opening(&self) -> Option<(u64, Opening)> {
        self.slot().take(Instant::now(), self.0.breaks, |start| {
            let opening = begin(self.0.config.clone(), self.0.scripts, start).boxed().shared();
            // Driven by its own task: a caller that times out must not stop it.
            tokio::spawn(opening.clone().map(drop));
            opening
        })
    }

    /// Sends a PING on a connection after a caller has stopped waiting for its answer. One PING is in flight at a time,
    /// with the response timeout as its limit.
    fn probe(&self, generation: u64) {
        let Some(connection) = self.slot().start_probe(generation) else { return };
        let link = self.clone();
        tokio::spawn(async move {
            let ping = redis::cmd("PING");
            let mut commands = connection.commands.clone();
            let answer = ping.query_async::<redis::Value>(&mut commands);
            let lives = match timeout(link.0.config.response_timeout, answer).await {
                Ok(answer) => !answer.is_err_and(|error| is_connection_error(&error)),
                Err(_) => false,
            };
            if lives {
                link.slot().end_probe(generation);
            } else {
                link.discard(generation);
            }
        });
    }

    /// Drops a failed connection, unless a newer one has replaced it.
    fn discard(&self, generation: u64) {
        self.slot().discard(Instant::now(), generation);
    }

    fn slot(&self) -> MutexGuard<'_, ConnectionSlot> {
        self.0.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn begin(config: RedisConfig, scripts: Scripts, start: Start) -> RedisResult<Connection> {
    match start {
        Start::After(pause) => {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            connect(&config, scripts).await
        }
        Start::Beside(old) => first_that_answers(old, connect(&config, scripts)).await,
    }
}

/// `old` if it answers a PING; or the connection that `connecting` opens, which starts a little later.
async fn first_that_answers(
    old: Connection,
    connecting: impl Future<Output = RedisResult<Connection>>,
) -> RedisResult<Connection> {
    let mut pinged = old.commands.clone();
    // The connection's own limit of an answer ends it.
    let mut answering =
        pin!(async move { redis::cmd("PING").query_async::<redis::Value>(&mut pinged).await.map(drop) });
    let connecting = pin!(connecting);
    let wait = HEDGE_AFTER + random_part_of(RECONNECT_PAUSE);
    match timeout(wait, &mut answering).await {
        Ok(Ok(())) => return Ok(old),
        Ok(Err(_)) => return connecting.await,
        Err(_) => {}
    }
    match select(answering, connecting).await {
        Either::Left((Ok(()), _)) => Ok(old),
        Either::Left((Err(_), connecting)) => connecting.await,
        Either::Right((Ok(new), _)) => Ok(new),
        Either::Right((Err(error), answering)) => answering.await.map(|()| old).map_err(|_| error),
    }
}

async fn connect(config: &RedisConfig, scripts: Scripts) -> RedisResult<Connection> {
    let connection = Connection::open(config).await?;
    load_scripts(&connection, scripts);
    Ok(connection)
}

/// The code of an error that only a replica returns. Redis before 7 wraps an error that a script raises: the code is
/// `ERR`, and the script's own error is in the text. An aborted transaction carries the errors of its commands.
fn replica_code(error: &RedisError) -> Option<&'static str> {
    let errors = error.clone().into_server_errors()?;
    REPLICA_CODES.into_iter().find(|code| {
        let wrapped = format!("-{code} ");
        errors.iter().any(|(_, error)| {
            error.code() == *code || error.details().is_some_and(|text| text.contains(&wrapped))
        })
    })
}

/// Whether the connection failed, and not the command.
fn is_connection_error(error: &RedisError) -> bool {
    error.is_timeout() || error.is_io_error() || error.is_connection_dropped()
}

/// The error without any argument that the server may have echoed.
fn describe(error: &RedisError) -> String {
    if let Some(code) = replica_code(error).or_else(|| error.code()) {
        return code.to_owned();
    }
    // A transaction carries the errors of its commands.
    let errors = error.clone().into_server_errors().unwrap_or_default();
    errors.first().map_or_else(|| error.category().to_owned(), |(_, error)| error.code().to_owned())
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
