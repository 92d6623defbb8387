//! How an item and its buyers stand, and as of which moment of main's clock: for those who watch.
//!
//! Where main itself is read, the moment is exact. A replica does not know how far behind it is; it
//! says when main last wrote its [heartbeat](Queue::write_heartbeat) or a task, and has all that was before. So
//! a [`ItemStatus`] is never older than it says, and may be newer.

use super::order::judge;
use super::{HEARTBEAT, ItemError, Keys, LinkError, OrderState, Queue, items};
use crate::item::{Item, ItemId};
use crate::stamp::Stamp;
use crate::user_token::UserToken;
use redis::{FromRedisValue, Pipeline, Script, Value};
use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

static HEARTBEAT_SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("heartbeat.lua")));

/// How often main writes its heartbeat: a replica's looks are this much older than they say at most.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(200);
/// The most buyers in one look: it is one transaction, and keeps the server to itself meanwhile.
pub const MAX_STATUS_BUYERS: usize = 200;
/// The most tasks read at once by those who watch.
pub const MAX_NOTIFICATIONS: u32 = 1_000;

/// What a [`Queue`] reads from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    /// Main's own Redis.
    Main,
    /// A read replica of it.
    Replica,
}

/// How things stand.
#[derive(Clone, Debug, PartialEq)]
pub struct ItemStatus {
    /// By main's clock: it was so then, or is newer.
    pub as_of: Stamp,
    /// The item.
    pub item: Item,
    /// How each of the buyers stands, in the order in which they were named.
    pub orders: Vec<OrderState>,
}

/// Something has become of a buyer's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Where it stands in the item's tasks.
    pub id: String,
    /// Whose order; `None` where the entry makes no sense.
    pub buyer: Option<UserToken>,
}

impl Queue {
    /// Writes main's clock where replicas read it.
    pub async fn write_heartbeat(&self) -> Result<(), LinkError> {
        self.link
            .call(async |mut connection| {
                HEARTBEAT_SCRIPT.key(HEARTBEAT).invoke_async::<u64>(&mut connection).await.map(drop)
            })
            .await
    }

    /// How `item_id` and at most [`MAX_STATUS_BUYERS`] `buyers` stand: one round trip, one moment.
    pub async fn status(
        &self,
        reader: ReadFrom,
        item_id: &ItemId,
        buyers: &[&UserToken],
    ) -> Result<ItemStatus, ItemError> {
        let buyers = buyers.get(..MAX_STATUS_BUYERS).unwrap_or(buyers);
        let keys = Keys::of(item_id);
        let mut pipe = redis::pipe();
        pipe.atomic();
        match reader {
            ReadFrom::Main => pipe.cmd("TIME"),
            ReadFrom::Replica => pipe.get(HEARTBEAT),
        };
        pipe.cmd("XREVRANGE").arg(&keys.tasks).arg(&["+", "-", "COUNT", "1"]);
        pipe.hgetall(&keys.item);
        for buyer in buyers {
            pipe.zscore(&keys.orders, buyer.as_str());
            pipe.zrank(&keys.orders, buyer.as_str());
            pipe.zscore(&keys.reservations, buyer.as_str());
        }
        let reply = self.ask(&pipe).await?;
        let senseless = || LinkError::Refused("the answer to a look makes no sense".into());
        let (head, rest) = reply.split_at_checked(3).ok_or_else(senseless)?;
        let [moment, newest, fields] = head else { return Err(senseless().into()) };
        let fields: HashMap<String, String> = read(fields).map_err(|()| senseless())?;
        if fields.is_empty() {
            return Err(ItemError::NoSuchItem(item_id.clone()));
        }
        let item = items::parse(item_id, &fields)?;
        let orders: Option<Vec<OrderState>> = rest.chunks_exact(3).map(standing).collect();
        let orders = orders.filter(|orders| orders.len() == buyers.len()).ok_or_else(senseless)?;
        let moment = match reader {
            ReadFrom::Main => {
                read(moment).ok().and_then(|time: (u64, u64)| Stamp::from_redis_time(time).ok())
            }
            ReadFrom::Replica => {
                read(moment).ok().flatten().and_then(|micros| Stamp::from_micros(micros).ok())
            }
        };
        // Where main has never beaten, its tasks alone tell the time.
        let as_of = moment.max(task_moment(newest)).unwrap_or(Stamp::EPOCH);
        Ok(ItemStatus { as_of, item, orders })
    }

