//! The status of an item and its buyers, and the moment of main's clock at which it was true: for live updates.
//!
//! A status read from main has an exact moment. A replica does not know its own lag, but it has the time of main's
//! latest [heartbeat](Queue::write_heartbeat) or task, and every write before it. So an [`ItemStatus`] is never older
//! than its moment, but may be newer.

use super::heartbeat::{self, Heartbeat, HeartbeatReply};
use super::order::{released_at, state_of};
use super::primary::on_primary;
use super::{ItemError, Keys, LinkError, OrderState, Queue, items};
use crate::item::{Item, ItemId};
use crate::stamp::Stamp;
use crate::user_token::UserToken;
use redis::{FromRedisValue, Pipeline, Value};
use std::collections::HashMap;
use std::time::Duration;

/// The maximum number of buyers in one status: it is one transaction, which blocks the server.
pub const MAX_STATUS_BUYERS: usize = 200;
/// The maximum number of notifications in one read.
pub const MAX_NOTIFICATIONS: u32 = 1_000;

/// The server that a [`Queue`] reads from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    /// Main itself: a server that does not take writes refuses.
    Main,
    /// A read replica of main.
    Replica,
}

/// The status of an item and of some buyers' orders.
#[derive(Clone, Debug, PartialEq)]
pub struct ItemStatus {
    /// By main's clock. The status was true at this moment, or is newer.
    pub as_of: Stamp,
    /// Until when main may sell, and when it said so.
    pub heartbeat: Heartbeat,
    pub item: Item,
    /// The orders of the requested buyers, in the same sequence.
    pub orders: Vec<OrderState>,
    /// When a unit of each was released, if one was.
    pub releases: Vec<Option<Stamp>>,
}

/// A notification that a buyer's order has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// The id of its entry in the item's tasks.
    pub id: String,
    /// `None` if the entry is malformed.
    pub buyer: Option<UserToken>,
}

impl Queue {
    /// The status of `item_id` and of at most [`MAX_STATUS_BUYERS`] `buyers` at one moment, in one round trip.
    pub async fn status(
        &self,
        reader: ReadFrom,
        item_id: &ItemId,
        buyers: &[&UserToken],
    ) -> Result<ItemStatus, ItemError> {
        let buyers = buyers.get(..MAX_STATUS_BUYERS).unwrap_or(buyers);
        let keys = Keys::of(item_id);
        let mut pipe = match reader {
            ReadFrom::Main => on_primary(&keys),
            ReadFrom::Replica => redis::pipe(),
        };
        pipe.atomic().cmd("TIME");
        heartbeat::request(&mut pipe);
        pipe.cmd("XREVRANGE").arg(&keys.tasks).arg(&["+", "-", "COUNT", "1"]);
        pipe.hgetall(&keys.item);
        for buyer in buyers {
            pipe.zscore(&keys.orders, buyer.as_str());
            pipe.zrank(&keys.orders, buyer.as_str());
            pipe.zscore(&keys.reservations, buyer.as_str());
        }
        let reply = self.ask(&pipe).await?;
        let malformed = || LinkError::Refused("the status transaction returned a malformed answer".into());
        let (head, rest) = reply.split_at_checked(4).ok_or_else(malformed)?;
        let [time, beat, newest, fields] = head else { return Err(malformed().into()) };
        let fields: HashMap<String, String> = read(fields).map_err(|()| malformed())?;
        let item = items::parse(item_id, &fields)?;
        let orders: Option<Vec<(OrderState, Option<Stamp>)>> =
            rest.chunks_exact(3).map(order_state).collect();
        let orders = orders.filter(|orders| orders.len() == buyers.len()).ok_or_else(malformed)?;
        let (orders, releases) = orders.into_iter().unzip();
        let heartbeat: Heartbeat = read::<HeartbeatReply>(beat).map_err(|()| malformed())?.into();
        let moment = match reader {
            ReadFrom::Main => read(time).ok().and_then(|time: (u64, u64)| Stamp::from_redis_time(time).ok()),
            ReadFrom::Replica => heartbeat.at,
        };
        // Without a heartbeat, only the tasks have main's time.
        let as_of = moment.max(task_moment(newest)).unwrap_or(Stamp::EPOCH);
        Ok(ItemStatus { as_of, heartbeat, item, orders, releases })
    }

    async fn ask(&self, pipe: &Pipeline) -> Result<Vec<Value>, LinkError> {
        self.link.call(async |mut connection| pipe.query_async(&mut connection).await).await
    }

    /// Up to [`MAX_NOTIFICATIONS`] notifications after the entry `after`, oldest first. This takes no task.
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

    /// The id of an entry `time` before the newest one, to read [`notifications`](Self::notifications) after it.
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

/// The state of an order, and when a unit of its buyer was released.
fn order_state(scores: &[Value]) -> Option<(OrderState, Option<Stamp>)> {
    let [placed_at, ahead, hold] = scores else { return None };
    let hold: Option<f64> = read(hold).ok()?;
    Some((state_of(read(placed_at).ok()?, read(ahead).ok()?, hold), hold.and_then(released_at)))
}

/// The id and the fields of a stream's entry.
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

/// When the first of `entries` was written, by main's clock.
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
    fn a_task_has_a_buyer_and_a_moment() {
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
        let malformed = task("3-1", &["kind", "sold", "user_token", "a b"]);
        assert_eq!(notification(&malformed), Some(Notification { id: "3-1".into(), buyer: None }));
    }
}
