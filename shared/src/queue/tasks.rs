//! The async task queue: the drain's reservations wait here for the checkout worker.
//!
//! All workers share one consumer group and one consumer name. A task that a worker has taken and not finished is
//! pending; once it has been idle for long enough, any worker can claim it. A task is delivered at least once. The
//! ledger ensures that it has an effect once.

use super::{Keys, LinkError, MAX_BATCH, Queue};
use crate::item::ItemId;
use crate::stamp::Stamp;
use crate::user_token::UserToken;
use redis::{AsyncCommands, RedisError, Value};
use std::collections::HashMap;
use std::str::FromStr;
use std::time::Duration;

pub(super) const GROUP: &str = "checkout";
const CONSUMER: &str = "worker";

/// The maximum number of dead letters of one item.
pub const MAX_DEAD_LETTERS: u32 = 10_000;
/// Tasks that no worker has taken are counted up to this number.
pub const MAX_COUNTED: u32 = 1_000;
/// How long finished tasks stay readable for live updates.
pub const TASK_HISTORY: Duration = Duration::from_secs(3_600);
/// The length of the hold of a unit that is sold without a hold. With 127 years, the end of a hold distinguishes
/// the two cases and stays below [`Stamp::LIMIT`].
pub const NO_HOLD_MICROS: u64 = 4_000_000_000_000_000;
/// Cancelling a reservation lowers its hold's end by this: the score is due at once, and still identifies the buyer's
/// reservation. Real ends are above it (after 2017), lowered ones below it (until 2065).
pub const CANCELLED_OFFSET_MICROS: u64 = 1_500_000_000_000_000;

/// A unit of the stock that is reserved for an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    pub user_token: UserToken,
    pub placed_at: Stamp,
    /// When the unit was reserved, by main's clock. It distinguishes a buyer's reservations.
    pub reserved_at: Stamp,
    pub hold_until: Stamp,
    /// The epoch under which it was made.
    pub epoch: u64,
}

impl Reservation {
    /// Whether it waits for payment. Otherwise the unit is sold when the reservation is recorded.
    pub fn is_held(&self) -> bool {
        self.hold_until.as_micros() < NO_HOLD_MICROS
    }
}

/// An entry of the task queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The entry's id in the stream.
    pub id: String,
    pub body: TaskBody,
}

/// The content of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskBody {
    /// A reservation to record in the ledger.
    Record(Reservation),
    /// A notification for live updates. The worker has nothing to do.
    Notification,
    /// The named field is missing or malformed.
    Malformed(&'static str),
}

impl Queue {
    /// Takes up to `most` tasks that no worker has taken.
    pub async fn take_tasks(&self, item_id: &ItemId, most: u32) -> Result<Vec<Task>, LinkError> {
        let key = Keys::of(item_id).tasks;
        let taken = self.read_group(&key, most).await;
        if !matches!(&taken, Err(LinkError::Refused(code)) if code == "NOGROUP") {
            return taken;
        }
        self.open_group(&key).await?;
        self.read_group(&key, most).await
    }

    async fn read_group(&self, key: &str, most: u32) -> Result<Vec<Task>, LinkError> {
        let reply: Value = self
            .link
            .call(async |mut connection| {
                redis::cmd("XREADGROUP")
                    .arg("GROUP")
                    .arg(GROUP)
                    .arg(CONSUMER)
                    .arg("COUNT")
                    .arg(most.min(MAX_BATCH))
                    .arg("STREAMS")
                    .arg(key)
                    .arg(">")
                    .query_async(&mut connection)
                    .await
            })
            .await?;
        // [[key, entries]], or nil if there is no task.
        match reply {
            Value::Array(streams) => match streams.into_iter().next() {
                Some(Value::Array(stream)) => Ok(stream.last().map(tasks).unwrap_or_default()),
                _ => Ok(Vec::new()),
            },
            _ => Ok(Vec::new()),
        }
    }

