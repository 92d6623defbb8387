//! Connections, their buyers, and how they end.

use super::{
    CONNECT_WINDOW_SECONDS, FLOOD, ItemKeys, MAX_CONNECTIONS, MAX_CONNECTS, MAX_ENTRIES, MAX_LIFE_SECONDS,
    MAX_MESSAGES, MAX_SUBSCRIPTIONS, MESSAGE_WINDOW_SECONDS, Registry, UNWATCHED_SECONDS, malformed,
};
use crate::connection_id::ConnectionId;
use redis::Script;
use shared::item::ItemId;
use shared::queue::LinkError;
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::sync::LazyLock;
use std::time::Duration;

static CONNECT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("connect.lua")));
static MESSAGE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("message.lua")));
static HOLD: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("hold.lua")));
pub(super) static UNWATCH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("unwatch.lua")));

/// Connections by their end: the moment (us), or a code of the reason to end now.
const ENDS: &str = "ends";
const PUBLISHER: &str = "publisher";
const TOO_MANY_CONNECTIONS: u64 = 1;
const TOO_MANY_MESSAGES: u64 = 2;
const UNKNOWN: u64 = 3;
/// A connection's own record outlives it by this time, for the publisher that ends it.
const MARGIN_SECONDS: u64 = 60;

/// The result of a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connected {
    /// The connection is registered.
    Yes,
    TooOften,
}

/// The sender of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Speaker {
    pub buyer: UserToken,
    /// The end of the connection.
    pub ends_at: Stamp,
    /// The number of messages in this window, with this one.
    pub messages: u32,
    /// Whether the item could be added to the subscriptions.
    pub fits: bool,
    /// The items that the connection watches.
    pub items: Vec<ItemId>,
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The token has expired, or the connection has its maximum lifetime.
    Over,
    /// Its buyer has opened too many connections.
    TooManyConnections,
    /// It has sent too many messages.
    TooManyMessages,
    /// The registry does not have it.
    Unknown,
}

/// A connection to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    pub connection: ConnectionId,
    pub why: Why,
}

fn record(connection: &ConnectionId) -> String {
    format!("connection:{{{connection}}}")
}

fn subscriptions(connection: &ConnectionId) -> String {
    format!("subscriptions:{{{connection}}}")
}

fn connections_of(buyer: &str) -> String {
    format!("connections_of:{{{buyer}}}")
}

impl Registry {
    /// Registers `connection` of `buyer` until `ends_at`. Beyond [`MAX_CONNECTIONS`], the oldest connections are ended.
    pub async fn connect(
        &self,
        connection: &ConnectionId,
        buyer: &UserToken,
        ends_at: Stamp,
    ) -> Result<Connected, LinkError> {
        let answer: Vec<String> = self
            .link
            .call(async |mut redis| {
                CONNECT
                    .key(connections_of(buyer.as_str()))
                    .key(format!("connects_of:{{{}}}", buyer.as_str()))
                    .arg(connection.as_str())
                    .arg(MAX_CONNECTIONS)
                    .arg(MAX_CONNECTS)
                    .arg(CONNECT_WINDOW_SECONDS)
                    .arg(MAX_LIFE_SECONDS)
                    .invoke_async(&mut redis)
                    .await
            })
            .await?;
        let Some(("in", oldest)) = answer.split_first().map(|(first, rest)| (first.as_str(), rest)) else {
            return Ok(Connected::TooOften);
        };
        let key = record(connection);
        let mut pipe = redis::pipe();
        pipe.hset_multiple(&key, &[("user_token", buyer.as_str()), ("ends_at", &ends_at.to_string())]);
        pipe.cmd("EXPIREAT").arg(&key).arg(ends_at.as_secs() + MARGIN_SECONDS);
        pipe.zadd(ENDS, connection.as_str(), ends_at.as_micros());
        // A publisher empties the key. Without a publisher, it expires after the last connection.
        pipe.expire(ENDS, i64::from(MAX_LIFE_SECONDS) * 2);
        for one in oldest {
            pipe.cmd("ZADD").arg(ENDS).arg("XX").arg(TOO_MANY_CONNECTIONS).arg(one);
        }
        self.run(&pipe).await?;
        Ok(Connected::Yes)
    }

    /// Counts a message of `connection`, which adds an item to its subscriptions or removes one. `None` if the connection
    /// is not registered.
    pub async fn message(
        &self,
        connection: &ConnectionId,
        add: Option<&ItemId>,
        take: Option<&ItemId>,
    ) -> Result<Option<Speaker>, LinkError> {
        let answer: Vec<String> = self
            .link
            .call(async |mut redis| {
                MESSAGE
                    .key(record(connection))
                    .key(subscriptions(connection))
                    .arg(MAX_MESSAGES)
                    .arg(u64::from(MESSAGE_WINDOW_SECONDS) * 1_000_000)
                    .arg(MAX_SUBSCRIPTIONS)
                    .arg(add.map(ItemId::as_str).unwrap_or_default())
                    .arg(take.map(ItemId::as_str).unwrap_or_default())
                    .invoke_async(&mut redis)
                    .await
            })
            .await?;
        if answer.is_empty() {
            return Ok(None);
        }
        let speaker = speaker(&answer).ok_or_else(malformed)?;
        if speaker.messages >= FLOOD {
            self.end(connection, TOO_MANY_MESSAGES).await?;
        }
        Ok(Some(speaker))
    }