    async fn ask(&self, pipe: &Pipeline) -> Result<Vec<Value>, LinkError> {
        self.link.call(async |mut connection| pipe.query_async(&mut connection).await).await
    }

    /// Up to [`MAX_NOTIFICATIONS`] tasks after the one called `after`, oldest first. They are looked at, not taken.
    pub async fn notifications(&self, item_id: &ItemId, after: &str) -> Result<Vec<Notification>, LinkError> {
        let key = Keys::of(item_id).tasks;
        let entries: Value = self
            .link
            .call(async |mut connection| {
                redis::cmd("XRANGE")
                    .arg(&key)
                    .arg(format!("({after}"))
                    .arg("+")
                    .arg("COUNT")
                    .arg(MAX_NOTIFICATIONS)
                    .query_async(&mut connection)
                    .await
            })
            .await?;
        let Value::Array(entries) = entries else { return Ok(Vec::new()) };
        Ok(entries.iter().filter_map(notification).collect())
    }

    /// A place in the tasks so long before the newest of them; what comes after is [`notifications`](Self::notifications).
    pub async fn task_before(&self, item_id: &ItemId, time: Duration) -> Result<String, LinkError> {
        let key = Keys::of(item_id).tasks;
        let mut pipe = redis::pipe();
        pipe.cmd("XREVRANGE").arg(&key).arg(&["+", "-", "COUNT", "1"]);
        let reply = self.ask(&pipe).await?;
        let newest = match reply.first() {
            Some(Value::Array(entries)) => {
                entries.first().and_then(notification).map(|notification| notification.id)
            }
            _ => None,
        };
        // An id begins with milliseconds by main's clock.
        let ms = newest.and_then(|id| id.split('-').next()?.parse::<u64>().ok()).unwrap_or_default();
        let before = ms.saturating_sub(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        Ok(format!("{before}-0"))
    }
}

fn read<T: FromRedisValue>(value: &Value) -> Result<T, ()> {
    redis::from_redis_value(value.clone()).map_err(drop)
}

fn standing(scores: &[Value]) -> Option<OrderState> {
    let [placed_at, ahead, hold] = scores else { return None };
    Some(judge(read(placed_at).ok()?, read(ahead).ok()?, read(hold).ok()?))
}

/// The fields of a stream's entry, and its id.
fn entry(entry: &Value) -> Option<(String, HashMap<String, String>)> {
    let Value::Array(parts) = entry else { return None };
    let [id, fields] = parts.as_slice() else { return None };
    Some((read(id).ok()?, read(fields).ok()?))
}

fn notification(value: &Value) -> Option<Notification> {
    let (id, mut fields) = entry(value)?;
    let buyer = fields.remove("user_token").and_then(|text| UserToken::parse(text).ok());
    Some(Notification { id, buyer })
}

/// When the newest of some tasks was written, by main's clock.
fn task_moment(entries: &Value) -> Option<Stamp> {
    let Value::Array(entries) = entries else { return None };
    let (_, fields) = entry(entries.first()?)?;
    let micros = fields.get("at").or_else(|| fields.get("reserved_at"))?;
    Stamp::from_micros(micros.parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn task(id: &str, words: &[&str]) -> Value {
        Value::Array(vec![text(id), Value::Array(words.iter().map(|word| text(word)).collect())])
    }

    #[test]
    fn a_task_tells_whose_it_is_and_when_it_was() {
        let reserved = task(
            "1-1",
            &["kind", "reserved", "user_token", "alice", "reserved_at", "1795411248335999", "placed_at", "5"],
        );
        assert_eq!(notification(&reserved).unwrap().buyer, UserToken::parse("alice").ok());
        let micros = |entries: Vec<Value>| task_moment(&Value::Array(entries)).map(Stamp::as_micros);
        assert_eq!(micros(vec![reserved]), Some(1_795_411_248_335_999));
        assert_eq!(micros(vec![task("2-1", &["kind", "sold", "user_token", "a b", "at", "7"])]), Some(7));
        assert_eq!(micros(vec![task("2-1", &["kind", "sold"])]), None);
        assert_eq!(micros(Vec::new()), None);
        let senseless = task("3-1", &["kind", "sold", "user_token", "a b"]);
        assert_eq!(notification(&senseless), Some(Notification { id: "3-1".into(), buyer: None }));
    }
}