    /// Claims up to `most` pending tasks that have been idle for at least `min_idle`.
    pub async fn claim_tasks(
        &self,
        item_id: &ItemId,
        min_idle: Duration,
        most: u32,
    ) -> Result<Vec<Task>, LinkError> {
        let key = Keys::of(item_id).tasks;
        let claimed: Result<Value, LinkError> = self
            .link
            .call(async |mut connection| {
                redis::cmd("XAUTOCLAIM")
                    .arg(&key)
                    .arg(GROUP)
                    .arg(CONSUMER)
                    .arg(u64::try_from(min_idle.as_millis()).unwrap_or(u64::MAX))
                    .arg("0-0")
                    .arg("COUNT")
                    .arg(most.min(MAX_BATCH))
                    .query_async(&mut connection)
                    .await
            })
            .await;
        match claimed {
            // [cursor, entries, ids that no longer exist]
            Ok(Value::Array(parts)) => Ok(parts.get(1).map(tasks).unwrap_or_default()),
            Ok(_) => Ok(Vec::new()),
            Err(LinkError::Refused(code)) if code == "NOGROUP" => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    async fn open_group(&self, key: &str) -> Result<(), LinkError> {
        let opened: Result<(), LinkError> = self
            .link
            .call(async |mut connection| connection.xgroup_create_mkstream(key, GROUP, "0").await)
            .await;
        match opened {
            Err(LinkError::Refused(code)) if code == "BUSYGROUP" => Ok(()),
            other => other,
        }
    }

    /// Acknowledges finished tasks.
    pub async fn acknowledge(&self, item_id: &ItemId, ids: &[String]) -> Result<(), LinkError> {
        if ids.is_empty() {
            return Ok(());
        }
        let key = Keys::of(item_id).tasks;
        self.link
            .call(async |mut connection| {
                let _: u64 = connection.xack(&key, GROUP, ids).await?;
                Ok(())
            })
            .await
    }

    /// How often a task was delivered.
    pub async fn deliveries(&self, item_id: &ItemId, id: &str) -> Result<u64, LinkError> {
        let key = Keys::of(item_id).tasks;
        let rows: Vec<(String, String, u64, u64)> = self
            .link
            .call(async |mut connection| {
                redis::cmd("XPENDING")
                    .arg(&key)
                    .arg(GROUP)
                    .arg(id)
                    .arg(id)
                    .arg(1)
                    .query_async(&mut connection)
                    .await
            })
            .await?;
        Ok(rows.first().map_or(0, |(_, _, _, tries)| *tries))
    }

    /// Moves a task that cannot be processed to the item's dead letters, in one transaction.
    pub async fn dead_letter(&self, item_id: &ItemId, id: &str, why: &str) -> Result<(), LinkError> {
        let keys = Keys::of(item_id);
        self.link
            .call(async |mut connection| {
                let entries: Value = redis::cmd("XRANGE")
                    .arg(&keys.tasks)
                    .arg(id)
                    .arg(id)
                    .query_async(&mut connection)
                    .await?;
                let mut pipe = redis::pipe();
                pipe.atomic().cmd("XADD").arg(&keys.dead_letters);
                pipe.arg("MAXLEN")
                    .arg("~")
                    .arg(MAX_DEAD_LETTERS)
                    .arg("*")
                    .arg("task")
                    .arg(id)
                    .arg("why")
                    .arg(why);
                for word in words(&entries) {
                    pipe.arg(word);
                }
                pipe.ignore().cmd("XACK").arg(&keys.tasks).arg(GROUP).arg(id).ignore();
                pipe.query_async(&mut connection).await
            })
            .await
    }

    /// The number of unfinished tasks: those that no worker has taken (counted up to [`MAX_COUNTED`]), and pending ones.
    pub async fn waiting_tasks(&self, item_id: &ItemId) -> Result<u64, LinkError> {
        let key = Keys::of(item_id).tasks;
        self.link
            .call(async |mut connection| {
                let groups: Result<Vec<HashMap<String, Value>>, RedisError> =
                    redis::cmd("XINFO").arg("GROUPS").arg(&key).query_async(&mut connection).await;
                let group = groups.unwrap_or_default().into_iter().next().unwrap_or_default();
                let pending = match group.get("pending") {
                    Some(Value::Int(pending)) => pending.unsigned_abs(),
                    _ => 0,
                };
                // The field `lag` would give this number, but only since Redis 7, and not always.
                let after = match group.get("last-delivered-id") {
                    Some(Value::BulkString(id)) => format!("({}", String::from_utf8_lossy(id)),
                    _ => "-".to_owned(),
                };
                let entries: Vec<Value> = redis::cmd("XRANGE")
                    .arg(&key)
                    .arg(after)
                    .arg("+")
                    .arg("COUNT")
                    .arg(MAX_COUNTED)
                    .query_async(&mut connection)
                    .await?;
                Ok(pending + entries.len() as u64)
            })
            .await
    }

    /// Deletes finished tasks that are older than [`TASK_HISTORY`]. Call it only right after all tasks were taken: it
    /// does not check for tasks that no worker has taken.
    pub async fn trim_finished_tasks(&self, item_id: &ItemId, now: Stamp) -> Result<(), LinkError> {
        let key = Keys::of(item_id).tasks;
        let oldest_ms = now.saturating_sub(TASK_HISTORY).as_millis();
        self.link
            .call(async |mut connection| {
                let pending: Vec<Value> =
                    redis::cmd("XPENDING").arg(&key).arg(GROUP).query_async(&mut connection).await?;
                let first = match pending.get(1) {
                    Some(Value::BulkString(id)) => String::from_utf8_lossy(id).into_owned(),
                    _ => String::new(),
                };
                let first_ms = first.split('-').next().and_then(|ms| ms.parse().ok()).unwrap_or(u64::MAX);
                let _: u64 = redis::cmd("XTRIM")
                    .arg(&key)
                    .arg("MINID")
                    .arg("~")
                    .arg(oldest_ms.min(first_ms))
                    .query_async(&mut connection)
                    .await?;
                Ok(())
            })
            .await
    }
}

/// The tasks in a list of stream entries. Values that are not entries are skipped.
fn tasks(entries: &Value) -> Vec<Task> {
    let Value::Array(entries) = entries else { return Vec::new() };
    entries
        .iter()
        .filter_map(|entry| {
            let Value::Array(parts) = entry else { return None };
            let [Value::BulkString(id), Value::Array(words)] = parts.as_slice() else { return None };
            let pairs = words.chunks_exact(2).filter_map(|pair| match pair {
                [Value::BulkString(name), Value::BulkString(value)] => {
                    Some((name.as_slice(), value.as_slice()))
                }
                _ => None,
            });
            Some(Task { id: String::from_utf8_lossy(id).into_owned(), body: body(&pairs.collect()) })
        })
        .collect()
}

/// The fields and values of the first stream entry, flat.
fn words(entries: &Value) -> Vec<&[u8]> {
    let Value::Array(entries) = entries else { return Vec::new() };
    let Some(Value::Array(entry)) = entries.first() else { return Vec::new() };
    let Some(Value::Array(words)) = entry.get(1) else { return Vec::new() };
    words
        .iter()
        .filter_map(|word| match word {
            Value::BulkString(text) => Some(text.as_slice()),
            _ => None,
        })
        .collect()
}

fn body(fields: &HashMap<&[u8], &[u8]>) -> TaskBody {
    let text = |name: &str| fields.get(name.as_bytes()).and_then(|value| std::str::from_utf8(value).ok());
    match text("kind") {
        Some("reserved") => reservation(&text).map_or_else(TaskBody::Malformed, TaskBody::Record),
        Some("sold" | "released") => TaskBody::Notification,
        _ => TaskBody::Malformed("kind"),
    }
}

fn reservation<'a>(text: &dyn Fn(&str) -> Option<&'a str>) -> Result<Reservation, &'static str> {
    fn number<T: FromStr>(text: Option<&str>, name: &'static str) -> Result<T, &'static str> {
        text.and_then(|text| text.parse().ok()).ok_or(name)
    }
    let stamp = |name| Stamp::from_micros(number(text(name), name)?).map_err(|_| name);
    Ok(Reservation {
        user_token: text("user_token").and_then(|text| UserToken::parse(text).ok()).ok_or("user_token")?,
        placed_at: stamp("placed_at")?,
        reserved_at: stamp("reserved_at")?,
        hold_until: stamp("hold_until")?,
        epoch: number(text("epoch"), "epoch")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(fields: &[(&str, &str)]) -> TaskBody {
        body(&fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect())
    }

    const GOOD: [(&str, &str); 6] = [
        ("kind", "reserved"),
        ("user_token", "alice"),
        ("placed_at", "1795411246335419"),
        ("reserved_at", "1795411248335999"),
        ("hold_until", "1795411848335999"),
        ("epoch", "1"),
    ];

    #[test]
    fn a_task_is_read_exactly() {
        let TaskBody::Record(reservation) = parse(&GOOD) else { panic!() };
        assert_eq!(reservation.placed_at.as_micros(), 1_795_411_246_335_419);
        assert!(reservation.is_held());
        assert_eq!(parse(&[("kind", "sold"), ("user_token", "alice")]), TaskBody::Notification);
    }

    #[test]
    fn the_malformed_field_is_named() {
        for (place, (name, _)) in GOOD.iter().enumerate() {
            for wrong in ["", "soon", "9007199254740992 ", "-1", "two words"] {
                if (*name, wrong) == ("user_token", "soon") || (*name, wrong) == ("user_token", "-1") {
                    continue;
                }
                let mut fields = GOOD;
                fields[place].1 = wrong;
                assert_eq!(parse(&fields), TaskBody::Malformed(name), "{wrong:?}");
            }
            let without: Vec<_> = GOOD.iter().copied().filter(|(known, _)| known != name).collect();
            assert_eq!(parse(&without), TaskBody::Malformed(name));
        }
    }

    #[test]
    fn script_and_code_agree_on_the_hold_that_means_no_hold() {
        assert!(include_str!("drain.lua").contains(&format!("or {NO_HOLD_MICROS}\n")));
        let century_from_now = 1_795_000_000_000_000 + NO_HOLD_MICROS;
        assert!(Stamp::from_micros(century_from_now).is_ok());
    }
}