    /// Marks a connection that is not registered to be ended.
    pub async fn end_unknown(&self, connection: &ConnectionId) -> Result<(), LinkError> {
        let mut pipe = redis::pipe();
        pipe.zadd(ENDS, connection.as_str(), UNKNOWN);
        self.run(&pipe).await
    }

    /// Removes an item from the subscriptions of a connection, after an error.
    pub async fn unsubscribe(&self, connection: &ConnectionId, item_id: &ItemId) -> Result<(), LinkError> {
        let mut pipe = redis::pipe();
        pipe.srem(subscriptions(connection), item_id.as_str());
        self.run(&pipe).await
    }

    async fn end(&self, connection: &ConnectionId, why: u64) -> Result<(), LinkError> {
        let mut pipe = redis::pipe();
        pipe.cmd("ZADD").arg(ENDS).arg("XX").arg(why).arg(connection.as_str());
        self.run(&pipe).await
    }

    /// The connections to end at `now`.
    pub async fn ending(&self, now: Stamp) -> Result<Vec<Ending>, LinkError> {
        let due: Vec<(String, f64)> = self
            .link
            .call(async |mut redis| {
                redis::cmd("ZRANGE")
                    .arg(ENDS)
                    .arg(&["-inf", &now.to_string(), "BYSCORE", "LIMIT", "0"])
                    .arg(MAX_ENTRIES)
                    .arg("WITHSCORES")
                    .query_async(&mut redis)
                    .await
            })
            .await?;
        let why = |score: f64| match score as u64 {
            TOO_MANY_CONNECTIONS => Why::TooManyConnections,
            TOO_MANY_MESSAGES => Why::TooManyMessages,
            UNKNOWN => Why::Unknown,
            _ => Why::Over,
        };
        let endings = due
            .into_iter()
            .filter_map(|(name, score)| Some(Ending { connection: name.parse().ok()?, why: why(score) }));
        Ok(endings.collect())
    }

    /// Removes a connection and its subscriptions.
    pub async fn forget(&self, connection: &ConnectionId) -> Result<(), LinkError> {
        let (buyer, items): (Option<String>, Vec<String>) = self
            .link
            .call(async |mut redis| {
                let mut pipe = redis::pipe();
                pipe.hget(record(connection), "user_token").smembers(subscriptions(connection));
                pipe.query_async(&mut redis).await
            })
            .await?;
        for item_id in items.iter().filter_map(|name| name.parse().ok()) {
            self.unwatch(&item_id, std::slice::from_ref(connection)).await?;
        }
        let mut pipe = redis::pipe();
        pipe.del(record(connection)).del(subscriptions(connection)).zrem(ENDS, connection.as_str());
        if let Some(buyer) = buyer {
            pipe.zrem(connections_of(&buyer), connection.as_str());
        }
        self.run(&pipe).await
    }

    /// Removes the subscriptions of `connections` to an item.
    pub async fn unwatch(&self, item_id: &ItemId, connections: &[ConnectionId]) -> Result<(), LinkError> {
        let keys = ItemKeys::of(item_id);
        for some in connections.chunks(MAX_ENTRIES) {
            let mut script = UNWATCH.key(&keys.watchers);
            script.key(&keys.changes).key(&keys.unwatched).arg(UNWATCHED_SECONDS);
            for connection in some {
                script.arg(connection.as_str());
            }
            self.link.call(async |mut redis| script.invoke_async::<u64>(&mut redis).await.map(drop)).await?;
        }
        Ok(())
    }

    /// Takes or renews the publisher lock of this region for `time`; returns whether `publisher` has it. With no time, the
    /// lock is released.
    pub async fn hold(&self, publisher: &str, time: Duration) -> Result<bool, LinkError> {
        let held: u64 = self
            .link
            .call(async |mut redis| {
                HOLD.key(PUBLISHER)
                    .arg(publisher)
                    .arg(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
                    .invoke_async(&mut redis)
                    .await
            })
            .await?;
        Ok(held == 1)
    }

    async fn run(&self, pipe: &redis::Pipeline) -> Result<(), LinkError> {
        self.link.call(async |mut redis| pipe.query_async::<redis::Value>(&mut redis).await.map(drop)).await
    }
}

fn speaker(answer: &[String]) -> Option<Speaker> {
    let [buyer, ends_at, messages, fits, items @ ..] = answer else { return None };
    Some(Speaker {
        buyer: UserToken::parse(buyer.as_str()).ok()?,
        ends_at: Stamp::from_micros(ends_at.parse().ok()?).ok()?,
        messages: messages.parse().ok()?,
        fits: fits == "1",
        items: items.iter().filter_map(|name| name.parse().ok()).collect(),
    })
}
