//! The watchers of an item, and the last message that each has received.

use super::{ItemKeys, MAX_ENTRIES, MAX_LIFE_SECONDS, Registry, malformed};
use crate::connection_id::ConnectionId;
use crate::message::{ItemPage, Status, text};
use redis::{AsyncCommands, Script};
use serde::{Deserialize, Serialize};
use shared::item::ItemId;
use shared::queue::LinkError;
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::sync::LazyLock;

static WATCH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("watch.lua")));
static CHANGES: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("changes.lua")));
static SENT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("sent.lua")));

/// The ids of items with watchers.
const WATCHED: &str = "watched";

fn page_key(item_id: &ItemId) -> String {
    format!("item_sent:{{{item_id}}}")
}

/// The status of an order that was last sent to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentStatus {
    /// By main's clock.
    pub version: Stamp,
    #[serde(flatten)]
    pub status: Status,
}

/// The subscription of one connection to one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    pub buyer: UserToken,
    /// The end of the connection.
    pub ends_at: Stamp,
    pub sent: SentStatus,
}

#[derive(Serialize, Deserialize)]
struct SubscriptionRecord<'a> {
    #[serde(borrow)]
    buyer: std::borrow::Cow<'a, str>,
    ends_at: Stamp,
    #[serde(flatten)]
    sent: SentStatus,
}

impl Subscription {
    fn text(&self) -> String {
        text(&SubscriptionRecord {
            buyer: self.buyer.as_str().into(),
            ends_at: self.ends_at,
            sent: self.sent,
        })
    }

    fn read(text: &str) -> Option<Self> {
        let record: SubscriptionRecord<'_> = serde_json::from_str(text).ok()?;
        let buyer = UserToken::parse(record.buyer).ok()?;
        Some(Self { buyer, ends_at: record.ends_at, sent: record.sent })
    }
}

/// The position of a reader in an item's changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeCursor {
    began: String,
    stopped: String,
}

impl Default for ChangeCursor {
    fn default() -> Self {
        Self { began: "0".into(), stopped: "0".into() }
    }
}

/// Subscriptions to an item that have begun, and connections that have stopped watching it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New and repeated subscriptions.
    pub began: Vec<(ConnectionId, Subscription)>,
    pub stopped: Vec<ConnectionId>,
    /// Whether there may be more.
    pub more: bool,
}

impl Registry {
    /// Subscribes `connection` to `item_id`.
    pub async fn watch(
        &self,
        item_id: &ItemId,
        connection: &ConnectionId,
        watch: &Subscription,
    ) -> Result<(), LinkError> {
        let keys = ItemKeys::of(item_id);
        self.link
            .call(async |mut redis| {
                // The set first: publishers skip an item without watchers, but a watcher of an item that is missing
                // from the set would get no messages.
                let _: () = redis::pipe()
                    .sadd(WATCHED, item_id.as_str())
                    .expire(WATCHED, i64::from(MAX_LIFE_SECONDS) * 2)
                    .query_async(&mut redis)
                    .await?;
                let mut script = WATCH.key(&keys.watchers);
                script.key(&keys.changes).key(&keys.unwatched);
                script.arg(connection.as_str()).arg(watch.text()).arg(MAX_LIFE_SECONDS);
                script.invoke_async::<u64>(&mut redis).await.map(drop)
            })
            .await
    }

    /// The items that have watchers, or had some recently.
    pub async fn watched(&self) -> Result<Vec<ItemId>, LinkError> {
        let names: Vec<String> = self.link.call(async |mut redis| redis.smembers(WATCHED).await).await?;
        let mut ids: Vec<ItemId> = names.iter().filter_map(|name| name.parse().ok()).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// Removes `item_id` from the watched items, unless it has watchers.
    pub async fn unlist(&self, item_id: &ItemId) -> Result<(), LinkError> {
        let key = ItemKeys::of(item_id).watchers;
        self.link
            .call(async |mut redis| {
                let _: () = redis.srem(WATCHED, item_id.as_str()).await?;
                // A watcher may have come in between: it is written after the set.
                let watchers: u64 = redis.hlen(&key).await?;
                if watchers > 0 {
                    let _: () = redis.sadd(WATCHED, item_id.as_str()).await?;
                }
                Ok(())
            })
            .await
    }

    /// The item page that was last sent to all watchers of `item_id`, and its version.
    pub async fn last_page(&self, item_id: &ItemId) -> Result<Option<(Stamp, ItemPage)>, LinkError> {
        let key = page_key(item_id);
        let text: Option<String> = self.link.call(async |mut redis| redis.get(&key).await).await?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// Saves the item page that was sent to all watchers of `item_id`.
    pub async fn save_page(
        &self,
        item_id: &ItemId,
        version: Stamp,
        page: &ItemPage,
    ) -> Result<(), LinkError> {
        let key = page_key(item_id);
        let text = text(&(version, page));
        self.link.call(async |mut redis| redis.set_ex(&key, &text, u64::from(MAX_LIFE_SECONDS)).await).await
    }

    /// Up to [`MAX_ENTRIES`] changes of each kind since `cursor`, which is advanced.
    pub async fn changes(&self, item_id: &ItemId, cursor: &mut ChangeCursor) -> Result<Changes, LinkError> {
        let keys = ItemKeys::of(item_id);
        let answer: Vec<String> = self
            .link
            .call(async |mut redis| {
                let mut script = CHANGES.key(&keys.watchers);
                script.key(&keys.changes).key(&keys.unwatched);
                script.arg(&cursor.began).arg(&cursor.stopped).arg(MAX_ENTRIES);
                script.invoke_async(&mut redis).await
            })
            .await?;
        let [began, stopped, count, rest @ ..] = answer.as_slice() else { return Err(malformed()) };
        let count: usize = count.parse().map_err(|_| malformed())?;
        let (gone, watches) = rest.split_at_checked(count).ok_or_else(malformed)?;
        *cursor = ChangeCursor { began: began.clone(), stopped: stopped.clone() };
        let pairs = watches.chunks_exact(2).filter_map(|pair| match pair {
            [name, known] => Some((name.parse().ok()?, Subscription::read(known)?)),
            _ => None,
        });
        Ok(Changes {
            began: pairs.collect(),
            stopped: gone.iter().filter_map(|name| name.parse().ok()).collect(),
            more: count == MAX_ENTRIES || watches.len() == 2 * MAX_ENTRIES,
        })
    }

    /// Saves the status that was sent to watchers, for the next publisher.
    pub async fn record_sent(
        &self,
        item_id: &ItemId,
        watches: &[(ConnectionId, Subscription)],
    ) -> Result<(), LinkError> {
        let key = ItemKeys::of(item_id).watchers;
        for some in watches.chunks(MAX_ENTRIES) {
            let mut script = SENT.key(&key);
            for (connection, watch) in some {
                script.arg(connection.as_str()).arg(watch.text());
            }
            self.link.call(async |mut redis| script.invoke_async::<u64>(&mut redis).await.map(drop)).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_is_read_back() {
        let watch = Subscription {
            buyer: UserToken::parse("a\"lice").unwrap(),
            ends_at: Stamp::from_micros(9).unwrap(),
            sent: SentStatus {
                version: Stamp::from_micros(5).unwrap(),
                status: Status::Queued { placed_at: Stamp::from_micros(3).unwrap(), ahead: 2 },
            },
        };
        assert_eq!(Subscription::read(&watch.text()), Some(watch));
        assert_eq!(Subscription::read("{}"), None);
    }
}
