//! Who watches an item, and what they were last told.

use super::{ItemKeys, MAX_ENTRIES, MAX_LIFE_SECONDS, Registry, senseless};
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

/// The ids of items that somebody watches.
const WATCHED: &str = "watched";

fn page_key(item_id: &ItemId) -> String {
    format!("item_told:{{{item_id}}}")
}

/// What somebody was told of their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentStatus {
    /// As of when, by main's clock.
    pub version: Stamp,
    /// What.
    #[serde(flatten)]
    pub status: Status,
}

/// One connection that watches one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// Whose.
    pub buyer: UserToken,
    /// When the connection ends.
    pub ends_at: Stamp,
    /// What it was last told of the buyer's order.
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

/// How far a reader has come with an item's changes.
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

/// Who has begun to watch an item, and who has stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Who has begun, or has asked again.
    pub began: Vec<(ConnectionId, Subscription)>,
    /// Who has stopped.
    pub stopped: Vec<ConnectionId>,
    /// Whether there may be more.
    pub more: bool,
}

impl Registry {
    /// `connection` watches `item_id` from now on.
    pub async fn watch(
        &self,
        item_id: &ItemId,
        connection: &ConnectionId,
        watch: &Subscription,
    ) -> Result<(), LinkError> {
        let keys = ItemKeys::of(item_id);
        self.link
            .call(async |mut redis| {
                // First into the set: an item without watchers is passed over, a watcher of an item
                // that is not in it would hear nothing.
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

    /// The items that somebody watches, or has lately.
    pub async fn watched(&self) -> Result<Vec<ItemId>, LinkError> {
        let names: Vec<String> = self.link.call(async |mut redis| redis.smembers(WATCHED).await).await?;
        let mut ids: Vec<ItemId> = names.iter().filter_map(|name| name.parse().ok()).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// Takes `item_id` out of the items that are watched, unless somebody watches it.
    pub async fn rest(&self, item_id: &ItemId) -> Result<(), LinkError> {
        let key = ItemKeys::of(item_id).watchers;
        self.link
            .call(async |mut redis| {
                let _: () = redis.srem(WATCHED, item_id.as_str()).await?;
                // Somebody may have come between: they are written after the set.
                let watchers: u64 = redis.hlen(&key).await?;
                if watchers > 0 {
                    let _: () = redis.sadd(WATCHED, item_id.as_str()).await?;
                }
                Ok(())
            })
            .await
    }

    /// The page that all watchers of `item_id` were last told, and its version.
    pub async fn last_page(&self, item_id: &ItemId) -> Result<Option<(Stamp, ItemPage)>, LinkError> {
        let key = page_key(item_id);
        let text: Option<String> = self.link.call(async |mut redis| redis.get(&key).await).await?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// Keeps the page that all watchers of `item_id` have been told.
    pub async fn keep_page(
        &self,
        item_id: &ItemId,
        version: Stamp,
        page: &ItemPage,
    ) -> Result<(), LinkError> {
        let key = page_key(item_id);
        let text = text(&(version, page));
        self.link.call(async |mut redis| redis.set_ex(&key, &text, u64::from(MAX_LIFE_SECONDS)).await).await
    }

    /// Up to [`MAX_ENTRIES`] changes of each kind since `cursor`, which moves on.
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
        let [began, stopped, count, rest @ ..] = answer.as_slice() else { return Err(senseless()) };
        let count: usize = count.parse().map_err(|_| senseless())?;
        let (gone, watches) = rest.split_at_checked(count).ok_or_else(senseless)?;
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

    /// Keeps what watchers were told, for the next who tells them.
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
    fn what_is_known_of_a_watcher_is_read_back() {
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
